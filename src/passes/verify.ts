/**
 * Proves a placed program: replays it with tags instead of values and checks that every read finds the tensor it
 * means, that every update ends in its slot, and that storages alive together do not overlap in the arena.
 */
import { LatheError } from '../errors';
import type { Placed, Storage } from './inplace';
import { storageOf, viewed } from './inplace';
import type { Tensor } from '../graph/tensor';

export function verify(placed: Placed, offsets: ReadonlyMap<Storage, number>): void {
  const holds = new Map<Storage, Tensor>();
  const fail = (message: string, at: string): never => {
    throw new LatheError('ERR_PROGRAM', `internal: program '${placed.graph.name}': ${message}`, {
      at,
      remedy: 'please report this program',
    });
  };
  for (const {
    kind,
    outputs: [t],
  } of placed.graph.nodes)
    if (kind !== 'op') holds.set(placed.storage.get(t)!, t);
  placed.schedule.forEach((node, i) => {
    const { inputs, outputs } = node;
    for (let j = 0; j < inputs.length; j++) {
      const base = viewed(inputs[j]);
      const s = placed.storage.get(base)!;
      if (holds.get(s) !== base) fail(`${node.op!.name} reads a value that was overwritten`, node.where);
      if (s.kind === 'arena' && (i < s.first || i > s.last))
        fail(`${node.op!.name} reads outside of the lifetime`, node.where);
    }
    for (let j = 0; j < outputs.length; j++)
      if (!placed.absent.has(outputs[j])) holds.set(placed.storage.get(outputs[j])!, outputs[j]);
  });
  for (const [name, t] of placed.graph.outputs) {
    if (holds.get(storageOf(placed, t)) !== viewed(t)) fail(`output '${name}' was overwritten`, name);
  }
  checkOverlaps(offsets, fail);
}

/** The bytes of the arena that a storage has while it lives. */
interface Block {
  readonly storage: Storage;
  readonly from: number;
  readonly to: number;
}

function checkOverlaps(offsets: ReadonlyMap<Storage, number>, fail: (message: string, at: string) => never): void {
  const blocks: Block[] = [];
  // An empty one overlaps nothing.
  offsets.forEach((from, storage) => storage.bytes > 0 && blocks.push({ storage, from, to: from + storage.bytes }));
  const births = blocks.sort((a, b) => a.storage.first - b.storage.first);
  const deaths = [...births].sort((a, b) => a.storage.last - b.storage.last);
  // Those alive, by offset. They do not overlap one another, so a new one can only overlap its neighbours.
  const alive: Block[] = [];
  let dead = 0;
  for (let i = 0; i < births.length; i++) {
    const block = births[i];
    for (; deaths[dead].storage.last < block.storage.first; dead++)
      alive.splice(countBefore(alive, deaths[dead].from), 1);
    const at = countBefore(alive, block.from);
    const other =
      at > 0 && alive[at - 1].to > block.from
        ? alive[at - 1]
        : at < alive.length && alive[at].from < block.to
          ? alive[at]
          : null;
    if (other)
      fail(
        'two live values overlap in the arena',
        `${block.storage.owner.node.where} and ${other.storage.owner.node.where}`,
      );
    alive.splice(at, 0, block);
  }
}

/** How many of a list that is sorted by offset begin before `from`. */
export function countBefore(sorted: readonly { readonly from: number }[], from: number): number {
  let low = 0;
  let high = sorted.length;
  while (low < high) {
    const mid = (low + high) >> 1;
    if (sorted[mid].from < from) low = mid + 1;
    else high = mid;
  }
  return low;
}
