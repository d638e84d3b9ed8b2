/** `lathe tokenizer train` and `lathe tokenizer stats`: a vocabulary from files, and how well one fits them. */
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { LatheError } from '../errors';
import { weightFiles } from '../io/checkpoint-files';
import { trainTokenizer } from '../pretrained/auto-tokenizer';
import type { PreTokenizerKind } from '../tokenizers/byte-level';
import { reservedWords, type ReservedWords } from '../tokenizers/reserved-words';
import { tokenizerStats, type TokenizerStats } from '../tokenizers/tokenizer-stats';
import type { Tokenizer } from '../tokenizers/tokenizer';
import { openTokenizerAt } from '../train/setup';
import { duration, gib, say, style, warn } from './output';
import { locateTextFiles, readTexts, type TextFile, type TextOptions } from './text-files';

export interface TextFlags {
  files: string[];
  field?: string;
  asText?: boolean;
  onBadFile: string;
}

export interface TrainFlags extends TextFlags {
  vocabSize: string;
  output: string;
  from?: string;
  specialTokens?: string[];
  eosToken?: string;
  bosToken?: string;
  padToken?: string;
  preTokenizer?: string;
  minFrequency?: string;
  memoryCap?: string;
  threads?: string;
}

const END_OF_TEXT = '<|endoftext|>';
const KINDS: readonly string[] = ['gpt2', 'gpt2-digits', 'llama3', 'qwen2'];

export async function tokenizerTrainCommand(o: TrainFlags): Promise<void> {
  const vocabSize = integer(o.vocabSize, '--vocab-size');
  requireNoModel(o.output);
  const model = o.from ? await openTokenizerAt(o.from) : null;
  const files = await locateTextFiles(o.files);
  const source = new CountedTexts(files, o);
  const progress = new TrainingProgress(source, vocabSize);
  const started = performance.now();
  const { tokenizer, stats } = await trainTokenizer(model, source.texts(), {
    vocabSize,
    minFrequency: o.minFrequency === undefined ? undefined : integer(o.minFrequency, '--min-frequency'),
    specialTokens: o.specialTokens,
    preTokenizer: model ? undefined : preTokenizer(o.preTokenizer),
    // A model cannot be trained without an end token: GPT-2's, unless another one is named or kept.
    eosToken: o.eosToken ?? (model ? undefined : END_OF_TEXT),
    bosToken: o.bosToken ?? (model || o.eosToken ? undefined : END_OF_TEXT),
    padToken: o.padToken,
    threads: o.threads === undefined ? undefined : integer(o.threads, '--threads'),
    memoryCapBytes: o.memoryCap === undefined ? undefined : byteSize(o.memoryCap, '--memory-cap'),
    onProgress: (p) => progress.show(p),
  });
  progress.end();
  const seconds = (performance.now() - started) / 1000;
  tokenizer.savePretrained(o.output);
  source.reportSkipped();
  if (stats.prunedWords > 0) {
    warn(
      `the memory cap was reached: ${number(stats.prunedWords)} rare words (${number(stats.prunedOccurrences)} occurrences) were dropped, so the merges may differ from an exact run`,
    );
  }
  if (tokenizer.vocabSize < vocabSize)
    warn(
      `the text gave ${number(tokenizer.vocabSize)} tokens of ${number(vocabSize)}: no more pairs occur often enough`,
    );
  say(
    `${number(tokenizer.vocabSize)} tokens from ${number(files.length)} files, ${megabytes(stats.textBytes)} of text, ${number(stats.words)} distinct words, in ${duration(seconds)} (${(stats.textBytes / 1e6 / seconds).toFixed(1)} MB/s, ${gib(process.resourceUsage().maxRSS * 1024)} peak memory)`,
  );
  say(`saved ${o.output}`);
}

