/** The validator trusts nothing: rules one by one, then mutations of valid bytes. */
import fc from 'fast-check';
import { Session } from '../../src/runtime/session';
import { hasCode } from '../../src/errors';
import {
  ABSENT,
  doublingProgram,
  programBytes,
  withChecksum,
  type BufferSpec,
  type ProgramSpec,
} from './program-bytes';

let session: Session;
beforeAll(() => {
  session = Session.create({ threads: 1 });
  session.defineState([{ name: 'w', dtype: 'f32', shape: [4, 4] }]);
});
afterAll(() => session.close());

const arena = (place: number, shape = [16]): BufferSpec => ({ kind: 'arena', dtype: 'f32', shape, place });

/** x -> a = x + x -> b = a + x -> y = b + a, and w <- w + view of y. Valid as it stands. */
function valid(): ProgramSpec & { nodes: NonNullable<ProgramSpec['nodes']> } {
  return {
    name: 'valid',
    arenaBytes: 256,
    scratchBytes: 64,
    states: [{ name: 'w', dtype: 'f32', shape: [4, 4] }],
    buffers: [
      arena(0),
      arena(64),
      arena(128),
      arena(0), // y over x, which dies
      arena(0, [4, 4]), // a view of y
      { kind: 'state', dtype: 'f32', shape: [4, 4], place: 0 },
      { kind: 'external', dtype: 'f32', shape: [16], place: 0 },
      { kind: 'constant', dtype: 'f32', shape: [4], place: 0 },
    ],
    inputs: [
      ['x', 0],
      ['e', 6],
    ],
    outputs: [['y', 3]],
    nodes: [
      { op: 'add', where: 'first', inputs: [0, 6], outputs: [1] },
      { op: 'add', where: 'second', inputs: [1, 0], outputs: [2] },
      { op: 'scale', where: 'third', inputs: [2], outputs: [3], attributes: { factor: 2 } },
      { op: 'add', where: 'fourth', inputs: [5, 4], outputs: [5] },
    ],
    blob: new Uint8Array(16),
  };
}

function load(spec: ProgramSpec): void {
  session.releaseProgram(session.loadProgram(programBytes(spec)));
}

test.each([
  ['rms_norm', [[], [1]], [ABSENT, 2], { eps: 1e-5, unit_offset: 0 }],
  ['rope_table', [[]], [ABSENT, 1], { inv_freq: [1], attention_scaling: 1 }],
])('%s without its main output is refused, also where a scalar would fit', (op, shapes, outputs, attributes) => {
  const dtype = op === 'rope_table' ? 'i32' : 'f32';
  const buffers: BufferSpec[] = shapes.map((shape, i) => ({ kind: 'arena', dtype, shape, place: 64 * i }));
  buffers.push({ kind: 'arena', dtype: 'f32', shape: [1], place: 64 * shapes.length });
  const inputs = shapes.map((_, i): [string, number] => [`x${i}`, i]);
  const node = { op, inputs: shapes.map((_, i) => i), outputs, attributes };
  expect(() => load({ arenaBytes: 64 * buffers.length, buffers, inputs, nodes: [node] })).toThrow(op);
});

test('the unchanged program loads and runs', async () => {
  const program = session.loadProgram(programBytes(valid()));
  const { y } = await session.run(program, { x: new Float32Array(16).fill(1), e: new Float32Array(16).fill(2) });
  expect(y[0]).toBe(8);
  session.releaseProgram(program);
});

