/**
 * Generation: prompts in, tokens out, as a stream of events.
 *
 * Prompts are read once each (numReturnSequences copies cache rows, it does not read again), several at a time up to
 * `maxPrefillTokens`; then all sequences advance together by one token a step. A sequence that has ended keeps its row of
 * the batch, writes nothing and is not reported; the batch ends with its last sequence.
 *
 * Invariants: a sequence's greedy tokens do not depend on what else is in the batch. A draw depends on the seed, the
 * sequence's index in the batch and the step only. The cache and the programs go back to the session whichever way the
 * stream is left. Legend: B sequences, H history length, V vocabulary.
 */
import { LatheError } from '../errors';
import type { Graph } from '../graph/trace';
import type { CausalLm } from '../models/causal-lm';
import type { ProgramHandle, Session, TensorArray } from '../runtime/session';
import {
  DEFAULT_NEW_TOKENS,
  resolveGenerationConfig,
  sampleParameters,
  type GenerationConfig,
  type GenerationOptions,
} from './config';
import { acquireLane, type Lane } from './lane';
import { LogitsMask } from './logits-mask';
import {
  adapterKey,
  bucketOf,
  decodeProgram,
  forkProgram,
  prefillProgram,
  withAdapters,
  type StepShape,
} from './programs';
import { Sequence, type FinishReason, type GeneratedSequence, type TextDecoder } from './sequence';

/** What can generate: a description, its session and its generation_config.json. `PreTrainedModel` is one. */
export interface GenerationTarget {
  readonly module: CausalLm;
  readonly generationConfig: Readonly<Record<string, unknown>> | null;
  /** Whole modules that an adapter replaced; they cannot be switched off. */
  readonly peft?: { readonly saved: ReadonlyMap<string, unknown> } | null;
  ready(): Promise<Session>;
}

export interface GenerateOptions extends GenerationOptions {
  /** Gives events and results their text; needed for stopStrings. */
  tokenizer?: TextDecoder | null;
  /** Leaves special tokens out of the text. Default true. */
  skipSpecialTokens?: boolean;
  /** false: generate without the low-rank adapters on the model, true: with all of them. Default: those that are active. */
  adapter?: boolean | null;
  /** Gives each event its logits. */
  outputLogits?: boolean;
  /** Prompt tokens read in one run, at most (a longer prompt is read alone). Default 4096. */
  maxPrefillTokens?: number;
  /** Ends the stream with the signal's reason, between two steps. */
  signal?: AbortSignal | null;
}

/** One new token. */
export interface GenerationEvent {
  /** Index of the sequence: prompt * numReturnSequences + k. */
  readonly sequence: number;
  readonly prompt: number;
  readonly token: number;
  readonly logprob: number;
  /** Text that became certain with this token; '' in the middle of a character or of a possible stop string. */
  readonly text: string;
  /** Set on a sequence's last event. */
  readonly finishReason: FinishReason | null;
  /** f32 `[V]` as the model computed them, with outputLogits. */
  readonly logits?: Float32Array;
}

/**
 * Generates for every prompt (token ids; [] starts from the begin token). Yields events as tokens appear, one step of all
 * sequences after another; returns all sequences, in order.
 * Errors: ERR_CONFIG and ERR_UNSUPPORTED for settings, ERR_DATA for a prompt that cannot be continued, ERR_PLAN_MEMORY.
 */
export async function* generate(
  target: GenerationTarget,
  prompts: readonly (readonly number[])[],
  options: GenerateOptions = {},
): AsyncGenerator<GenerationEvent, GeneratedSequence[], void> {
  const run = new Generation(target, prompts, options);
  if (prompts.length === 0) return [];
  return yield* run.events(await target.ready());
}

/** The same without the stream. */
export async function generateAll(
  target: GenerationTarget,
  prompts: readonly (readonly number[])[],
  options: GenerateOptions = {},
): Promise<GeneratedSequence[]> {
  const stream = generate(target, prompts, options);
  for (;;) {
    const next = await stream.next();
    if (next.done) return next.value;
  }
}

/** What programs without types may pass instead: texts, or one prompt without a list around it. */
const areIdLists = (prompts: unknown): boolean =>
  Array.isArray(prompts) && prompts.every((ids) => Array.isArray(ids) || ArrayBuffer.isView(ids));

type Outputs = Record<string, TensorArray>;

class Generation {
  private readonly config: GenerationConfig;
  private readonly module: CausalLm;
  private readonly sequences: Sequence[];
  private readonly vocabulary: number;
  private readonly adapter: boolean | null;
  private readonly outputLogits: boolean;
  private readonly maxPrefillTokens: number;
  private readonly signal: AbortSignal | null;
  private readonly mask: LogitsMask | null;
  private history = new Int32Array(0);
  private step = 0;

