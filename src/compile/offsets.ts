/**
 * Arena offsets: storages that are alive at the same time must not overlap; the arena should be small.
 *
 * Greedy by size (largest first, lowest gap that fits), which stays within a few percent of the live-bytes bound on
 * training graphs. Source: Pisarchyk and Lee, "Efficient memory management for deep neural net inference", 2020.
 *
 * Nearly every storage lives for a few nodes, so only what lies near it in time is looked at: the schedule is covered by
 * windows that overlap by half, a short life lies within one of them, and each window lists what is alive in it.
 */
import type { Storage } from '../passes/inplace';
import { countBefore } from '../passes/verify';

export const ALIGNMENT = 64;

export const align = (bytes: number): number => Math.ceil(bytes / ALIGNMENT) * ALIGNMENT;

export interface Arena {
  readonly offsets: ReadonlyMap<Storage, number>;
  readonly bytes: number;
}

/** What lies where, and between which positions of the schedule. */
interface Place {
  readonly from: number;
  readonly to: number;
  readonly first: number;
  readonly last: number;
}

/** Half a window, in positions of the schedule: a life of at most so many lies within one window. */
const STRIDE = 32;

/** Places storages of kind 'arena'; offsets are multiples of 64. */
export function assignOffsets(storages: Iterable<Storage>): Arena {
  const items: Storage[] = [];
  for (const s of storages) if (s.kind === 'arena') items.push(s);
  items.sort((a, b) => b.bytes - a.bytes || a.first - b.first || a.last - b.last);
  const offsets = new Map<Storage, number>();
  const all: Place[] = [];
  const windows: Place[][] = [];
  let total = 0;
  for (const s of items) {
    const size = align(s.bytes);
    const near = s.last - s.first < STRIDE ? (windows[windowOf(s.first)] ?? []) : all;
    const from = lowestGap(near, s, size);
    const place = { from, to: from + size, first: s.first, last: s.last };
    insert(all, place);
    for (let w = Math.max(0, windowOf(s.first) - 1); w <= windowOf(s.last); w++) insert((windows[w] ??= []), place);
    offsets.set(s, from);
    total = Math.max(total, place.to);
  }
  return { offsets, bytes: total };
}

/** The later of the two windows that a position lies in; window w begins at w * STRIDE - 1, as the schedule does at -1. */
const windowOf = (position: number): number => Math.floor((position + 1) / STRIDE);

/** The lowest offset where `size` bytes are free as long as `s` lives. `places` are sorted by `from`. */
function lowestGap(places: readonly Place[], s: Storage, size: number): number {
  let at = 0;
  for (let i = 0; i < places.length; i++) {
    const p = places[i];
    if (p.from >= at + size) break;
    if (p.to > at && p.first <= s.last && p.last >= s.first) at = p.to;
  }
  return at;
}

function insert(places: Place[], place: Place): void {
  places.splice(countBefore(places, place.from), 0, place);
}
