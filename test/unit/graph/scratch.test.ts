/**
 * The scratch formulas of the shape rules are the kernels' own: for a grid of shapes and thread counts a program loads with
 * what was planned and is refused with one byte less (so a plan is neither short nor wasteful). Kernels check what they are
 * granted when a program loads, so nothing has to run and shapes can be those of real models.
 */
import { deviceSpec } from '../../../src/compile/devices';
import { encode } from '../../../src/compile/encode';
import { assignOffsets } from '../../../src/compile/offsets';
import type { DType } from '../../../src/graph/dtype';
import type { Attributes, TensorType } from '../../../src/graph/tensor';
import { apply, input, output, trace } from '../../../src/graph/trace';
import { OPS } from '../../../src/ops';
import { inplace } from '../../../src/passes/inplace';
import { Session } from '../../../src/runtime/session';

interface Shape {
  readonly op: string;
  readonly types: readonly TensorType[];
  readonly attributes: Attributes;
}

const t = (dtype: DType, ...shape: number[]): TensorType => ({ shape, dtype });

function matmul(m: number, n: number, k: number, dtype: DType, transA = 0, lora = 0): Shape {
  const a = (inner: number): TensorType => (transA ? t(dtype, inner, m) : t(dtype, m, inner));
  const inner = lora ? [k, lora] : [k];
  const list = (value: (i: number) => number): number[] => inner.map((_, i) => value(i));
  return {
    op: 'matmul',
    types: inner.flatMap((width) => [a(width), t(dtype, n, width)]),
    attributes: {
      trans_a: list(() => transA),
      trans_b: list(() => 1),
      quant: list(() => 0),
      rows: list(() => n),
      cols: list((i) => inner[i]),
      alpha: 1,
      bias: 0,
      addend: 0,
      compute: dtype === 'bf16' ? 'bf16' : 'f32',
      dtype,
    },
  };
}

function attention(
  tokens: number,
  heads: number,
  kvHeads: number,
  dim: number,
  dtype: DType,
  more: Attributes = {},
): Shape[] {
  const attributes = { heads, kv_heads: kvHeads, head_dim: dim, scale: 1, causal: 1, window: 0, softcap: 0, ...more };
  const [q, kv, cu] = [t(dtype, tokens, heads * dim), t(dtype, tokens, kvHeads * dim), t('i32', 5)];
  const { causal: _causal, ...decode } = attributes;
  const cache = t(dtype, 3, tokens, kvHeads * dim);
  return [
    { op: 'attention', types: [q, kv, kv, cu], attributes },
    { op: 'attention_grad', types: [q, q, kv, kv, q, t('f32', heads, tokens), cu], attributes },
    { op: 'attention_decode', types: [t(dtype, 3, heads * dim), cache, cache, t('i32', 3)], attributes: decode },
  ];
}

function head(tokens: number, width: number, vocabulary: number, dtype: DType, chunk: number, w = dtype): Shape[] {
  const attributes = { logit_scale: 1, softcap: 0, chunk };
  const types = [t(dtype, tokens, width), t(w, vocabulary, width), t('i32', tokens)];
  return [
    { op: 'linear_cross_entropy', types, attributes },
    {
      op: 'linear_cross_entropy_grad',
      types: [...types, t('f32', tokens)],
      attributes: { ...attributes, addend: 0, trained: 1 },
    },
  ];
}

