/**
 * The doctor: mistakes in training data that do not crash a run but spoil it, found before the run.
 *
 * The idea: each of these has cost somebody a night because a library warned, or said nothing. Every check
 * looks at the ids and labels that will really be trained, so it holds whatever produced them. A finding names the first row,
 * how many rows have it, and what to do; errors stop the run unless their code is allowed explicitly.
 *
 * Invariants: one finding per code, the first row's; the examples are not changed; healthy data gives an empty list.
 */
import { LatheError } from '../errors';
import { countTrained } from './masks';
import { describeTruncation } from './truncate';
import type { TokenizedDataset } from './tokenize';
import { IGNORE_INDEX, type TextTokenizer, type TokenizedExample } from './types';

export const FINDING_CODES = [
  'no_rows',
  'template_not_found',
  'no_trained_tokens',
  'doubled_bos',
  'eos_missing',
  'eos_masked',
  'prompt_not_prefix',
  'answer_cut',
  'text_cut',
  'rows_dropped',
  'vocabulary_too_large',
] as const;
export type FindingCode = (typeof FINDING_CODES)[number];

export interface Finding {
  severity: 'error' | 'warning';
  code: FindingCode;
  /** The first row that has it; undefined when it is about the whole dataset. */
  row?: number;
  /** The row's file and line when known. */
  at?: string;
  /** How many rows have it. */
  count: number;
  message: string;
  remedy: string;
}

export interface InspectOptions {
  tokenizer: TextTokenizer;
  /** Rows of the model's embedding; checked when given. */
  embeddingRows?: number;
  /** Ids that end an answer; default: the tokenizer's EOS. */
  eosTokenIds?: readonly number[];
}

const kWarnings: ReadonlySet<FindingCode> = new Set<FindingCode>(['text_cut', 'rows_dropped']);
/** A template may write a newline or two after the end-of-turn token. */
const kEndWindow = 4;

class Collector {
  private readonly found = new Map<FindingCode, Finding>();

  constructor(private readonly describeRow: (row: number) => string) {}

  /** `explain` runs for the first row only. */
  add(code: FindingCode, row: number | undefined, explain: () => { message: string; remedy: string }, count = 1): void {
    const known = this.found.get(code);
    if (known) {
      known.count += count;
      return;
    }
    const severity = kWarnings.has(code) ? 'warning' : 'error';
    this.found.set(code, {
      severity,
      code,
      row,
      at: row === undefined ? undefined : this.describeRow(row),
      count,
      ...explain(),
    });
  }

  list(): Finding[] {
    return [...this.found.values()].sort((a, b) => Number(a.severity === 'warning') - Number(b.severity === 'warning'));
  }
}

/** Errors first. */
export function inspectDataset(data: TokenizedDataset, options: InspectOptions): Finding[] {
  const findings = new Collector(data.describeRow);
  const { tokenizer } = options;
  const eosIds = new Set(options.eosTokenIds ?? (tokenizer.eosTokenId === undefined ? [] : [tokenizer.eosTokenId]));
  if (data.examples.length === 0) {
    findings.add('no_rows', undefined, () => ({
      message: `expected rows to train on, received none (${data.rows} read)`,
      remedy:
        data.rows > 0
          ? 'all were dropped by truncation: raise max_length or change the policy'
          : 'check the path, the split and filters',
    }));
  }
  for (const example of data.examples) {
    checkTemplate(example, tokenizer, findings);
    checkPrefix(example, tokenizer, findings);
    checkBos(example, tokenizer, findings);
    checkCut(example, findings);
    if (countTrained(example.labels) === 0) checkUntrained(example, findings);
    // Ready-made ids without labels are blocks of a stream: they may end anywhere.
    else if (data.kind !== 'tokens' || example.hasAnswer) checkEos(example, eosIds, tokenizer, findings);
  }
  checkDropped(data, findings);
  if (options.embeddingRows !== undefined) checkVocabulary(data, options.embeddingRows, tokenizer, findings);
  return findings.list();
}

function show(ids: ArrayLike<number>, tokenizer: TextTokenizer): string {
  return Array.from(ids, (id) => `${id} ${JSON.stringify(tokenizer.decode([id]))}`).join(', ');
}

function checkTemplate(example: TokenizedExample, tokenizer: TextTokenizer, findings: Collector): void {
  const missing = example.note?.templateMissing;
  if (!missing) return;
  findings.add('template_not_found', example.row, () => ({
    message: `the ${missing.which} template was not found; its tokens are ${show(missing.templateIds, tokenizer)}`,
    remedy: missing.contextIds
      ? `the row has its text, but there it is spelt by other tokens, ${show(missing.contextIds, tokenizer)}: pass the ids that all rows share, e.g. ${missing.which}Template: [${missing.contextIds.join(', ')}]`
      : 'the row has no such text: mend the template, filter out the row, or raise max_length if its end was cut',
  }));
}

