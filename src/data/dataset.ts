/**
 * Dataset: an immutable table in memory, seen through a list of row indices.
 *
 * The idea: select, shuffle, filter and split only make new index lists over the same columns; map makes new
 * columns. Names and defaults follow Hugging Face `datasets`, except that shuffles are seeded (default 42) so the same
 * call always gives the same order.
 *
 * Invariants: no method changes its receiver; every row knows its source (`describeRow`) as long as rows stay one to one.
 */
import { LatheError, nearest } from '../errors';
import { permutation, PhiloxStream, RANDOM_DOMAIN } from './philox';
import type { RowOrigins, Table } from './table';
import type { Row } from './types';

export type Columns = Record<string, unknown[]>;
type MaybePromise<T> = T | Promise<T>;

export interface MapOptions {
  batched?: boolean;
  /** Rows per call when batched (1000). */
  batchSize?: number;
  /** Columns to leave out of the result, after the function has seen them. */
  removeColumns?: string[];
}

export interface SplitOptions {
  /** Fraction in (0, 1) (rounded up) or a number of rows; default 0.25. */
  testSize?: number;
  /** Fraction (rounded down) or a number of rows; default: the rest. */
  trainSize?: number;
  shuffle?: boolean;
  seed?: number;
}

export class Dataset {
  private constructor(
    private readonly table: Table,
    /** Rows of the table in view; undefined means all, in order. */
    private readonly indices?: Uint32Array,
  ) {}

  static fromTable(table: Table): Dataset {
    return new Dataset(table);
  }

  /**
   * Columns are the union of the rows' keys; a missing value is null. `places` say where each row came from, for messages.
   * @throws ERR_DATA for anything but a list of objects
   */
  static fromRows(rows: readonly Row[], places?: readonly string[]): Dataset {
    checkRows(rows, places);
    const names = new Set<string>();
    for (const row of rows) for (const name of Object.keys(row)) names.add(name);
    const columns = new Map<string, unknown[]>();
    for (const name of names)
      columns.set(
        name,
        rows.map((row) => row[name] ?? null),
      );
    const origins = places && { files: [...places], unit: 'name' as const, file: rows.map((_, i) => i), position: [] };
    return new Dataset({ length: rows.length, columns, origins });
  }

  /** @throws ERR_DATA when columns differ in length */
  static fromColumns(columns: Columns): Dataset {
    return new Dataset(tableOf(Object.entries(columns), 'fromColumns'));
  }

  get length(): number {
    return this.indices?.length ?? this.table.length;
  }

  get columnNames(): string[] {
    return [...this.table.columns.keys()];
  }

  /** Row i, 0-based; a negative i counts from the end. */
  get(i: number): Row {
    const index = this.tableRow(i);
    const row: Row = {};
    for (const [name, values] of this.table.columns) row[name] = values[index];
    return row;
  }

  /** All values of one column, in row order. */
  column(name: string): unknown[] {
    const values = this.requireColumn(name);
    return this.indices ? Array.from(this.indices, (i) => values[i]) : values.slice();
  }

  /** Where row i came from: `train.jsonl:17`, `part.parquet row 3`, or `row 5` for data made in memory. */
  describeRow(i: number): string {
    const { origins } = this.table;
    if (!origins) return `row ${i}`;
    const index = this.tableRow(i);
    const file = origins.files[origins.file[index]];
    if (origins.unit === 'name') return file;
    return origins.unit === 'line' ? `${file}:${origins.position[index]}` : `${file} row ${origins.position[index]}`;
  }

  *[Symbol.iterator](): Generator<Row> {
    for (let i = 0; i < this.length; i++) yield this.get(i);
  }

  async *[Symbol.asyncIterator](): AsyncGenerator<Row> {
    yield* this[Symbol.iterator]();
  }

