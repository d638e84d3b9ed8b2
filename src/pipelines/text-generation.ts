/**
 * Text generation from texts and conversations: what transformers calls `pipeline('text-generation')`.
 *
 * A conversation is rendered with the tokenizer's chat template; one that ends with the assistant's words is continued
 * from there. Everything else is `generate`. Defaults are the pipeline's own where neither the call nor
 * generation_config.json says anything: 256 new tokens, drawn at temperature 0.7.
 */
import { LatheError } from '../errors';
import { generate, generateAll, type GenerateOptions, type GenerationTarget } from '../generation/generate';
import type { FinishReason, GeneratedSequence } from '../generation/sequence';
import type { ChatMessage, ChatTemplateOptions } from '../tokenizers/chat-template';
import type { Tokenizer } from '../tokenizers/tokenizer';

/** A text, or a conversation. */
export type TextGenerationInput = string | readonly ChatMessage[];

export interface TextGenerationOptions extends Omit<GenerateOptions, 'tokenizer' | 'outputLogits'> {
  /** Puts the prompt before the new text, or the conversation before the new message. Default true. */
  returnFullText?: boolean;
  /** For conversations: tools, documents, another template, its variables. */
  chat?: Omit<ChatTemplateOptions, 'addGenerationPrompt'>;
}

export interface TextGenerationOutput {
  /** New text, with the prompt before it; for a conversation its messages and the answer. */
  readonly generatedText: string | ChatMessage[];
  readonly tokens: readonly number[];
  readonly finishReason: FinishReason;
}

/** Prompts per model run when many are given. */
const BATCH = 8;

const DEFAULTS = { maxNewTokens: 256, doSample: true, temperature: 0.7 } as const;

export class TextGenerationPipeline {
  constructor(
    readonly model: GenerationTarget & { close?(): Promise<void> },
    readonly tokenizer: Tokenizer,
    private readonly defaults: TextGenerationOptions = {},
  ) {}

  /**
   * numReturnSequences outputs for one input; a list of those for a list of inputs, in batches of 8 (`batchSize`).
   * Errors: those of `generate`; ERR_CONFIG for a conversation without a chat template.
   */
  run(input: TextGenerationInput, options?: TextGenerationOptions): Promise<TextGenerationOutput[]>;
  run(
    inputs: readonly TextGenerationInput[],
    options?: TextGenerationOptions & { batchSize?: number },
  ): Promise<TextGenerationOutput[][]>;
  async run(
    input: TextGenerationInput | readonly TextGenerationInput[],
    options: TextGenerationOptions & { batchSize?: number } = {},
  ): Promise<TextGenerationOutput[] | TextGenerationOutput[][]> {
    const { batchSize = BATCH, ...rest } = options;
    if (isSingle(input)) return (await this.runBatch([input], rest))[0];
    const inputs = input;
    const outputs: TextGenerationOutput[][] = [];
    for (let i = 0; i < inputs.length; i += batchSize)
      outputs.push(...(await this.runBatch(inputs.slice(i, i + batchSize), rest)));
    return outputs;
  }

  /** New text of one input, piece by piece. Errors: as `run`; ERR_CONFIG for more than one return sequence. */
  async *stream(input: TextGenerationInput, options: TextGenerationOptions = {}): AsyncGenerator<string, void, void> {
    const { settings, chat } = this.settings(options);
    if ((settings.numReturnSequences ?? 1) > 1)
      throw new LatheError('ERR_CONFIG', 'a stream has one sequence', {
        at: 'numReturnSequences',
        remedy: 'use run() for several',
      });
    for await (const event of generate(this.model, [await this.encode(input, chat)], settings))
      if (event.text) yield event.text;
  }

  private async runBatch(
    inputs: readonly TextGenerationInput[],
    options: TextGenerationOptions,
  ): Promise<TextGenerationOutput[][]> {
    const { settings, chat, returnFullText } = this.settings(options);
    const prompts = await Promise.all(inputs.map((input) => this.encode(input, chat)));
    const outputs: TextGenerationOutput[][] = inputs.map(() => []);
    for (const sequence of await generateAll(this.model, prompts, settings))
      outputs[sequence.prompt].push(outputOf(inputs[sequence.prompt], sequence, returnFullText));
    return outputs;
  }

  private settings(options: TextGenerationOptions): {
    settings: GenerateOptions;
    chat: TextGenerationOptions['chat'];
    returnFullText: boolean;
  } {
    const { returnFullText = true, chat, ...given } = { ...this.defaults, ...options };
    const file = this.model.generationConfig ?? {};
    const unset = (...keys: string[]): boolean =>
      keys.every((key) => (given as Record<string, unknown>)[key] == null && file[key] == null);
    const settings: GenerateOptions = { ...given, tokenizer: this.tokenizer };
    if (unset('maxNewTokens', 'max_new_tokens', 'maxLength', 'max_length'))
      settings.maxNewTokens = DEFAULTS.maxNewTokens;
    if (unset('doSample', 'do_sample')) {
      settings.doSample = DEFAULTS.doSample;
      if (unset('temperature')) settings.temperature = DEFAULTS.temperature;
    }
    // A model without an end token of its own ends where its tokenizer says.
    if (unset('eosTokenId', 'eos_token_id') && this.model.module.config.raw.eos_token_id == null)
      settings.eosTokenId = this.tokenizer.eosTokenId;
    return { settings, chat, returnFullText };
  }

  private encode(input: TextGenerationInput, chat: TextGenerationOptions['chat']): Promise<number[]> {
    if (typeof input === 'string') return this.tokenizer.encode(input);
    const last = input[input.length - 1];
    if (last?.role !== 'assistant')
      return this.tokenizer.applyChatTemplate(input, { ...chat, addGenerationPrompt: true, tokenize: true });
    return this.tokenizer.encode(this.openEnded(input, last, chat), { addSpecialTokens: false });
  }

  /** The rendered conversation, cut where the assistant's last words end. */
  private openEnded(messages: readonly ChatMessage[], last: ChatMessage, chat: TextGenerationOptions['chat']): string {
    const text = this.tokenizer.applyChatTemplate(messages, chat);
    const content = typeof last.content === 'string' ? last.content : '';
    // Templates may trim what they are given.
    for (const words of [content, content.trimEnd(), content.trim()]) {
      const at = words === '' ? -1 : text.lastIndexOf(words);
      if (at >= 0) return text.slice(0, at + words.length);
    }
    throw new LatheError(
      'ERR_DATA',
      "the rendered conversation does not show the assistant's last message, so it cannot be continued",
      {
        at: `message ${messages.length - 1}`,
        remedy: "end with a message of role 'user', or give the assistant's message some text",
      },
    );
  }
}

/** A text, or messages (objects with a role) rather than a list of inputs. */
function isSingle(input: TextGenerationInput | readonly TextGenerationInput[]): input is TextGenerationInput {
  return typeof input === 'string' || (input.length > 0 && typeof input[0] === 'object' && !Array.isArray(input[0]));
}

function outputOf(
  input: TextGenerationInput,
  { text, tokens, finishReason }: GeneratedSequence,
  fullText: boolean,
): TextGenerationOutput {
  return { generatedText: fullText ? withPrompt(input, text) : text, tokens, finishReason };
}

function withPrompt(input: TextGenerationInput, text: string): string | ChatMessage[] {
  if (typeof input === 'string') return input + text;
  const last = input[input.length - 1];
  if (last?.role === 'assistant')
    return [...input.slice(0, -1), { ...last, content: `${String(last.content)}${text}` }];
  return [...input, { role: 'assistant', content: text }];
}
