/**
 * Model folders as transformers writes them: config.json, generation_config.json, model.safetensors (or shards) and the
 * tokenizer's files.
 *
 * The weights stream out of the session one tensor at a time. All files take the place of an earlier save's, or none does.
 */
import { join } from 'node:path';
import { LatheError } from '../errors';
import { writeFileAtomic, writeJsonAtomic } from '../io/atomic-file';
import { writeShardedCheckpoint, type CheckpointWritten } from '../io/checkpoint-files';
import { replaceFileSets } from '../io/file-set';
import { MODEL_FILES } from '../io/model-files';
import type { TensorToWrite } from '../io/safetensors';
import { elementCount } from '../graph/tensor';
import type { RawConfig } from '../models/config-reader';
import { saveAdapter } from '../peft/save';
import { TOKENIZER_FILES } from '../tokenizers/tokenizer-files';
import { bnbTensors, denseTensors, torchName, type FloatDType } from './tensor-export';
import { copyTokenizer, type TokenizerSource } from './tokenizer-copy';
import type { PreTrainedModel } from './model';

export interface SaveOptions {
  /** Upper bound of one file's tensors; default 50 GB. */
  maxShardBytes?: number;
  /** Float type of the saved weights; default: as they are held. Not for 4-bit models. */
  dtype?: FloatDType;
  /** What to save as tokenizer; default: the files of the model's own folder or GGUF, when it has any. Null saves none. */
  tokenizer?: TokenizerSource | null;
}

export type ModelSaved = CheckpointWritten;

/**
 * What transformers' save_pretrained would write: the adapter folder when the model carries an adapter, else the model.
 * Trainers call it; the tokenizer is theirs.
 */
export async function saveModelFiles(
  model: PreTrainedModel,
  dir: string,
  o: SaveOptions = { tokenizer: null },
): Promise<ModelSaved> {
  if (!model.peft) return saveModel(model, dir, o);
  const { files, bytes, parameters } = await saveAdapter(model, dir);
  return { files, totalBytes: bytes, totalParameters: parameters };
}

/** Writes the base model: dense, or 4-bit parts for a 4-bit model. Adapters are not part of it. */
export async function saveModel(model: PreTrainedModel, dir: string, o: SaveOptions = {}): Promise<ModelSaved> {
  const session = await model.ready();
  const { quantization } = model.origin;
  if (!quantization?.loadIn4bit) {
    const dtype = o.dtype ?? heldDtype(model);
    return writeModel(model, dir, denseTensors(model.module, session, dtype), configWith(model.config, dtype), o);
  }
  if (o.dtype)
    throw new LatheError('ERR_CONFIG', `dtype '${o.dtype}' does not apply to a 4-bit model`, {
      remedy: 'leave dtype out, or save it dense with saveMerged',
    });
  const dtype = model.module.computeDtype as FloatDType;
  const config = { ...configWith(model.config, dtype), quantization_config: quantization.toJson(dtype) };
  return writeModel(model, dir, await bnbTensors(model.module, session), config, o);
}

/**
 * Writes the model with its adapter merged, dense: W + scaling * B A in fp32, rounded once to `dtype` (default: the type of
 * the activations). Works for dense and 4-bit bases, with or without an adapter; the model itself stays as it is.
 */
export async function saveMerged(model: PreTrainedModel, dir: string, o: SaveOptions = {}): Promise<ModelSaved> {
  const session = await model.ready();
  const dtype = o.dtype ?? (model.module.computeDtype as FloatDType);
  return writeModel(model, dir, denseTensors(model.module, session, dtype), configWith(model.config, dtype), o);
}

/** What a dense model's weights are held in: f32 when any matrix is, so that nothing is lost. */
function heldDtype(model: PreTrainedModel): FloatDType {
  return [...model.module.parameters().values()].some((p) => p.dtype === 'f32') ? 'f32' : 'bf16';
}

/** config.json for dense weights of `dtype`; the key stays the one that the file had. */
export function configWith(raw: RawConfig, dtype: FloatDType): RawConfig {
  const { quantization_config: _dropped, dtype: newName, torch_dtype: oldName, ...config } = raw;
  return newName === undefined || oldName !== undefined
    ? { ...config, torch_dtype: torchName(dtype) }
    : { ...config, dtype: torchName(dtype) };
}

/** Keys that Python reads as floats; some of its readers refuse a whole number without a point. */
const FLOAT_KEYS =
  /^(\s*"(?:llm_int8_threshold|rope_theta|rms_norm_eps|layer_norm_epsilon|layer_norm_eps|initializer_range|\w*_dropout|\w*pdrop|\w*factor|beta_fast|beta_slow|\w*softcapping)": -?\d+)(,?)$/gm;

/** The text of config.json, floats spelled as floats. */
export function encodeConfig(config: RawConfig): string {
  return `${JSON.stringify(config, null, 2).replace(FLOAT_KEYS, '$1.0$2')}\n`;
}

async function writeModel(
  model: PreTrainedModel,
  dir: string,
  tensors: TensorToWrite[],
  config: RawConfig,
  o: SaveOptions,
): Promise<ModelSaved> {
  const { generationConfig } = model.origin;
  const totalParameters = [...model.module.parameters().values()].reduce((n, p) => n + elementCount(p.shape), 0);
  const tokenizer = o.tokenizer === undefined ? model.origin.path : o.tokenizer;
  return writeModelFolder(dir, {
    tensors,
    config,
    generationConfig,
    tokenizer,
    totalParameters,
    maxShardBytes: o.maxShardBytes,
  });
}

export interface ModelFolder {
  tensors: TensorToWrite[];
  config: RawConfig;
  generationConfig: RawConfig | null;
  tokenizer: TokenizerSource | null;
  totalParameters: number;
  maxShardBytes?: number;
}

/** Writes a model folder from its parts. @throws LatheError ERR_CHECKPOINT for the disk, and for a folder that holds an adapter */
export function writeModelFolder(dir: string, m: ModelFolder): Promise<ModelSaved> {
  return replaceFileSets(dir, [TOKENIZER_FILES, MODEL_FILES], (staging) => writeModelFiles(staging, m));
}

async function writeModelFiles(dir: string, m: ModelFolder): Promise<ModelSaved> {
  const { maxShardBytes, totalParameters } = m;
  // The tokenizer first: what it cannot express should be known before gigabytes are written.
  const tokenizerFiles = m.tokenizer === null ? [] : await copyTokenizer(m.tokenizer, dir);
  const written = await writeShardedCheckpoint(dir, m.tensors, { maxShardBytes, totalParameters });
  const files = [...written.files, ...tokenizerFiles];
  if (m.generationConfig) {
    await writeJsonAtomic(join(dir, 'generation_config.json'), m.generationConfig);
    files.push('generation_config.json');
  }
  await writeFileAtomic(join(dir, 'config.json'), encodeConfig(m.config));
  files.push('config.json');
  return { ...written, files };
}
