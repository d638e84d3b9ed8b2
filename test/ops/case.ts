/**
 * The vocabulary of the op tables: what a row says, and how its inputs are drawn.
 *
 * A row is data: an op, inputs (shape, dtype, how values are drawn), attributes, a tolerance and what is differentiable.
 * The dtype 'float' stands for f32 in one run and bf16 in another; in attributes the string 'float' does the same. Values
 * come from a generator seeded by the row's name, are rounded to their storage dtype once, and the f64 reference sees the
 * rounded values, so an error is the kernel's and not the input's.
 */
import { DTYPES, type DType } from '../../src/graph/dtype';
import type { NdArray, OpDef } from '../../src/graph/op-def';
import { elementCount, type Attribute, type Attributes, type TensorType } from '../../src/graph/tensor';
import { bf16ToFloat, f16ToFloat, floatToBf16, floatToF16 } from '../../src/io/float-codec';
import { OPS } from '../../src/ops';
import type { TensorArray } from '../../src/runtime/session';
import type { Tolerance } from './tolerance';

/** Draws numbers in [0, 1). */
export type Draw = () => number;
/** Values of one input. */
export type Values = (draw: Draw, shape: readonly number[]) => ArrayLike<number>;
export type RowDType = DType | 'float';
export type FloatRun = 'f32' | 'bf16';

export interface RowInput {
  readonly shape: readonly number[];
  readonly dtype: RowDType;
  readonly values: Values;
}

export interface OpCase {
  readonly op: string;
  /** What is special about the row; unique per op. */
  readonly name: string;
  readonly inputs: readonly RowInput[];
  readonly attributes?: Attributes;
  readonly tolerance: Tolerance;
  /** Expected output types, e.g. `float[5,67]`; at least one row of every op has them. */
  readonly out?: readonly string[];
  /** Inputs whose gradient is checked. */
  readonly grad?: readonly number[];
  /** Outputs that the gradient check's loss reads; default output 0. */
  readonly through?: readonly number[];
  /** Which readings of 'float' to run; default both. */
  readonly runs?: readonly FloatRun[];
  /** Fills inputs that follow from others (a saved statistic), in place, from rounded values. */
  readonly prepare?: (x: readonly NdArray[], a: Attributes) => void;
  /** Replaces the op's reference, e.g. to round operands as the op says it does. */
  readonly reference?: (x: readonly NdArray[], a: Attributes, outputs: readonly TensorType[]) => NdArray[];
}

// ---- inputs

const input =
  (dtype: RowDType) =>
  (shape: readonly number[], values: Values = normal()): RowInput => ({ shape, dtype, values });
export const float = input('float');
export const f32 = input('f32');
export const bf16 = input('bf16');
export const f16 = input('f16');
export const i32 = input('i32');
export const u8 = (shape: readonly number[], values: Values = uniform(0, 255.999)): RowInput => ({
  shape,
  dtype: 'u8',
  values: (draw, s) => Array.from(values(draw, s), Math.floor),
});

// ---- values

// Looking up a global is slow in Jest's realm, and these run once per element.
const { cos, floor, fround, imul, log, sqrt, trunc, PI } = Math;

const each =
  (one: (draw: Draw, i: number) => number): Values =>
  (draw, shape) =>
    Array.from({ length: elementCount(shape) }, (_, i) => one(draw, i));

export const uniform = (low: number, high: number): Values => each((draw) => low + (high - low) * draw());
export const normal = (std = 1, mean = 0): Values =>
  each((draw) => mean + std * sqrt(-2 * log(1 - draw())) * cos(2 * PI * draw()));
/** Positive values over some orders of magnitude. */
export const positive = (low = 0.01, high = 2): Values => each((draw) => low * (high / low) ** draw());
/** Normal, but at least `gap` away from 0 (kinks). */
export const awayFromZero = (gap = 0.05): Values =>
  each((draw) => {
    const x = sqrt(-2 * log(1 - draw())) * cos(2 * PI * draw());
    return x + (x < 0 ? -gap : gap);
  });
/** Whole numbers in [0, n). */
export const ids = (n: number): Values => each((draw) => floor(n * draw()));
/** Labels in [0, n), a share of them -100. */
export const labels = (n: number, masked = 0.3): Values => each((draw) => (draw() < masked ? -100 : floor(n * draw())));
export const fixed =
  (...values: number[]): Values =>
  () =>
    values;
