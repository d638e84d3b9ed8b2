/** Sessions and the processes around them: many, forgotten, abandoned by a worker or by process exit. */
import { spawnSync } from 'node:child_process';
import fs from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { setImmediate as nextTurn } from 'node:timers/promises';
import { loadNative } from '../../src/runtime/binding';
import { Session } from '../../src/runtime/session';
import { doublingProgram, programBytes } from './program-bytes';

const folder = fs.mkdtempSync(path.join(os.tmpdir(), 'lathe-life-'));
afterAll(() => fs.rmSync(folder, { recursive: true }));

const usedBytes = () => loadNative().memory().usedBytes;

async function until(condition: () => boolean, ms = 10_000): Promise<void> {
  const end = Date.now() + ms;
  while (!condition()) {
    if (Date.now() > end) throw new Error('the condition did not come true in time');
    await nextTurn();
  }
}

test('many sessions one after the other leave nothing behind', async () => {
  const before = usedBytes();
  for (let i = 0; i < 100; i++) {
    const session = Session.create({ threads: 2 });
    session.defineState([{ name: 'w', dtype: 'f32', shape: [1000] }]);
    const program = session.loadProgram(programBytes(doublingProgram(100, 2)));
    const { y } = await session.run(program, { x: new Float32Array(100).fill(i) });
    expect(y[7]).toBe(4 * i);
    await session.close();
  }
  expect(usedBytes()).toBe(before);
});

test('sessions side by side', async () => {
  const sessions = Array.from({ length: 8 }, () => Session.create({ threads: 2 }));
  const results = await Promise.all(
    sessions.map((session, i) => {
      const program = session.loadProgram(programBytes(doublingProgram(10_000, 5)));
      return session.run(program, { x: new Float32Array(10_000).fill(i) });
    }),
  );
  expect(results.map(({ y }) => y[9999])).toEqual([0, 32, 64, 96, 128, 160, 192, 224]);
  await Promise.all(sessions.map((session) => session.close()));
});

test('the event loop runs on while long programs execute', async () => {
  const session = Session.create({ threads: 1 });
  const n = 1 << 21;
  const program = session.loadProgram(programBytes(doublingProgram(n, 200)));
  const x = new Float32Array(n);
  let ticks = 0;
  const timer = setInterval(() => ticks++, 5);
  // How long a run takes is the machine's affair; that the timer fires again and again inside single runs is ours.
  let ticksInside = 0;
  for (let run = 0; run < 1000 && ticksInside < 20; run++) {
    const before = ticks;
    await session.run(program, { x });
    ticksInside += Math.max(0, ticks - before - 1); // one may have been due already
  }
  clearInterval(timer);
  await session.close();
  expect(ticksInside).toBeGreaterThanOrEqual(20);
});

/** Runs a fixture with plain Node; the addon's path and a program's bytes are its arguments. */
function runFixture(name: string, steps: number, execArgv: string[] = [], elements = 1 << 20) {
  const addon = process.env.LATHE_ADDON_PATH ?? path.resolve(__dirname, '../../build/Release/lathe.node');
  const program = path.join(folder, `program-${steps}.bin`);
  fs.writeFileSync(program, programBytes(doublingProgram(elements, steps)));
  const script = path.join(__dirname, 'fixtures', name);
  return spawnSync(process.execPath, [...execArgv, script, addon, program], { encoding: 'utf8', timeout: 50_000 });
}

const clean = { status: 0, signal: null, stderr: '' };

test('a forgotten session is collected, and what was queued still finishes', () => {
  const result = runFixture('forgotten.js', 50, ['--expose-gc']);
  expect(result).toMatchObject({ ...clean, stdout: 'pending run finished\ncollected\n' });
});

test('the process exits by itself once nothing is pending, sessions open or not', () => {
  expect(runFixture('open-at-end.js', 5)).toMatchObject({ ...clean, stdout: 'done\n' });
});

test('process.exit with a run pending', () => {
  for (let i = 0; i < 5; i++) {
    expect(runFixture('exit-while-running.js', 20_000)).toMatchObject({
      status: 7,
      signal: null,
      stderr: '',
      stdout: 'exiting\n',
    });
  }
});

test('an uncaught error with a run pending', () => {
  const result = runFixture('throw-while-running.js', 20_000);
  expect(result).toMatchObject({ status: 1, signal: null });
  expect(result.stderr).toContain('thrown on purpose');
});

test('workers that end in the middle of a run', () => {
  for (let i = 0; i < 3; i++) {
    expect(runFixture('worker-exit.js', 20_000)).toMatchObject({
      ...clean,
      stdout: 'workers gone\nmemory returned\nmain still works\n',
    });
  }
});

test('workers that end while the promises of many short runs are being settled', () => {
  expect(runFixture('worker-exit-loop.js', 2, [], 64)).toMatchObject({ ...clean, stdout: 'workers gone\n' });
});

test('a session that the collector takes in this process too', async () => {
  const before = usedBytes();
  const session = Session.create({ threads: 1 });
  session.defineState([{ name: 'w', dtype: 'u8', shape: [1 << 20] }]);
  expect(usedBytes()).toBe(before + (1 << 20));
  await session.close();
  await until(() => usedBytes() === before);
});
