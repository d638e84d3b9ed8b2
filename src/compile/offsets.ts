/**
 * Arena offsets: storages that are alive at the same time must not overlap; the arena should be small.
 *
 * Greedy by size (largest first, lowest gap that fits), which stays within a few percent of the live-bytes bound on
 * training graphs. Source: Pisarchyk and Lee, "Efficient memory management for deep neural net inference", 2020.
 */
import type { Storage } from '../passes/inplace';

export const ALIGNMENT = 64;

export const align = (bytes: number): number => Math.ceil(bytes / ALIGNMENT) * ALIGNMENT;

export interface Arena {
  readonly offsets: ReadonlyMap<Storage, number>;
  readonly bytes: number;
}

/** Places storages of kind 'arena'; offsets are multiples of 64. */
export function assignOffsets(storages: Iterable<Storage>): Arena {
  const items = [...storages].filter((s) => s.kind === 'arena');
  items.sort((a, b) => b.bytes - a.bytes || a.first - b.first || a.last - b.last);
  const offsets = new Map<Storage, number>();
  const placed: { from: number; to: number; first: number; last: number }[] = []; // sorted by `from`
  let total = 0;
  for (const s of items) {
    const size = align(s.bytes);
    let at = 0;
    for (const p of placed) {
      if (p.first > s.last || p.last < s.first) continue;
      if (p.from >= at + size) break;
      at = Math.max(at, p.to);
    }
    const entry = { from: at, to: at + size, first: s.first, last: s.last };
    placed.splice(lowerBound(placed, at), 0, entry);
    offsets.set(s, at);
    total = Math.max(total, at + size);
  }
  return { offsets, bytes: total };
}

function lowerBound(list: readonly { from: number }[], from: number): number {
  let [low, high] = [0, list.length];
  while (low < high) {
    const mid = (low + high) >> 1;
    if (list[mid].from < from) low = mid + 1;
    else high = mid;
  }
  return low;
}