/** The ids of a model's weights are those of its own tokenizer. */
function requireNoModel(dir: string): void {
  const weights = weightFiles('model').find((name) => existsSync(join(dir, name)));
  if (weights)
    throw new LatheError(
      'ERR_CONFIG',
      `--output expected a folder without a model, found ${weights}: the model's own tokenizer would be lost`,
      { at: dir, remedy: 'choose another folder' },
    );
}

export async function tokenizerStatsCommand(
  folders: readonly string[],
  o: TextFlags & { keywords?: string; json?: boolean },
): Promise<void> {
  if (folders.length > 2)
    throw new LatheError('ERR_CONFIG', `expected one or two tokenizers, received ${folders.length}`);
  const files = await locateTextFiles(o.files);
  const columns: Column[] = [];
  for (const folder of folders) {
    const tokenizer = await openTokenizerAt(folder);
    const source = new CountedTexts(files, o);
    const stats = await tokenizerStats(tokenizer, source.texts());
    if (folder === folders[0]) source.reportSkipped();
    columns.push({
      name: folder,
      tokenizer,
      stats,
      reserved: o.keywords ? await reservedWords(tokenizer, o.keywords) : undefined,
    });
  }
  if (o.json)
    say(JSON.stringify(columns.map(({ name, stats, reserved }) => ({ tokenizer: name, ...stats, reserved }))));
  else printStats(columns);
}

// --- texts ------------------------------------------------------------------------------------------------------

/** Texts of files, counted as they are read. */
class CountedTexts {
  readonly totalBytes: number;
  skipped: string[] = [];
  constructor(
    private readonly files: readonly TextFile[],
    private readonly flags: TextFlags,
  ) {
    this.totalBytes = files.reduce((sum, file) => sum + file.bytes, 0);
  }

  texts(): AsyncGenerator<string[]> {
    const { field, asText, onBadFile } = this.flags;
    if (onBadFile !== 'error' && onBadFile !== 'skip')
      throw new LatheError('ERR_CONFIG', `--on-bad-file expected error or skip, received '${onBadFile}'`);
    const options: TextOptions = { field, asText, onBadFile, onSkip: (path) => this.skipped.push(path) };
    return readTexts(this.files, options);
  }

  reportSkipped(): void {
    const [first] = this.skipped;
    if (first) warn(`${number(this.skipped.length)} files are not UTF-8 and were left out, the first one ${first}`);
  }
}

/** One line that is redrawn in a terminal; elsewhere a line every ten seconds. */
class TrainingProgress {
  private readonly live = process.stderr.isTTY === true;
  private shown = performance.now();

  constructor(
    private readonly source: CountedTexts,
    private readonly vocabSize: number,
  ) {}

  show(p: { phase: 'count' | 'merge'; done: number }): void {
    const now = performance.now();
    if (now - this.shown < (this.live ? 100 : 10_000)) return;
    this.shown = now;
    // Compressed and tabular files hold another amount of text than they have bytes.
    const text =
      p.phase === 'count'
        ? `counting words: ${megabytes(p.done)} of text (files: ${megabytes(this.source.totalBytes)})`
        : `merging: ${number(p.done)} of ${number(this.vocabSize)} tokens`;
    process.stderr.write(this.live ? `\r\u001b[K${text}` : `${text}\n`);
  }

  end(): void {
    if (this.live) process.stderr.write('\r\u001b[K');
  }
}

// --- the table ----------------------------------------------------------------------------------------------------

interface Column {
  name: string;
  tokenizer: Tokenizer;
  stats: TokenizerStats;
  reserved?: ReservedWords;
}

const LABEL_WIDTH = 34;
const LIST_WIDTH = 34;

const ROWS: readonly (readonly [string, (c: Column) => string])[] = [
  ['vocabulary', (c) => number(c.tokenizer.vocabSize)],
  ['text', (c) => megabytes(c.stats.bytes)],
  ['tokens', (c) => number(c.stats.tokens)],
  ['characters per token', (c) => c.stats.charactersPerToken.toFixed(3)],
  ['tokens per word', (c) => c.stats.tokensPerWord.toFixed(3)],
  ['pieces per word (fertility)', (c) => c.stats.fertility.toFixed(3)],
  ['words in more than one piece', (c) => percent(c.stats.continuedWords)],
  ['vocabulary used', (c) => percent(c.stats.coverage)],
  ['unknown tokens', (c) => percent(c.stats.unknown)],
  ['characters dropped', (c) => percent(c.stats.dropped)],
];

