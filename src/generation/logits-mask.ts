/**
 * Tokens that may not be generated now, as f32 `[B, V]` added to the logits: 0, or -infinity. Exists only when a setting
 * forbids something, so that plain generation copies nothing.
 */
import type { GenerationConfig } from './config';
import type { Sequence } from './sequence';

export class LogitsMask {
  private readonly mask: Float32Array;
  private readonly ids: readonly number[];
  private readonly always: ReadonlySet<number>;
  private readonly atFirst: ReadonlySet<number>;

  private constructor(
    private readonly config: GenerationConfig,
    batch: number,
    private readonly vocabulary: number,
  ) {
    const { eosTokenIds, suppressTokens, beginSuppressTokens } = config;
    this.mask = new Float32Array(batch * vocabulary);
    this.ids = [...new Set([...eosTokenIds, ...suppressTokens, ...beginSuppressTokens])].filter(
      (id) => id < vocabulary,
    );
    this.always = new Set(suppressTokens);
    this.atFirst = new Set(beginSuppressTokens);
  }

  /** The mask that the settings need, or null for none. */
  static of(config: GenerationConfig, sequences: readonly Sequence[], vocabulary: number): LogitsMask | null {
    const listed = config.suppressTokens.length > 0 || config.beginSuppressTokens.length > 0;
    const early = config.eosTokenIds.length > 0 && sequences.some((s) => s.tooShort);
    return listed || early ? new LogitsMask(config, sequences.length, vocabulary) : null;
  }

  /** The mask for each sequence's next token; the same array at each call. */
  values(sequences: readonly Sequence[]): Float32Array {
    sequences.forEach((s, row) => {
      for (const id of this.ids) this.mask[row * this.vocabulary + id] = this.forbidden(id, s) ? -Infinity : 0;
    });
    return this.mask;
  }

  private forbidden(id: number, s: Sequence): boolean {
    return (
      this.always.has(id) ||
      (this.atFirst.has(id) && s.tokens.length === 0) ||
      (s.tooShort && this.config.eosTokenIds.includes(id))
    );
  }
}
