/**
 * Plain text files as rows with one column, `text`: a row per line (default), per paragraph or per file, with the
 * names Hugging Face `datasets` gives these (`sampleBy`).
 *
 * Invariants: lines lose their newline; blank lines are kept with sampleBy "line", because they are data.
 */
import { readLines, readText } from './byte-source';
import type { SkipCounter, SourceRow } from './table';

export type SampleBy = 'line' | 'paragraph' | 'document';

export async function* readTextRows(
  path: string,
  options: { sampleBy?: SampleBy; skip?: SkipCounter } = {},
): AsyncGenerator<SourceRow[]> {
  const skip = options.skip ?? { left: 0 };
  const keep = (rows: SourceRow[]): SourceRow[] => {
    const kept = rows.slice(Math.min(skip.left, rows.length));
    skip.left -= rows.length - kept.length;
    return kept;
  };
  if (options.sampleBy === 'document') {
    const rows = keep([{ row: { text: await readText(path) }, position: 1 }]);
    if (rows.length > 0) yield rows;
    return;
  }
  if (options.sampleBy === 'paragraph') {
    yield* paragraphs(path, keep);
    return;
  }
  for await (const { first, lines } of readLines(path)) {
    const rows = keep(lines.map((text, i) => ({ row: { text }, position: first + i })));
    if (rows.length > 0) yield rows;
  }
}

async function* paragraphs(path: string, keep: (rows: SourceRow[]) => SourceRow[]): AsyncGenerator<SourceRow[]> {
  let open: string[] = [];
  let openedAt = 1;
  const close = (): SourceRow[] => {
    const rows = open.length > 0 ? keep([{ row: { text: open.join('\n') }, position: openedAt }]) : [];
    open = [];
    return rows;
  };
  for await (const { first, lines } of readLines(path)) {
    const rows: SourceRow[] = [];
    lines.forEach((line, i) => {
      if (line === '') rows.push(...close());
      else {
        if (open.length === 0) openedAt = first + i;
        open.push(line);
      }
    });
    if (rows.length > 0) yield rows;
  }
  const last = close();
  if (last.length > 0) yield last;
}
