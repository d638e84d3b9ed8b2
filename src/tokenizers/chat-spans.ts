/**
 * Which characters of a rendered conversation the assistant wrote.
 *
 * A template with `{% generation %}` says so itself. For any other template the answer is found by rendering
 * prefixes: the text of the messages before an assistant turn with the generation prompt (what the model sees) and
 * the text up to and including that turn (what it should add). The difference is the span; it ends after the last
 * special token of the turn, since nothing behind the stop token is ever generated.
 *
 * Invariant: a span is only ever returned when both texts are prefixes of the whole conversation's text; when a
 * template rewrites earlier turns (reasoning models drop old thoughts), that is an error and never a wrong mask.
 */
import { LatheError } from '../errors';
import { renderChat, type ChatMessage, type ChatTemplateOptions } from './chat-template';

export interface SpanOptions extends Omit<ChatTemplateOptions, 'addGenerationPrompt'> {
  /** 'all' assistant turns (default), or the 'last' one only. */
  turns?: 'all' | 'last';
}

/** The text of the conversation and the [start, end) character ranges (UTF-16) that the assistant wrote. */
export function assistantSpans(
  template: string,
  messages: readonly ChatMessage[],
  specialTokens: ReadonlyMap<string, string>,
  allSpecial: readonly string[],
  options: SpanOptions = {},
): { text: string; spans: [number, number][] } {
  const render = (part: readonly ChatMessage[], addGenerationPrompt: boolean) =>
    renderChat(template, part, specialTokens, { ...options, addGenerationPrompt });
  const whole = render(messages, false);
  const turns = messages.flatMap((message, index) => (message.role === 'assistant' ? [index] : []));
  const wanted = options.turns === 'last' ? turns.slice(-1) : turns;
  if (whole.hasGeneration) {
    return { text: whole.text, spans: options.turns === 'last' ? whole.spans.slice(-1) : whole.spans };
  }

  const spans = wanted.map((index): [number, number] => {
    if (index === 0) {
      throw new LatheError(
        'ERR_DATA',
        'the conversation starts with the assistant, so there is no prompt to render before its turn',
        {
          at: 'messages[0]',
          remedy: 'start with a system or user message, or use a template with {% generation %}',
        },
      );
    }
    const before = render(messages.slice(0, index), true).text;
    const after = render(messages.slice(0, index + 1), false).text;
    requirePrefix(before, after, index, 'the prompt before it (with the generation prompt)');
    refuseFixedPrompt(before, after, allSpecial, index);
    requirePrefix(after, whole.text, index, 'the conversation up to it');
    return [before.length, before.length + turnLength(after.slice(before.length), allSpecial)];
  });
  return { text: whole.text, spans };
}

function requirePrefix(part: string, text: string, index: number, what: string): void {
  if (text.startsWith(part)) return;
  let same = 0;
  while (same < part.length && part[same] === text[same]) same++;
  const show = (s: string) => JSON.stringify(s.slice(Math.max(0, same - 10), same + 30));
  throw new LatheError(
    'ERR_DATA',
    `cannot tell what the assistant wrote: ${what} renders to ${show(part)}, but in the longer conversation that place is ${show(text)}; the template changes earlier text`,
    {
      at: `messages[${index}], character ${same}`,
      remedy:
        "split the conversation into one example per assistant turn and use turns: 'last', or pass a chatTemplate with {% generation %} around the assistant's text",
    },
  );
}

/** A template that always ends with a generation prompt would have that prompt taken for the assistant's words. */
function refuseFixedPrompt(before: string, after: string, allSpecial: readonly string[], index: number): void {
  let common = 0;
  while (common < before.length && before[before.length - 1 - common] === after[after.length - 1 - common]) common++;
  const tail = before.slice(before.length - common);
  if (after.length > before.length && allSpecial.some((token) => tail.includes(token))) {
    throw new LatheError(
      'ERR_DATA',
      `the template ends every conversation with ${JSON.stringify(tail.slice(-60))}, whether or not a generation prompt is asked for`,
      {
        at: `messages[${index}]`,
        remedy: 'use a template that writes it only under {% if add_generation_prompt %}',
      },
    );
  }
}

/** Length of the turn without the blanks that follow its last special token. */
function turnLength(turn: string, allSpecial: readonly string[]): number {
  const body = turn.trimEnd();
  return allSpecial.some((token) => token !== '' && body.endsWith(token)) ? body.length : turn.length;
}

/** mask[i] = 1 where token i overlaps a span; tokens of no width lie between their neighbours. */
export function maskOfSpans(spans: readonly [number, number][], offsets: readonly [number, number][]): Uint8Array {
  const mask = new Uint8Array(offsets.length);
  for (const [start, end] of spans) {
    let first = 0;
    while (first < offsets.length && offsets[first][1] <= start) first++;
    let last = offsets.length - 1;
    while (last >= 0 && offsets[last][0] >= end) last--;
    mask.fill(1, first, last + 1);
  }
  return mask;
}
