/**
 * Bucket sizes: the few flat lengths T that programs are compiled for.
 *
 * The idea: a micro-batch is padded up to the next bucket, so sizes should sit where the data's totals are. The best K
 * sizes for a sample of totals come from dynamic programming over the distinct (rounded) totals; K grows only until
 * the padding is small, because every size is one more compiled program.
 *
 * Invariants: sizes are ascending multiples of `multiple`; the largest covers any batch that the data can produce; the
 * choice is deterministic.
 */
import { LatheError } from '../errors';

export interface BucketOptions {
  /** At most this many sizes (8). */
  maxBuckets?: number;
  /** Sizes are multiples of this (32). */
  multiple?: number;
  /** Stop adding sizes once padding is below this share of the tokens (0.03). */
  targetWaste?: number;
  /** The largest size must hold at least this many tokens; default: the largest total. */
  cover?: number;
}

export interface BucketChoice {
  sizes: number[];
  /** Expected padding over real tokens, on the totals given. */
  waste: number;
}

const kMaxCandidates = 256;

function roundUp(value: number, multiple: number): number {
  return Math.max(Math.ceil(value / multiple), 1) * multiple;
}

/** Candidate sizes with how many totals round up to each; thinned evenly by count when there are too many. */
function candidates(totals: readonly number[], multiple: number): { sizes: number[]; counts: number[] } {
  const histogram = new Map<number, number>();
  for (const total of totals) {
    const size = roundUp(total, multiple);
    histogram.set(size, (histogram.get(size) ?? 0) + 1);
  }
  const all = [...histogram].sort(([a], [b]) => a - b);
  const step = Math.ceil(all.length / kMaxCandidates);
  const sizes: number[] = [];
  const counts: number[] = [];
  let carried = 0;
  all.forEach(([size, count], i) => {
    carried += count;
    if (i % step !== step - 1 && i !== all.length - 1) return;
    sizes.push(size);
    counts.push(carried);
    carried = 0;
  });
  return { sizes, counts };
}

/** For K = 1 .. maxBuckets: the sizes that minimise the padded tokens; the last candidate is always one of them. */
function bestSizes(sizes: number[], counts: number[], maxBuckets: number): { sizes: number[]; padded: number }[] {
  const n = sizes.length;
  const before = [0];
  for (const count of counts) before.push(before[before.length - 1] + count);
  // cost[j]: padded tokens of candidates 0 .. j with j the largest chosen; from[k][j]: the chosen one below it.
  let cost = sizes.map((size, j) => before[j + 1] * size);
  const from: number[][] = [new Array<number>(n).fill(-1)];
  const results: { sizes: number[]; padded: number }[] = [];
  for (let k = 1; k <= Math.min(maxBuckets, n); k++) {
    const chosen: number[] = [];
    for (let j = n - 1, level = k - 1; j >= 0; j = from[level--][j]) chosen.unshift(sizes[j]);
    results.push({ sizes: chosen, padded: cost[n - 1] });
    const next = new Array<number>(n).fill(Infinity);
    const choice = new Array<number>(n).fill(-1);
    for (let j = k; j < n; j++) {
      for (let i = k - 1; i < j; i++) {
        const padded = cost[i] + (before[j + 1] - before[i + 1]) * sizes[j];
        if (padded < next[j]) {
          next[j] = padded;
          choice[j] = i;
        }
      }
    }
    cost = next;
    from.push(choice);
  }
  return results;
}

/**
 * Few sizes for the given micro-batch totals (tokens).
 * @throws ERR_DATA when there are no totals
 */
export function chooseBuckets(totals: readonly number[], options: BucketOptions = {}): BucketChoice {
  const multiple = options.multiple ?? 32;
  const maxBuckets = options.maxBuckets ?? 8;
  if (totals.length === 0)
    throw new LatheError('ERR_DATA', 'buckets: expected at least one batch, received none', {
      remedy: 'check that the dataset has rows',
    });
  let real = 0;
  for (const total of totals) real += total;
  const { sizes, counts } = candidates(totals, multiple);
  const top = roundUp(Math.max(options.cover ?? 0, 1), multiple);
  // A rare batch larger than every sampled one must fit too: that size joins with no weight.
  if (top > sizes[sizes.length - 1]) {
    sizes.push(top);
    counts.push(0);
  }
  const results = bestSizes(sizes, counts, maxBuckets);
  const wasteOf = (padded: number): number => padded / real - 1;
  const best =
    results.find(({ padded }) => wasteOf(padded) <= (options.targetWaste ?? 0.03)) ?? results[results.length - 1];
  return { sizes: best.sizes, waste: wasteOf(best.padded) };
}

/** The most that any `count` of the lengths can add up to. */
export function largestTotal(lengths: ArrayLike<number>, count: number): number {
  const longest = Float64Array.from(lengths).sort().reverse();
  let total = 0;
  for (let i = 0; i < Math.min(count, longest.length); i++) total += longest[i];
  return total;
}

/** The smallest size that holds `tokens`. @throws ERR_DATA when none does */
export function bucketFor(tokens: number, sizes: readonly number[]): number {
  for (const size of sizes) if (size >= tokens) return size;
  throw new LatheError(
    'ERR_DATA',
    `buckets: expected at most ${sizes[sizes.length - 1]} tokens in a batch, received ${tokens}`,
    {
      remedy: 'add a larger bucket, or lower batchSize or maxLength',
    },
  );
}
