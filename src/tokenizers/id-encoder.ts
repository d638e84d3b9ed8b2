/**
 * Texts to ids by the addon's BPE, for tokenizers whose whole pipeline it knows: byte-level BPE with a known
 * pre-tokenizer, which is most of what language models use today.
 *
 * The idea: data sets need ids and nothing else, and the library makes offsets, tokens and masks of every text besides, and keeps
 * them in native memory until they are collected. Here added tokens are cut out of a text by an expression, what lies
 * between them is encoded natively, and ids come back in one array. What is not known to be the same goes to the library.
 *
 * Invariant: the ids are the library's. Source: huggingface/tokenizers, `tokenizer/added_vocabulary.rs` (non-normalised
 * tokens first, then normalised ones, the leftmost and longest each time), `processors/template.rs`.
 */
import { BYTE_ALPHABET, preTokenizerKind, type PreTokenizerKind } from './byte-level';
import type { AddedTokenEntry, Component, TokenizerJson } from './tokenizer-files';

export interface NativeBpeEncoder {
  /** Texts as UTF-8, end to end, copied before this returns; the ids end to end, and how many each text has. */
  encode(utf8: Uint8Array, lengths: Uint32Array): Promise<{ ids: Int32Array; counts: Uint32Array }>;
}

export interface NativeEncoderOptions {
  preTokenizer: PreTokenizerKind;
  /** The id of each byte's token. */
  byteIds: Int32Array;
  /** By rank: left, right, result. */
  merges: Int32Array;
}

/** null where there is no addon. */
export type NativeEncoderFactory = (options: NativeEncoderOptions) => NativeBpeEncoder | null;

let provided: NativeEncoderFactory | null = null;

/** The addon may not be known here: a layer above provides it (src/pretrained/auto-tokenizer.ts). */
export function provideBpeEncoder(factory: NativeEncoderFactory): void {
  provided = factory;
}

/** Ids that the post-processor puts around a text. */
interface Affixes {
  before: readonly number[];
  after: readonly number[];
}

/** Calls at work at a time, each on a thread of its own: many streams read side by side must not take the cores from training. */
const MOST_CALLS = 2;

/** In a text's plan: a piece to encode; everything else in it is an id. */
const PIECE = -1;

export class IdEncoder {
  private running = 0;
  private readonly waiting: (() => void)[] = [];

  private constructor(
    private readonly native: NativeBpeEncoder,
    /** Applied one after another; null: nothing to cut. */
    private readonly cuts: readonly RegExp[],
    private readonly addedIds: ReadonlyMap<string, number>,
    private readonly affixes: Affixes,
    private readonly isNfc: boolean,
  ) {}

  /** null for a pipeline of which not everything is known, and without the addon. */
  static of(json: TokenizerJson): IdEncoder | null {
    const { model, normalizer, added_tokens: added = [] } = json;
    const kind = preTokenizerKind(json.pre_tokenizer);
    const affixes = affixesOf(json.post_processor);
    const isNfc = normalizer?.type === 'NFC';
    if (!provided || model.type !== 'BPE' || !kind || !affixes || (normalizer && !isNfc)) return null;
    if (model.dropout || model.ignore_merges || model.continuing_subword_prefix || model.end_of_word_suffix)
      return null;
    if (added.some((token) => token.lstrip || token.rstrip || token.single_word || token.id === undefined)) return null;
    const vocab = new Map(Object.entries(model.vocab as Record<string, number>));
    const byteIds = Int32Array.from(BYTE_ALPHABET, (char) => vocab.get(char) ?? -1);
    const merges = mergeTable(model.merges as (string | [string, string])[], vocab);
    if (byteIds.includes(-1) || !merges) return null;
    const native = provided({ preTokenizer: kind, byteIds, merges });
    if (!native) return null;
    const isNormalized = (token: AddedTokenEntry): boolean => token.normalized ?? !token.special;
    const cuts = [added.filter((token) => !isNormalized(token)), added.filter(isNormalized)]
      .map(cutting)
      .filter((cut) => cut !== null);
    return new IdEncoder(native, cuts, new Map(added.map((token) => [token.content, token.id!])), affixes, isNfc);
  }

  /** False for a text that only the library encodes surely: one that its normalizer may change. */
  knows(text: string): boolean {
    return !this.isNfc || !/[\u0300-\uffff]/.test(text);
  }