type Edit = (p: ReturnType<typeof valid>) => void;
const rules: [rule: string, edit: Edit, message: RegExp][] = [
  ['version', (p) => (p.version = 2), /expected version 1, received 2/],
  ['unknown op', (p) => (p.nodes[1].op = 'no_such_op'), /node 1 no_such_op \(second\): no kernel/],
  ['unread attribute', (p) => (p.nodes[2].attributes!.bogus = 1), /attribute 'bogus' is not known/],
  ['missing attribute', (p) => (p.nodes[2].attributes = {}), /'factor' is missing/],
  [
    'attribute of another kind',
    (p) => (p.nodes[2].attributes = { factor: 'x' }),
    /should be a number, received a string/,
  ],
  ['read before written', (p) => (p.nodes[0].inputs = [2, 6]), /buffer 2 is read before it is written/],
  [
    'unwritten output',
    (p) => p.outputs!.push(['z', 7 + p.buffers.push(arena(192)) - 8]),
    /output 'z': buffer 8 is read before/,
  ],
  ['overwritten while live', (p) => (p.nodes[1].outputs = [1]), /node 2 scale.*buffer 2 is read before/],
  [
    'clobbered by a partial overlap',
    (p) => {
      p.buffers.push(arena(64, [32]));
      p.nodes.splice(1, 0, { op: 'fill', inputs: [], outputs: [8], attributes: { value: 0 } });
    },
    /node 2 add \(second\): input 0: buffer 1 is read after node 1 fill overwrote it/,
  ],
  [
    'a value that an alias replaced',
    (p) => (p.outputs = [['x', 0]]),
    /output 'x': buffer 0 is read after node 2 scale \(third\) overwrote it/,
  ],
  ['state of another size', (p) => (p.buffers[5].shape = [4, 5]), /does not match state 'w'/],
  ['state of another type', (p) => (p.buffers[5].dtype = 'i32'), /does not match state 'w'/],
  ['state that the session has otherwise', (p) => (p.states![0].shape = [2, 8]), /the program expects f32 \[2, 8\]/],
  ['state that is not there', (p) => (p.states![0].name = 'v'), /state 'v' is not defined/],
  ['state twice', (p) => p.states!.push(p.states![0]), /state 'w' appears twice/],
  ['state index', (p) => (p.buffers[5].place = 1), /state 1 does not exist/],
  ['arena bounds', (p) => (p.buffers[2].place = 256), /ends outside the arena/],
  ['arena alignment', (p) => (p.buffers[2].place = 132), /not a multiple of 64/],
  ['offset overflow', (p) => (p.buffers[2].place = 2 ** 63), /ends outside the arena/],
  ['constant bounds', (p) => (p.buffers[7].shape = [5]), /ends outside the constants/],
  ['element count overflow', (p) => (p.buffers[2].shape = [2 ** 40, 2 ** 40]), /more than 2\^46/],
  ['writing a constant', (p) => (p.nodes[1].outputs = [7]), /read-only/],
  ['writing an external', (p) => (p.nodes[1].outputs = [6]), /read-only/],
  ['binding a state', (p) => p.inputs!.push(['s', 5]), /only arena and external/],
  ['external that is no input', (p) => p.inputs!.pop(), /external but not an input/],
  ['input twice', (p) => p.inputs!.push(['x', 1]), /input 'x' appears twice/],
  ['shared input buffer', (p) => p.inputs!.push(['x2', 0]), /shares its buffer/],
  ['buffer index of an operand', (p) => (p.nodes[1].inputs = [1, 99]), /buffer 99 does not exist/],
  ['buffer index of an output', (p) => (p.outputs = [['y', 99]]), /buffer 99 does not exist/],
  ['absent input', (p) => (p.nodes[1].inputs = [1, ABSENT]), /does not exist/],
  ['no outputs', (p) => (p.nodes[1].outputs = []), /has no outputs/],
  ['only absent outputs', (p) => p.nodes.push({ op: 'add', inputs: [3, 3], outputs: [ABSENT] }), /has no outputs/],
  ['scratch', (p) => (p.nodes[1].scratchBytes = 65), /wants 65 bytes of scratch/],
  ['operand types', (p) => (p.buffers[1].dtype = 'i32'), /add/],
];

test.each(rules)('rejects: %s', (_, edit, message) => {
  const spec = valid();
  edit(spec);
  expect(() => load(spec)).toThrow(
    expect.objectContaining({ code: 'ERR_PROGRAM', message: expect.stringMatching(message) }),
  );
});

test('an output may not lie over an input unless the op says so', () => {
  const transpose = (place: number): ProgramSpec => ({
    arenaBytes: 128,
    buffers: [arena(0, [4, 4]), arena(place, [4, 4])],
    inputs: [['x', 0]],
    outputs: [['y', 1]],
    nodes: [{ op: 'transpose', inputs: [0], outputs: [1] }],
  });
  load(transpose(64));
  expect(() => load(transpose(0))).toThrow(/output 0 \(buffer 1\) overlaps input 0, which this op does not allow/);
});

test('five thousand nodes validate quickly', () => {
  const bytes = programBytes(doublingProgram(64, 5000));
  const start = performance.now();
  session.releaseProgram(session.loadProgram(bytes));
  expect(performance.now() - start).toBeLessThan(1000);
});