function printStats(columns: readonly Column[]): void {
  const width = Math.max(LIST_WIDTH, ...columns.map((c) => c.name.length));
  const line = (label: string, cells: readonly string[]): void =>
    say(`${label.padEnd(LABEL_WIDTH)}${cells.map((cell) => cell.padEnd(width + 2)).join('')}`.trimEnd());
  say(style.bold(`${''.padEnd(LABEL_WIDTH)}${columns.map((c) => c.name.padEnd(width + 2)).join('')}`.trimEnd()));
  for (const [label, cell] of ROWS) line(label, columns.map(cell));
  if (columns[0].reserved) {
    line(
      `${columns[0].reserved.language} words not one token`,
      columns.map(({ reserved }) => `${reserved!.missing.length} of ${reserved!.words}`),
    );
    line(
      '  after a blank',
      columns.map(({ reserved }) => `${reserved!.missingAfterBlank.length} of ${reserved!.words}`),
    );
  }
  const list = (label: string, of: (c: Column) => readonly string[]): void => {
    say();
    const lists = columns.map(of);
    for (let i = 0; i < Math.max(...lists.map((l) => l.length)); i++)
      line(
        i === 0 ? label : '',
        lists.map((l) => l[i] ?? ''),
      );
  };
  const quoted = (tokens: readonly string[]): string[] =>
    tokens.map((token) => shortened(JSON.stringify(token), width));
  if (columns.some((c) => c.reserved?.missing.length))
    list('reserved words missing', (c) => wrapped(c.reserved!.missing, width));
  list('longest tokens', (c) => quoted(c.stats.longestTokens.slice(0, 10)));
  list('last tokens', (c) => quoted(c.stats.lastTokens.slice(0, 10)));
}

const shortened = (text: string, width: number): string =>
  text.length > width ? `${text.slice(0, width - 4)}..."` : text;

/** Words as lines of at most `width`. */
function wrapped(words: readonly string[], width: number): string[] {
  const lines: string[] = [];
  for (const word of words) {
    const last = lines.length - 1;
    if (last >= 0 && lines[last].length + word.length < width) lines[last] += ` ${word}`;
    else lines.push(word);
  }
  return lines;
}

// --- flags -----------------------------------------------------------------------------------------------------------

const number = (n: number): string => n.toLocaleString('en-US');
const megabytes = (bytes: number): string => `${(bytes / 1e6).toFixed(1)} MB`;
const percent = (share: number): string => `${(100 * share).toFixed(2)} %`;

function integer(text: string, flag: string): number {
  if (/^\d+$/.test(text)) return Number(text);
  throw new LatheError('ERR_CONFIG', `${flag} expected a whole number, received '${text}'`);
}

function preTokenizer(name: string | undefined): PreTokenizerKind | undefined {
  if (name === undefined || KINDS.includes(name)) return name as PreTokenizerKind | undefined;
  throw new LatheError('ERR_CONFIG', `--pre-tokenizer expected one of ${KINDS.join(', ')}, received '${name}'`);
}

/** `2GiB`, `512 MB`, `1g`: binary units all, as a limit on memory is. */
function byteSize(text: string, flag: string): number {
  const match = /^\s*(\d+(?:\.\d+)?)\s*([kmgt]?)(?:i?b)?\s*$/i.exec(text);
  if (!match)
    throw new LatheError('ERR_CONFIG', `${flag} expected a size, received '${text}'`, { remedy: 'write 2GiB' });
  return Math.floor(Number(match[1]) * 1024 ** ['', 'k', 'm', 'g', 't'].indexOf(match[2].toLowerCase()));
}
