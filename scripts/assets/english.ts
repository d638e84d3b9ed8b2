/**
 * The little grammar that the generators need: articles, plurals, past tense, capital letters, lists, number words.
 *
 * Rules first, tables for what the rules do not cover (world/words.ts). Only words that occur in the material of this
 * folder have to come out right; `npm test` checks the generated rows, not English.
 */
import { irregularPasts, irregularPlurals } from './world/words';

const DOUBLED = new Set([
  'stop',
  'hop',
  'plan',
  'rub',
  'drop',
  'clap',
  'hug',
  'jog',
  'grab',
  'nod',
  'shop',
  'skip',
  'tap',
  'wag',
  'trip',
  'chat',
  'beg',
  'hum',
  'pat',
  'mop',
  'wrap',
  'slip',
  'step',
  'swim',
  'run',
  'sit',
  'win',
  'cut',
  'dig',
  'put',
  'get',
  'set',
  'let',
  'hit',
]);
const SILENT_H = /^(hour|honest|heir)/;
const SOUNDS_LIKE_YOU = /^(uni|use|usu|eu|one\b|once)/;

/** "an apple", "a house", "a uniform". */
export function withArticle(noun: string): string {
  const vowel = (/^[aeiou]/i.test(noun) && !SOUNDS_LIKE_YOU.test(noun)) || SILENT_H.test(noun);
  return `${vowel ? 'an' : 'a'} ${noun}`;
}

export function capitalised(text: string): string {
  return text.charAt(0).toUpperCase() + text.slice(1);
}

export function pluralOf(noun: string): string {
  const known = irregularPlurals.get(noun);
  if (known) return known;
  if (/(s|x|z|ch|sh)$/.test(noun)) return `${noun}es`;
  if (/[^aeiou]y$/.test(noun)) return `${noun.slice(0, -1)}ies`;
  return `${noun}s`;
}

export function pastOf(verb: string): string {
  const known = irregularPasts.get(verb);
  if (known) return known;
  if (verb.endsWith('e')) return `${verb}d`;
  if (/[^aeiou]y$/.test(verb)) return `${verb.slice(0, -1)}ied`;
  return DOUBLED.has(verb) ? `${verb}${verb.at(-1)}ed` : `${verb}ed`;
}

/** "walking", "running", "making". */
export function ingOf(verb: string): string {
  if (/ie$/.test(verb)) return `${verb.slice(0, -2)}ying`;
  if (/[^eoy]e$/.test(verb)) return `${verb.slice(0, -1)}ing`;
  return DOUBLED.has(verb) ? `${verb}${verb.at(-1)}ing` : `${verb}ing`;
}

/** "walks", "goes", "carries". */
export function thirdPersonOf(verb: string): string {
  if (verb === 'have') return 'has';
  if (/(s|x|z|ch|sh|o)$/.test(verb)) return `${verb}es`;
  if (/[^aeiou]y$/.test(verb)) return `${verb.slice(0, -1)}ies`;
  return `${verb}s`;
}

/** "a, b and c". */
export function listed(items: readonly string[]): string {
  return items.length < 2 ? items.join('') : `${items.slice(0, -1).join(', ')} and ${items.at(-1)}`;
}

const UNITS =
  'zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen eighteen nineteen'.split(
    ' ',
  );
const TENS = '- - twenty thirty forty fifty sixty seventy eighty ninety'.split(' ');

/** 0 to 100 in words. */
export function numberWord(n: number): string {
  if (n === 100) return 'one hundred';
  if (n < 20) return UNITS[n];
  return n % 10 === 0 ? TENS[n / 10] : `${TENS[Math.floor(n / 10)]}-${UNITS[n % 10]}`;
}
