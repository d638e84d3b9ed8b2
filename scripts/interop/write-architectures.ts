/**
 * Writes a folder of every architecture with random weights drawn here, with the logits computed from it, so that
 * `check_folders.py` can load it with transformers and compare: what `savePretrained` writes is a checkpoint of that
 * architecture. GPT-2 also with a LoRA adapter, whose weights are stored [in, out]. The way back is the golden tests' business.
 *
 *   npx ts-node --transpile-only scripts/interop/write-architectures.ts OUT
 *   python scripts/interop/check_folders.py OUT
 */
import { join } from 'node:path';
import type { RawConfig } from '../../src/models/config-reader';
import { LoraConfig } from '../../src/peft/lora-config';
import { AutoModelForCausalLM } from '../../src/pretrained/auto';
import { getPeftModel, PeftModel } from '../../src/pretrained/peft-model';
import { saveMerged } from '../../src/pretrained/save';
import { F32, perturb, Recorder } from './recorder';

const decoder = (model_type: string, architecture: string, more: RawConfig): RawConfig => ({
  architectures: [architecture],
  model_type,
  vocab_size: 160,
  hidden_size: 64,
  intermediate_size: 96,
  num_hidden_layers: 3,
  num_attention_heads: 4,
  num_key_value_heads: 2,
  max_position_embeddings: 64,
  initializer_range: 0.2,
  ...more,
});
const gpt2 = (more: RawConfig): RawConfig => ({
  architectures: ['GPT2LMHeadModel'],
  model_type: 'gpt2',
  vocab_size: 160,
  n_positions: 64,
  n_embd: 48,
  n_layer: 3,
  n_head: 4,
  initializer_range: 0.2,
  ...more,
});

const CONFIGS: Readonly<Record<string, RawConfig>> = {
  llama: decoder('llama', 'LlamaForCausalLM', { rope_theta: 1000 }),
  mistral: decoder('mistral', 'MistralForCausalLM', { sliding_window: 7, rope_theta: 1000 }),
  qwen2: decoder('qwen2', 'Qwen2ForCausalLM', {
    tie_word_embeddings: true,
    use_sliding_window: true,
    sliding_window: 7,
    max_window_layers: 1,
  }),
  qwen3: decoder('qwen3', 'Qwen3ForCausalLM', { head_dim: 24, attention_bias: true }),
  gemma: decoder('gemma', 'GemmaForCausalLM', { head_dim: 24, num_key_value_heads: 1, hidden_act: 'gelu' }),
  gpt2: gpt2({}),
  'gpt2-untied': gpt2({ tie_word_embeddings: false, n_inner: 100, activation_function: 'relu' }),
  'gpt2-scaled': gpt2({
    scale_attn_by_inverse_layer_idx: true,
    reorder_and_upcast_attn: true,
    layer_norm_epsilon: 1e-3,
  }),
};

async function main([out]: string[]): Promise<void> {
  if (!out) throw new Error('usage: write-architectures OUT');
  const recorder = new Recorder(out);
  for (const [name, config] of Object.entries(CONFIGS)) {
    const model = AutoModelForCausalLM.fromConfig(config, { ...F32, seed: 7 });
    model.trainAll();
    await perturb(model); // biases and norms start as constants, which would hide a wrong place
    await model.savePretrained(join(out, name));
    await model.close();
    await recorder.saved(name);
  }
  const open = () => AutoModelForCausalLM.fromPretrained(join(out, 'gpt2'), F32);
  for (const [name, targetModules] of [
    ['gpt2-adapter', null],
    ['gpt2-adapter-all', 'all-linear'],
  ] as const) {
    const model = getPeftModel(await open(), new LoraConfig({ r: 4, loraAlpha: 64, targetModules }));
    await perturb(model);
    await model.savePretrained(join(out, name));
    await saveMerged(model, join(out, `${name}-merged`), { dtype: 'f32' });
    await model.close();
    await recorder.record(
      { name, kind: 'adapter', base: 'gpt2' },
      await PeftModel.fromPretrained(await open(), join(out, name)),
    );
    await recorder.saved(`${name}-merged`);
  }
  recorder.finish();
}

main(process.argv.slice(2)).catch((error: unknown) => {
  console.error(error);
  process.exitCode = 1;
});