export const constantly = (value: number): Values => each(() => value);
/** The given values over and over. */
export const cycle = (values: readonly number[]): Values => each((_, i) => values[i % values.length]);
/** Document offsets of the given lengths. */
export const offsets =
  (...lengths: number[]): Values =>
  () =>
    lengths.reduce((all, n) => [...all, all[all.length - 1] + n], [0]);
/** To be filled by the row's `prepare`. */
export const derived: Values = constantly(0);

// ---- concrete inputs

/** A row with 'float' decided. */
export interface Concrete {
  readonly def: OpDef;
  readonly types: readonly TensorType[];
  readonly attributes: Attributes;
  readonly outputs: readonly TensorType[];
}

const decide = (dtype: RowDType, run: FloatRun): DType => (dtype === 'float' ? run : dtype);

export function concrete(row: OpCase, run: FloatRun): Concrete {
  const def = OPS.get(row.op);
  if (!def) throw new Error(`row '${row.name}': no op '${row.op}'`);
  const types = row.inputs.map((x) => ({ shape: x.shape, dtype: decide(x.dtype, run) }));
  const attributes = Object.fromEntries(
    Object.entries(row.attributes ?? {}).map(([k, v]): [string, Attribute] => [k, v === 'float' ? run : v]),
  );
  return { def, types, attributes, outputs: def.infer(types, attributes) };
}

/** Which readings of 'float' a row has. */
export function runsOf(row: OpCase): readonly FloatRun[] {
  if (row.runs) return row.runs;
  const floats = row.inputs.some((x) => x.dtype === 'float') || Object.values(row.attributes ?? {}).includes('float');
  return floats ? ['f32', 'bf16'] : ['f32'];
}

function mulberry(seed: number): Draw {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let t = imul(state ^ (state >>> 15), state | 1);
    t = (t + imul(t ^ (t >>> 7), t | 61)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32;
  };
}

/** A generator whose stream depends on `text` only. */
export function drawFor(text: string): Draw {
  let hash = 0x811c9dc5;
  for (const byte of Buffer.from(text)) hash = imul(hash ^ byte, 0x01000193);
  return mulberry(hash);
}

export const ROUND: Record<DType, (x: number) => number> = {
  f32: fround,
  bf16: (x) => bf16ToFloat(floatToBf16(x)),
  f16: (x) => f16ToFloat(floatToF16(x)),
  i32: trunc,
  u8: trunc,
};

/** The row's inputs as f64, each value representable in its dtype. */
export function drawInputs(row: OpCase, c: Concrete): NdArray[] {
  const draw = drawFor(`${row.op}/${row.name}`);
  const x = row.inputs.map((spec, i): NdArray => {
    const values = spec.values(draw, spec.shape);
    if (values.length !== elementCount(spec.shape))
      throw new Error(`row '${row.op}/${row.name}': input ${i} has ${values.length} values`);
    return { shape: spec.shape, data: Float64Array.from(values, ROUND[c.types[i].dtype]) };
  });
  if (row.prepare) {
    row.prepare(x, c.attributes);
    x.forEach((t, i) => t.data.forEach((v, j) => (t.data[j] = ROUND[c.types[i].dtype](v))));
  }
  return x;
}

/** What the row's outputs should be. */
export function referenceOf(row: OpCase, c: Concrete, x: readonly NdArray[]): NdArray[] {
  const reference = row.reference ?? c.def.reference;
  if (!reference) throw new Error(`op '${row.op}' has no reference, and neither has its row '${row.name}'`);
  return reference(x, c.attributes, c.outputs);
}

// ---- typed arrays

export function toArray(dtype: DType, values: ArrayLike<number>): TensorArray {
  switch (dtype) {
    case 'f32':
      return Float32Array.from(values);
    case 'bf16':
      return Uint16Array.from(values, floatToBf16);
    case 'f16':
      return Uint16Array.from(values, floatToF16);
    case 'i32':
      return Int32Array.from(values);
    case 'u8':
      return Uint8Array.from(values);
  }
}

export function toNumbers(dtype: DType, array: TensorArray): Float64Array {
  if (dtype === 'bf16') return Float64Array.from(array, bf16ToFloat);
  if (dtype === 'f16') return Float64Array.from(array, f16ToFloat);
  return Float64Array.from(array);
}

/** A typed array over raw bytes. */
export function fromBytes(dtype: DType, bytes: Uint8Array): TensorArray {
  const copy = Uint8Array.from(bytes).buffer;
  if (dtype === 'f32') return new Float32Array(copy);
  if (dtype === 'i32') return new Int32Array(copy);
  return DTYPES[dtype].bytes === 2 ? new Uint16Array(copy) : new Uint8Array(copy);
}
