/** Reads a V8 CPU profile: time by source file (self, and with all it calls) and the functions with the most time of their own. */
import type { Profiler } from 'node:inspector';

export interface HotSpot {
  readonly what: string;
  readonly selfMs: number;
  /** With callees; 0 for functions, where recursion would count twice. */
  readonly totalMs: number;
}

const fileOf = (url: string): string =>
  /\/(src\/.+|benchmarks\/.+)\.js$/.exec(url)?.[1] ??
  (url.startsWith('node:') ? 'node' : url === '' ? '(engine)' : 'other');

/** The heaviest files by inclusive time and functions by self time. */
export function hotSpots(profile: Profiler.Profile): { files: HotSpot[]; functions: HotSpot[] } {
  const self = new Map<number, number>();
  profile.samples?.forEach((id, i) => self.set(id, (self.get(id) ?? 0) + (profile.timeDeltas?.[i] ?? 0) / 1e3));
  const nodes = new Map(profile.nodes.map((n) => [n.id, n]));
  const files = new Map<string, { selfMs: number; totalMs: number }>();
  const functions = new Map<string, number>();
  const spot = (file: string): { selfMs: number; totalMs: number } => {
    let s = files.get(file);
    if (!s) files.set(file, (s = { selfMs: 0, totalMs: 0 }));
    return s;
  };
  // A file's inclusive time counts a stack once, however often the file is on it.
  const visit = (id: number, above: ReadonlySet<string>): void => {
    const node = nodes.get(id)!;
    const file = fileOf(node.callFrame.url);
    const ms = self.get(id) ?? 0;
    const onStack = new Set(above).add(file);
    spot(file).selfMs += ms;
    for (const f of onStack) spot(f).totalMs += ms;
    const name = `${node.callFrame.functionName || '(anonymous)'} ${file}${node.callFrame.url ? `:${node.callFrame.lineNumber + 1}` : ''}`;
    functions.set(name, (functions.get(name) ?? 0) + ms);
    for (const child of node.children ?? []) visit(child, onStack);
  };
  visit(profile.nodes[0].id, new Set());
  return {
    files: [...files]
      .map(([what, t]) => ({ what, ...t }))
      .filter((f) => f.what.startsWith('src/'))
      .sort((a, b) => b.totalMs - a.totalMs),
    functions: [...functions]
      .map(([what, selfMs]) => ({ what, selfMs, totalMs: 0 }))
      .filter((f) => !/^\((root|idle|program)\)/.test(f.what))
      .sort((a, b) => b.selfMs - a.selfMs),
  };
}
