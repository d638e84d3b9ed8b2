/**
 * Element types. The names are the program's names; `code` is what the binary program and
 * native/include/lathe/types.h use, so the two lists must agree (checked by test/policy).
 */
export const DTYPES = {
  f32: { code: 0, bytes: 4 },
  bf16: { code: 1, bytes: 2 },
  f16: { code: 2, bytes: 2 },
  i32: { code: 3, bytes: 4 },
  u8: { code: 4, bytes: 1 },
} as const;

export type DType = keyof typeof DTYPES;

export function dtypeBytes(dtype: DType): number {
  return DTYPES[dtype].bytes;
}

export function isFloat(dtype: DType): boolean {
  return dtype === 'f32' || dtype === 'bf16' || dtype === 'f16';
}
