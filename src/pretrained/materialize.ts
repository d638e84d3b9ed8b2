/**
 * Turns descriptions into bytes: for every parameter one small program that reads its source (or draws its initial
 * value), transforms it and updates its slots. One tensor at a time, so a full-precision model never sits in memory.
 */
import { LatheError } from '../errors';
import { updateState, constant } from '../graph/trace';
import type { Tensor, TensorType } from '../graph/tensor';
import type { Parameter } from '../nn/module';
import { cast, fill, scale } from '../ops/elementwise';
import { cacheWrite, reshape } from '../ops/movement';
import { matmul } from '../ops/matmul';
import { quantize4bit, quantizeAbsmax } from '../ops/quant';
import { randomNormal, randomUniform } from '../ops/random';
import { sumRows } from '../ops/reduce';
import type { Session } from '../runtime/session';
import { runOnce } from './run-once';
import {
  checkShape,
  formatOf,
  sourcePath,
  traceDense,
  traceParts,
  type FileBindings,
  type PartsSource,
  type WeightSource,
} from './weights';

export interface MaterializeOptions {
  /** Seed of random initial values. */
  seed: number;
  /** Of adapters, when another. */
  adapterSeed?: number;
  /** Rows that a source has when the parameter was resized after it was saved. */
  sourceRows?: ReadonlyMap<string, number>;
  meanResizing?: boolean;
  /** Parameters that start as another one's random initial value: a head that was untied from its embedding. */
  sameStart?: ReadonlyMap<string, string>;
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
  // The program of one tensor is made while the engine runs that of the one before.
  let running: Promise<unknown> = Promise.resolve();
  for (const [name, p] of list) {
    const next = runOnce(session, `load ${name}`, (bindings) => store(p, name, sources.get(name), bindings, options));
    next.catch(() => undefined); // it is awaited below, unless the one before fails
    await running;
    running = next;
  }
  await running;
  session.releaseFiles();
}

function store(
  p: Parameter,
  name: string,
  source: WeightSource | undefined,
  bindings: FileBindings,
  o: MaterializeOptions,
): void {
  const slots = p.slots();
  if (source?.kind === 'parts' && p.quant) {
    checkFormat(p, name, source);
    traceParts(source, name, bindings).forEach(({ value }, i) => updateState(slots[i], value));
    return;
  }
  const value = source ? loaded(p, name, source, bindings, o) : initial(p, name, o);
  if (!p.quant) {
    updateState(slots[0], cast(value, p.dtype));
    return;
  }
  // Codes come from the stored values, exactly as read: bf16 and f32 are kept, block formats give f32.
  const [packed, absmax] = quantize4bit(value, p.quant.type);
  const scales = p.quant.nested ? quantizeAbsmax(absmax) : [absmax];
  [packed, ...scales].forEach((part, i) => updateState(slots[i], part));
}

/** Codes of one format cannot become codes of another without a loss. */
function checkFormat(p: Parameter, name: string, source: PartsSource): void {
  checkShape(name, source, p.shape);
  const stored = formatOf(source);
  const text = (q: { type: string; nested: boolean }): string =>
    `${q.type}${q.nested ? ' with double quantisation' : ''}`;
  if (stored.type === p.quant!.type && stored.nested === p.quant!.nested) return;
  throw new LatheError('ERR_CHECKPOINT', `tensor '${name}' expected ${text(p.quant!)}, received ${text(stored)}`, {
    at: sourcePath(source),
    remedy: "config.json's quantization_config and the weights are not of the same save",
  });
}

function loaded(
  p: Parameter,
  name: string,
  source: WeightSource,
  bindings: FileBindings,
  o: MaterializeOptions,
): Tensor {
  const rows = o.sourceRows?.get(name);
  checkShape(name, source, rows === undefined ? p.shape : [rows, ...p.shape.slice(1)]);
  const value = traceDense(source, name, bindings);
  return rows === undefined || rows === p.shape[0] ? value : resized(value, p, name, o);
}

