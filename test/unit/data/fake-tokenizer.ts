/**
 * A tokenizer small enough to compute by hand: one token per letter, digit or mark, words of a fixed list whole.
 * Used where a test is about masks, packing or findings; test/unit/data/goldens.test.ts uses the real one.
 */
import type { ChatMessage, EncodedText, TextTokenizer } from '../../../src/data';

export interface FakeOptions {
  bos?: boolean;
  eos?: string;
  padIsEos?: boolean;
  /** Written after an assistant's turn; '' for a template that forgets the end. */
  turnEnd?: string;
}

const kSpecial = ['<s>', '</s>', '<pad>', '<turn>'];
const kWords = ['### A:', '### Q:', 'cat', 'hello', ' world'];

export class FakeTokenizer implements TextTokenizer {
  readonly vocabSize = 400;
  readonly bosTokenId: number | undefined;
  readonly eosTokenId: number | undefined;
  readonly padTokenId: number | undefined;
  readonly eosToken: string | undefined;

  constructor(private readonly options: FakeOptions = {}) {
    this.bosTokenId = 0;
    this.eosToken = options.eos === '' ? undefined : '</s>';
    this.eosTokenId = this.eosToken === undefined ? undefined : 1;
    this.padTokenId = options.padIsEos ? 1 : 2;
  }

  private encodeOne(text: string, addSpecialTokens: boolean): EncodedText {
    const ids: number[] = [];
    const offsets: [number, number][] = [];
    if (this.options.bos && addSpecialTokens) {
      ids.push(0);
      offsets.push([0, 0]);
    }
    const units = [...kSpecial, ...kWords];
    for (let at = 0; at < text.length;) {
      const unit = units.findIndex((candidate) => text.startsWith(candidate, at));
      const length = unit >= 0 ? units[unit].length : 1;
      ids.push(unit >= 0 ? unit : 50 + (text.charCodeAt(at) % 256));
      offsets.push([at, at + length]);
      at += length;
    }
    return { ids, offsets };
  }

  encodeBatch(texts: readonly string[], options: { addSpecialTokens?: boolean } = {}): Promise<EncodedText[]> {
    return Promise.resolve(texts.map((text) => this.encodeOne(text, options.addSpecialTokens ?? true)));
  }

  decode(ids: ArrayLike<number>): string {
    const units = [...kSpecial, ...kWords];
    return Array.from(ids, (id) => units[id] ?? String.fromCharCode(id - 50)).join('');
  }

  private turn(message: ChatMessage): string {
    return `<turn>${message.role}\n${message.content as string}${this.options.turnEnd ?? '</s>'}\n`;
  }

  applyChatTemplate(messages: readonly ChatMessage[], options: { addGenerationPrompt?: boolean } = {}): string {
    return (
      messages.map((message) => this.turn(message)).join('') + (options.addGenerationPrompt ? '<turn>assistant\n' : '')
    );
  }

  chatTemplateSpans(messages: readonly ChatMessage[]): Promise<{ ids: ArrayLike<number>; mask: Uint8Array }> {
    let text = '';
    const spans: [number, number][] = [];
    for (const message of messages) {
      const start = text.length + `<turn>${message.role}\n`.length;
      text += this.turn(message);
      if (message.role === 'assistant') spans.push([start, text.length - 1]);
    }
    const { ids, offsets } = this.encodeOne(text, false);
    const mask = Uint8Array.from(offsets, ([from, to]) =>
      spans.some(([start, end]) => from < end && to > start) ? 1 : 0,
    );
    return Promise.resolve({ ids, mask });
  }
}