  constructor(target: GenerationTarget, prompts: readonly (readonly number[])[], options: GenerateOptions) {
    const {
      tokenizer = null,
      skipSpecialTokens = true,
      adapter = null,
      outputLogits = false,
      maxPrefillTokens = 4096,
      signal = null,
      ...settings
    } = options;
    const module = (this.module = target.module);
    const c = (this.config = resolveGenerationConfig(settings, target.generationConfig, module.config.raw));
    this.vocabulary = module.embedding.shape[0];
    this.adapter = adapter;
    this.outputLogits = outputLogits;
    this.maxPrefillTokens = maxPrefillTokens;
    this.signal = signal;
    if (c.stopStrings.length && !tokenizer)
      throw new LatheError('ERR_CONFIG', 'stopStrings need a tokenizer', {
        at: 'generation options',
        remedy: 'pass { tokenizer }',
      });
    if (adapter === false && target.peft?.saved.size) {
      const [name] = target.peft.saved.keys();
      throw new LatheError(
        'ERR_UNSUPPORTED',
        `the adapter replaced '${name}' as a whole, so the model without it is gone`,
        { at: 'adapter: false', remedy: 'load the base model apart' },
      );
    }
    if (!areIdLists(prompts)) {
      throw new LatheError(
        'ERR_DATA',
        'expected a list of prompts, each a list of token ids, received something else',
        { at: 'prompts', remedy: 'encode the text: [await tokenizer.encode(text)]' },
      );
    }
    this.sequences = prompts.flatMap((ids, prompt) => {
      const full = this.promptIds(ids, prompt);
      const limit = this.limitOf(full.length, prompt);
      return Array.from(
        { length: c.numReturnSequences },
        () => new Sequence(prompt, full, limit, c, tokenizer, skipSpecialTokens),
      );
    });
    this.mask = LogitsMask.of(c, this.sequences, module.head.shape[0]);
  }

  private promptIds(ids: readonly number[], prompt: number): readonly number[] {
    const bad = ids.find((id) => !Number.isInteger(id) || id < 0 || id >= this.vocabulary);
    if (bad !== undefined)
      throw new LatheError('ERR_DATA', `expected token ids from 0 to ${this.vocabulary - 1}, received ${bad}`, {
        at: `prompt ${prompt}`,
        remedy: 'use the tokenizer that belongs to the model',
      });
    if (ids.length) return ids;
    const { bosTokenId } = this.config;
    if (bosTokenId === null)
      throw new LatheError('ERR_DATA', 'the prompt is empty and the model has no begin token', {
        at: `prompt ${prompt}`,
        remedy: 'give at least one token, or bosTokenId',
      });
    return [bosTokenId];
  }

  /** New tokens a prompt may get. The model's positions end where its context ends, whatever was asked for. */
  private limitOf(length: number, prompt: number): number {
    const { maxNewTokens, maxLength } = this.config;
    const context = this.module.config.maxPositions;
    if (length >= context)
      throw new LatheError('ERR_DATA', `the prompt has ${length} tokens, the model's context ${context}`, {
        at: `prompt ${prompt}`,
        remedy: 'shorten the prompt',
      });
    if (maxNewTokens === null && maxLength !== null && length >= maxLength) {
      throw new LatheError('ERR_CONFIG', `maxLength ${maxLength} leaves no room after a prompt of ${length} tokens`, {
        at: `prompt ${prompt}`,
        remedy: 'use maxNewTokens',
      });
    }
    const asked = maxNewTokens ?? (maxLength === null ? DEFAULT_NEW_TOKENS : maxLength - length);
    return Math.min(asked, context - length);
  }

  async *events(session: Session): AsyncGenerator<GenerationEvent, GeneratedSequence[], void> {
    const length = Math.max(...this.sequences.map((s) => s.promptIds.length + s.limit));
    const lane = acquireLane(session, this.module, this.sequences.length, length);
    try {
      this.startHistory(lane);
      for (const group of this.prefillGroups()) yield* this.take(await this.prefill(session, lane, group), group);
      await this.fork(session, lane);
      this.step++;
      let next = this.decode(session, lane);
      while (next) {
        const outputs = await next;
        const running = this.sequences.filter((s) => !s.done);
        const events = this.take(outputs, running);
        this.step++;
        // The engine works on the next step while the caller looks at this one.
        next = this.decode(session, lane);
        next?.catch(() => undefined);
        yield* events;
      }
    } finally {
      lane.busy = false;
    }
    return this.sequences.map((s) => s.result());
  }

  /** Sequences whose prompts are read in one run: first ones of each prompt, in order, as many as fit. */
  private prefillGroups(): Sequence[][] {
    const groups: Sequence[][] = [];
    let tokens = Infinity;
    this.sequences.forEach((s, i) => {
      const copy = i > 0 && this.sequences[i - 1].prompt === s.prompt;
      if (!copy && (tokens += s.promptIds.length) > this.maxPrefillTokens) {
        groups.push([]);
        tokens = s.promptIds.length;
      }
      groups[groups.length - 1].push(s);
    });
    return groups;
  }

