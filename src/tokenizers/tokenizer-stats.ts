/**
 * How well a tokenizer fits some text: the numbers to look at before a vocabulary is trained on.
 *
 * A word is a run without white space; its pieces are the tokens that overlap it. Fertility is the mean number of
 * pieces (1 is a word list, much above 2 is a vocabulary for another language); continued words are those in more
 * than one piece (Rust et al. 2021, "How Good is Your Tokenizer?"). Coverage is the share of the vocabulary that the
 * text uses at all.
 */
import type { TextSource } from './train';
import type { Tokenizer } from './tokenizer';

export interface TokenizerStats {
  texts: number;
  characters: number;
  bytes: number;
  words: number;
  tokens: number;
  /** Tokens in all per word, blanks and line breaks included. */
  tokensPerWord: number;
  /** Mean pieces per word. */
  fertility: number;
  /** Share of words in more than one piece. */
  continuedWords: number;
  /** Share of tokens that are the unknown token. */
  unknown: number;
  /** Share of non-blank characters that no token covers: a vocabulary without all bytes drops them without a word. */
  dropped: number;
  /** Share of the vocabulary that occurs. */
  coverage: number;
  charactersPerToken: number;
  bytesPerToken: number;
  /** The longest tokens of the vocabulary, as text, longest first: spam and boilerplate show up here. */
  longestTokens: string[];
  /** The last tokens learned: noise here means that the vocabulary is too large for the text. */
  lastTokens: string[];
}

const BATCH = 256;
const SHOWN = 20;

/** Encodes all of `texts` (without added special tokens) and counts. Rates of nothing are 0. */
export async function tokenizerStats(tokenizer: Tokenizer, texts: TextSource): Promise<TokenizerStats> {
  const count = {
    texts: 0,
    characters: 0,
    bytes: 0,
    words: 0,
    tokens: 0,
    pieces: 0,
    continued: 0,
    unknown: 0,
    visible: 0,
    dropped: 0,
  };
  const used = new Set<number>();
  const unknown = tokenizer.unkTokenId;
  const consume = async (batch: string[]) => {
    const encoded = await tokenizer.encodeBatch(batch, { addSpecialTokens: false });
    encoded.forEach(({ ids, offsets }, i) => {
      const text = batch[i];
      count.texts++;
      for (const _ of text) count.characters++;
      count.bytes += Buffer.byteLength(text);
      count.tokens += ids.length;
      for (const id of ids) {
        used.add(id);
        if (id === unknown) count.unknown++;
      }
      for (const { length, pieces, covered } of wordsOf(text, offsets)) {
        count.words++;
        count.visible += length;
        count.dropped += length - covered;
        count.pieces += pieces;
        if (pieces > 1) count.continued++;
      }
    });
  };
  let batch: string[] = [];
  for await (const item of texts) {
    batch.push(...(typeof item === 'string' ? [item] : item));
    if (batch.length >= BATCH) {
      await consume(batch);
      batch = [];
    }
  }
  if (batch.length) await consume(batch);

  const rate = (part: number, whole: number) => (whole === 0 ? 0 : part / whole);
  return {
    texts: count.texts,
    characters: count.characters,
    bytes: count.bytes,
    words: count.words,
    tokens: count.tokens,
    tokensPerWord: rate(count.tokens, count.words),
    fertility: rate(count.pieces, count.words),
    continuedWords: rate(count.continued, count.words),
    unknown: rate(count.unknown, count.tokens),
    dropped: rate(count.dropped, count.visible),
    coverage: rate(used.size, tokenizer.vocabSize),
    charactersPerToken: rate(count.characters, count.tokens),
    bytesPerToken: rate(count.bytes, count.tokens),
    ...notableTokens(tokenizer),
  };
}

/** Each word's length, the tokens that overlap it, and how much of it they cover. Offsets never decrease, so one pass over both. */
function wordsOf(
  text: string,
  offsets: readonly [number, number][],
): { length: number; pieces: number; covered: number }[] {
  const result: { length: number; pieces: number; covered: number }[] = [];
  let first = 0;
  for (const match of text.matchAll(/\S+/g)) {
    const end = match.index + match[0].length;
    while (first < offsets.length && offsets[first][1] <= match.index) first++;
    let covered = 0;
    let reached = match.index;
    let token = first;
    for (; token < offsets.length && offsets[token][0] < end; token++) {
      const to = Math.min(offsets[token][1], end);
      covered += Math.max(0, to - Math.max(reached, offsets[token][0]));
      reached = Math.max(reached, to);
    }
    result.push({ length: match[0].length, pieces: token - first, covered });
  }
  return result;
}

function notableTokens(tokenizer: Tokenizer): Pick<TokenizerStats, 'longestTokens' | 'lastTokens'> {
  const added = new Set(tokenizer.addedTokens.map((entry) => entry.content));
  const learned = Object.entries(tokenizer.getVocab()).filter(([token]) => !added.has(token));
  const text = ([, id]: [string, number]) => tokenizer.decode([id]);
  // By the stored form, which is close enough to order by; only the few that are shown are decoded.
  const longest = [...learned].sort((a, b) => b[0].length - a[0].length || a[1] - b[1]).slice(0, SHOWN);
  const last = [...learned].sort((a, b) => b[1] - a[1]).slice(0, SHOWN);
  return { longestTokens: longest.map(text), lastTokens: last.map(text) };
}