/** The initial value of a parameter without a source. */
function initial(p: Parameter, name: string, o: MaterializeOptions): Tensor {
  const seed = p.role === 'adapter' ? (o.adapterSeed ?? o.seed) : o.seed;
  const site = o.sameStart?.get(name) ?? name;
  const type: TensorType = { shape: p.shape, dtype: p.quant ? 'f32' : p.dtype };
  switch (p.init.kind) {
    case 'zeros':
      return fill(type, 0);
    case 'ones':
      return fill(type, 1);
    case 'normal':
      return randomNormal(type, 0, p.init.std, seed, site);
    case 'uniform':
      return randomUniform(type, -p.init.bound, p.init.bound, seed, site);
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
  const site = `${o.sameStart?.get(name) ?? name}.resize`;
  const chunk = Math.max(1, Math.floor(DRAW_ELEMENTS / before));
  for (let row = before; row < after; row += chunk) {
    const added = Math.min(chunk, after - row);
    const fresh =
      o.meanResizing === false
        ? freshRows(added, width, p, o.seed, `${site}.${row}`)
        : meanRows(added, value, o.seed, `${site}.${row}`);
    out = cacheWrite(out, cast(fresh, value.dtype), rowIndices(added, row, after));
  }
  return out;
}

/** Random numbers drawn at a time for new rows: 256 MiB. */
const DRAW_ELEMENTS = 1 << 26;

function freshRows(added: number, width: number, p: Parameter, seed: number, site: string): Tensor {
  return randomNormal(
    { shape: [added, width], dtype: 'f32' },
    0,
    p.init.kind === 'normal' ? p.init.std : 0.02,
    seed,
    site,
  );
}

function meanRows(added: number, old: Tensor, seed: number, site: string): Tensor {
  const [before, width] = old.shape;
  const z = randomNormal({ shape: [added, before], dtype: 'f32' }, 0, 1, seed, site);
  const mean = scale(sumRows(old), 1 / before);
  const ones = fill({ shape: [before, 1], dtype: 'f32' }, 1);
  const zSum = matmul(z, ones, { compute: 'f32', dtype: 'f32', alpha: -1 });
  const alpha = Math.sqrt(1e-9 / before);
  return matmul(z, old, {
    compute: 'f32',
    dtype: 'f32',
    alpha,
    bias: mean,
    extra: [{ a: zSum, b: reshape(mean, [1, width]) }],
  });
}

/** Row numbers from..to for `count` source rows; those past `to` are -1 (dropped). */
function rowIndices(count: number, from: number, to: number): Tensor {
  const index = Int32Array.from({ length: count }, (_, i) => (from + i < to ? from + i : -1));
  return constant(new Uint8Array(index.buffer), [count], 'i32');
}

/** A name that the checkpoint has too much or too little of is an error that names it. */
export function checkNames(
  wanted: Iterable<string>,
  available: Iterable<string>,
  at: string,
  ignorable: (name: string) => boolean = () => false,
): void {
  const have = new Set(available);
  const want = new Set(wanted);
  const missing = [...want].filter((name) => !have.has(name));
  const extra = [...have].filter((name) => !want.has(name) && !ignorable(name));
  if (missing.length)
    throw new LatheError('ERR_CHECKPOINT', `missing tensor${missing.length > 1 ? 's' : ''} ${some(missing)}`, {
      at,
      remedy: 'the weights are incomplete or belong to another config.json',
    });
  if (extra.length)
    throw new LatheError('ERR_CHECKPOINT', `unexpected tensor${extra.length > 1 ? 's' : ''} ${some(extra)}`, {
      at,
      remedy: 'the weights belong to another config.json',
    });
}

function some(names: readonly string[]): string {
  const shown = names.slice(0, 5).map((n) => `'${n}'`);
  return shown.join(', ') + (names.length > shown.length ? ` and ${names.length - shown.length} more` : '');
}
