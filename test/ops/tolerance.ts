/**
 * Tolerances of the op tables, with their reasons. A value passes when
 *   |got - want| <= abs + rel * |want| + ofMax * max|want| (of the same output)
 * and NaN and infinities are equal. They bound what the arithmetic may lose; none is there to make a run pass.
 */
import type { DType } from '../../src/graph/dtype';

export interface Bound {
  readonly abs?: number;
  readonly rel?: number;
  readonly ofMax?: number;
}

export interface Tolerance {
  /** By dtype of the output. */
  readonly bounds: Partial<Record<DType, Bound>>;
  /** Outputs that need another bound when 'float' is bf16, by index: bf16 roundings inside reach an f32 output. */
  readonly inBf16?: Readonly<Record<number, Bound>>;
  readonly why: string;
}

/** Half a unit in the last place, relative to the value: 8 and 24 bits of significand. */
export const U_BF16 = 2 ** -8;
export const U_F32 = 2 ** -24;

/** f32 bound as given; bf16 outputs add the one rounding at the end. */
export function tolerance(why: string, f32: Bound, inBf16?: Tolerance['inBf16']): Tolerance {
  const bf16 = { ...f32, rel: (f32.rel ?? 0) + U_BF16 };
  const f16 = { ...f32, rel: (f32.rel ?? 0) + 2 ** -11, abs: (f32.abs ?? 0) + 2 ** -25 };
  return { bounds: { f32, bf16, f16, i32: {}, u8: {} }, inBf16, why };
}

export const exact: Tolerance = {
  bounds: { f32: {}, bf16: {}, f16: {}, i32: {}, u8: {} },
  why: 'bits are moved or defined to the bit',
};
export const oneRounding = tolerance('one fp32 operation and one rounding', { rel: 1.01 * U_F32, abs: 2 ** -149 });

export interface Mismatch {
  readonly index: number;
  readonly got: number;
  readonly want: number;
  readonly allowed: number;
}

// Looking up a global costs more than the arithmetic in Jest's realm; these loops run over millions of elements.
const { abs: magnitude, max: larger } = Math;
const { isFinite, isNaN } = Number;

/** Largest error as a share of what is allowed (> 1 fails), and the worst element. */
export function compare(
  got: ArrayLike<number>,
  want: ArrayLike<number>,
  bound: Bound,
): { ratio: number; worst: Mismatch | null } {
  const { abs = 0, rel = 0, ofMax = 0 } = bound;
  let max = 0;
  if (ofMax > 0) for (let i = 0; i < want.length; i++) if (isFinite(want[i])) max = larger(max, magnitude(want[i]));
  let ratio = 0;
  let worst: Mismatch | null = null;
  for (let i = 0; i < want.length; i++) {
    if (got[i] === want[i]) continue;
    const allowed = abs + rel * magnitude(want[i]) + ofMax * max;
    const error = errorOf(got[i], want[i]);
    const r = error === 0 ? 0 : allowed > 0 ? error / allowed : Infinity;
    if (r > ratio || isNaN(r))
      [ratio, worst] = [isNaN(r) ? Infinity : r, { index: i, got: got[i], want: want[i], allowed }];
  }
  return { ratio, worst };
}

function errorOf(got: number, want: number): number {
  if (isNaN(got) && isNaN(want)) return 0;
  if (!isFinite(got) || !isFinite(want)) return Infinity;
  return magnitude(got - want);
}