function checkPrefix(example: TokenizedExample, tokenizer: TextTokenizer, findings: Collector): void {
  const mismatch = example.note?.prefixMismatch;
  if (!mismatch) return;
  findings.add('prompt_not_prefix', example.row, () => ({
    message:
      `the prompt's tokens are not a prefix of those of prompt + completion: from token ${mismatch.from} on, ` +
      `the prompt has ${show(mismatch.promptIds, tokenizer)} and both together have ${show(mismatch.fullIds, tokenizer)} (they part at token ${mismatch.at})`,
    remedy:
      'the model would be trained on other tokens than it is asked with: end the prompt on a token boundary (move a trailing blank to the start of the completion), ' +
      'or use a chat template that renders the prompt alike alone and with its answer',
  }));
}

function checkBos(example: TokenizedExample, tokenizer: TextTokenizer, findings: Collector): void {
  const { bosTokenId } = tokenizer;
  if (bosTokenId === undefined || example.inputIds[0] !== bosTokenId || example.inputIds[1] !== bosTokenId) return;
  findings.add('doubled_bos', example.row, () => ({
    message: `the row begins with two BOS tokens, ${show(example.inputIds.subarray(0, 2), tokenizer)}`,
    remedy:
      'the text already holds one and the tokenizer adds another: set addSpecialTokens: false, or take it out of the text',
  }));
}

function checkUntrained(example: TokenizedExample, findings: Collector): void {
  if (example.note?.templateMissing) return;
  findings.add('no_trained_tokens', example.row, () => ({
    message: `no token of the row is trained (${example.inputIds.length} tokens, all masked)`,
    remedy:
      'fill the empty answer or filter out the row; for conversations check that one message has the role "assistant"',
  }));
}

function checkCut(example: TokenizedExample, findings: Collector): void {
  const cut = example.note?.cut;
  if (!cut) return;
  if (example.hasAnswer && cut.cutTrainedTokens > 0) {
    findings.add('answer_cut', example.row, () => ({
      message: `the answer was cut: ${cut.cutTrainedTokens} trained tokens of ${cut.originalTokens} tokens are lost`,
      remedy: `raise max_length to ${cut.originalTokens}, shorten the row, or set truncation_mode: drop; to train on half answers, set doctor_allow: [answer_cut]`,
    }));
    return;
  }
  findings.add('text_cut', example.row, () => ({
    message: `${cut.cutTokens} of ${cut.originalTokens} tokens were cut`,
    remedy: `raise max_length, or use packing bfd_split, which loses nothing`,
  }));
}

function checkEos(
  example: TokenizedExample,
  eosIds: ReadonlySet<number>,
  tokenizer: TextTokenizer,
  findings: Collector,
): void {
  const { inputIds, labels, note } = example;
  const endIsLost = note?.cut !== undefined && !endsWithin(inputIds, inputIds.length, eosIds);
  if (endIsLost) return; // reported as a cut
  let last = labels.length - 1;
  while (last > 0 && labels[last] === IGNORE_INDEX) last--;
  if (endsWithin(inputIds, last + 1, eosIds)) return;
  const masked = endsWithin(inputIds, Math.min(last + 1 + kEndWindow, inputIds.length), eosIds);
  if (masked) {
    findings.add('eos_masked', example.row, () => ({
      message: `the answer ends with an EOS token that is not trained: ${show(inputIds.subarray(last, last + 1 + kEndWindow), tokenizer)}, of which only the first is`,
      remedy:
        tokenizer.padTokenId !== undefined && tokenizer.padTokenId === tokenizer.eosTokenId
          ? 'pad = eos, so masking padding by id masked it: mask by length, or give the tokenizer a pad token of its own'
          : 'the model would never learn to stop: include the end-of-turn token in the trained span',
    }));
    return;
  }
  findings.add('eos_missing', example.row, () => ({
    message:
      eosIds.size === 0
        ? 'the tokenizer has no EOS token, so no answer ends with one'
        : `the trained part ends with ${show(inputIds.subarray(Math.max(last - 2, 0), last + 1), tokenizer)} and not with EOS (${show([...eosIds], tokenizer)})`,
    remedy:
      eosIds.size === 0
        ? "set the tokenizer's eosToken"
        : 'the model would never learn to stop: leave appendEos at true, or use a chat template that ends turns with EOS (or name its end-of-turn token as eosToken); for plain streams of text, allow eos_missing',
  }));
}