  /**
   * New columns from a function of a row (its result is merged over the row) or, with `batched`, of columns
   * (its result may have another number of rows if it replaces or removes every column).
   */
  map(fn: (row: Row, index: number) => MaybePromise<Row>, options?: MapOptions & { batched?: false }): Promise<Dataset>;
  map(
    fn: (columns: Columns, indices: number[]) => MaybePromise<Columns>,
    options: MapOptions & { batched: true },
  ): Promise<Dataset>;
  async map(fn: (input: never, index: never) => MaybePromise<Row>, options: MapOptions = {}): Promise<Dataset> {
    for (const name of options.removeColumns ?? []) this.requireColumn(name);
    return options.batched ? this.mapBatches(fn as BatchFunction, options) : this.mapRows(fn as RowFunction, options);
  }

  private async mapRows(fn: RowFunction, options: MapOptions): Promise<Dataset> {
    const removed = new Set(options.removeColumns);
    const rows: Row[] = [];
    for (let i = 0; i < this.length; i++) {
      const row = this.get(i);
      const update: unknown = await fn(row, i);
      if (typeof update !== 'object' || update === null || Array.isArray(update)) {
        throw new LatheError(
          'ERR_DATA',
          `map: expected the function to return an object of columns, received ${update === null ? 'null' : typeof update}`,
          {
            at: this.describeRow(i),
            remedy: 'return the changed columns, e.g. row => ({ text: row.text.trim() })',
          },
        );
      }
      const merged: Row = {};
      for (const [name, value] of Object.entries(row)) if (!removed.has(name)) merged[name] = value;
      rows.push(Object.assign(merged, update));
    }
    const result = Dataset.fromRows(rows);
    if (rows.length === 0)
      for (const name of this.columnNames) if (!removed.has(name)) result.table.columns.set(name, []);
    return new Dataset({ ...result.table, origins: this.originsInView() });
  }

  private async mapBatches(fn: BatchFunction, options: MapOptions): Promise<Dataset> {
    const removed = new Set(options.removeColumns);
    const batchSize = options.batchSize ?? 1000;
    const out = new Map<string, unknown[]>();
    let length = 0;
    for (let start = 0; start < this.length; start += batchSize) {
      const indices = Array.from({ length: Math.min(batchSize, this.length - start) }, (_, k) => start + k);
      const input: Columns = {};
      for (const [name, values] of this.table.columns) input[name] = indices.map((i) => values[this.tableRow(i)]);
      const kept = Object.entries(input).filter(([name]) => !removed.has(name));
      const update = await fn(input, indices);
      const merged = tableOf(
        Object.entries({ ...Object.fromEntries(kept), ...update }),
        `map (rows ${start} to ${start + indices.length - 1})`,
      );
      appendTable(out, length, merged);
      length += merged.length;
    }
    if (this.length === 0) for (const name of this.columnNames) if (!removed.has(name)) out.set(name, []);
    const oneToOne = length === this.length;
    return new Dataset({ length, columns: out, origins: oneToOne ? this.originsInView() : undefined });
  }

  /** Rows for which the function returns true. */
  async filter(fn: (row: Row, index: number) => MaybePromise<boolean>): Promise<Dataset> {
    const kept: number[] = [];
    for (let i = 0; i < this.length; i++) if (await fn(this.get(i), i)) kept.push(i);
    return this.select(kept);
  }

  /** Rows in the given order; indices may repeat. @throws ERR_DATA for one out of range */
  select(rows: Iterable<number>): Dataset {
    return new Dataset(
      this.table,
      Uint32Array.from(rows, (i) => this.tableRow(i)),
    );
  }

  take(n: number): Dataset {
    return this.slice(0, n);
  }

  skip(n: number): Dataset {
    return this.slice(n, this.length);
  }

  /** Rows start .. end - 1, clipped to the dataset. */
  slice(start: number, end: number): Dataset {
    const from = Math.min(Math.max(start, 0), this.length);
    const to = Math.min(Math.max(end, from), this.length);
    return this.select(Array.from({ length: to - from }, (_, k) => from + k));
  }

  /** A uniformly random order, a function of the seed (default 42) and the length only. */
  shuffle(options: { seed?: number } = {}): Dataset {
    return this.select(permutation(this.length, new PhiloxStream(options.seed ?? 42, RANDOM_DOMAIN.shuffle)));
  }

