/**
 * The byte-level alphabet and the pre-tokenizers of the model families we read and train.
 *
 * Idea (GPT-2): every byte gets a printable character, so a vocabulary of strings covers any text. Bytes that are
 * printable in Latin-1 stand for themselves; the others are numbered upwards from U+0100. A pre-tokenizer cuts text
 * into words that merges never cross; each family has its own pattern, and ids are only right with the right one.
 *
 * Source: GPT-2's encoder (the alphabet and the first pattern); the families' published tokenizer.json files; names of
 * `tokenizer.ggml.pre` as llama.cpp writes them.
 */
import type { Component } from './tokenizer-files';

const byteToChar: string[] = [];
const charToByte = new Map<string, number>();

{
  let next = 0x100;
  for (let byte = 0; byte < 256; byte++) {
    const printable =
      (byte >= 0x21 && byte <= 0x7e) || (byte >= 0xa1 && byte <= 0xac) || (byte >= 0xae && byte <= 0xff);
    const char = String.fromCharCode(printable ? byte : next++);
    byteToChar.push(char);
    charToByte.set(char, byte);
  }
}

/** The 256 characters of the alphabet, by byte value. */
export const BYTE_ALPHABET: readonly string[] = byteToChar;

/** UTF-8 bytes of `text`, each as its character: ' a' -> 'Ġa'. */
export function toByteLevel(text: string): string {
  let out = '';
  for (const byte of Buffer.from(text, 'utf8')) out += byteToChar[byte];
  return out;
}

/** True when every character of `token` is one of the alphabet's. */
export function isByteLevel(token: string): boolean {
  for (const char of token) if (!charToByte.has(char)) return false;
  return true;
}

/** Bytes of one token; a token with a character outside the alphabet (an added token) is its own UTF-8. */
export function byteLevelBytes(token: string): Uint8Array {
  if (!isByteLevel(token)) return Buffer.from(token, 'utf8');
  const bytes = new Uint8Array(token.length);
  for (let i = 0; i < token.length; i++) bytes[i] = charToByte.get(token[i])!;
  return bytes;
}

const CONTRACTIONS = "'s|'t|'re|'ve|'m|'ll|'d";

/** Patterns of `Split` pre-tokenizers (Oniguruma syntax, as tokenizer.json holds them). */
export const PATTERNS = {
  gpt2: `${CONTRACTIONS}| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+`,
  llama3: `(?i:${CONTRACTIONS})|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1,3}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+`,
  qwen2: `(?i:${CONTRACTIONS})|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+`,
} as const;

/** The four ways of cutting text that the native trainer knows. */
export type PreTokenizerKind = 'gpt2' | 'gpt2-digits' | 'llama3' | 'qwen2';

function byteLevel(useRegex: boolean): Component {
  return { type: 'ByteLevel', add_prefix_space: false, trim_offsets: true, use_regex: useRegex };
}

function split(pattern: string): Component {
  return { type: 'Split', pattern: { Regex: pattern }, behavior: 'Isolated', invert: false };
}

/** The tokenizer.json component for a kind. */
export function preTokenizerComponent(kind: PreTokenizerKind): Component {
  switch (kind) {
    case 'gpt2':
      return byteLevel(true);
    case 'gpt2-digits':
      return { type: 'Sequence', pretokenizers: [{ type: 'Digits', individual_digits: true }, byteLevel(true)] };
    case 'llama3':
    case 'qwen2':
      return { type: 'Sequence', pretokenizers: [split(PATTERNS[kind]), byteLevel(false)] };
  }
}

/** Which kind a tokenizer.json pre-tokenizer is, or undefined when it is none of them. */
export function preTokenizerKind(component: Component | null | undefined): PreTokenizerKind | undefined {
  if (!component) return undefined;
  const parts =
    component.type === 'Sequence' ? ((component.pretokenizers as Component[] | undefined) ?? []) : [component];
  const shape = parts.map(describe).join(' ');
  switch (shape) {
    case 'bytes+regex':
      return 'gpt2';
    case 'digits bytes+regex':
      return 'gpt2-digits';
    case 'split:llama3 bytes':
      return 'llama3';
    case 'split:qwen2 bytes':
      return 'qwen2';
    default:
      return undefined;
  }
}

function describe(part: Component): string {
  if (part.type === 'ByteLevel') {
    if (part.add_prefix_space === true) return 'bytes+prefix';
    return part.use_regex === false ? 'bytes' : 'bytes+regex';
  }
  if (part.type === 'Digits') return part.individual_digits === true ? 'digits' : 'digits-joined';
  if (part.type === 'Split' && part.behavior === 'Isolated' && part.invert !== true) {
    const regex = (part.pattern as { Regex?: string } | undefined)?.Regex;
    const known = Object.entries(PATTERNS).find(([, pattern]) => pattern === regex);
    if (known) return `split:${known[0]}`;
  }
  return `other:${part.type}`;
}

/**
 * llama.cpp's `default` pre-tokenizer: punctuation runs, then GPT-2's pattern, then digit runs in threes, applied one
 * after another to the pieces.
 */
export function llamaCppDefaultPreTokenizer(): Component {
  const passes = [
    '[\\p{P}\\$\\+<=>\\^~\\|]+',
    PATTERNS.gpt2.replace('|\\s+(?!\\S)|\\s+', '|\\s+(?!\\S)'),
    '\\p{N}+',
    '[0-9][0-9][0-9]',
  ];
  return { type: 'Sequence', pretokenizers: [...passes.map(split), byteLevel(false)] };
}
