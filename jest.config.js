/** Stock Jest with two changes: TypeScript by swc, and a main-realm environment (see test/environment.js). */
module.exports = {
  testEnvironment: '<rootDir>/test/environment.js',
  testMatch: ['<rootDir>/test/**/*.test.ts'],
  transform: {
    '^.+\\.ts$': [
      '@swc/jest',
      { jsc: { parser: { syntax: 'typescript' }, target: 'es2022' }, module: { type: 'commonjs' } },
    ],
    'node_modules/(hyparquet|hyparquet-compressors|hyparquet-writer|hysnappy|@huggingface/jinja|fzstd)/.+\\.js$': [
      '@swc/jest',
      { jsc: { parser: { syntax: 'ecmascript' }, target: 'es2022' }, module: { type: 'commonjs' } },
    ],
  },
  transformIgnorePatterns: [
    '/node_modules/(?!(hyparquet|hyparquet-compressors|hyparquet-writer|hysnappy)/)',
    '\\.node$',
  ],
  maxWorkers: 2,
  testTimeout: 60000,
};
