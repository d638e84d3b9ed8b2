/**
 * Which tokens of a row are trained: label masks by search template, by prompt length and by assistant spans.
 *
 * The idea: a mask only ever takes labels away (sets -100), so several compose by being applied in turn. The template
 * search works on ids, as TRL's completion-only collator did (removed in TRL 0.20): with a response template alone,
 * all up to and including its LAST match is masked; with an instruction template too, every stretch from an
 * instruction to the next response is masked.
 *
 * Invariants: masks never unmask; a template that is not found masks the whole row and says so.
 */
import { IGNORE_INDEX } from './types';

/** Start indices of every match of `pattern` in `ids`, overlaps included. */
function findAll(ids: ArrayLike<number>, pattern: ArrayLike<number>): number[] {
  const starts: number[] = [];
  if (pattern.length === 0) return starts;
  for (let i = 0; i + pattern.length <= ids.length; i++) {
    let k = 0;
    while (k < pattern.length && ids[i + k] === pattern[k]) k++;
    if (k === pattern.length) starts.push(i);
  }
  return starts;
}

/** Masks labels[0 .. end - 1]. */
export function maskBefore(labels: Int32Array, end: number): void {
  labels.fill(IGNORE_INDEX, 0, Math.min(Math.max(end, 0), labels.length));
}

export type TemplateResult = { found: true } | { found: false; which: 'response' | 'instruction' };

/**
 * Masks everything but responses.
 * @param labels unshifted, changed in place; already masked positions do not match
 * @param response ids of the response template @param instruction ids of the instruction template, for many turns
 */
export function maskByTemplate(
  labels: Int32Array,
  response: ArrayLike<number>,
  instruction?: ArrayLike<number>,
): TemplateResult {
  const responseEnds = findAll(labels, response).map((start) => start + response.length);
  if (responseEnds.length === 0) {
    labels.fill(IGNORE_INDEX);
    return { found: false, which: 'response' };
  }
  if (instruction === undefined) {
    maskBefore(labels, responseEnds[responseEnds.length - 1]);
    return { found: true };
  }
  const instructionStarts = findAll(labels, instruction);
  if (instructionStarts.length === 0) {
    labels.fill(IGNORE_INDEX);
    return { found: false, which: 'instruction' };
  }
  // A conversation may open with a response: then what precedes it belongs to an instruction at 0.
  if (instructionStarts[0] > responseEnds[0]) instructionStarts.unshift(0);
  const pairs = Math.min(instructionStarts.length, responseEnds.length);
  for (let i = 0; i < pairs; i++) labels.fill(IGNORE_INDEX, i === 0 ? 0 : instructionStarts[i], responseEnds[i]);
  if (responseEnds.length < instructionStarts.length)
    labels.fill(IGNORE_INDEX, instructionStarts[instructionStarts.length - 1]);
  return { found: true };
}

/** Masks every token whose mask is 0. */
export function maskByFlags(labels: Int32Array, mask: Uint8Array): void {
  for (let i = 0; i < labels.length; i++) if (mask[i] === 0) labels[i] = IGNORE_INDEX;
}

/** Number of leading ids that two sequences share: where a completion begins. */
export function commonPrefixLength(a: ArrayLike<number>, b: ArrayLike<number>): number {
  const limit = Math.min(a.length, b.length);
  let length = 0;
  while (length < limit && a[length] === b[length]) length++;
  return length;
}

/** Labels that the loss will see once shifted: the first token of a document is never predicted. */
export function countTrained(labels: Int32Array, from = 1): number {
  let count = 0;
  for (let i = Math.max(from, 1); i < labels.length; i++) if (labels[i] !== IGNORE_INDEX) count++;
  return count;
}