  async encode(texts: readonly string[], addSpecialTokens: boolean): Promise<Int32Array[]> {
    const pieces: string[] = [];
    const plans = texts.map((text) => this.plan(text, pieces));
    const { ids, counts } = await this.inTurn(() => this.native.encode(...utf8Of(pieces)));
    const { before, after } = addSpecialTokens ? this.affixes : { before: [], after: [] };
    let piece = 0;
    let at = 0;
    return plans.map((plan) => {
      let length = before.length + after.length;
      for (let i = 0, p = piece; i < plan.length; i++) length += plan[i] === PIECE ? counts[p++] : 1;
      const out = new Int32Array(length);
      out.set(before);
      let to = before.length;
      for (const item of plan) {
        if (item !== PIECE) out[to++] = item;
        else {
          const count = counts[piece++];
          out.set(ids.subarray(at, at + count), to);
          at += count;
          to += count;
        }
      }
      out.set(after, to);
      return out;
    });
  }

  private async inTurn<T>(call: () => Promise<T>): Promise<T> {
    if (this.running >= MOST_CALLS) await new Promise<void>((go) => this.waiting.push(go));
    else this.running++;
    try {
      return await call();
    } finally {
      // Whoever is next takes this place.
      const next = this.waiting.shift();
      if (next) next();
      else this.running--;
    }
  }

  /** A text as added tokens' ids and pieces between them; the pieces go to the end of `pieces`. */
  private plan(text: string, pieces: string[]): number[] {
    const plan: number[] = [];
    const walk = (part: string, pass: number): void => {
      if (part === '') return;
      if (pass === this.cuts.length) {
        plan.push(PIECE);
        pieces.push(part);
        return;
      }
      // Splitting by a capturing expression gives what lies between the matches and, in turn, the matches.
      part.split(this.cuts[pass]).forEach((piece, i) => {
        if (i % 2 === 0) walk(piece, pass + 1);
        else plan.push(this.addedIds.get(piece)!);
      });
    };
    walk(text, 0);
    return plan;
  }
}

/** Finds any of the tokens, the longest of those that begin at a place. */
function cutting(tokens: readonly AddedTokenEntry[]): RegExp | null {
  const contents = tokens.map(({ content }) => content).filter((content) => content !== '');
  if (contents.length === 0) return null;
  const escaped = contents
    .sort((a, b) => b.length - a.length)
    .map((content) => content.replace(/[\\^$.*+?()[\]{}|/-]/g, '\\$&'));
  return new RegExp(`(${escaped.join('|')})`);
}

function mergeTable(
  merges: readonly (string | [string, string])[],
  vocab: ReadonlyMap<string, number>,
): Int32Array | null {
  const table = new Int32Array(3 * merges.length);
  for (const [rank, merge] of merges.entries()) {
    const [left, right] = typeof merge === 'string' ? merge.split(' ') : merge;
    const ids = [left, right, left + right].map((token) => vocab.get(token));
    if (ids.includes(undefined)) return null;
    table.set(ids as number[], 3 * rank);
  }
  return table;
}

/** null for a post-processor that is not known. */
function affixesOf(processor: Component | null | undefined): Affixes | null {
  if (!processor || processor.type === 'ByteLevel') return { before: [], after: [] };
  if (processor.type === 'Sequence') {
    const parts = ((processor.processors as Component[] | undefined) ?? []).filter(({ type }) => type !== 'ByteLevel');
    return parts.length > 1 ? null : affixesOf(parts[0]);
  }
  if (processor.type !== 'TemplateProcessing') return null;
  const tokens = processor.special_tokens as Record<string, { ids: number[] }>;
  const sides: [number[], number[]] = [[], []];
  let texts = 0;
  for (const item of processor.single as { SpecialToken?: { id: string }; Sequence?: { id: string } }[]) {
    if (item.SpecialToken) sides[texts === 0 ? 0 : 1].push(...tokens[item.SpecialToken.id].ids);
    else texts++;
  }
  return texts === 1 ? { before: sides[0], after: sides[1] } : null;
}

function utf8Of(texts: readonly string[]): [Uint8Array, Uint32Array] {
  let most = 0;
  for (const text of texts) most += 3 * text.length;
  const bytes = Buffer.allocUnsafeSlow(most);
  const lengths = new Uint32Array(texts.length);
  let at = 0;
  texts.forEach((text, i) => {
    lengths[i] = bytes.write(text, at, 'utf8');
    at += lengths[i];
  });
  return [bytes.subarray(0, at), lengths];
}
