/**
 * BPE training in the plainest way: count every pair anew after each merge. Slow, and easy to believe; it stands in for the
 * native trainer in unit tests and is itself checked against the tokenizers library's merges.
 */
import { BYTE_ALPHABET, toByteLevel } from '../../../src/tokenizers/byte-level';
import type { NativeBpeOptions, NativeTokenizerTraining } from '../../../src/tokenizers/native-training';

const GPT2 = /'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+/gu;

export const referenceTraining: NativeTokenizerTraining = {
  createBpeTrainer(options: NativeBpeOptions) {
    const words = new Map<string, number>();
    let textBytes = 0;
    return {
      feed(utf8, lengths) {
        let at = 0;
        for (const length of lengths) {
          const text = Buffer.from(utf8.subarray(at, at + length)).toString('utf8');
          at += length;
          for (const word of text.match(GPT2) ?? [])
            words.set(toByteLevel(word), (words.get(toByteLevel(word)) ?? 0) + 1);
        }
        textBytes += at;
      },
      train: (progress) => learn(options, words, textBytes, progress),
    };
  },
};

function learn(
  options: NativeBpeOptions,
  words: Map<string, number>,
  textBytes: number,
  progress?: (merges: number, tokens: number) => void,
) {
  const alphabet = new Set([...options.initialAlphabet].map((byte) => BYTE_ALPHABET[byte]));
  for (const word of words.keys()) for (const c of word) alphabet.add(c);
  const tokens = [
    ...new Set([...options.specialTokens, ...[...alphabet].sort((a, b) => a.codePointAt(0)! - b.codePointAt(0)!)]),
  ];
  const ids = new Map(tokens.map((token, id) => [token, id]));
  const coded = [...words].map(([word, count]) => ({ count, symbols: Array.from(word, (c) => ids.get(c)!) }));
  const merges: [number, number][] = [];
  while (tokens.length < options.vocabSize) {
    const best = mostFrequent(coded);
    if (!best || best.count < Math.max(1, options.minFrequency)) break;
    const token = tokens[best.left] + tokens[best.right];
    if (!ids.has(token)) ids.set(token, tokens.push(token) - 1);
    const known = merges.findIndex(([l, r]) => l === best.left && r === best.right);
    if (known >= 0) merges.splice(known, 1);
    merges.push([best.left, best.right]);
    for (const word of coded) word.symbols = merged(word.symbols, best.left, best.right, ids.get(token)!);
  }
  progress?.(merges.length, tokens.length);
  const occurrences = [...words.values()].reduce((sum, count) => sum + count, 0);
  return {
    tokens,
    merges: Uint32Array.from(merges.flat()),
    stats: { words: words.size, occurrences, prunedWords: 0, prunedOccurrences: 0, textBytes },
  };
}

function mostFrequent(
  words: { count: number; symbols: number[] }[],
): { left: number; right: number; count: number } | undefined {
  const counts = new Map<number, number>();
  for (const { count, symbols } of words) {
    for (let i = 0; i + 1 < symbols.length; i++) {
      const key = symbols[i] * 2 ** 24 + symbols[i + 1];
      counts.set(key, (counts.get(key) ?? 0) + count);
    }
  }
  let best: number | undefined;
  for (const [key, count] of counts) {
    if (best === undefined || count > counts.get(best)! || (count === counts.get(best) && key < best)) best = key;
  }
  return best === undefined
    ? undefined
    : { left: Math.floor(best / 2 ** 24), right: best % 2 ** 24, count: counts.get(best)! };
}

function merged(symbols: number[], left: number, right: number, token: number): number[] {
  const result: number[] = [];
  for (let i = 0; i < symbols.length; i++) {
    if (symbols[i] === left && symbols[i + 1] === right) {
      result.push(token);
      i++;
    } else result.push(symbols[i]);
  }
  return result;
}
