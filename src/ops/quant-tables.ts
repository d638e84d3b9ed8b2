/**
 * The dynamic 8-bit maps of bitsandbytes (create_dynamic_map, 7 exponent bits): for each decade 10^(i-6) the
 * midpoints of a linspace over 0.1..1, fp32, plus 0 and 1. Signed: index of 0 is 127, no -1. Unsigned: index of 0 is 0.
 * torch.linspace is evaluated from both ends with fused multiply-adds in fp32; test/unit/quantization checks these
 * against bitsandbytes' own, bit for bit.
 */
const f = Math.fround;

function linspace(from: number, to: number, n: number): number[] {
  const step = f(f(f(to) - f(from)) / (n - 1));
  // step * i is exact in a double, so each value is rounded once, as by an fma.
  return Array.from({ length: n }, (_, i) =>
    i < Math.floor(n / 2) ? f(f(from) + step * i) : f(f(to) - step * (n - 1 - i)),
  );
}

function dynamicMap(signed: boolean): Float32Array {
  const values: number[] = [0, 1];
  for (let i = 0; i < 7; i++) {
    const bounds = linspace(0.1, 1, (signed ? 2 ** i : 2 ** (i + 1)) + 1);
    for (let j = 0; j + 1 < bounds.length; j++) {
      const value = f(f(f(bounds[j] + bounds[j + 1]) / 2) * f(10 ** (i - 6)));
      values.push(value);
      if (signed) values.push(-value);
    }
  }
  return Float32Array.from(values).sort();
}

export const DYNAMIC_MAP_SIGNED = dynamicMap(true);
export const DYNAMIC_MAP_UNSIGNED = dynamicMap(false);
