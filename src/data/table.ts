/**
 * Columns in memory, built row by row, each row remembering the file and line it came from.
 *
 * The idea: rows of JSON files need not agree on their keys; a column that a row lacks is null there, as Hugging
 * Face `datasets` reads them. Origins cost two integers per row and let every later error say `train.jsonl:17`.
 *
 * Invariants: every column has exactly `length` entries; column order is order of first appearance.
 */
import type { OnBadRow } from './byte-source';
import type { Row } from './types';

/** Where rows came from: `files[file[i]]`, and the 1-based line or the 0-based row inside it; or, with 'name', `files` has all there is to say. */
export interface RowOrigins {
  files: string[];
  unit: 'line' | 'row' | 'name';
  file: ArrayLike<number>;
  position: ArrayLike<number>;
}

export interface Table {
  length: number;
  columns: Map<string, unknown[]>;
  origins?: RowOrigins;
}

/** A source row with its place. */
export interface SourceRow {
  row: Row;
  /** 1-based line for text formats, 0-based row for Parquet; it grows along a file. */
  position: number;
}

/** What every reader yields: consecutive rows, and where reading could begin anew to come to the first of them. */
export interface RowBatch {
  rows: SourceRow[];
  /** Plain JSON that the same reader understands; null is the beginning of the file. */
  anchor: Anchor;
}

export type Anchor = Readonly<Record<string, unknown>> | null;

/** A position inside a file: a batch's anchor and the last row that was used; what comes first is neither parsed nor given. */
export interface FilePosition {
  anchor: Anchor;
  /** Rows up to this position are left out; -1: none. */
  after: number;
}

export const FILE_START: FilePosition = { anchor: null, after: -1 };

/** How many rows a reader still has to leave out; it counts down, across files. */
export interface SkipCounter {
  left: number;
}

/** What all readers take. */
export interface ReaderOptions {
  /** Leave out the next rows, without parsing them where that is possible. */
  skip?: SkipCounter;
  from?: FilePosition;
  /** Told of a row that cannot be read, which is then left out; default: it is an error. */
  onBadRow?: OnBadRow;
}

export class TableBuilder {
  private readonly columns = new Map<string, unknown[]>();
  private readonly files: string[] = [];
  private readonly file: number[] = [];
  private readonly position: number[] = [];
  private length = 0;

  constructor(private readonly unit: 'line' | 'row' = 'line') {}

  /** Later rows come from `file`. */
  startFile(file: string): void {
    this.files.push(file);
  }

  add(row: Row, position: number): void {
    let known = 0;
    for (const [name, values] of this.columns) {
      const has = Object.hasOwn(row, name);
      values.push(has ? (row[name] ?? null) : null);
      if (has) known++;
    }
    const names = Object.keys(row);
    if (known < names.length) {
      for (const name of names) {
        if (this.columns.has(name)) continue;
        const values = new Array<unknown>(this.length).fill(null);
        values.push(row[name] ?? null);
        this.columns.set(name, values);
      }
    }
    this.file.push(this.files.length - 1);
    this.position.push(position);
    this.length++;
  }

  /** Declares columns that exist even if no row follows (a CSV header over no rows). */
  declare(names: string[]): void {
    for (const name of names)
      if (!this.columns.has(name)) this.columns.set(name, new Array<unknown>(this.length).fill(null));
  }

  build(): Table {
    const origins =
      this.files.length > 0
        ? { files: this.files, unit: this.unit, file: this.file, position: this.position }
        : undefined;
    return { length: this.length, columns: this.columns, origins };
  }
}