  /** @throws ERR_CONFIG when the sizes do not fit, or one part would be empty */
  trainTestSplit(options: SplitOptions = {}): { train: Dataset; test: Dataset } {
    const { train, test } = splitRows(this.length, options);
    return { train: this.select(train), test: this.select(test) };
  }

  removeColumns(names: string | string[]): Dataset {
    const removed = new Set([names].flat());
    for (const name of removed) this.requireColumn(name);
    return this.withColumns([...this.table.columns].filter(([name]) => !removed.has(name)));
  }

  selectColumns(names: string | string[]): Dataset {
    return this.withColumns([names].flat().map((name) => [name, this.requireColumn(name)]));
  }

  renameColumn(from: string, to: string): Dataset {
    this.requireColumn(from);
    if (from !== to && this.table.columns.has(to)) {
      throw new LatheError(
        'ERR_DATA',
        `renameColumn: expected a new name, received ${JSON.stringify(to)}, which exists`,
        {
          remedy: `remove it first: removeColumns(${JSON.stringify(to)})`,
        },
      );
    }
    return this.withColumns([...this.table.columns].map(([name, values]) => [name === from ? to : name, values]));
  }

  /** This dataset with one more column of `length` values. */
  addColumn(name: string, values: readonly unknown[]): Dataset {
    const columns = this.columnNames.map((own): [string, unknown[]] => [own, this.column(own)]);
    const table = tableOf([...columns, [name, values.slice()]], `addColumn(${JSON.stringify(name)})`);
    return new Dataset({ ...table, origins: this.originsInView() });
  }

  /** The rows of this dataset, then those of the others; a column that one lacks is null there. */
  concatenate(...others: Dataset[]): Dataset {
    const columns = new Map<string, unknown[]>();
    let length = 0;
    for (const part of [this, ...others]) {
      const view = new Map(part.columnNames.map((name): [string, unknown[]] => [name, part.column(name)]));
      appendTable(columns, length, { length: part.length, columns: view });
      length += part.length;
    }
    return new Dataset({
      length,
      columns,
      origins: joinOrigins([this, ...others].map((part) => part.originsInView())),
    });
  }

  private withColumns(columns: Iterable<readonly [string, unknown[]]>): Dataset {
    return new Dataset({ ...this.table, columns: new Map(columns) }, this.indices);
  }

  private requireColumn(name: string): unknown[] {
    const values = this.table.columns.get(name);
    if (values) return values;
    const near = nearest(name, this.table.columns.keys());
    throw new LatheError(
      'ERR_DATA',
      `expected a column of ${this.columnNames.join(', ') || '(no columns)'}, received ${JSON.stringify(name)}`,
      {
        remedy: near ? `did you mean ${JSON.stringify(near)}?` : 'check columnNames',
      },
    );
  }

  private tableRow(i: number): number {
    const k = i < 0 ? i + this.length : i;
    if (!Number.isInteger(k) || k < 0 || k >= this.length) {
      throw new LatheError('ERR_DATA', `expected a row index below ${this.length}, received ${i}`, {
        remedy: 'check length',
      });
    }
    return this.indices ? this.indices[k] : k;
  }

  private originsInView(): RowOrigins | undefined {
    const { origins } = this.table;
    if (!origins || !this.indices) return origins;
    const pick = (values: ArrayLike<number>): Uint32Array => (this.indices as Uint32Array).map((i) => values[i]);
    return { ...origins, file: pick(origins.file), position: pick(origins.position) };
  }
}

type RowFunction = (row: Row, index: number) => MaybePromise<Row>;
type BatchFunction = (columns: Columns, indices: number[]) => MaybePromise<Columns>;

