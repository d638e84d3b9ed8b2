/**
 * The addon's BPE trainer and encoder in the form that src/tokenizers asks for. The tokenizers may not know the addon, so
 * whoever stands above both hands them this.
 */
import { convertErrors, hasNative, loadNative, toLatheError } from './binding';
import type { NativeBpeEncoder, NativeBpeEncoderOptions, NativeBpeOptions, NativeBpeResult } from './native';

const POLL_MS = 100;

export interface BpeTraining {
  feed(utf8: Uint8Array, lengths: Uint32Array): Promise<void>;
  train(progress?: (merges: number, tokens: number) => void): Promise<NativeBpeResult>;
}

/** Everything native that training a tokenizer needs; the addon is loaded when the first trainer is made. */
export const tokenizerTraining = {
  /** @throws LatheError ERR_NATIVE_LOAD, ERR_CONFIG */
  createBpeTrainer(options: NativeBpeOptions): BpeTraining {
    const trainer = convertErrors(() => loadNative().createBpeTrainer(options));
    const settled = async <T>(call: () => Promise<T>): Promise<T> => {
      try {
        return await call();
      } catch (error) {
        throw toLatheError(error);
      }
    };
    return {
      feed: (utf8, lengths) => settled(() => trainer.feed(utf8, lengths)),
      train: (progress) =>
        settled(async () => {
          const pending = trainer.train();
          const poll = () => {
            const { merges, tokens } = trainer.progress();
            if (merges > 0) progress?.(merges, tokens);
          };
          const timer = setInterval(poll, POLL_MS);
          try {
            return await pending;
          } finally {
            clearInterval(timer);
          }
        }),
    };
  },
};

/** null without the addon: the `tokenizers` library then encodes. */
export function createBpeEncoder(options: NativeBpeEncoderOptions): NativeBpeEncoder | null {
  if (!hasNative()) return null;
  const encoder = convertErrors(() => loadNative().createBpeEncoder(options));
  return {
    encode: (utf8, lengths) =>
      encoder.encode(utf8, lengths).catch((error: unknown) => {
        throw toLatheError(error);
      }),
  };
}
