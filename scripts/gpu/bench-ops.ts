/**
 * Times the kernels that a step lives on, by the engine's own per-node clock (it waits for the device after each node):
 * `node bench-ops.js cuda > ops.json`. Shapes are Llama-3-8B's. Bytes and FLOPs are what the work needs, not what a kernel
 * happens to move; the ceilings to compare with are in the same machine's torch.json (torch_peers.py).
 */
import { compile } from '../../src/compile/compile';
import { deviceSpec } from '../../src/compile/devices';
import type { OpDef } from '../../src/graph/op-def';
import type { Attributes, TensorType } from '../../src/graph/tensor';
import { apply, output, readState, trace } from '../../src/graph/trace';
import { OPS } from '../../src/ops';
import { Session } from '../../src/runtime/session';

interface Work {
  name: string;
  op: string;
  inputs: TensorType[];
  attributes: Attributes;
  /** Values of i32 inputs, by index. */
  integers?: Record<number, number[]>;
  flops?: number;
  bytes?: number;
}

const t = (dtype: TensorType['dtype'], ...shape: number[]): TensorType => ({ dtype, shape });
const T = 4096;
const cu = [0, 2048, 4096];

function matmul(name: string, m: number, n: number, k: number, quant: 0 | 2): Work {
  const nb = Math.ceil((n * k) / 64);
  const b = quant ? [t('u8', (n * k) / 2), t('u8', nb), t('f32', Math.ceil(nb / 256)), t('f32', 1)] : [t('bf16', n, k)];
  return {
    name, op: 'matmul', inputs: [t('bf16', m, k), ...b], flops: 2 * m * n * k, bytes: (quant ? 0.516 : 2) * n * k + 2 * m * (n + k),
    attributes: { trans_a: [0], trans_b: [1], quant: [quant], rows: [n], cols: [k], alpha: 1, bias: 0, addend: 0, compute: 'bf16', dtype: 'bf16' },
  };
}

const heads = { heads: 32, kv_heads: 8, head_dim: 128, scale: 128 ** -0.5, causal: 1, window: 0, softcap: 0 };
const pairs = 2 * (2048 * 2049) / 2;
const qkv = [t('bf16', T, 4096), t('bf16', T, 1024), t('bf16', T, 1024)];
const adam = 41_943_040;

const WORK: Work[] = [
  { name: 'copy 512 MiB', op: 'copy', inputs: [t('bf16', 2 ** 28)], attributes: {}, bytes: 2 ** 30 },
  { name: 'dequantize nf4 nested 14336 x 4096', op: 'dequantize_4bit', inputs: [t('u8', 7168 * 4096), t('u8', 224 * 4096), t('f32', 3584), t('f32', 1)], attributes: { type: 'nf4', rows: 14336, cols: 4096, nested: 1, dtype: 'bf16' }, bytes: 14336 * 4096 * (2 + 0.5 + 1 / 64) },
  { name: 'quantize nf4 14336 x 4096', op: 'quantize_4bit', inputs: [t('bf16', 14336, 4096)], attributes: { type: 'nf4' }, bytes: 14336 * 4096 * (2 + 0.5 + 4 / 64) },
  matmul('gemm bf16 4096 x 14336 x 4096', T, 14336, 4096, 0),
  matmul('gemm nf4 4096 x 14336 x 4096', T, 14336, 4096, 2),
  matmul('gemm nf4 1 x 14336 x 4096', 1, 14336, 4096, 2),
  { name: 'attention forward', op: 'attention', inputs: [...qkv, t('i32', 3)], integers: { 3: cu }, attributes: heads, flops: 4 * pairs * 32 * 128 },
  { name: 'attention backward', op: 'attention_grad', inputs: [t('bf16', T, 4096), ...qkv, t('bf16', T, 4096), t('f32', 32, T), t('i32', 3)], integers: { 6: cu }, attributes: heads, flops: 10 * pairs * 32 * 128 },
  { name: 'rms_norm', op: 'rms_norm', inputs: [t('bf16', T, 4096), t('bf16', 4096)], attributes: { eps: 1e-5, unit_offset: 0 }, bytes: 4 * T * 4096 },
  { name: 'swiglu', op: 'glu', inputs: [t('bf16', T, 14336), t('bf16', T, 14336)], attributes: { kind: 'silu' }, bytes: 6 * T * 14336 },
  {
    name: 'adamw_8bit 42M', op: 'adamw_8bit', inputs: [t('f32', 1), t('i32', 1), t('f32', 1), t('f32', adam), t('f32', adam), t('u8', adam), t('u8', adam), t('f32', adam / 256), t('f32', adam / 256)],
    integers: { 1: [1] }, attributes: { count: 1, beta1: 0.9, beta2: 0.999, eps: 1e-8, weight_decay: 0 }, bytes: adam * (4 * 3 + 4 + 16 / 256),
  },
];

async function time(session: Session, device: string, w: Work): Promise<object> {
  const def = OPS.get(w.op) as OpDef;
  const slots = w.inputs.map((type, i) => ({ name: `${w.name}/${i}`, role: 'weights' as const, ...type }));
  session.defineState(slots);
  for (const [i, values] of Object.entries(w.integers ?? {})) await session.writeState(slots[Number(i)].name, Int32Array.from(values));
  // One number leaves the program, so that nothing is copied out.
  const graph = trace(w.op, () => {
    const y = apply(def, slots.map((s) => readState(s)), w.attributes);
    y.forEach((out, i) => output(`y${i}`, out));
  });
  const program = session.loadProgram(compile(graph, { device: deviceSpec(device) }).bytes, w.name);
  for (let i = 0; i < 2; i++) await session.run(program, {});
  session.setProfiling(true);
  session.resetProfile();
  for (let i = 0; i < 10; i++) await session.run(program, {});
  session.setProfiling(false);
  const row = session.profile().find((r) => r.op === w.op)!;
  session.releaseProgram(program);
  session.dropState(slots.map((s) => s.name));
  const seconds = row.ns / row.calls / 1e9;
  return { name: w.name, microseconds: seconds * 1e6, teraflops: w.flops && w.flops / seconds / 1e12, gigabytesPerSecond: w.bytes && w.bytes / seconds / 1e9 };
}

async function main(): Promise<void> {
  const device = process.argv[2] ?? 'cuda';
  const session = Session.create({ device });
  const rows: object[] = [];
  for (const w of WORK) {
    if (process.argv[3] && !w.name.includes(process.argv[3])) continue;
    rows.push(await time(session, device, w).catch((error: unknown) => ({ name: w.name, failed: String(error) })));
  }
  await session.close();
  process.stdout.write(`${JSON.stringify(rows, null, 1)}\n`);
}

void main();
