/** Shape and attribute checks shared by the shape rules; each throws a LatheError that names the op. */
import { LatheError, formatShape } from '../errors';
import { isFloat, type DType } from '../graph/dtype';
import { elementCount, sameShape, typeBytes, type Attributes, type Tensor, type TensorType } from '../graph/tensor';
import type { Cost, NdArray } from '../graph/op-def';

export function shapeError(op: string, expected: string, received: string): LatheError {
  return new LatheError('ERR_SHAPE', `[${op}] expected ${expected}, received ${received}`);
}

export function expectCount(op: string, x: readonly TensorType[], low: number, high = low): void {
  if (x.length < low || x.length > high) {
    throw shapeError(op, `${low === high ? low : `${low} to ${high}`} inputs`, String(x.length));
  }
}

export function expectRank(op: string, name: string, t: TensorType, rank: number): void {
  if (t.shape.length !== rank) throw shapeError(op, `${name} of rank ${rank}`, formatShape(t.shape));
}

export function expectShape(op: string, name: string, t: TensorType, shape: readonly number[]): void {
  if (!sameShape(t.shape, shape)) throw shapeError(op, `${name} of shape ${formatShape(shape)}`, formatShape(t.shape));
}

export function expectDtype(op: string, name: string, t: TensorType, ...dtypes: DType[]): void {
  if (!dtypes.includes(t.dtype)) {
    throw new LatheError('ERR_DTYPE', `[${op}] expected ${name} of type ${dtypes.join(' or ')}, received ${t.dtype}`);
  }
}

export function expectFloat(op: string, name: string, t: TensorType): void {
  if (!isFloat(t.dtype) || t.dtype === 'f16') {
    throw new LatheError('ERR_DTYPE', `[${op}] expected ${name} of type f32 or bf16, received ${t.dtype}`);
  }
}

/** Exactly this dtype and shape. */
export function expectType(op: string, name: string, t: TensorType, dtype: DType, shape: readonly number[]): void {
  expectDtype(op, name, t, dtype);
  expectShape(op, name, t, shape);
}

/** The dtype and shape of another tensor. */
export function expectLike(op: string, name: string, t: TensorType, like: TensorType): void {
  expectType(op, name, t, like.dtype, like.shape);
}

/** i32 of rank 1. */
export function expectIndices(op: string, name: string, t: TensorType): void {
  expectRank(op, name, t, 1);
  expectDtype(op, name, t, 'i32');
}

/** The cotangent of output 0 of an op whose other outputs are statistics without a gradient. */
export function onlyFirst(op: string, cotangents: readonly (Tensor | null)[]): Tensor {
  const [first, ...rest] = cotangents;
  if (!first || rest.some((c) => c !== null))
    throw new LatheError('ERR_UNSUPPORTED', `[${op}] only output 0 is differentiable`);
  return first;
}

export function expectSameType(op: string, a: TensorType, b: TensorType): void {
  if (!sameShape(a.shape, b.shape))
    throw shapeError(op, `equal shapes`, `${formatShape(a.shape)} and ${formatShape(b.shape)}`);
  if (a.dtype !== b.dtype)
    throw new LatheError('ERR_DTYPE', `[${op}] expected equal dtypes, received ${a.dtype} and ${b.dtype}`);
}

export function numberOf(op: string, a: Attributes, key: string): number {
  const value = a[key];
  if (typeof value !== 'number') throw new LatheError('ERR_TRACE', `[${op}] attribute '${key}' must be a number`);
  return value;
}

export function listOf(op: string, a: Attributes, key: string): readonly number[] {
  const value = a[key];
  if (typeof value !== 'object')
    throw new LatheError('ERR_TRACE', `[${op}] attribute '${key}' must be a list of numbers`);
  return value;
}

export function stringOf(op: string, a: Attributes, key: string): string {
  const value = a[key];
  if (typeof value !== 'string') throw new LatheError('ERR_TRACE', `[${op}] attribute '${key}' must be a string`);
  return value;
}

/** Cost of an op that touches every element once, `flopsPerElement` each. */
export function streamCost(x: readonly TensorType[], outputs: readonly TensorType[], flopsPerElement: number): Cost {
  let bytes = 0;
  for (let i = 0; i < x.length; i++) bytes += typeBytes(x[i]);
  for (let i = 0; i < outputs.length; i++) bytes += typeBytes(outputs[i]);
  return { flops: flopsPerElement * elementCount((outputs[0] ?? x[0]).shape), bytes };
}

export function ndArray(shape: readonly number[], fill?: (i: number) => number): NdArray {
  const data = new Float64Array(elementCount(shape));
  if (fill) for (let i = 0; i < data.length; i++) data[i] = fill(i);
  return { shape, data };
}
