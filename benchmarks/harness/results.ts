/** Appends a run's figures to benchmarks/results/NAME.jsonl, one JSON object a line, with the machine beside each. */
import { appendFileSync, mkdirSync } from 'node:fs';
import { join, relative } from 'node:path';
import { ROOT, type MachineRecord } from './machine';

export const RESULTS = join(ROOT, 'benchmarks', 'results');

/** Appends and says where; `save` false (quick settings, --no-save) says why not. */
export function appendResults(name: string, machine: MachineRecord, lines: readonly object[], save: boolean): void {
  const path = join(RESULTS, `${name}.jsonl`);
  if (!save) {
    console.log(`not saved to ${relative(ROOT, path)}: quick settings or --no-save`);
    return;
  }
  mkdirSync(RESULTS, { recursive: true });
  appendFileSync(path, lines.map((line) => `${JSON.stringify({ ...machine, ...line })}\n`).join(''));
  console.log(`${lines.length} line${lines.length === 1 ? '' : 's'} appended to ${relative(ROOT, path)}`);
}
