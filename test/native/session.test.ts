/** Session against hand-written programs: what runs compute, how calls order, what each misuse says. */
import fs from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { Session } from '../../src/runtime/session';
import { doublingProgram, programBytes, type ProgramSpec } from './program-bytes';

let session: Session;
beforeEach(() => {
  session = Session.create({ threads: 2 });
});
afterEach(() => session.close());

const code = (value: string) => expect.objectContaining({ code: value });

/** w <- w + x; y = w before the update times `factor`. */
function accumulate(n: number): ProgramSpec {
  return {
    name: 'accumulate',
    arenaBytes: 128,
    states: [{ name: 'w', dtype: 'f32', shape: [n] }],
    buffers: [
      { kind: 'arena', dtype: 'f32', shape: [n], place: 0 },
      { kind: 'state', dtype: 'f32', shape: [n], place: 0 },
      { kind: 'arena', dtype: 'f32', shape: [n], place: 64 },
    ],
    inputs: [['x', 0]],
    outputs: [['y', 2]],
    nodes: [
      { op: 'scale', inputs: [1], outputs: [2], attributes: { factor: 10 } },
      { op: 'add', where: 'update', inputs: [1, 0], outputs: [1] },
    ],
  };
}

describe('running', () => {
  test('inputs, state updates and outputs', async () => {
    session.defineState([{ name: 'w', dtype: 'f32', shape: [3] }]);
    await session.writeState('w', new Float32Array([1, 2, 3]));
    const program = session.loadProgram(programBytes(accumulate(3)));
    expect(program.inputs).toEqual([{ name: 'x', dtype: 'f32', shape: [3] }]);
    const x = new Float32Array([0.5, 0, -1]);
    const first = session.run(program, { x });
    x.fill(99); // copied already
    const second = session.run(program, { x: new Float32Array([1, 1, 1]) });
    expect((await first).y).toEqual(new Float32Array([10, 20, 30]));
    expect((await second).y).toEqual(new Float32Array([15, 20, 20]));
    const w = await session.readState('w');
    expect(new Float32Array(w.buffer)).toEqual(new Float32Array([2.5, 3, 3]));
  });

  test('parts of a slot', async () => {
    session.defineState([{ name: 'b', dtype: 'u8', shape: [8] }]);
    await session.writeState('b', new Uint8Array([7, 8]), { offset: 3 });
    expect([...(await session.readState('b', { offset: 2, byteLength: 4 }))]).toEqual([0, 7, 8, 0]);
    await expect(session.readState('b', { offset: 7, byteLength: 2 })).rejects.toEqual(code('ERR_SHAPE'));
    await expect(session.writeState('b', new Uint8Array(9))).rejects.toEqual(code('ERR_SHAPE'));
  });

  test('constants, and outputs that are inputs', async () => {
    const program = session.loadProgram(
      programBytes({
        arenaBytes: 64,
        buffers: [
          { kind: 'constant', dtype: 'f32', shape: [2], place: 64 },
          { kind: 'arena', dtype: 'f32', shape: [2], place: 0 },
        ],
        outputs: [
          ['c', 0],
          ['d', 1],
        ],
        nodes: [{ op: 'add', inputs: [0, 0], outputs: [1] }],
        blob: new Uint8Array([...new Uint8Array(64), ...new Uint8Array(new Float32Array([3, 4]).buffer)]),
      }),
    );
    const { c, d } = await session.run(program);
    expect([...c, ...d]).toEqual([3, 4, 6, 8]);
  });

  test('the arena grows while a run is queued, and its high-water mark is measured', async () => {
    const small = session.loadProgram(programBytes(doublingProgram(1000, 3)));
    const running = session.run(small, { x: new Float32Array(1000).fill(1) });
    const large = session.loadProgram(programBytes(doublingProgram(100_000, 2)));
    expect((await running).y[999]).toBe(8);
    expect(session.stats().arenaHighWaterBytes).toBe(4000);
    await session.run(large, { x: new Float32Array(100_000) });
    expect(session.stats()).toMatchObject({ arenaHighWaterBytes: 400_000, arenaBytes: 400_000, runs: 2, pending: 0 });
  });

  test('releaseFiles gives back what only released programs needed; their queued runs still get it', async () => {
    const small = session.loadProgram(programBytes(doublingProgram(1000, 3)));
    const large = session.loadProgram(programBytes(doublingProgram(100_000, 2)));
    const running = session.run(small, { x: new Float32Array(1000).fill(1) });
    const queued = Array.from({ length: 3 }, (_, i) => session.run(large, { x: new Float32Array(100_000).fill(i) }));
    session.releaseProgram(large);
    session.releaseFiles();
    expect((await running).y[999]).toBe(8);
    expect((await Promise.all(queued)).map(({ y }) => y[99_999])).toEqual([0, 4, 8]);
    session.releaseFiles();
    expect(session.stats().arenaBytes).toBe(4032);
    expect((await session.run(small, { x: new Float32Array(1000).fill(2) })).y[0]).toBe(16);
    session.releaseProgram(small);
    session.releaseFiles();
    expect(session.stats().arenaBytes).toBe(0);
  });

  test('profiling counts calls per op and place', async () => {
    const program = session.loadProgram(programBytes(doublingProgram(64, 2)));
    session.setProfiling(true);
    await session.run(program, { x: new Float32Array(64) });
    await session.run(program, { x: new Float32Array(64) });
    const rows = session.profile();
    expect(rows.map(({ op, where, calls }) => [op, where, calls])).toEqual([
      ['add', 'step.0', 2],
      ['add', 'step.1', 2],
    ]);
    expect(rows.every((row) => row.ns > 0)).toBe(true);
    session.resetProfile();
    expect(session.profile()).toEqual([]);
  });

  test('checkFinite names the node', async () => {
    const program = session.loadProgram(programBytes(doublingProgram(2000, 140)));
    const x = new Float32Array(2000);
    x[1500] = 1;
    expect((await session.run(program, { x })).y[1500]).toBe(Infinity);
    // 2^128 is the first that f32 cannot hold: the 128th doubling.
    await expect(session.run(program, { x }, { checkFinite: true })).rejects.toMatchObject({
      code: 'ERR_NONFINITE',
      message: expect.stringMatching(/node 127 add \(step\.127\).*element 1500/),
    });
  });
});

