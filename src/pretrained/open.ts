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
import { canonicalNames } from '../models/registry';
import type { QuantType } from '../ops/quant';
import { isAdapterFolder } from '../peft/load';
import { BitsAndBytesConfig } from '../quantization/bitsandbytes';
import {
  BNB_PARTS,
  bnbStateOwner,
  checkQuantMap,
  decodeBnbState,
  nestedQuantMap,
  quantMap,
} from '../quantization/bnb-state';
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
    throw new LatheError('ERR_FORMAT', `${basename(path)} is not valid JSON: ${(cause as Error).message}`, {
      at: path,
      remedy,
      cause,
    });
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
      remedy: 'give a local folder with config.json and *.safetensors, or a .gguf file',
    });
  }
  return statSync(path).isFile() ? openGgufModel(path) : openFolder(path);
}

async function openGgufModel(path: string): Promise<OpenModel> {
  const file = await openGguf(path);
  const { config, tensors } = await mapGgufModel(file);
  const sources = new Map([...tensors].map(([name, t]) => [name, fromGguf(t)]));
  return {
    path,
    config,
    generationConfig: ggufGeneration(file.metadata),
    sources,
    quantization: null,
    storedDtype: 'bf16',
    gguf: file.metadata,
  };
}

/** generation_config.json out of a GGUF's metadata: generation stops at the ends of text, turn and message. */
function ggufGeneration(metadata: ReadonlyMap<string, unknown>): RawConfig {
  const id = (key: string): number | undefined => {
    const value = metadata.get(`tokenizer.ggml.${key}_token_id`);
    return typeof value === 'number' ? value : undefined;
  };
  const stops = [...new Set(['eos', 'eot', 'eom'].map(id).filter((token) => token !== undefined))];
  const fields = {
    bos_token_id: id('bos'),
    eos_token_id: stops.length > 1 ? stops : stops[0],
    pad_token_id: id('padding'),
  };
  return Object.fromEntries(Object.entries(fields).filter(([, value]) => value !== undefined));
}

/** config.json of a folder, without opening weights. */
export function readModelConfig(dir: string): RawConfig {
  if (!existsSync(join(dir, 'config.json')) && isAdapterFolder(dir)) {
    throw new LatheError('ERR_CONFIG', 'expected a model, received the folder of an adapter', {
      at: dir,
      remedy: 'open it with AutoPeftModelForCausalLM, or its base model with this adapter',
    });
  }
  return readJsonObject(join(dir, 'config.json'), 'give a folder that holds a model in Hugging Face format');
}

async function openFolder(path: string): Promise<OpenModel> {
  const config = readModelConfig(path);
  const tensors = await openCheckpoint(path);
  const raw = config.quantization_config as Record<string, unknown> | undefined;
  if (raw && raw.quant_method !== 'bitsandbytes') {
    throw new LatheError('ERR_UNSUPPORTED', `quantisation method '${String(raw.quant_method)}' is not supported`, {
      at: join(path, 'config.json'),
      remedy: 'use a dense or a bitsandbytes 4-bit checkpoint',
    });
  }
  const quantization = raw ? BitsAndBytesConfig.fromJson(raw) : null;
  const generationPath = join(path, 'generation_config.json');
  return {
    path,
    config,
    generationConfig: existsSync(generationPath) ? readJsonObject(generationPath, 'repair or remove the file') : null,
    sources: canonicalNames(config, await weightSources(tensors)),
    quantization,
    storedDtype: [...tensors.values()].some(
      (t) => t.dtype === 'F32' && t.shape.length === 2 && !t.name.includes('absmax'),
    )
      ? 'f32'
      : 'bf16',
    gguf: null,
  };
}

async function weightSources(tensors: ReadonlyMap<string, TensorSource>): Promise<Map<string, WeightSource>> {
  const quantised = new Map<string, WeightSource>();
  const parts = new Set<string>();
  for (const [key, source] of tensors) {
    const owner = bnbStateOwner(key);
    if (!owner) continue;
    quantised.set(owner.name, await bitsAndBytesParts(owner.name, owner.type, source, tensors));
    for (const suffix of Object.values(BNB_PARTS)) parts.add(owner.name + suffix);
    parts.add(key);
  }
  const sources = new Map<string, WeightSource>();
  for (const [name, source] of tensors)
    if (!parts.has(name)) sources.set(name, quantised.get(name) ?? fromSafetensors(source));
  return sources;
}

async function bitsAndBytesParts(
  name: string,
  type: QuantType,
  state: TensorSource,
  tensors: ReadonlyMap<string, TensorSource>,
): Promise<WeightSource> {
  const part = (suffix: string): TensorSource => {
    const found = tensors.get(name + suffix);
    if (!found)
      throw new LatheError('ERR_CHECKPOINT', `missing tensor '${name}${suffix}'`, {
        at: state.path,
        remedy: 'the 4-bit checkpoint is incomplete',
      });
    return found;
  };
  const table = async (suffix: string, expected: Float32Array): Promise<void> => {
    const source = part(suffix);
    if (source.dtype !== 'F32')
      throw new LatheError('ERR_CHECKPOINT', `tensor '${source.name}' expected F32, received ${source.dtype}`, {
        at: source.path,
      });
    checkQuantMap(new Float32Array((await readTensorBytes(source)).buffer), expected, source.name, source.path);
  };
  const decoded = decodeBnbState(await readTensorBytes(state), name, type, state.path);
  const nested = decoded.nestedOffset !== null;
  await table(BNB_PARTS.map, quantMap(type));
  if (nested) await table(BNB_PARTS.nestedMap, nestedQuantMap());
  const parts = [part(''), part(BNB_PARTS.absmax), ...(nested ? [part(BNB_PARTS.nestedAbsmax)] : [])].map((source) => ({
    source,
  }));
  return { kind: 'parts', parts, state: decoded };
}
