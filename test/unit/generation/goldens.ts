/** What transformers generates from the tiny Llama checkpoints (scripts/golden/generate_tiny.py), and loaders for them. */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { readTensorFloats } from '../../../src/io/float-codec';
import { openSafetensors } from '../../../src/io/safetensors';
import { LoraConfig } from '../../../src/peft/lora-config';
import { AutoModelForCausalLM, type FromPretrainedOptions } from '../../../src/pretrained/auto';
import type { PreTrainedModel } from '../../../src/pretrained/model';
import { fromSafetensors } from '../../../src/pretrained/weights';

const GOLDEN = join(__dirname, '../../golden');

export interface ModelGolden {
  prompts: number[][];
  greedy: number[][];
  margin: number;
  penalty: number[][];
  eos: { eos_token_id: number[]; tokens: number[] };
  suppressed: { suppress_tokens: number[]; eos_token_id: number[]; min_new_tokens: number; tokens: number[][] };
  adapter: number[][];
}

export const MODELS = ['tied', 'biased', 'llama3'] as const;

const all = JSON.parse(readFileSync(join(GOLDEN, 'generation/generate.json'), 'utf8')) as {
  models: Record<string, ModelGolden>;
};

export const golden = (name: string): ModelGolden => all.models[name];

/** f32 `[12 * V]` behind the greedy tokens of a prompt. */
export async function goldenLogits(name: string, prompt: number): Promise<Float32Array> {
  const { tensors } = await openSafetensors(join(GOLDEN, 'generation/logits.safetensors'));
  return readTensorFloats([...tensors.values()].find((t) => t.name === `${name}.${prompt}`)!);
}

export function openTiny(name: string, options: FromPretrainedOptions = {}): Promise<PreTrainedModel> {
  return AutoModelForCausalLM.fromPretrained(join(GOLDEN, 'llama-tiny', name), {
    dtype: 'f32',
    threads: 2,
    ...options,
  });
}

/** The model with its golden adapter on it. */
export async function openWithAdapter(name: string, options: FromPretrainedOptions = {}): Promise<PreTrainedModel> {
  const model = await openTiny(name, options);
  const folder = join(GOLDEN, 'llama-tiny', name, 'adapter');
  const { r, lora_alpha, target_modules } = JSON.parse(readFileSync(join(folder, 'adapter_config.json'), 'utf8')) as {
    r: number;
    lora_alpha: number;
    target_modules: string[];
  };
  model.addAdapter(new LoraConfig({ r, loraAlpha: lora_alpha, targetModules: target_modules }));
  const { tensors } = await openSafetensors(join(folder, 'adapter_model.safetensors'));
  model.setAdapterSources(new Map([...tensors.values()].map((t) => [t.name, fromSafetensors(t)])), folder);
  return model;
}
