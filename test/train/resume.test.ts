/** A killed run that resumes is the same run: weights, optimizer state and logged losses, byte for byte. */
import { spawnSync } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync, truncateSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { acquireOutputLock } from '../../src/io/output-lock';

const base = mkdtempSync(join(tmpdir(), 'lathe-resume-'));
// Every run is a process that loads TypeScript; on a busy machine that takes a while.
jest.setTimeout(300_000);
afterAll(() => rmSync(base, { recursive: true, force: true }));

function run(
  dir: string,
  steps: number,
  threads: number,
  killAt = 0,
  resume = false,
): { signal: string | null; status: number | null; output: string } {
  const child = spawnSync(
    process.execPath,
    [
      '-r',
      'ts-node/register/transpile-only',
      join(__dirname, 'run-child.ts'),
      join(base, dir),
      String(steps),
      String(threads),
      String(killAt),
      resume ? 'resume' : '',
    ],
    { encoding: 'utf8' },
  );
  return { signal: child.signal, status: child.status, output: child.stdout + child.stderr };
}

const file = (dir: string, step: number, name: string): Buffer =>
  readFileSync(join(base, dir, `checkpoint-${step}`, name));

interface State {
  log_history: Record<string, number>[];
}

/** Logged values without times. */
function history(dir: string, step: number): Record<string, number>[] {
  const { log_history } = JSON.parse(file(dir, step, 'trainer_state.json').toString()) as State;
  return log_history;
}

function expectSameRun(a: string, b: string, step: number): void {
  expect(file(a, step, 'optimizer.safetensors').equals(file(b, step, 'optimizer.safetensors'))).toBe(true);
  expect(file(a, step, 'adapter_model.safetensors').equals(file(b, step, 'adapter_model.safetensors'))).toBe(true);
  expect(history(a, step)).toEqual(history(b, step));
  expect(history(a, step).length).toBeGreaterThan(2);
}

test('kill -9 in the middle of an epoch, with dropout and 8-bit moments, then resume', () => {
  expect(run('whole', 12, 2)).toMatchObject({ status: 0 });
  expect(run('killed', 12, 2, 6)).toMatchObject({ signal: 'SIGKILL' });
  expect(run('killed', 12, 2, 0, true)).toMatchObject({ status: 0 });
  expectSameRun('whole', 'killed', 12);
});

test('one thread gives the same run as two', () => {
  expect(run('single', 12, 1)).toMatchObject({ status: 0 });
  expectSameRun('whole', 'single', 12);
});

test('a damaged checkpoint is skipped for the one before it', () => {
  expect(run('damaged', 12, 2, 9)).toMatchObject({ signal: 'SIGKILL' });
  truncateSync(join(base, 'damaged/checkpoint-8/optimizer.safetensors'), 1000);
  const resumed = run('damaged', 12, 2, 0, true);
  expect(resumed).toMatchObject({ status: 0 });
  expect(resumed.output).toMatch(/checkpoint-8 is damaged/);
  expectSameRun('whole', 'damaged', 12);
});

test('two runs into one folder: the second is refused and harms nothing', async () => {
  const lock = await acquireOutputLock(join(base, 'single'));
  const second = run('single', 12, 1);
  await lock.release();
  expect(second.status).toBe(1);
  expect(second.output).toContain(String(process.pid));
  expectSameRun('whole', 'single', 12);
});
