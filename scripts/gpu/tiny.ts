/** What --tiny makes of Llama-3-8B: the same description, small enough for a rehearsal on a CPU or on the host shim. */
import type { RawConfig } from '../../src/models/config-reader';

export const TINY_LLAMA: RawConfig = {
  hidden_size: 64,
  intermediate_size: 128,
  num_hidden_layers: 2,
  num_attention_heads: 4,
  num_key_value_heads: 2,
  vocab_size: 256,
};