function tableOf(columns: Iterable<readonly [string, unknown[]]>, where: string): Table {
  const map = new Map<string, unknown[]>();
  let length: number | undefined;
  let first = '';
  for (const [name, values] of columns) {
    if (!Array.isArray(values)) {
      throw new LatheError(
        'ERR_DATA',
        `${where}: expected an array for column ${JSON.stringify(name)}, received ${typeof values}`,
        {
          remedy: 'with batched: true, return one array per column',
        },
      );
    }
    if (length !== undefined && values.length !== length) {
      throw new LatheError(
        'ERR_DATA',
        `${where}: expected columns of one length, received ${length} values in ${JSON.stringify(first)} and ${values.length} in ${JSON.stringify(name)}`,
        {
          remedy:
            'return the same number of rows in every column, and list the old columns in removeColumns when their number changes',
        },
      );
    }
    length = values.length;
    first ||= name;
    map.set(name, values);
  }
  return { length: length ?? 0, columns: map };
}

function checkRows(rows: unknown, places: readonly string[] | undefined): void {
  const isRow = (row: unknown): boolean => typeof row === 'object' && row !== null && !Array.isArray(row);
  const bad = Array.isArray(rows) ? rows.findIndex((row) => !isRow(row)) : undefined;
  if (bad === -1) return;
  const received: unknown = bad === undefined ? rows : (rows as unknown[])[bad];
  const kind = received === null ? 'null' : Array.isArray(received) ? 'a list' : typeof received;
  throw new LatheError('ERR_DATA', `expected a list of rows, each an object of columns, received ${kind}`, {
    at: bad === undefined ? undefined : (places?.[bad] ?? `row ${bad}`),
    remedy: 'pass rows like { prompt: "...", completion: "..." }; loadDataset reads them from files',
  });
}

function appendTable(into: Map<string, unknown[]>, length: number, part: Table): void {
  for (const [name, values] of part.columns) {
    let target = into.get(name);
    if (!target) into.set(name, (target = new Array<unknown>(length).fill(null)));
    for (const value of values) target.push(value);
  }
  for (const values of into.values()) while (values.length < length + part.length) values.push(null);
}

function joinOrigins(parts: (RowOrigins | undefined)[]): RowOrigins | undefined {
  const [head] = parts;
  if (!head || parts.some((part) => part?.unit !== head.unit)) return undefined;
  const joined = { files: [] as string[], unit: head.unit, file: [] as number[], position: [] as number[] };
  for (const part of parts as RowOrigins[]) {
    const base = joined.files.length;
    joined.files.push(...part.files);
    for (let i = 0; i < part.file.length; i++) {
      joined.file.push(base + part.file[i]);
      joined.position.push(part.position[i]);
    }
  }
  return joined;
}

/** Which of `length` rows go where. @throws ERR_CONFIG when the sizes do not fit, or one part would be empty */
export function splitRows(length: number, options: SplitOptions): { train: Uint32Array; test: Uint32Array } {
  const { train, test } = splitSizes(length, options);
  const order =
    options.shuffle === false
      ? Uint32Array.from({ length }, (_, i) => i)
      : permutation(length, new PhiloxStream(options.seed ?? 42, RANDOM_DOMAIN.split));
  // Unshuffled, the test part is the tail; shuffled, any part is as good, so the rule stays the same.
  return { train: order.subarray(0, train), test: order.subarray(length - test) };
}

function splitSizes(length: number, options: SplitOptions): { train: number; test: number } {
  const rows = (size: number, round: (x: number) => number): number =>
    size > 0 && size < 1 ? round(size * length) : size;
  const train = options.trainSize === undefined ? undefined : rows(options.trainSize, Math.floor);
  const test =
    options.testSize === undefined && train !== undefined ? length - train : rows(options.testSize ?? 0.25, Math.ceil);
  const sizes = { train: train ?? length - test, test };
  if (
    !Number.isInteger(sizes.train) ||
    !Number.isInteger(test) ||
    sizes.train < 1 ||
    test < 1 ||
    sizes.train + test > length
  ) {
    throw new LatheError(
      'ERR_CONFIG',
      `trainTestSplit: expected two non-empty parts of ${length} rows, received ${sizes.train} for train and ${test} for test`,
      {
        remedy: 'give testSize as a fraction between 0 and 1 or as a number of rows',
      },
    );
  }
  return sizes;
}
