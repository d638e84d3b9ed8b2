/**
 * Reads a PEFT adapter folder: adapter_config.json and adapter_model.safetensors (or, of older versions, adapter_model.bin).
 *
 * Only headers and the small B matrices are read; the tensors come back as sources that a session streams in. Strict where
 * PEFT is lenient: it loads with strict=False and prints nothing when half of the keys did not fit, which leaves a
 * randomly initialised adapter behind. Whether names and shapes fit a model is checked when the adapter is put on one.
 */
import { existsSync, readFileSync, statSync } from 'node:fs';
import { basename, join, resolve } from 'node:path';
import { LatheError } from '../errors';
import { openCheckpoint, weightFiles } from '../io/checkpoint-files';
import { ADAPTER_CONFIG_FILE } from '../io/model-files';
import { readTensorBytes, type TensorSource } from '../io/tensor-source';
import { parseAdapterConfig, type AdapterOrigin, type RawAdapterConfig } from './adapter-json';
import { ADAPTER_PREFIX } from './inject';
import { LoraConfig } from './lora-config';

export const ADAPTER_WEIGHTS_FILE = 'adapter_model.safetensors';

/** A tensor of the adapter, in the form a load program takes. */
export interface AdapterSource {
  readonly kind: 'tensor';
  readonly source: TensorSource;
}

export interface AdapterFile {
  readonly dir: string;
  readonly config: LoraConfig;
  readonly origin: AdapterOrigin;
  /** By PEFT's key, without aliases. */
  readonly sources: ReadonlyMap<string, AdapterSource>;
}

export interface ReadAdapterOptions {
  /** Accept an adapter whose B matrices are all zero: one that was saved before its first step. Default false. */
  allowUntrained?: boolean;
}

/** True when a folder holds an adapter. */
export function isAdapterFolder(dir: string): boolean {
  return existsSync(join(dir, ADAPTER_CONFIG_FILE));
}

/**
 * Reads an adapter. @throws LatheError ERR_FORMAT (files), ERR_UNSUPPORTED (an option, by key), ERR_CHECKPOINT (tensors)
 */
export async function readAdapter(dir: string, o: ReadAdapterOptions = {}): Promise<AdapterFile> {
  const configPath = join(dir, ADAPTER_CONFIG_FILE);
  const { options, origin } = parseAdapterConfig(readConfig(dir, configPath), configPath);
  const weights = requireWeights(dir);
  const tensors = await openCheckpoint(weights);
  const sources = new Map<string, AdapterSource>();
  for (const [key, source] of tensors) {
    if (isAlias(key, tensors)) continue;
    checkTensor(key, source, weights);
    sources.set(key, { kind: 'tensor', source });
  }
  if (!o.allowUntrained) await rejectUntrained(sources, weights);
  return { dir, config: new LoraConfig(options), origin, sources };
}

function readConfig(dir: string, path: string): RawAdapterConfig {
  if (!existsSync(dir) || !statSync(dir).isDirectory()) {
    throw new LatheError('ERR_CONFIG', 'expected the folder of an adapter, found none', {
      at: dir,
      remedy: `give the folder that holds ${ADAPTER_CONFIG_FILE}`,
    });
  }
  let text: string;
  try {
    text = readFileSync(path, 'utf8');
  } catch (cause) {
    const isModel = existsSync(join(dir, 'config.json'));
    throw new LatheError('ERR_FORMAT', `cannot read ${ADAPTER_CONFIG_FILE}`, {
      at: path,
      remedy: isModel
        ? 'this is a whole model; open it with AutoModelForCausalLM'
        : 'give the folder that PEFT or saveAdapter wrote',
      cause,
    });
  }
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch (cause) {
    throw new LatheError('ERR_FORMAT', `${ADAPTER_CONFIG_FILE} is not valid JSON: ${(cause as Error).message}`, {
      at: path,
      remedy: 'fetch the file again',
      cause,
    });
  }
  if (typeof value !== 'object' || value === null || Array.isArray(value))
    throw new LatheError('ERR_FORMAT', `${ADAPTER_CONFIG_FILE} expected an object`, {
      at: path,
      remedy: 'fetch the file again',
    });
  return value as RawAdapterConfig;
}

function requireWeights(dir: string): string {
  const found = weightFiles('adapter_model').find(
    (name) => !name.endsWith('.index.json') && existsSync(join(dir, name)),
  );
  if (found) return join(dir, found);
  throw new LatheError('ERR_CHECKPOINT', `expected ${ADAPTER_WEIGHTS_FILE}, found none`, {
    at: dir,
    remedy: 'copy the file from where the adapter was saved',
  });
}

/** PEFT writes a resized embedding that is also in modules_to_save three times; the plain key is the trained one. */
function isAlias(key: string, tensors: ReadonlyMap<string, TensorSource>): boolean {
  const plain = key.replace(/\.(modules_to_save|original_module)\.(weight|bias)$/, '.$2');
  return plain !== key && tensors.has(plain);
}

function checkTensor(key: string, source: TensorSource, at: string): void {
  if (!key.startsWith(ADAPTER_PREFIX)) {
    throw new LatheError(
      'ERR_CHECKPOINT',
      `unexpected tensor '${key}': keys of an adapter start with '${ADAPTER_PREFIX}'`,
      { at, remedy: 'convert the adapter with PEFT (save_pretrained)' },
    );
  }
  if (!['F32', 'F16', 'BF16'].includes(source.dtype)) {
    throw new LatheError('ERR_CHECKPOINT', `tensor '${key}' expected F32, F16 or BF16, received ${source.dtype}`, {
      at,
      remedy: 'save the adapter in a float type',
    });
  }
}

/** B starts at zero: when all of it still is, and nothing else was saved, the adapter computes the base model. */
async function rejectUntrained(sources: ReadonlyMap<string, AdapterSource>, at: string): Promise<void> {
  let pairs = 0;
  for (const [key, { source }] of sources) {
    if (!key.includes('.lora_')) return;
    if (!key.endsWith('.lora_B.weight')) continue;
    pairs++;
    if ((await readTensorBytes(source)).some((byte, i) => byte !== 0 && !isNegativeZero(byte, i, source))) return;
  }
  throw new LatheError(
    'ERR_CHECKPOINT',
    pairs ? 'the adapter does nothing: every lora_B is zero' : 'the adapter does nothing: it holds no lora_B tensor',
    {
      at,
      remedy: 'it was saved before training; pass isTrainable (or allowUntrained) to go on from it',
    },
  );
}

/** -0 has one bit set: the sign, in the last byte of the little-endian element. */
function isNegativeZero(byte: number, i: number, source: TensorSource): boolean {
  const width = source.dtype === 'F32' ? 4 : 2;
  return byte === 0x80 && i % width === width - 1;
}

/**
 * A sentence when an adapter says that it was made for another base than the one at hand, or null. Paths differ between
 * machines, so only the last part of the name counts.
 */
export function baseMismatch(origin: AdapterOrigin, basePath: string): string | null {
  if (!origin.baseModel || !basePath) return null;
  const name = (path: string): string => basename(resolve(path)).toLowerCase();
  if (name(origin.baseModel) === name(basePath)) return null;
  return `the adapter was trained on '${origin.baseModel}', the model is '${basePath}'`;
}