describe('files', () => {
  const folder = fs.mkdtempSync(path.join(os.tmpdir(), 'lathe-session-'));
  afterAll(() => fs.rmSync(folder, { recursive: true }));
  const file = path.join(folder, 'weights.bin');
  const values = new Float32Array([1, 2, 3, 4]);

  const sum: ProgramSpec = {
    arenaBytes: 64,
    buffers: [
      { kind: 'external', dtype: 'f32', shape: [4], place: 0 },
      { kind: 'arena', dtype: 'f32', shape: [4], place: 0 },
    ],
    inputs: [['w', 0]],
    outputs: [['y', 1]],
    nodes: [{ op: 'add', inputs: [0, 0], outputs: [1] }],
  };

  test.each([0, 4, 1, 3])('a range at offset %i, aligned or not', async (offset) => {
    fs.writeFileSync(file, Buffer.concat([Buffer.alloc(offset), Buffer.from(values.buffer)]));
    const program = session.loadProgram(programBytes(sum));
    const { y } = await session.run(program, { w: { path: file, offset, byteLength: 16 } });
    expect([...y]).toEqual([2, 4, 6, 8]);
  });

  test('an array instead of a file, and a file that was replaced', async () => {
    const program = session.loadProgram(programBytes(sum));
    expect([...(await session.run(program, { w: values })).y]).toEqual([2, 4, 6, 8]);
    for (const value of [5, 6]) {
      const next = path.join(folder, 'next');
      fs.writeFileSync(next, Buffer.from(new Float32Array(4).fill(value).buffer));
      fs.renameSync(next, file);
      const { y } = await session.run(program, { w: { path: file, offset: 0, byteLength: 16 } });
      expect(y[0]).toBe(2 * value);
    }
    expect(session.stats().mappedBytes).toBe(16);
    session.releaseFiles();
    expect(session.stats().mappedBytes).toBe(0);
  });

  test('ranges outside the file, folders, and files that shrink before the run', async () => {
    fs.writeFileSync(file, Buffer.alloc(20));
    const program = session.loadProgram(programBytes(sum));
    const bind = (range: { path?: string; offset?: number; byteLength?: number }) =>
      session.run(program, { w: { path: file, offset: 0, byteLength: 16, ...range } });
    await expect(bind({ offset: 5 })).rejects.toEqual(code('ERR_DATA'));
    await expect(bind({ offset: 2 ** 53 - 1 })).rejects.toEqual(code('ERR_DATA'));
    await expect(bind({ path: folder })).rejects.toEqual(code('ERR_DATA'));
    await expect(bind({ path: path.join(folder, 'absent') })).rejects.toMatchObject({
      code: 'ERR_DATA',
      message: expect.stringContaining('absent'),
    });
    await expect(bind({ byteLength: 12 })).rejects.toEqual(code('ERR_SHAPE'));
    const slow = session.loadProgram(programBytes(doublingProgram(4_000_000, 20)));
    const first = session.run(slow, { x: new Float32Array(4_000_000) });
    const shrunk = bind({});
    fs.truncateSync(file, 8);
    await first;
    await expect(shrunk).rejects.toEqual(code('ERR_DATA'));
  });
});

