/**
 * Writes data/quickstart/train.jsonl and test.jsonl: the Alpaca-format set that `npm run train` learns.
 *
 *   npx ts-node scripts/assets/instruction-set.ts
 *
 * A held-out item (a country, a word, a topic) never occurs in a training row of its task; the test rows are one row an
 * item. Every 12th item or so is held out, chosen by the hash of its key, so the split does not move when lists grow.
 */
import { mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { Draw, place } from './draw';
import { tasks, type AlpacaRow, type Item, type Task } from './tasks';

const HELD_OUT = 0.08;
const TEST_ROWS_PER_TASK = 4;
const target = join(__dirname, '../../data/quickstart');

const said = (row: AlpacaRow) => `${row.instruction}\n${row.input}`;

/** Rows of a task, at most `count`, no two with the same question. Items take turns. */
function rowsOf(items: readonly Item[], count: number, draw: Draw, seen: Set<string>): AlpacaRow[] {
  const result: AlpacaRow[] = [];
  const order = draw.shuffled(items);
  for (let turn = 0; turn < count * 4 && result.length < count && order.length > 0; turn++) {
    const row = order[turn % order.length].row(draw);
    if (seen.has(said(row))) continue;
    seen.add(said(row));
    result.push(row);
  }
  return result;
}

function split({ items }: Task): { train: Item[]; test: Item[] } {
  const test = items.filter(({ key }) => place(key) < HELD_OUT);
  return { train: items.filter((item) => !test.includes(item)), test };
}

/** All rows, the same on every machine. */
export function instructionSet(): { train: AlpacaRow[]; test: AlpacaRow[] } {
  const draw = new Draw(20240);
  const seen = new Set<string>();
  const train: AlpacaRow[] = [];
  const test: AlpacaRow[] = [];
  for (const task of tasks) {
    const parts = split(task);
    test.push(...rowsOf(parts.test, Math.min(TEST_ROWS_PER_TASK, parts.test.length), draw, seen));
    train.push(...rowsOf(parts.train, task.rows, draw, seen));
  }
  return { train: draw.shuffled(train), test: draw.shuffled(test) };
}

export const asLines = (rows: readonly object[]): string => rows.map((row) => `${JSON.stringify(row)}\n`).join('');

if (require.main === module) {
  mkdirSync(target, { recursive: true });
  for (const [name, rows] of Object.entries(instructionSet())) {
    writeFileSync(join(target, `${name}.jsonl`), asLines(rows));
    console.log(`data/quickstart/${name}.jsonl: ${rows.length} rows`);
  }
}
