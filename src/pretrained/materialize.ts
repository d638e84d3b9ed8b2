/**
 * Turns descriptions into bytes: for every parameter one small program that reads its source (or draws its initial
 * value), transforms it and updates its slots. One tensor at a time, so a full-precision model never sits in memory.
 */
import { compile } from '../compile/compile';
import { deviceSpec } from '../compile/devices';
import { LatheError } from '../errors';
import { trace, updateState, constant } from '../graph/trace';
import type { Tensor, TensorType } from '../graph/tensor';
import type { Parameter } from '../nn/module';
import { cast, fill, scale } from '../ops/elementwise';
import { cacheWrite, reshape } from '../ops/movement';
import { matmul } from '../ops/matmul';
import { quantize4bit, quantizeAbsmax } from '../ops/quant';
import { randomNormal, randomUniform } from '../ops/random';
import { sumRows } from '../ops/reduce';
import type { Session } from '../runtime/session';
import { checkShape, traceRaw, traceSource, type FileBindings, type WeightSource } from './weights';

export interface MaterializeOptions {
  /** Seed of random initial values. */
  seed: number;
  /** Rows that a source has when the parameter was resized after it was saved. */
  sourceRows?: ReadonlyMap<string, number>;
  meanResizing?: boolean;
}

/** Defines and fills the slots of `parameters`. */
export async function materialize(
  session: Session,
  parameters: Iterable<readonly [string, Parameter]>,
  sources: ReadonlyMap<string, WeightSource>,
  options: MaterializeOptions,
): Promise<void> {
  const list = [...parameters];
  session.defineState(list.flatMap(([, p]) => p.slots()));
  const device = deviceSpec('cpu', 1);
  for (const [name, p] of list) {
    const bindings: FileBindings = {};
    const graph = trace(`load ${name}`, () => store(p, name, sources.get(name), bindings, options));
    const program = session.loadProgram(compile(graph, { device: { ...device, threads: session.stats().threads } }).bytes);
    await session.run(program, bindings);
    session.releaseProgram(program);
  }
  session.releaseFiles();
}

function store(p: Parameter, name: string, source: WeightSource | undefined, bindings: FileBindings, o: MaterializeOptions): void {
  const slots = p.slots();
  if (source?.kind === 'parts') {
    slots.forEach((slot, i) => updateState(slot, i === 3 ? fill(slot, source.nestedOffset ?? 0) : traceRaw(source.parts[i].source, slot, bindings)));
    return;
  }
  const value = source ? loaded(p, name, source, bindings, o) : initial(p, name, o.seed);
  if (!p.quant) {
    updateState(slots[0], cast(value, p.dtype));
    return;
  }
  // Codes come from the stored values, exactly as read: bf16 and f32 are kept, block formats give f32.
  const [packed, absmax] = quantize4bit(value, p.quant.type);
  const scales = p.quant.nested ? quantizeAbsmax(absmax) : [absmax];
  [packed, ...scales].forEach((part, i) => updateState(slots[i], part));
}

function loaded(p: Parameter, name: string, source: Extract<WeightSource, { kind: 'tensor' }>, bindings: FileBindings, o: MaterializeOptions): Tensor {
  const rows = o.sourceRows?.get(name);
  checkShape(name, source.source, rows === undefined ? p.shape : [rows, ...p.shape.slice(1)]);
  const value = traceSource(source, name, bindings);
  return rows === undefined || rows === p.shape[0] ? value : resized(value, p, name, o);
}

/** The initial value of a parameter without a source. */
export function initial(p: Parameter, name: string, seed: number): Tensor {
  const type: TensorType = { shape: p.shape, dtype: p.quant ? 'f32' : p.dtype };
  switch (p.init.kind) {
    case 'zeros':
      return fill(type, 0);
    case 'ones':
      return fill(type, 1);
    case 'normal':
      return randomNormal(type, 0, p.init.std, seed, name);
    case 'uniform':
      return randomUniform(type, -p.init.bound, p.init.bound, seed, name);
  }
}

/**
 * Old rows, cut or followed by new ones. New rows are drawn from N(mean, 1e-9 cov) of the old rows (Hewitt 2021, as
 * transformers does): mean + sqrt(1e-9 / V) z^T (X - mean) with z ~ N(0, 1) has exactly that covariance and needs no
 * Cholesky factor.
 */
function resized(old: Tensor, p: Parameter, name: string, o: MaterializeOptions): Tensor {
  const value = old.dtype === 'f16' ? cast(old, 'f32') : old;
  const [before, width] = value.shape;
  const [after] = p.shape;
  const type: TensorType = { shape: p.shape, dtype: value.dtype };
  const kept = Math.min(before, after);
  let out = cacheWrite(fill(type, 0), value, rowIndices(before, 0, kept));
  if (after <= before) return out;
  const added = after - before;
  let fresh: Tensor;
  if (o.meanResizing === false) {
    const std = p.init.kind === 'normal' ? p.init.std : 0.02;
    fresh = randomNormal({ shape: [added, width], dtype: 'f32' }, 0, std, o.seed, `${name}.resize`);
  } else {
    const z = randomNormal({ shape: [added, before], dtype: 'f32' }, 0, 1, o.seed, `${name}.resize`);
    const mean = scale(sumRows(value), 1 / before);
    const c = Math.sqrt(1e-9 / before);
    const ones = fill({ shape: [before, 1], dtype: 'f32' }, 1);
    const zSum = matmul(z, ones, { compute: 'f32', dtype: 'f32', alpha: -1 });
    fresh = matmul(z, value, { compute: 'f32', dtype: 'f32', alpha: c, bias: mean, extra: [{ a: zSum, b: reshape(mean, [1, width]) }] });
  }
  out = cacheWrite(out, cast(fresh, value.dtype), rowIndices(added, before, after));
  return out;
}

/** Row numbers from..to for `count` source rows; those past `to` are -1 (dropped). */
function rowIndices(count: number, from: number, to: number): Tensor {
  const index = Int32Array.from({ length: count }, (_, i) => (from + i < to ? from + i : -1));
  return constant(new Uint8Array(index.buffer), [count], 'i32');
}

/** A name that the checkpoint has too much or too little of is an error that names it. */
export function checkNames(wanted: Iterable<string>, available: Iterable<string>, at: string, ignorable: (name: string) => boolean = () => false): void {
  const have = new Set(available);
  const want = new Set(wanted);
  const missing = [...want].filter((name) => !have.has(name));
  const extra = [...have].filter((name) => !want.has(name) && !ignorable(name));
  if (missing.length) throw new LatheError('ERR_CHECKPOINT', `missing tensor${missing.length > 1 ? 's' : ''} ${some(missing)}`, { at, remedy: 'the weights are incomplete or belong to another config.json' });
  if (extra.length) throw new LatheError('ERR_CHECKPOINT', `unexpected tensor${extra.length > 1 ? 's' : ''} ${some(extra)}`, { at, remedy: 'the weights belong to another config.json' });
}

function some(names: readonly string[]): string {
  const shown = names.slice(0, 5).map((n) => `'${n}'`);
  return shown.join(', ') + (names.length > shown.length ? ` and ${names.length - shown.length} more` : '');
}