/** Loads bytes that may be anything; a program that loads is run, unless it wants absurd amounts. */
async function survive(bytes: Uint8Array): Promise<'loaded' | 'refused'> {
  let program;
  try {
    program = session.loadProgram(bytes);
  } catch (error) {
    if (hasCode(error, 'ERR_PROGRAM') || hasCode(error, 'ERR_PLAN_MEMORY')) return 'refused';
    throw error;
  }
  const bindings = Object.fromEntries(
    program.inputs
      .filter((input) => input.dtype === 'f32')
      .map((input) => [input.name, new Float32Array(input.shape.reduce((a, b) => a * b, 1))]),
  );
  await session.run(program, bindings).catch((error: unknown) => {
    if (!hasCode(error, 'ERR_PROGRAM')) throw error;
  });
  session.releaseProgram(program);
  return 'loaded';
}

const body = programBytes(valid()).subarray(0, -4);
const mutation = fc.oneof(
  fc.record({ kind: fc.constant('set' as const), at: fc.nat(body.length - 1), value: fc.nat(255) }),
  fc.record({
    kind: fc.constant('word' as const),
    at: fc.nat(body.length - 4),
    value: fc.constantFrom(0, 1, 0x7fffffff, 0xffffffff, 0x80000000),
  }),
  fc.record({ kind: fc.constant('cut' as const), at: fc.nat(body.length - 1), value: fc.nat(40) }),
  fc.record({ kind: fc.constant('repeat' as const), at: fc.nat(body.length - 1), value: fc.nat(40) }),
);

function mutate(bytes: Uint8Array, { kind, at, value }: { kind: string; at: number; value: number }): Uint8Array {
  const start = Math.min(at, bytes.length);
  const copy = Uint8Array.from(bytes);
  if (kind === 'set' && start < copy.length) copy[start] = value;
  if (kind === 'word' && start + 4 <= copy.length) new DataView(copy.buffer).setUint32(start, value, true);
  if (kind === 'cut') return Buffer.concat([copy.subarray(0, start), copy.subarray(start + value)]);
  if (kind === 'repeat') return Buffer.concat([copy.subarray(0, start + value), copy.subarray(start)]);
  return copy;
}

test('mutated bytes never crash: they load or are refused', async () => {
  const outcomes = { loaded: 0, refused: 0 };
  await fc.assert(
    fc.asyncProperty(fc.array(mutation, { minLength: 1, maxLength: 3 }), async (edits) => {
      outcomes[await survive(withChecksum(edits.reduce(mutate, body)))]++;
    }),
    { numRuns: 3000 },
  );
  // Both sides must have been reached, or the mutations test nothing.
  expect(outcomes.loaded).toBeGreaterThan(50);
  expect(outcomes.refused).toBeGreaterThan(500);
});

test('names are UTF-8 without NUL', async () => {
  const name = 'é→𝛼';
  const named = session.loadProgram(programBytes({ ...doublingProgram(4, 1), inputs: [[name, 0]] }));
  expect((await session.run(named, { [name]: new Float32Array(4).fill(1) })).y[0]).toBe(2);
  session.releaseProgram(named);
  for (const bad of ['\0', 'a\0b']) expect(() => load({ ...valid(), outputs: [[bad, 3]] })).toThrow(/not UTF-8 text/);
  const bytes = programBytes({ ...valid(), name: 'aaaa' });
  for (const bad of [
    [0xff],
    [0xc0, 0x80],
    [0xe0, 0x80, 0x80],
    [0xed, 0xa0, 0x80],
    [0xf5, 0x80, 0x80, 0x80],
    [0x61, 0x61, 0x61, 0xc3],
  ]) {
    const copy = Uint8Array.from(bytes.subarray(0, -4));
    copy.set(bad, 12);
    expect(() => session.loadProgram(withChecksum(copy))).toThrow(/not UTF-8 text/);
  }
});

test('a wrong checksum, arbitrary bytes and every truncation are refused', () => {
  const bytes = programBytes(valid());
  const refuse = (b: Uint8Array) =>
    expect(() => session.loadProgram(b)).toThrow(expect.objectContaining({ code: 'ERR_PROGRAM' }));
  const flipped = Uint8Array.from(bytes);
  flipped[40] ^= 1;
  expect(() => session.loadProgram(flipped)).toThrow(/checksum mismatch/);
  for (let length = 0; length < bytes.length; length++) refuse(bytes.subarray(0, length));
  for (let length = 8; length < body.length; length++) refuse(withChecksum(body.subarray(0, length)));
  fc.assert(fc.property(fc.uint8Array({ maxLength: 300 }), refuse));
});
