/**
 * ESLint: recommended rules with types, and the two that matter most in a package made of promises (no-floating-promises,
 * no-misused-promises). Layout is Prettier's business: nothing here is about spaces or line length.
 */
import eslint from '@eslint/js';
import tseslint from 'typescript-eslint';

export default tseslint.config(
  { ignores: ['node_modules/', 'build/', 'dist/', 'outputs/', 'coverage/', '**/*.tmp.ts'] },
  eslint.configs.recommended,
  {
    files: ['**/*.ts'],
    extends: [tseslint.configs.recommendedTypeChecked],
    languageOptions: { parserOptions: { project: './tsconfig.json', tsconfigRootDir: import.meta.dirname } },
    rules: {
      '@typescript-eslint/no-floating-promises': 'error',
      '@typescript-eslint/no-misused-promises': ['error', { checksVoidReturn: { arguments: false } }],
      '@typescript-eslint/consistent-type-imports': [
        'error',
        { fixStyle: 'separate-type-imports', disallowTypeAnnotations: false },
      ],
      '@typescript-eslint/no-unused-vars': [
        'error',
        {
          argsIgnorePattern: '^_',
          varsIgnorePattern: '^_',
          destructuredArrayIgnorePattern: '^_',
          ignoreRestSiblings: true,
        },
      ],
      // An async function without await keeps an interface's promise, and turns a throw into a rejection.
      '@typescript-eslint/require-await': 'off',
      // A number in a template is the usual way to say what was received.
      '@typescript-eslint/restrict-template-expressions': [
        'error',
        {
          allowNumber: true,
          allowBoolean: true,
          allowNullish: true,
          allow: [{ name: ['Error', 'URL', 'URLSearchParams'], from: 'lib' }],
        },
      ],
      // Ops and families are records of functions that use no `this`.
      '@typescript-eslint/unbound-method': 'off',
      // What came instead of a string is printed as it is.
      '@typescript-eslint/no-base-to-string': 'off',
      // Parsers look for control characters.
      'no-control-regex': 'off',
      'no-restricted-syntax': ['error', { selector: 'ExportDefaultDeclaration', message: 'Name what you export.' }],
      eqeqeq: ['error', 'always', { null: 'ignore' }],
      'prefer-const': ['error', { destructuring: 'all' }],
    },
  },
  {
    // Tests take apart what has no type: parsed JSON, errors, matchers.
    files: ['test/**/*.ts', 'benchmarks/**/*.ts', 'examples/**/*.ts', 'scripts/**/*.ts'],
    rules: {
      '@typescript-eslint/no-unsafe-assignment': 'off',
      '@typescript-eslint/no-unsafe-member-access': 'off',
      '@typescript-eslint/no-unsafe-argument': 'off',
      '@typescript-eslint/no-unsafe-return': 'off',
      '@typescript-eslint/no-unsafe-call': 'off',
    },
  },
  {
    // Reads like the library it mirrors, where this is asynchronous.
    files: ['examples/**/*.ts'],
    rules: { '@typescript-eslint/await-thenable': 'off' },
  },
  {
    // A file that is found at run time, or a library that only some runs need, can only be required.
    files: [
      'src/runtime/binding.ts',
      'src/io/hub.ts',
      'src/data/locate.ts',
      'src/train/arguments/entries.ts',
      'src/train/arguments/value-types.ts',
      'benchmarks/harness/transpile.ts',
    ],
    rules: { '@typescript-eslint/no-require-imports': 'off' },
  },
  {
    files: ['**/*.js', '**/*.cjs'],
    languageOptions: {
      sourceType: 'commonjs',
      globals: Object.fromEntries(
        [
          'require',
          'module',
          'exports',
          '__dirname',
          '__filename',
          'process',
          'console',
          'Buffer',
          'setTimeout',
          'setImmediate',
          'clearTimeout',
          'globalThis',
          'SharedArrayBuffer',
          'Atomics',
          'performance',
          'structuredClone',
          'URL',
        ].map((name) => [name, 'readonly']),
      ),
    },
    rules: { 'no-unused-vars': ['error', { argsIgnorePattern: '^_' }] },
  },
);
