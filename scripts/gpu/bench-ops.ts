/**
 * Times the kernels that a step lives on: `node bench-ops.js cuda [--tiny] [--only NAME] > ops.json`.
 *
 * Shapes are Llama-3-8B's. Each kernel runs on copies of its inputs, in one program with few copies and one with many; the
 * difference of their wall times has no launch of the program, no waiting and no warm cache in it. Results stay in slots on
 * the device. Bytes and FLOPs are what the work needs, not what a kernel happens to move; the ceilings to compare with are
 * in the same machine's torch.json (torch_peers.py). --tiny: that this script runs, its numbers mean nothing.
 */
import { compile } from '../../src/compile/compile';
import { deviceSpec } from '../../src/compile/devices';
import type { OpDef } from '../../src/graph/op-def';
import type { Attributes, StateSlot, TensorType } from '../../src/graph/tensor';
import { apply, readState, trace, updateState } from '../../src/graph/trace';
import { OPS } from '../../src/ops';
import { randomNormal, randomUniform } from '../../src/ops/random';
import { Session, type ProgramHandle } from '../../src/runtime/session';

interface Work {
  name: string;
  op: string;
  inputs: TensorType[];
  attributes: Attributes;
  /** Values of i32 inputs, by index. */
  integers?: Record<number, number[]>;
  flops?: number;
  bytes?: number;
  /** In the larger program; the smaller has 2. Short kernels need more. */
  copies: number;
}

const tiny = process.argv.includes('--tiny');
const t = (dtype: TensorType['dtype'], ...shape: number[]): TensorType => ({ dtype, shape });
/** Rows, width, inner width, width of K and V, heads, their dimension, documents' length, LoRA parameters, elements copied. */
const [T, D, F, KV, H, DIM, L, ADAM, COPY] = tiny
  ? [64, 256, 512, 128, 4, 64, 32, 2 ** 16, 2 ** 12]
  : [4096, 4096, 14336, 1024, 32, 128, 2048, 41_943_040, 2 ** 28];

function matmul(name: string, m: number, n: number, k: number, quant: 0 | 2, copies: number): Work {
  const nb = Math.ceil((n * k) / 64);
  const b = quant ? [t('u8', (n * k) / 2), t('u8', nb), t('f32', Math.ceil(nb / 256)), t('f32', 1)] : [t('bf16', n, k)];
  return {
    name,
    op: 'matmul',
    inputs: [t('bf16', m, k), ...b],
    flops: 2 * m * n * k,
    bytes: (quant ? 0.516 : 2) * n * k + 2 * m * (n + k),
    copies,
    attributes: {
      trans_a: [0],
      trans_b: [1],
      quant: [quant],
      rows: [n],
      cols: [k],
      alpha: 1,
      bias: 0,
      addend: 0,
      compute: 'bf16',
      dtype: 'bf16',
    },
  };
}

const heads = { heads: H, kv_heads: KV / DIM, head_dim: DIM, scale: DIM ** -0.5, causal: 1, window: 0, softcap: 0 };
const documents = T / L;
const cu = Array.from({ length: documents + 1 }, (_, d) => d * L);
const pairs = (documents * (L * (L + 1))) / 2;
const qkv = [t('bf16', T, D), t('bf16', T, KV), t('bf16', T, KV)];
const blocks = (F * D) / 64;

const WORK: Work[] = [
  { name: 'copy', op: 'copy', inputs: [t('bf16', COPY)], attributes: {}, bytes: 4 * COPY, copies: 4 },
  {
    name: 'dequantize nf4 nested',
    op: 'dequantize_4bit',
    inputs: [t('u8', (F * D) / 2), t('u8', blocks), t('f32', Math.ceil(blocks / 256)), t('f32', 1)],
    attributes: { type: 'nf4', rows: F, cols: D, nested: 1, dtype: 'bf16' },
    bytes: F * D * (2 + 0.5 + 1 / 64),
    copies: 18,
  },
  {
    name: 'quantize nf4',
    op: 'quantize_4bit',
    inputs: [t('bf16', F, D)],
    attributes: { type: 'nf4' },
    bytes: F * D * (2 + 0.5 + 4 / 64),
    copies: 18,
  },
  matmul('gemm bf16', T, F, D, 0, 6),
  matmul('gemm nf4', T, F, D, 2, 6),
  matmul('gemm nf4, one row', 1, F, D, 2, 34),
  matmul('gemm nf4, 16 rows', 16, F, D, 2, 34),
  {
    name: 'attention forward',
    op: 'attention',
    inputs: [...qkv, t('i32', documents + 1)],
    integers: { 3: cu },
    attributes: heads,
    flops: 4 * pairs * H * DIM,
    copies: 6,
  },
  {
    name: 'attention backward',
    op: 'attention_grad',
    inputs: [t('bf16', T, D), ...qkv, t('bf16', T, D), t('f32', H, T), t('i32', documents + 1)],
    integers: { 6: cu },
    attributes: heads,
    flops: 10 * pairs * H * DIM,
    copies: 6,
  },
  {
    name: 'rms_norm',
    op: 'rms_norm',
    inputs: [t('bf16', T, D), t('bf16', D)],
    attributes: { eps: 1e-5, unit_offset: 0 },
    bytes: 4 * T * D,
    copies: 18,
  },
  {
    name: 'swiglu',
    op: 'glu',
    inputs: [t('bf16', T, F), t('bf16', T, F)],
    attributes: { kind: 'silu' },
    bytes: 6 * T * F,
    copies: 10,
  },
  {
    name: 'adamw_8bit',
    op: 'adamw_8bit',
    inputs: [
      t('f32', 1),
      t('i32', 1),
      t('f32', 1),
      t('f32', ADAM),
      t('f32', ADAM),
      t('u8', ADAM),
      t('u8', ADAM),
      t('f32', ADAM / 256),
      t('f32', ADAM / 256),
    ],
    integers: { 1: [1] },
    attributes: { count: 1, beta1: 0.9, beta2: 0.999, eps: 1e-8, weight_decay: 0 },
    bytes: ADAM * (4 * 3 + 4 + 16 / 256),
    copies: 6,
  },
];

