/**
 * Plain text files as rows with one column, `text`: a row per line (default), per paragraph or per file, with the
 * names Hugging Face `datasets` gives these (`sampleBy`).
 *
 * Invariants: lines lose their newline; blank lines are kept with sampleBy "line", because they are data.
 */
import { FIRST_LINE, readLines, readText, type LinePlace } from './byte-source';
import { FILE_START, type ReaderOptions, type RowBatch, type SourceRow } from './table';

export type SampleBy = 'line' | 'paragraph' | 'document';

export interface TextReadOptions extends ReaderOptions {
  sampleBy?: SampleBy;
}

export async function* readTextRows(path: string, options: TextReadOptions = {}): AsyncGenerator<RowBatch> {
  const { skip = { left: 0 }, from = FILE_START } = options;
  const keep = (rows: SourceRow[]): SourceRow[] => {
    const wanted = from.after < 0 ? rows : rows.filter(({ position }) => position > from.after);
    const kept = wanted.slice(Math.min(skip.left, wanted.length));
    skip.left -= wanted.length - kept.length;
    return kept;
  };
  if (options.sampleBy === 'document') {
    if (from.after >= 1) return;
    const rows = keep([{ row: { text: await readText(path) }, position: 1 }]);
    if (rows.length > 0) yield { rows, anchor: null };
    return;
  }
  if (options.sampleBy === 'paragraph') {
    yield* paragraphs(path, keep, options);
    return;
  }
  for await (const { place, lines } of readLines(
    path,
    (from.anchor as LinePlace | null) ?? FIRST_LINE,
    options.onBadRow,
  )) {
    const rows: SourceRow[] = [];
    lines.forEach((text, i) => {
      if (text !== null) rows.push({ row: { text }, position: place.line + i });
    });
    const kept = keep(rows);
    if (kept.length > 0) yield { rows: kept, anchor: { ...place } };
  }
}

async function* paragraphs(
  path: string,
  keep: (rows: SourceRow[]) => SourceRow[],
  { onBadRow }: TextReadOptions,
): AsyncGenerator<RowBatch> {
  let open: string[] = [];
  let openedAt = 1;
  const close = (): SourceRow[] => {
    const rows = open.length > 0 ? keep([{ row: { text: open.join('\n') }, position: openedAt }]) : [];
    open = [];
    return rows;
  };
  // A paragraph may begin before the run of lines that ends it, so reading begins anew at the beginning of the file.
  for await (const { place, lines } of readLines(path, FIRST_LINE, onBadRow)) {
    const rows: SourceRow[] = [];
    lines.forEach((line, i) => {
      if (line === null) return;
      if (line === '') rows.push(...close());
      else {
        if (open.length === 0) openedAt = place.line + i;
        open.push(line);
      }
    });
    if (rows.length > 0) yield { rows, anchor: null };
  }
  const last = close();
  if (last.length > 0) yield { rows: last, anchor: null };
}
