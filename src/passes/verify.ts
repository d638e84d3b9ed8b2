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
    throw new LatheError('ERR_PROGRAM', `internal: ${message}`, { at, remedy: 'please report this program' });
  };
  for (const [t, s] of placed.storage) if (t.node.kind !== 'op') holds.set(s, t);
  placed.schedule.forEach((node, i) => {
    for (const t of node.inputs) {
      const base = viewed(t);
      const s = placed.storage.get(base)!;
      if (holds.get(s) !== base) fail(`${node.op!.name} reads a value that was overwritten`, node.where);
      if (s.kind === 'arena' && (i < s.first || i > s.last)) fail(`${node.op!.name} reads outside of the lifetime`, node.where);
    }
    for (const t of node.outputs) if (!placed.absent.has(t)) holds.set(placed.storage.get(t)!, t);
  });
  for (const [name, t] of placed.graph.outputs) {
    if (holds.get(storageOf(placed, t)) !== viewed(t)) fail(`output '${name}' was overwritten`, name);
  }
  checkOverlaps(offsets, fail);
}

function checkOverlaps(offsets: ReadonlyMap<Storage, number>, fail: (message: string, at: string) => never): void {
  const events = [...offsets].map(([s, at]) => ({ s, at }));
  events.sort((a, b) => a.s.first - b.s.first);
  const active: { s: Storage; at: number }[] = [];
  for (const e of events) {
    const { first, bytes } = e.s;
    let kept = 0;
    for (const o of active) {
      if (o.s.last < first) continue;
      if (e.at < o.at + o.s.bytes && o.at < e.at + bytes) fail('two live values overlap in the arena', `${e.s.owner.node.where} and ${o.s.owner.node.where}`);
      active[kept++] = o;
    }
    active.length = kept;
    active.push(e);
  }
}
