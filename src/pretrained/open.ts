/**
 * Opens a model on disk, reading headers only: a Hugging Face folder (config.json, safetensors) or a GGUF file.
 * A bitsandbytes 4-bit checkpoint is recognised by its config and its `quant_state` tensors.
 */
import { existsSync, readFileSync, statSync } from 'node:fs';
import { basename, join } from 'node:path';
import { LatheError } from '../errors';
import { openCheckpoint } from '../io/checkpoint-files';
import { mapGgufModel } from '../io/gguf/llama';
import { openGguf } from '../io/gguf/reader';
import { readTensorBytes, type TensorSource } from '../io/tensor-source';
import type { RawConfig } from '../models/config-reader';
import { BitsAndBytesConfig } from '../quantization/bitsandbytes';
import { fromGguf, fromSafetensors, type WeightSource } from './weights';

export interface OpenModel {
  /** Folder or file given. */
  readonly path: string;
  readonly config: RawConfig;
  readonly generationConfig: RawConfig | null;
  readonly sources: ReadonlyMap<string, WeightSource>;
  /** The checkpoint's own 4-bit storage; null for a dense one. */
  readonly quantization: BitsAndBytesConfig | null;
  /** Stored float type of most weights, for `dtype: auto`. */
  readonly storedDtype: 'f32' | 'bf16';
  /** Set for GGUF: metadata with the tokenizer. */
  readonly gguf: ReadonlyMap<string, unknown> | null;
}

/** Reads a JSON object file; a missing or broken file is an error that names it. */
export function readJsonObject(path: string, remedy: string): Record<string, unknown> {
  let text: string;
  try {
    text = readFileSync(path, 'utf8');
  } catch (cause) {
    throw new LatheError('ERR_FORMAT', `cannot read ${basename(path)}`, { at: path, remedy, cause });
  }
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch (cause) {
    throw new LatheError('ERR_FORMAT', `${basename(path)} is not valid JSON: ${(cause as Error).message}`, { at: path, remedy, cause });
  }
  if (typeof value !== 'object' || value === null || Array.isArray(value)) {
    throw new LatheError('ERR_FORMAT', `${basename(path)} expected an object`, { at: path, remedy });
  }
  return value as Record<string, unknown>;
}

/** @throws LatheError ERR_FORMAT / ERR_CHECKPOINT naming the file, tensor or key. */
export async function openModel(path: string): Promise<OpenModel> {
  if (!existsSync(path)) {
    throw new LatheError('ERR_CONFIG', `model '${path}' is neither a folder nor a file here`, {
      remedy: 'give a local folder with config.json and *.safetensors, or a .gguf file; download it first with `lathe download` or huggingface-cli',
    });
  }
  return statSync(path).isFile() ? openGgufModel(path) : openFolder(path);
}

async function openGgufModel(path: string): Promise<OpenModel> {
  const file = await openGguf(path);
  const { config, tensors } = await mapGgufModel(file);
  const sources = new Map([...tensors].map(([name, t]) => [name, fromGguf(t)]));
  return { path, config, generationConfig: null, sources, quantization: null, storedDtype: 'bf16', gguf: file.metadata };
}

/** config.json of a folder, without opening weights. */
export function readModelConfig(dir: string): RawConfig {
  return readJsonObject(join(dir, 'config.json'), 'give a folder that holds a model in Hugging Face format');
}

async function openFolder(path: string): Promise<OpenModel> {
  const config = readModelConfig(path);
  const tensors = await openCheckpoint(path);
  const raw = config.quantization_config as Record<string, unknown> | undefined;
  if (raw && raw.quant_method !== 'bitsandbytes') {
    throw new LatheError('ERR_UNSUPPORTED', `quantisation method '${String(raw.quant_method)}' is not supported`, { at: join(path, 'config.json'), remedy: 'use a dense or a bitsandbytes 4-bit checkpoint' });
  }
  const quantization = raw ? BitsAndBytesConfig.fromJson(raw) : null;
  const generationPath = join(path, 'generation_config.json');
  return {
    path,
    config,
    generationConfig: existsSync(generationPath) ? readJsonObject(generationPath, 'repair or remove the file') : null,
    sources: await weightSources(tensors),
    quantization,
    storedDtype: [...tensors.values()].some((t) => t.dtype === 'F32' && t.shape.length === 2 && !t.name.includes('absmax')) ? 'f32' : 'bf16',
    gguf: null,
  };
}

const STATE_KEY = /^(.*\.weight)\.quant_state\.bitsandbytes__(nf4|fp4)$/;

async function weightSources(tensors: ReadonlyMap<string, TensorSource>): Promise<Map<string, WeightSource>> {
  const sources = new Map<string, WeightSource>();
  const quantised = new Map<string, TensorSource>();
  for (const [name, source] of tensors) {
    const base = STATE_KEY.exec(name)?.[1];
    if (base) quantised.set(base, source);
  }
  for (const [name, source] of tensors) {
    if (quantised.has(name) || [...partSuffixes].some((suffix) => name.endsWith(suffix)) || STATE_KEY.test(name)) continue;
    sources.set(name, fromSafetensors(source));
  }
  for (const [name, state] of quantised) sources.set(name, await bitsAndBytesParts(name, state, tensors));
  return sources;
}

const partSuffixes = ['.weight.absmax', '.weight.quant_map', '.weight.nested_absmax', '.weight.nested_quant_map'];

async function bitsAndBytesParts(name: string, state: TensorSource, tensors: ReadonlyMap<string, TensorSource>): Promise<WeightSource> {
  const part = (suffix: string): TensorSource => {
    const found = tensors.get(name + suffix);
    if (!found) throw new LatheError('ERR_CHECKPOINT', `missing tensor '${name}${suffix}'`, { at: state.path, remedy: 'the 4-bit checkpoint is incomplete' });
    return found;
  };
  const json = JSON.parse(Buffer.from(await readTensorBytes(state)).toString('utf8')) as Record<string, unknown>;
  if (json.blocksize !== 64) {
    throw new LatheError('ERR_UNSUPPORTED', `'${name}' uses blocks of ${String(json.blocksize)}, only 64 is supported`, { at: state.path });
  }
  const nested = json.nested_offset !== undefined;
  const parts = [part(''), part('.absmax'), ...(nested ? [part('.nested_absmax')] : [])].map((source) => ({ source }));
  return { kind: 'parts', parts, nestedOffset: nested ? Number(json.nested_offset) : null };
}