/** Whether one of the last few tokens before `end` is an EOS. */
function endsWithin(ids: Int32Array, end: number, eosIds: ReadonlySet<number>): boolean {
  for (let i = end - 1; i >= Math.max(end - kEndWindow, 0); i--) if (eosIds.has(ids[i])) return true;
  return false;
}

function checkDropped(data: TokenizedDataset, findings: Collector): void {
  const { droppedRows, emptiedRows, firstRows, policy } = data.truncation;
  if (emptiedRows > 0) {
    findings.add(
      'answer_cut',
      firstRows.emptied[0],
      () => ({
        message: `the whole answer lies behind maxLength ${data.truncation.maxLength}, so the row was dropped`,
        remedy:
          'raise max_length or shorten the prompt; to train without such rows, set truncation_mode: drop or set doctor_allow: [answer_cut]',
      }),
      emptiedRows,
    );
  }
  if (droppedRows > 0) {
    findings.add(
      'rows_dropped',
      firstRows.dropped[0],
      () => ({
        message: describeTruncation(data.truncation) ?? `rows were dropped (${policy})`,
        remedy: 'raise max_length to keep them',
      }),
      droppedRows,
    );
  }
}

function checkVocabulary(
  data: TokenizedDataset,
  embeddingRows: number,
  tokenizer: TextTokenizer,
  findings: Collector,
): void {
  const isOutside = (id: number): boolean => id < 0 || id >= embeddingRows;
  for (const { inputIds, labels, row } of data.examples) {
    const id =
      inputIds.find(isOutside) ??
      (labels === inputIds ? undefined : labels.find((label) => label !== IGNORE_INDEX && isOutside(label)));
    if (id === undefined) continue;
    findings.add('vocabulary_too_large', row, () => ({
      message: `token ${show([id], tokenizer)} has no row in the embedding (${embeddingRows} rows; the tokenizer has ${tokenizer.vocabSize} tokens)`,
      remedy:
        id < 0 || id >= tokenizer.vocabSize
          ? 'rebuild the row: it was not made with this tokenizer'
          : `use the model's own tokenizer, or grow the embedding: model.resizeTokenEmbeddings(${tokenizer.vocabSize}), or resize_to_multiple_of: 1 in a configuration`,
    }));
  }
  if (tokenizer.vocabSize > embeddingRows) {
    findings.add(
      'vocabulary_too_large',
      undefined,
      () => ({
        message: `the tokenizer has ${tokenizer.vocabSize} tokens and the embedding ${embeddingRows} rows`,
        remedy: `use the model's own tokenizer, or grow the embedding: model.resizeTokenEmbeddings(${tokenizer.vocabSize}), or resize_to_multiple_of: 1 in a configuration`,
      }),
      0,
    );
  }
}

/** One finding as text: `error answer_cut (3 rows, first train.jsonl:7): ...: remedy`. */
export function formatFinding(finding: Finding): string {
  const rows = finding.count === 1 ? '1 row' : `${finding.count} rows`;
  const place = finding.row === undefined ? '' : ` (${rows}, first ${finding.at ?? `row ${finding.row}`})`;
  return `${finding.severity} ${finding.code}${place}: ${finding.message}: ${finding.remedy}`;
}

/**
 * Stops on errors.
 * @param options.allow codes that do not stop the run @param options.name what the error calls the rows (data)
 * @throws ERR_CONFIG for a code that is none; ERR_DATA with the first row, and every further error
 */
export function assertHealthy(
  findings: readonly Finding[],
  options: { allow?: readonly FindingCode[]; name?: string } = {},
): void {
  const unknown = options.allow?.find((code) => !FINDING_CODES.includes(code));
  if (unknown !== undefined) {
    throw new LatheError('ERR_CONFIG', `[allow] expected codes of findings, received ${JSON.stringify(unknown)}`, {
      remedy: `use some of ${FINDING_CODES.join(', ')}`,
    });
  }
  const errors = findings.filter(({ severity, code }) => severity === 'error' && !options.allow?.includes(code));
  if (errors.length === 0) return;
  const [first, ...others] = errors;
  const more = others.map((finding) => `\n  also: ${formatFinding(finding)}`).join('');
  const rows = first.count > 1 ? ` (and in ${first.count - 1} more rows)` : '';
  throw new LatheError('ERR_DATA', `${options.name ?? 'data'}: ${first.message}${rows}`, {
    at: first.at,
    remedy: `${first.remedy}${more}`,
  });
}