describe('misuse', () => {
  test('bindings', async () => {
    const program = session.loadProgram(programBytes(doublingProgram(4, 1)));
    await expect(session.run(program, {})).rejects.toEqual(code('ERR_PROGRAM'));
    await expect(session.run(program, { x: new Float32Array(4), z: new Float32Array(4) })).rejects.toMatchObject({
      code: 'ERR_PROGRAM',
      message: expect.stringContaining("no input 'z'; its inputs are: x"),
    });
    await expect(session.run(program, { x: new Int32Array(4) })).rejects.toEqual(code('ERR_DTYPE'));
    await expect(session.run(program, { x: new Float32Array(5) })).rejects.toEqual(code('ERR_SHAPE'));
    await expect(session.run(program, { x: 3 as never })).rejects.toEqual(code('ERR_DTYPE'));
    session.releaseProgram(program);
    await expect(session.run(program, { x: new Float32Array(4) })).rejects.toEqual(code('ERR_PROGRAM'));
  });

  test('state', async () => {
    session.defineState([{ name: 'w', dtype: 'f32', shape: [3] }]);
    await session.writeState('w', new Float32Array([1, 2, 3]));
    session.defineState([{ name: 'w', dtype: 'f32', shape: [3] }]); // keeps its contents
    expect((await session.readState('w'))[3]).toBe(63);
    expect(() =>
      session.defineState([
        { name: 'v', dtype: 'u8', shape: [1] },
        { name: 'w', dtype: 'f32', shape: [4] },
      ]),
    ).toThrow(code('ERR_PROGRAM'));
    expect(session.states().map((slot) => slot.name)).toEqual(['w']);
    await expect(session.readState('nobody')).rejects.toEqual(code('ERR_PROGRAM'));
    await expect(session.writeState('w', new Int32Array(3))).rejects.toEqual(code('ERR_DTYPE'));
    const program = session.loadProgram(programBytes(accumulate(3)));
    expect(() => session.dropState(['w'])).toThrow(/used by program 'accumulate'/);
    session.releaseProgram(program);
    session.dropState(['w']);
    expect(session.stats().stateBytes).toBe(0);
    expect(() => session.loadProgram(programBytes(accumulate(3)))).toThrow(/'w' is not defined/);
    session.defineState([{ name: 'w', dtype: 'f32', shape: [4] }]);
    expect(() => session.loadProgram(programBytes(accumulate(3)))).toThrow(/the program expects f32 \[3\]/);
  });

  test('more memory than there is', () => {
    const before = session.stats();
    expect(() => session.defineState([{ name: 'huge', dtype: 'u8', shape: [2 ** 45] }])).toThrow(
      code('ERR_PLAN_MEMORY'),
    );
    const program = programBytes({ ...doublingProgram(4, 1), arenaBytes: 2 ** 46 });
    expect(() => session.loadProgram(program)).toThrow(code('ERR_PLAN_MEMORY'));
    expect(session.stats()).toEqual(before);
  });

  test('options', () => {
    expect(() => Session.create({ threads: 0 })).toThrow(code('ERR_CONFIG'));
    expect(() => Session.create({ device: 'cuda' })).toThrow(code('ERR_DEVICE'));
    expect(() => Session.create({ device: 'tpu' })).toThrow(code('ERR_CONFIG'));
  });

  test('a closed session', async () => {
    const program = session.loadProgram(programBytes(doublingProgram(4, 1)));
    const last = session.run(program, { x: new Float32Array(4).fill(1) });
    const closing = session.close();
    expect((await last).y[0]).toBe(2);
    await closing;
    await session.close();
    await expect(session.run(program, { x: new Float32Array(4) })).rejects.toEqual(code('ERR_DEVICE'));
    expect(() => session.defineState([])).toThrow(code('ERR_DEVICE'));
    session = Session.create({ threads: 1 });
  });
});
