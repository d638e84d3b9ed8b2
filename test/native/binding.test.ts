/** Loading the addon, above all when it is not there. */
import { spawnSync } from 'node:child_process';
import fs from 'node:fs';
import path from 'node:path';
import { loadNative } from '../../src/runtime/binding';

const root = path.resolve(__dirname, '../..');

test('what the addon says about the machine', () => {
  const addon = loadNative();
  expect(addon.isa().arch).toMatch(/^(x86_64|aarch64|other)$/);
  expect(addon.devices()).toEqual([{ device: 'cpu', name: expect.any(String), memoryBytes: expect.any(Number) }]);
  expect(addon.kernels()).toEqual(expect.arrayContaining(['add', 'copy']));
  expect(addon.memory().limitBytes).toBeGreaterThan(0);
});

/** Evaluates `code` with the package's sources in a fresh process. */
function evaluate(code: string, environment: Record<string, string>) {
  const program = `const { loadNative } = require('./src/runtime/binding'); ${code}`;
  return spawnSync(process.execPath, ['-r', 'ts-node/register/transpile-only', '-e', program], {
    cwd: root,
    encoding: 'utf8',
    env: { ...process.env, ...environment },
  });
}

test('a wrong LATHE_ADDON_PATH is one clear error, and only at first use', () => {
  const { stdout, stderr } = evaluate(
    `require('./src/runtime/session'); console.log('imported');
     try { loadNative(); } catch (error) { console.log(error.code); console.log(error.message); }`,
    { LATHE_ADDON_PATH: '/nonexistent/lathe.node' },
  );
  expect(stderr).toBe('');
  expect(stdout).toMatch(/^imported\nERR_NATIVE_LOAD\n/);
  expect(stdout).toContain(`${process.platform}-${process.arch}`);
  expect(stdout).toContain('/nonexistent/lathe.node (from LATHE_ADDON_PATH)');
  expect(stdout).toContain('correct or unset LATHE_ADDON_PATH');
});

test('threads come from LATHE_THREADS when it is set', () => {
  const ask = (value: string) =>
    evaluate('try { console.log(loadNative().defaultThreads()) } catch (e) { console.log(e.code) }', {
      LATHE_THREADS: value,
    });
  expect(ask('3').stdout).toBe('3\n');
  expect(ask('many').stdout).toBe('ERR_CONFIG\n');
});

test('binding.gyp names no source file', () => {
  const text = fs.readFileSync(path.join(root, 'binding.gyp'), 'utf8');
  expect(text).not.toMatch(/\.(cpp|cc|c|cu|h)\b/);
  expect(text).not.toMatch(/'sources'/);
});