const bytes = new Uint8Array(
  Math.max(...WORK.flatMap((w) => w.inputs.filter((i) => i.dtype === 'u8').map((i) => i.shape[0]))),
);
for (let i = 0, state = 1; i < bytes.length; i++)
  bytes[i] = (state = (Math.imul(state, 1664525) + 1013904223) >>> 0) >>> 24;

/** Values that look like data: multiplying zeros takes a GPU less power, and so less time. */
async function fill(
  session: Session,
  device: string,
  slots: readonly StateSlot[],
  integers: Record<number, number[]>,
): Promise<void> {
  for (const [i, values] of Object.entries(integers))
    await session.writeState(slots[Number(i)].name, Int32Array.from(values));
  for (const s of slots) if (s.dtype === 'u8') await session.writeState(s.name, bytes.subarray(0, s.shape[0]));
  const graph = trace('fill', () => {
    for (const s of slots) {
      if (s.dtype === 'bf16') updateState(s, randomNormal(s, 0, 1, 1, s.name));
      if (s.dtype === 'f32') updateState(s, randomUniform(s, 0.1, 1, 1, s.name));
    }
  });
  if (graph.updates.length === 0) return;
  const program = session.loadProgram(compile(graph, { device: deviceSpec(device) }).bytes);
  await session.run(program, {});
  session.releaseProgram(program);
}

/** The middle of the wall times of a program's runs, in seconds. */
async function seconds(session: Session, program: ProgramHandle): Promise<number> {
  const runs = tiny ? 3 : 15;
  for (let i = 0; i < 3; i++) await session.run(program, {});
  const times: number[] = [];
  for (let i = 0; i < runs; i++) {
    const begun = performance.now();
    await session.run(program, {});
    times.push((performance.now() - begun) / 1e3);
  }
  return times.sort((a, b) => a - b)[(runs - 1) / 2];
}

async function measure(session: Session, device: string, w: Work): Promise<object> {
  const def = OPS.get(w.op) as OpDef;
  const outputs = def.infer(w.inputs, w.attributes);
  const slots = (kind: string, copy: number, types: readonly TensorType[]): StateSlot[] =>
    types.map((type, i) => ({ name: `${w.name} ${copy} ${kind}${i}`, role: 'weights', ...type }));
  const most = tiny ? 4 : w.copies;
  const copies = Array.from({ length: most }, (_, c) => ({ x: slots('x', c, w.inputs), y: slots('y', c, outputs) }));
  const all = copies.flatMap(({ x, y }) => [...x, ...y]);
  session.defineState(all);
  try {
    for (const { x } of copies) await fill(session, device, x, w.integers ?? {});
    const times: number[] = [];
    for (const count of [2, most]) {
      const graph = trace(`${w.name} x ${count}`, () => {
        for (const { x, y } of copies.slice(0, count))
          apply(
            def,
            x.map((s) => readState(s)),
            w.attributes,
          ).forEach((out, i) => updateState(y[i], out));
      });
      const program = session.loadProgram(compile(graph, { device: deviceSpec(device) }).bytes, w.name);
      times.push(await seconds(session, program));
      session.releaseProgram(program);
    }
    const each = (times[1] - times[0]) / (most - 2);
    if (each <= 0) return { name: w.name, note: 'too short to be measured' };
    return {
      name: w.name,
      microseconds: each * 1e6,
      teraflops: w.flops && w.flops / each / 1e12,
      gigabytesPerSecond: w.bytes && w.bytes / each / 1e9,
    };
  } finally {
    session.dropState(all.map((s) => s.name));
  }
}

async function main(): Promise<void> {
  const device = process.argv[2] ?? 'cuda';
  const only = process.argv.indexOf('--only') + 1;
  const session = Session.create({ device });
  const rows: object[] = [];
  for (const w of WORK) {
    if (only && w.name !== process.argv[only]) continue;
    rows.push(
      await measure(session, device, w).catch((error: unknown) => {
        process.exitCode = 1;
        process.stderr.write(`FAILED ${w.name}: ${String(error)}\n`);
        return { name: w.name, failed: String(error) };
      }),
    );
  }
  await session.close();
  process.stdout.write(`${JSON.stringify(rows, null, 1)}\n`);
}

void main();
