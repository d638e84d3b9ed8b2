/**
 * Scales and ticks: round numbers (1, 2, 2.5, 5 times a power of ten) that fit the space.
 */

export interface Axis {
  min: number;
  max: number;
  ticks: number[];
  /** Text of a tick. */
  format(value: number): string;
}

/** Smallest round step that gives at most `maxTicks` ticks over `span`. */
function roundStep(span: number, maxTicks: number): number {
  const raw = span / maxTicks;
  const power = 10 ** Math.floor(Math.log10(raw));
  const factor = [1, 2, 2.5, 5, 10].find((f) => f * power >= raw * (1 - 1e-9)) ?? 10;
  return factor * power;
}

function ticksBetween(min: number, max: number, step: number): number[] {
  const first = Math.ceil(min / step - 1e-9);
  const last = Math.floor(max / step + 1e-9);
  // Products of integers and the step: no error adds up. `+ 0` turns -0 into 0.
  return Array.from({ length: Math.max(0, last - first + 1) }, (_, i) => (first + i) * step + 0);
}

/** Values that can be placed on an axis: finite, and far from overflow when subtracted. */
export function isDrawable(value: number): boolean {
  return Math.abs(value) < 1e100;
}

/** Smallest and largest drawable value; undefined when there is none. */
export function extent(values: Iterable<number>): [number, number] | undefined {
  let [min, max] = [Infinity, -Infinity];
  for (const value of values) {
    if (!isDrawable(value)) continue;
    min = Math.min(min, value);
    max = Math.max(max, value);
  }
  return min > max ? undefined : [min, max];
}

// Below this, steps and powers of ten would underflow.
const SMALLEST = 1e-100;

/** A value axis: some air above and below, at zero only if the data come near it. */
export function valueAxis([low, high]: readonly [number, number], maxTicks: number): Axis {
  // Values that differ only in their last digits are drawn as equal: ticks between them could not be told apart.
  const largest = Math.max(Math.abs(low), Math.abs(high));
  const isFlat = high - low <= largest * 1e-9 || largest < SMALLEST;
  const span = !isFlat ? high - low : largest < SMALLEST ? 1 : largest * 0.1;
  const air = isFlat ? span : span * 0.06;
  const max = high + air;
  const min = low >= 0 && low - air < span * 0.05 ? 0 : low - air;
  const step = roundStep(max - min, maxTicks);
  return { min, max, ticks: ticksBetween(min, max, step), format: decimalFormat(step, largest) };
}

/** A step axis: whole numbers, from the first step to the last. */
export function stepAxis([low, high]: readonly [number, number], maxTicks: number): Axis {
  if (low === high) return { min: low - 1, max: high + 1, ticks: [low], format: formatStep };
  const round = Math.max(1, roundStep(high - low, maxTicks));
  const step = Number.isInteger(round) ? round : round * 2;
  return { min: low, max: high, ticks: ticksBetween(low, high, step), format: formatStep };
}

/** As many decimals as the step has; exponents where those are long (learning rates) or the values large. */
function decimalFormat(step: number, largest: number): (value: number) => string {
  const decimals = [0, 1, 2, 3, 4].find(
    (d) => Math.abs(step * 10 ** d - Math.round(step * 10 ** d)) < 1e-6 * step * 10 ** d,
  );
  return decimals === undefined || largest >= 1e5 ? formatExponent : (value) => value.toFixed(decimals);
}

/** `5e-5`, `2.5e-4`, `0` */
export function formatExponent(value: number): string {
  if (value === 0) return '0';
  const [digits, exponent] = value.toExponential(2).split('e');
  return `${Number(digits)}e${Number(exponent)}`;
}

/** `800`, `1.5k`, `20k`, `1.25M` */
export function formatStep(value: number): string {
  const magnitude = Math.abs(value);
  if (magnitude >= 1e6) return `${Number((value / 1e6).toPrecision(6))}M`;
  if (magnitude >= 1e4) return `${Number((value / 1e3).toPrecision(6))}k`;
  return String(value);
}

/** Four significant digits for a legend. */
export function formatValue(value: number): string {
  if (!Number.isFinite(value)) return String(value);
  const magnitude = Math.abs(value);
  if (magnitude !== 0 && (magnitude < 1e-3 || magnitude >= 1e5)) return formatExponent(value);
  return String(Number(value.toPrecision(4)));
}