const GRID: readonly Shape[] = [
  matmul(1, 1, 1, 'f32'),
  matmul(1, 49152, 576, 'bf16'),
  matmul(5, 77, 33, 'f32'),
  matmul(6, 6, 511, 'f32'),
  matmul(7, 64, 513, 'bf16'),
  matmul(95, 96, 97, 'f32'),
  matmul(512, 1536, 576, 'bf16'),
  matmul(512, 576, 1536, 'f32', 0, 16),
  matmul(1007, 100, 64, 'bf16'),
  matmul(1009, 100, 64, 'bf16', 1),
  matmul(4096, 4096, 4096, 'bf16', 0, 64),
  matmul(14336, 4096, 2048, 'bf16', 1),
  matmul(128256, 16, 4096, 'f32', 1),
  matmul(3, 3, 300000, 'f32'),
  ...attention(1, 1, 1, 1, 'f32'),
  ...attention(17, 4, 4, 20, 'f32'),
  ...attention(100, 6, 2, 16, 'bf16'),
  ...attention(512, 9, 3, 64, 'bf16'),
  ...attention(513, 32, 8, 128, 'bf16'),
  ...attention(2048, 32, 8, 128, 'f32'),
  ...attention(300, 40, 40, 96, 'bf16', { window: 100 }),
  ...attention(95, 71, 1, 256, 'f32'),
  ...attention(2000, 64, 32, 16, 'bf16'),
  ...head(1, 8, 5, 'f32', 1),
  ...head(7, 33, 100, 'f32', 256),
  ...head(512, 576, 49152, 'bf16', 256),
  ...head(513, 576, 49152, 'f32', 128),
  ...head(2048, 4096, 128256, 'bf16', 256),
  ...head(64, 2048, 32000, 'bf16', 256, 'f32'),
  ...[1, 4096, 4097, 1234567].map((n): Shape => ({ op: 'sum', types: [t('f32', n)], attributes: {} })),
  { op: 'global_norm', types: [t('f32', 1), t('bf16', 5000, 3), t('f32', 4096)], attributes: {} },
  ...[
    [1, 1],
    [100, 7],
    [5, 1000],
  ].map(([n, rows]): Shape => ({
    op: 'scatter_rows',
    types: [t('f32', n, 6), t('i32', n)],
    attributes: { rows_out: rows },
  })),
  // Several ranks need several processes: test/train/data-parallel.test.ts loads what was planned for them.
  { op: 'all_reduce', types: [t('f32', 9), t('f32', 300000)], attributes: { world: 1 } },
  ...[
    [1, 1],
    [3, 49152],
  ].map(([b, v]): Shape => ({
    op: 'sample',
    types: [t('f32', b, v), t('i32', b, 4), t('f32', 8), t('i32', 4)],
    attributes: {},
  })),
];

test('every op with scratch is in the grid', () => {
  const ops = new Set(GRID.map((s) => s.op));
  expect([...OPS.values()].filter((def) => def.scratchBytes && !ops.has(def.name)).map((def) => def.name)).toEqual([]);
});

/** The bytes of a one-op program, granting `less` bytes of scratch fewer than planned. Large operands are file-bound inputs. */
function programOf(s: Shape, threads: number, less: number): { bytes: Uint8Array; planned: number } {
  const def = OPS.get(s.op)!;
  const graph = trace(s.op, () => {
    const x = s.types.map((type, i) => input(`x${i}`, type.shape, type.dtype, true));
    apply(def, x, s.attributes).forEach((y, i) => output(`y${i}`, y));
  });
  const placed = inplace(graph);
  const { offsets, bytes: arenaBytes } = assignOffsets(new Set(placed.storage.values()));
  const planned = def.scratchBytes!(s.types, s.attributes, deviceSpec('cpu', threads));
  return {
    bytes: encode(s.op, placed, {
      offsets,
      arenaBytes,
      scratchBytes: planned,
      scratch: placed.schedule.map(() => planned - less),
    }),
    planned,
  };
}

const describeShape = ({ op, types, attributes }: Shape): string =>
  `${op} ${types.map((x) => `${x.dtype}[${x.shape.join()}]`).join(' ')} ${JSON.stringify(attributes)}`;

test.each([1, 2, 3, 4])('with %i threads', async (threads) => {
  await using session = Session.create({ threads });
  const problems: string[] = [];
  for (const shape of GRID) {
    const { bytes, planned } = programOf(shape, threads, 0);
    try {
      session.releaseProgram(session.loadProgram(bytes));
    } catch (error) {
      problems.push(`${describeShape(shape)}: ${planned} bytes are too few: ${(error as Error).message}`);
      continue;
    }
    if (planned === 0) continue;
    try {
      session.releaseProgram(session.loadProgram(programOf(shape, threads, 1).bytes));
      problems.push(`${describeShape(shape)}: ${planned} bytes are more than the kernel needs`);
    } catch (error) {
      if (!(error as Error).message.includes('scratch'))
        problems.push(`${describeShape(shape)}: ${(error as Error).message}`);
    }
  }
  expect(problems).toEqual([]);
});

test('a program for few threads is refused by a session with more, and says what to do', async () => {
  await using session = Session.create({ threads: 4 });
  expect(() => session.loadProgram(programOf(matmul(512, 512, 512, 'f32'), 1, 0).bytes)).toThrow(
    expect.objectContaining({ code: 'ERR_PROGRAM', message: expect.stringContaining('scratch') as string }),
  );
});
