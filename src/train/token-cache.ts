/**
 * `token_cache`: the tokenised rows of a data set in a file, built once and used again.
 *
 * The idea: a file is named by a checksum of everything its content depends on: the data files (name, size, time, first and last
 * bytes), the tokenizer, and the settings that decide tokens and labels. The rows are streamed through the tokenizer, so neither rows nor
 * tokens ever sit in memory; the file is written under a temporary name and renamed when it is whole.
 */
import { createHash } from 'node:crypto';
import { existsSync } from 'node:fs';
import { open, stat } from 'node:fs/promises';
import { basename, join } from 'node:path';
import {
  datasetFiles,
  emptyReport,
  loadDataset,
  provideFileMapping,
  RowEncoder,
  splitRows,
  TokenFile,
  TokenFileWriter,
  truncateExample,
  type IterableDataset,
  type TokenizedDataset,
  type TokenizedExample,
  type TokenizeOptions,
} from '../data';
import type { StreamRow } from '../data/cursor';
import { LatheError } from '../errors';
import { withAtomicFile } from '../io/atomic-file';
import { convertErrors, hasNative, loadNative } from '../runtime/binding';
import type { Tokenizer } from '../tokenizers/tokenizer';
import type { ResolvedConfig } from './arguments';
import { datasetPath, filteredStream, isEvaluated, nameOf, noTestSplit, requireSplit, type RunData } from './open-data';
import { tokenizeOptions } from './sft-trainer';

provideFileMapping((path, bytes) => (hasNative() ? convertErrors(() => loadNative().mapFile(path, bytes)) : null));

/** As `openData`, with rows that are tokenised already and lie in the files of `token_cache`. @throws LatheError as it, and ERR_CONFIG for a mixture */
export async function openCachedData(
  config: ResolvedConfig,
  tokenizer: Tokenizer,
  warn?: (message: string) => void,
): Promise<RunData<TokenizedDataset, TokenizedDataset>> {
  if (config.datasets.length)
    throw new LatheError('ERR_CONFIG', 'token_cache: expected dataset_name, received datasets', {
      remedy: 'leave out token_cache, or write the mixture to one data set',
    });
  const path = await datasetPath(config);
  const splits = Object.fromEntries(await datasetFiles(path, nameOf(config)));
  const tokens = (split: string, files: readonly string[], packing: boolean): Promise<TokenizedDataset> => {
    const options = tokenizeOptions(config, warn, packing);
    const tokenize = { ...options, maxLength: options.maxLength ?? null };
    return cachedTokens(
      files,
      async () =>
        filteredStream(
          await loadDataset(path, { ...nameOf(config), split, streaming: true, onBadRow: config.onBadRow, warn }),
          config.rowFilter,
        ),
      tokenizer,
      {
        folder: config.tokenCache!,
        reading: { filter: config.rowFilter, onBadRow: config.onBadRow },
        tokenize,
        onProgress: (p) => warn?.(`tokenising ${split}: ${p.rows} rows, ${(p.tokens / 1e6).toFixed(1)} million tokens`),
      },
    );
  };
  const trainFiles = requireSplit(splits, config);
  let train = await tokens(config.datasetTrainSplit, trainFiles, config.packing);
  let test: TokenizedDataset | null = null;
  if (config.testSplitSize) {
    const seed = config.splitSeed ?? config.seed;
    // Rows to evaluate on may be cut in another way than those to train on: then they are in another file.
    if (isEvaluated(config))
      ({ test } = splitTokens(
        await tokens(config.datasetTrainSplit, trainFiles, config.evalPacking),
        config.testSplitSize,
        seed,
      ));
    ({ train } = splitTokens(train, config.testSplitSize, seed));
  } else if (isEvaluated(config) && splits[config.datasetTestSplit])
    test = await tokens(config.datasetTestSplit, splits[config.datasetTestSplit], config.evalPacking);
  if (!isEvaluated(config)) test = null;
  else if (!test) throw noTestSplit(config);
  return { train: first(train, config.maxTrainSamples), test: test && first(test, config.maxEvalSamples) };
}

/** The first rows, whether or not each became an example. `order`: the rows of `data` as they come; default: as in the files. */
function first(data: TokenizedDataset & Partial<OrderedRows>, count: number | null): TokenizedDataset {
  if (count === null || count >= data.rows) return data;
  const kept = data.order && new Set(data.order.subarray(0, count));
  return { ...data, rows: count, examples: data.examples.filter(({ row }) => (kept ? kept.has(row) : row < count)) };
}

interface TokenCacheOptions {
  folder: string;
  /** What `files` are read and filtered as; part of the key. */
  reading: Readonly<Record<string, unknown>>;
  tokenize: TokenizeOptions & { maxLength: number | null };
  /** Every few seconds while the file is built. */
  onProgress?: (progress: { rows: number; tokens: number }) => void;
}

