/**
 * The order in which an epoch visits its rows.
 *
 * The idea: an order is a pure function of (seed, epoch, strategy, lengths), so a position in a run is two integers and
 * resuming recomputes the order instead of restoring a generator.
 *
 * Invariants: every order is a permutation of 0 .. n - 1; "sequential" is the same in every epoch.
 * Source: group_by_length follows transformers' LengthGroupedSampler (megabatches of up to 50 batches).
 */
import { LatheError } from '../errors';
import { permutation, PhiloxStream, RANDOM_DOMAIN } from './philox';

export type SamplingStrategy = 'random' | 'sequential' | 'group_by_length';
const SAMPLING_STRATEGIES: readonly SamplingStrategy[] = ['random', 'sequential', 'group_by_length'];

export interface SamplerOptions {
  strategy: SamplingStrategy;
  seed: number;
  /** Rows per batch, for group_by_length. */
  batchSize: number;
}

/** The rows of epoch `epoch` in order. @param lengths tokens of each row */
export function epochOrder(lengths: ArrayLike<number>, epoch: number, options: SamplerOptions): Uint32Array {
  const n = lengths.length;
  if (!SAMPLING_STRATEGIES.includes(options.strategy)) {
    throw new LatheError(
      'ERR_CONFIG',
      `samplingStrategy: expected one of ${SAMPLING_STRATEGIES.join(', ')}, received ${JSON.stringify(options.strategy)}`,
      { remedy: 'choose one of them' },
    );
  }
  if (options.strategy === 'sequential') return Uint32Array.from({ length: n }, (_, i) => i);
  const order = permutation(n, new PhiloxStream(options.seed, RANDOM_DOMAIN.epoch, epoch));
  return options.strategy === 'random' ? order : groupByLength(order, lengths, options.batchSize);
}

const kMegabatchBatches = 50;

/** Sorts megabatches of a random order by falling length, so that batches hold like lengths; the longest row comes first. */
function groupByLength(order: Uint32Array, lengths: ArrayLike<number>, batchSize: number): Uint32Array {
  const n = order.length;
  const batches = Math.min(Math.floor(n / (batchSize * 4)), kMegabatchBatches) || 1;
  const size = batches * batchSize;
  for (let start = 0; start < n; start += size) {
    // Equal lengths keep their random order: TypedArray sort is stable.
    order.subarray(start, start + size).sort((a, b) => lengths[b] - lengths[a]);
  }
  // Memory is highest for the longest rows: meet them in the first batch, where a failure costs least.
  let longest = 0;
  for (let start = size; start < n; start += size) if (lengths[order[start]] > lengths[order[longest]]) longest = start;
  [order[0], order[longest]] = [order[longest], order[0]];
  return order;
}
