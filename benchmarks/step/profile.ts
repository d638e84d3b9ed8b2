/**
 * Where a step's time goes: the engine's time per node, summed over layers and set against what the nodes compute.
 */
import type { Program } from '../../src/compile/program';
import type { ProfileRow } from '../../src/runtime/session';
import { figure, formatTable, percent } from '../harness/table';
import { nodeFlops } from './training';

/** One op at one kind of place (layer numbers as `*`), per step. */
export interface ProfileEntry {
  readonly op: string;
  readonly place: string;
  readonly calls: number;
  readonly ms: number;
  readonly flops: number;
  readonly bytes: number;
}

const placeOf = (where: string): string => where.replace(/\.\d+(?=\.|$)/g, '.*').replace(/^model\.layers\.\*\.?/, '*.');

/** Sums the session's rows of `steps` steps; `programs` give the work of each node. */
export function profileEntries(
  rows: readonly ProfileRow[],
  programs: readonly Program[],
  steps: number,
): ProfileEntry[] {
  const entries = new Map<
    string,
    { op: string; place: string; calls: number; ms: number; flops: number; bytes: number }
  >();
  const entry = (op: string, where: string): { calls: number; ms: number; flops: number; bytes: number } => {
    const place = placeOf(where);
    const key = `${op} ${place}`;
    let found = entries.get(key);
    if (!found) entries.set(key, (found = { op, place, calls: 0, ms: 0, flops: 0, bytes: 0 }));
    return found;
  };
  for (const r of rows) {
    const e = entry(r.op, r.where);
    e.calls += r.calls / steps;
    e.ms += r.ns / 1e6 / steps;
  }
  for (const program of programs) {
    for (const node of program.nodes) {
      const e = entry(node.op!.name, node.where);
      e.flops += nodeFlops(node);
      e.bytes += node.op!.cost(
        node.inputs.map((t) => t.type),
        node.attributes,
      ).bytes;
    }
  }
  return [...entries.values()].filter((e) => e.calls > 0).sort((a, b) => b.ms - a.ms);
}

/** By op, then by op and place, the largest first. `peak` in GFLOP/s. */
export function printProfile(entries: readonly ProfileEntry[], peak: number, limit = 40): string {
  const total = entries.reduce((sum, e) => sum + e.ms, 0);
  const byOp = new Map<string, ProfileEntry>();
  for (const e of entries) {
    const known = byOp.get(e.op) ?? { op: e.op, place: '', calls: 0, ms: 0, flops: 0, bytes: 0 };
    byOp.set(e.op, {
      ...known,
      calls: known.calls + e.calls,
      ms: known.ms + e.ms,
      flops: known.flops + e.flops,
      bytes: known.bytes + e.bytes,
    });
  }
  const header = ['op', 'place', 'calls', 'ms/step', 'share', 'GFLOP/s', 'of peak', 'GB/s'];
  const cells = (e: ProfileEntry): string[] => {
    const rate = e.flops / e.ms / 1e6;
    return [
      e.op,
      e.place,
      figure(e.calls),
      figure(e.ms),
      percent(e.ms / total),
      figure(rate),
      percent(rate / peak),
      figure(e.bytes / e.ms / 1e6),
    ];
  };
  const ops = [...byOp.values()].sort((a, b) => b.ms - a.ms);
  const rest = entries.slice(limit).reduce((sum, e) => sum + e.ms, 0);
  return [
    `profile: ${figure(total)} ms in kernels per step`,
    formatTable(header, ops.map(cells), [0, 1]),
    '',
    formatTable(header, entries.slice(0, limit).map(cells), [0, 1]),
    ...(rest > 0 ? [`and ${entries.length - limit} more: ${figure(rest)} ms`] : []),
  ].join('\n');
}