const CHUNK_ROWS = 64;
const PROGRESS_MS = 5000;

/**
 * The tokenised rows of `files`, from the cache or into it.
 * @throws LatheError ERR_DATA naming the row; ERR_CHECKPOINT for the disk
 */
async function cachedTokens(
  files: readonly string[],
  stream: () => Promise<IterableDataset>,
  tokenizer: Tokenizer,
  o: TokenCacheOptions,
): Promise<TokenizedDataset> {
  const key = await keyOf(files, tokenizer, o);
  const path = join(o.folder, `${key}.tokens`);
  if (!existsSync(path)) await build(path, key, await stream(), tokenizer, o);
  const { examples, header } = new TokenFile(path);
  const { kind, rows, truncation } = header;
  return { examples, kind, rows, truncation, describeRow: (row) => `row ${row}` };
}

type OrderedRows = TokenizedDataset & { order: Uint32Array };

/** Rows for training and for evaluation by the rule of `Dataset.trainTestSplit`. */
function splitTokens(
  data: TokenizedDataset,
  testSize: number,
  seed: number,
): { train: OrderedRows; test: OrderedRows } {
  const { train, test } = splitRows(data.rows, { testSize, seed });
  const exampleOf = new Int32Array(data.rows).fill(-1);
  data.examples.forEach(({ row }, i) => (exampleOf[row] = i));
  const part = (rows: Uint32Array): OrderedRows => ({
    ...data,
    order: rows,
    rows: rows.length,
    examples: Array.from(rows, (row) => exampleOf[row])
      .filter((i) => i >= 0)
      .map((i) => data.examples[i]),
  });
  return { train: part(train), test: part(test) };
}

async function build(
  path: string,
  key: string,
  stream: IterableDataset,
  tokenizer: Tokenizer,
  o: TokenCacheOptions,
): Promise<void> {
  const { maxLength, truncation: policy = 'keep_start' } = o.tokenize;
  const encoder = await RowEncoder.create(tokenizer, o.tokenize);
  const truncation = emptyReport(policy, maxLength);
  const writer = new TokenFileWriter(tokenizer.vocabSize);
  const cursor = stream.open();
  let rows = 0;
  let shown = performance.now();
  try {
    await withAtomicFile(path, async (file) => {
      await file.write(writer.begin());
      for (let ended = false; !ended;) {
        const chunk: StreamRow[] = [];
        for (let item: StreamRow | null; chunk.length < CHUNK_ROWS && (item = await cursor.next());) chunk.push(item);
        ended = chunk.length < CHUNK_ROWS;
        const first = rows;
        const describe = (row: number): string => chunk[row - first].at ?? `row ${row}`;
        const examples = await encoder.encode(
          chunk.map(({ row }) => row),
          first,
          describe,
        );
        const kept = examples.map((example) =>
          truncateExample(example, maxLength, policy, truncation, describe(example.row)),
        );
        await file.write(
          Buffer.concat(
            kept
              .filter((example): example is TokenizedExample => example !== undefined)
              .map((example) => writer.add(example)),
          ),
        );
        rows += chunk.length;
        if (performance.now() - shown > PROGRESS_MS) {
          shown = performance.now();
          o.onProgress?.({ rows, tokens: writer.tokens });
        }
      }
      await file.write(writer.end({ key, rows, kind: encoder.kind ?? 'text', truncation }));
    });
  } finally {
    await cursor.close();
  }
}

async function keyOf(files: readonly string[], tokenizer: Tokenizer, o: TokenCacheOptions): Promise<string> {
  const hash = createHash('sha256').update('lathe tokens 1\0');
  for (const file of files) hash.update(await identityOf(file));
  hash
    .update(tokenizer.toJson())
    .update(JSON.stringify([[...tokenizer.specialTokensMap], [...tokenizer.chatTemplates]]));
  return hash
    .update(JSON.stringify([o.reading, o.tokenize]))
    .digest('hex')
    .slice(0, 32);
}

const EDGE_BYTES = 1 << 16;

/** Reading all of it would take as long as tokenising it. */
async function identityOf(path: string): Promise<string> {
  const { size, mtimeMs } = await stat(path);
  const file = await open(path, 'r');
  try {
    const edge = Buffer.alloc(2 * EDGE_BYTES);
    await file.read(edge, 0, EDGE_BYTES, 0);
    await file.read(edge, EDGE_BYTES, EDGE_BYTES, Math.max(size - EDGE_BYTES, 0));
    return `${basename(path)}\0${size}\0${mtimeMs}\0${createHash('sha256').update(edge).digest('hex')}\0`;
  } finally {
    await file.close();
  }
}