  private async prefill(session: Session, lane: Lane, group: readonly Sequence[]): Promise<Outputs> {
    this.signal?.throwIfAborted();
    const batch = this.sequences.length;
    const distinct = group.filter((s, i) => s.prompt !== group[i - 1]?.prompt);
    const tokens = bucketOf(distinct.reduce((n, s) => n + s.promptIds.length, 0));
    const ids = new Int32Array(tokens);
    const positions = new Int32Array(tokens);
    const rows = new Int32Array(tokens).fill(-1);
    const cuSeqlens = new Int32Array(batch + 1);
    const last = new Int32Array(batch).fill(-1);
    let at = 0;
    this.sequences.forEach((s, i) => {
      if (distinct.includes(s)) {
        s.promptIds.forEach((id, position) => {
          ids[at + position] = id;
          positions[at + position] = position;
          rows[at + position] = i * lane.shape.length + position;
        });
        at += s.promptIds.length;
      }
      // A further sequence of the same prompt is an empty document that reads its first one's last position.
      cuSeqlens[i + 1] = at;
      if (group.includes(s)) last[i] = at - 1;
    });
    const program = this.program(lane, `prefill ${tokens}`, (shape) => prefillProgram(this.module, tokens, shape));
    return session.run(program, {
      input_ids: ids,
      position_ids: positions,
      cache_rows: rows,
      cu_seqlens: cuSeqlens,
      last_rows: last,
      ...this.choice(),
    });
  }

  /** Gives further sequences of a prompt the cache rows of its first. */
  private async fork(session: Session, lane: Lane): Promise<void> {
    const from: number[] = [];
    const to: number[] = [];
    let first = 0;
    this.sequences.forEach((s, i) => {
      if (s.prompt !== this.sequences[first].prompt) first = i;
      if (first === i || s.done) return;
      for (let row = 0; row < s.promptIds.length; row++) {
        from.push(first * lane.shape.length + row);
        to.push(i * lane.shape.length + row);
      }
    });
    if (to.length === 0) return;
    const rows = bucketOf(to.length);
    const padded = (list: number[]): Int32Array => Int32Array.from({ length: rows }, (_, i) => list[i] ?? -1);
    const program = lane.program(`fork ${rows}`, () => forkProgram(lane.shape, rows));
    await session.run(program, { from: padded(from), to: padded(to) });
  }

  /** The next token of every sequence that goes on; null when none does. */
  private decode(session: Session, lane: Lane): Promise<Outputs> | null {
    if (this.sequences.every((s) => s.done)) return null;
    if (this.signal?.aborted) return Promise.reject(this.signal.reason as Error);
    const each = (value: (s: Sequence, i: number) => number, ended: number): Int32Array =>
      Int32Array.from(this.sequences, (s, i) => (s.done ? ended : value(s, i)));
    const program = this.program(lane, 'decode', (shape) => decodeProgram(this.module, shape));
    return session.run(program, {
      input_ids: each((s) => s.lastToken, 0),
      position_ids: each((s) => s.length - 1, 0),
      cache_rows: each((s, i) => i * lane.shape.length + s.length - 1, -1),
      lengths: each((s) => s.length, 1),
      ...this.choice(),
    });
  }

  private program(lane: Lane, key: string, build: (shape: StepShape) => Graph): ProgramHandle {
    const shape: StepShape = {
      cache: lane.shape,
      history: this.historyLength(lane),
      mask: this.mask !== null,
      logits: this.outputLogits,
    };
    return withAdapters(this.module, this.adapter, () => {
      const whole = `${key} H${shape.history} ${shape.mask ? 'mask ' : ''}${shape.logits ? 'logits ' : ''}${adapterKey(this.module)}`;
      return lane.program(whole, () => build(shape));
    });
  }

  /** Inputs that decide which token is chosen. */
  private choice(): Outputs {
    const { seed } = this.config;
    const rng = Int32Array.of(seed | 0, Math.floor(seed / 2 ** 32) | 0, this.step, 0);
    const inputs: Outputs = { history: this.history, params: sampleParameters(this.config), rng };
    if (this.mask) inputs.mask = this.mask.values(this.sequences);
    return inputs;
  }

  private historyLength(lane: Lane): number {
    return this.config.repetitionPenalty === 1 ? 1 : lane.shape.length;
  }

  private startHistory(lane: Lane): void {
    const columns = this.historyLength(lane);
    this.history = new Int32Array(this.sequences.length * columns).fill(-1);
    if (columns > 1) this.sequences.forEach((s, i) => this.history.set(s.promptIds, i * columns));
  }

  /** Adds the tokens of a run to `sequences`; the events they make. */
  private take(outputs: Outputs, sequences: readonly Sequence[]): GenerationEvent[] {
    const columns = this.history.length / this.sequences.length;
    return sequences.map((s) => {
      const i = this.sequences.indexOf(s);
      const token = outputs.token[i];
      const logprob = outputs.logprob[i];
      const text = s.push(token, logprob);
      if (columns > 1 && s.length <= columns) this.history[i * columns + s.length - 1] = token;
      const event = { sequence: i, prompt: s.prompt, token, logprob, text, finishReason: s.finishReason };
      if (!this.outputLogits) return event;
      const width = outputs.logits.length / this.sequences.length;
      return { ...event, logits: (outputs.logits as Float32Array).slice(i * width, (i + 1) * width) };
    });
  }
}
