/** One sequence being generated: its tokens, its text, and why it ended. */
import type { GenerationConfig } from './config';
import { StopStrings } from './stop-strings';

/** What generation needs from a tokenizer; `Tokenizer` is one. */
export interface TextDecoder {
  createDecoder(options: { skipSpecialTokens?: boolean }): { push(id: number): string; flush(): string };
  tokenToId(token: string): number | undefined;
  readonly allSpecialTokens: readonly string[];
}

/** `eos`: an end token. `stop`: a stop string. `length`: the token limit. */
export type FinishReason = 'eos' | 'stop' | 'length';

export interface GeneratedSequence {
  /** Index of the prompt. */
  readonly prompt: number;
  /** New tokens, the one that ended the sequence included. */
  readonly tokens: readonly number[];
  /** Log-probability of each token under the distribution it was taken from. */
  readonly logprobs: readonly number[];
  /** Text of the new tokens up to the stop string; '' without a tokenizer. */
  readonly text: string;
  readonly finishReason: FinishReason;
  /** The stop string that was met, with finishReason 'stop'. */
  readonly stopString: string | null;
}

export class Sequence {
  readonly tokens: number[] = [];
  readonly logprobs: number[] = [];
  text = '';
  finishReason: FinishReason | null = null;
  stopString: string | null = null;
  private readonly decoder: ReturnType<TextDecoder['createDecoder']> | null;
  private readonly stops: StopStrings;
  /** Stop strings that are special tokens never show up in the text. */
  private readonly stopIds = new Map<number, string>();

  /**
   * @param limit new tokens at most.
   */
  constructor(
    readonly prompt: number,
    readonly promptIds: readonly number[],
    readonly limit: number,
    private readonly config: GenerationConfig,
    tokenizer: TextDecoder | null,
    skipSpecialTokens: boolean,
  ) {
    this.decoder = tokenizer?.createDecoder({ skipSpecialTokens }) ?? null;
    this.stops = new StopStrings(config.stopStrings);
    if (!tokenizer || !skipSpecialTokens) return;
    for (const stop of config.stopStrings)
      if (tokenizer.allSpecialTokens.includes(stop)) this.stopIds.set(tokenizer.tokenToId(stop)!, stop);
  }

  get done(): boolean {
    return this.finishReason !== null;
  }

  /** Tokens in the cache after the newest one has been read. */
  get length(): number {
    return this.promptIds.length + this.tokens.length;
  }

  get lastToken(): number {
    return this.tokens[this.tokens.length - 1];
  }

  /** True while an end token is not allowed. */
  get tooShort(): boolean {
    return this.tokens.length < this.config.minNewTokens || this.length < this.config.minLength;
  }

  /** Adds a token; returns the text that became certain. */
  push(token: number, logprob: number): string {
    this.tokens.push(token);
    this.logprobs.push(logprob);
    let piece = this.stops.push(this.decoder?.push(token) ?? '');
    if (this.stops.found !== null) this.finish('stop', this.stops.found);
    else if (this.config.eosTokenIds.includes(token)) this.finish('eos');
    else if (this.stopIds.has(token)) this.finish('stop', this.stopIds.get(token));
    else if (this.tokens.length >= this.limit) this.finish('length');
    if (this.done) piece += this.rest();
    this.text += piece;
    return piece;
  }

  private finish(reason: FinishReason, stopString: string | null = null): void {
    this.finishReason = reason;
    this.stopString = stopString;
  }

  /** What the decoder and the stop strings still hold back. An unfinished character may complete a stop string. */
  private rest(): string {
    const piece = this.stops.push(this.decoder?.flush() ?? '') + this.stops.flush();
    if (this.stops.found !== null) this.finish('stop', this.stops.found);
    return piece;
  }

  result(): GeneratedSequence {
    const { prompt, tokens, logprobs, text, finishReason, stopString } = this;
    return { prompt, tokens, logprobs, text, finishReason: finishReason!, stopString };
  }
}
