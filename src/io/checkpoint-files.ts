/**
 * A model's weights in a folder: one file, or shards with an index; safetensors, or else PyTorch's archives.
 *
 * Reading gives one flat map from tensor name to source, after checking that index and shards agree in both
 * directions. Writing splits greedily in the given order, as huggingface_hub does; what an earlier save has left in a folder is
 * file-set.ts's business.
 *
 * Source: transformers `save_pretrained`, huggingface_hub `split_torch_state_dict_into_shards`.
 */
import { readFile, readdir, stat } from 'node:fs/promises';
import { basename, join } from 'node:path';
import { LatheError, formatBytes } from '../errors';
import { writeFileAtomic } from './atomic-file';
import { toIoError } from './io-error';
import { findDuplicateKey } from './json-keys';
import { collectTensors, openSafetensors, writeSafetensors, type TensorList } from './safetensors';
import { elementCount, type TensorSource } from './tensor-source';
import { openTorchArchive } from './torch-archive/reader';

export interface OpenCheckpointOptions {
  /** Stem of the files: `model` (default) for a model, `adapter_model` for a PEFT adapter. */
  stem?: string;
}

/**
 * Reads all headers of a checkpoint.
 * @param dir a folder with the files, or the path of one file. Of several, the first of `model.safetensors`, its shards,
 *   `pytorch_model.bin`, its shards counts, as in transformers.
 * @returns tensor name to source; in file order, shard after shard
 * @throws LatheError ERR_CHECKPOINT when the folder is incomplete or inconsistent, ERR_FORMAT for a bad file, ERR_UNSUPPORTED for
 *   a pickle that asks for more than tensors
 */
export async function openCheckpoint(
  dir: string,
  options: OpenCheckpointOptions = {},
): Promise<Map<string, TensorSource>> {
  const info = await stat(dir).catch((error: unknown) => {
    throw toIoError(error, 'open the checkpoint', dir);
  });
  if (info.isFile()) return openWeightFile(dir);
  const names = new Set(await readdir(dir));
  const candidates = weightFiles(options.stem ?? 'model');
  const found = candidates.find((name) => names.has(name));
  if (found) return found.endsWith('.index.json') ? openShards(dir, found, names) : openWeightFile(join(dir, found));
  throw new LatheError('ERR_CHECKPOINT', `expected ${candidates[0]} or ${candidates[1]}, found neither`, {
    at: dir,
    remedy: missingRemedy(names),
  });
}

/** File names of a checkpoint, best first. */
export function weightFiles(stem: string): readonly string[] {
  const torch = stem === 'model' ? 'pytorch_model' : stem;
  return [`${stem}.safetensors`, `${torch}.bin`].flatMap((name) => [name, `${name}.index.json`]);
}

async function openWeightFile(path: string): Promise<Map<string, TensorSource>> {
  const { tensors } = /\.(bin|pt|pth)$/.test(path) ? await openTorchArchive(path) : await openSafetensors(path);
  return tensors;
}

function missingRemedy(names: ReadonlySet<string>): string {
  const list = [...names];
  const gguf = list.find((name) => name.endsWith('.gguf'));
  if (gguf) return `give the path of ${gguf} itself`;
  const other = list.find((name) => /\.(safetensors|bin|pt|pth)$/.test(name));
  if (other) return `give the path of ${other} itself if that is the model`;
  return 'check that the folder holds a model';
}

async function openShards(
  dir: string,
  indexName: string,
  names: ReadonlySet<string>,
): Promise<Map<string, TensorSource>> {
  const indexPath = join(dir, indexName);
  const weightMap = parseIndex(await readFile(indexPath, 'utf8'), indexPath);
  const shards = [...new Set(weightMap.values())].sort();
  const missing = shards.filter((shard) => !names.has(shard));
  if (missing.length > 0) {
    throw new LatheError(
      'ERR_CHECKPOINT',
      `expected ${shards.length} shards, ${missing.length} missing: ${preview(missing)}`,
      { at: indexPath, remedy: 'download the missing files' },
    );
  }
  const tensors = new Map<string, TensorSource>();
  for (const shard of shards) {
    for (const [name, source] of await openWeightFile(join(dir, shard))) {
      const earlier = tensors.get(name);
      if (earlier)
        throw mismatch(
          indexPath,
          `expected every tensor in one shard, found '${name}' in ${basename(earlier.path)} and ${shard}`,
        );
      tensors.set(name, source);
    }
  }
  checkIndex(weightMap, tensors, indexPath);
  return tensors;
}

function mismatch(at: string, message: string): LatheError {
  return new LatheError('ERR_CHECKPOINT', message, {
    at,
    remedy: 'the index and the shards are not of the same save; download or save all of them again',
  });
}

function preview(names: readonly string[]): string {
  return names.length <= 3 ? names.join(', ') : `${names.slice(0, 3).join(', ')} and ${names.length - 3} more`;
}

function parseIndex(text: string, path: string): Map<string, string> {
  let index: { weight_map?: unknown } | null;
  try {
    index = JSON.parse(text) as typeof index;
  } catch (cause) {
    throw new LatheError('ERR_FORMAT', `expected JSON, received: ${(cause as Error).message}`, {
      at: path,
      remedy: 'download the index again',
    });
  }
  const duplicate = findDuplicateKey(text);
  if (duplicate !== undefined) throw mismatch(path, `expected every tensor once, found '${duplicate}' twice`);
  const weightMap = index?.weight_map;
  if (typeof weightMap !== 'object' || weightMap === null || Array.isArray(weightMap)) {
    throw new LatheError('ERR_FORMAT', 'expected {"weight_map": {tensor: file}}, received no weight_map', {
      at: path,
      remedy: 'download the index again',
    });
  }
  const map = new Map<string, string>();
  for (const [name, file] of Object.entries(weightMap)) {
    // A shard lies beside its index; anything else could reach outside the folder.
    if (typeof file !== 'string' || file === '' || /[\\/]|^\.\.?$/.test(file)) {
      throw new LatheError(
        'ERR_FORMAT',
        `expected the plain name of a file beside the index, received ${JSON.stringify(file)} for '${name}'`,
        { at: path, remedy: 'repair the index' },
      );
    }
    map.set(name, file);
  }
  return map;
}

function checkIndex(
  weightMap: ReadonlyMap<string, string>,
  tensors: ReadonlyMap<string, TensorSource>,
  indexPath: string,
): void {
  for (const [name, shard] of weightMap) {
    const source = tensors.get(name);
    if (!source)
      throw mismatch(indexPath, `expected '${name}' in ${shard}, as the index says; the shard has no such tensor`);
    if (basename(source.path) !== shard)
      throw mismatch(
        indexPath,
        `expected '${name}' in ${shard}, as the index says; found it in ${basename(source.path)}`,
      );
  }
  const unlisted = [...tensors.keys()].filter((name) => !weightMap.has(name));
  if (unlisted.length > 0)
    throw mismatch(indexPath, `expected all tensors of the shards in the index, not listed: ${preview(unlisted)}`);
}

export interface ShardedOptions {
  /** Upper bound of a shard's tensor bytes (default 50 GB, as transformers 5); a larger tensor gets a shard of its own. */
  maxShardBytes?: number;
  stem?: string;
  metadata?: Record<string, string>;
  /** `total_parameters` in the index; default: the number of stored elements. */
  totalParameters?: number;
}

export interface CheckpointWritten {
  /** Names of the files written, relative to the folder, index included. */
  files: string[];
  totalBytes: number;
  totalParameters: number;
}

/** Greedy split in the given order. @returns lists of indices */
function planShards(sizes: readonly number[], maxBytes: number): number[][] {
  const shards: number[][] = [];
  let current: number[] = [];
  let currentBytes = 0;
  sizes.forEach((bytes, i) => {
    if (bytes > maxBytes) {
      shards.push([i]);
      return;
    }
    if (currentBytes + bytes > maxBytes) {
      shards.push(current);
      current = [];
      currentBytes = 0;
    }
    current.push(i);
    currentBytes += bytes;
  });
  if (current.length > 0 || shards.length === 0) shards.push(current);
  return shards;
}

/**
 * Writes a checkpoint as transformers would: one file, or shards and an index. Each file is atomic; wrap the call in
 * `replaceFileSets` or `withDirectoryCommit` to make the set atomic, and to be rid of an earlier one.
 * @throws LatheError as writeSafetensors
 */
export async function writeShardedCheckpoint(
  dir: string,
  tensors: TensorList,
  options: ShardedOptions = {},
): Promise<CheckpointWritten> {
  const { maxShardBytes = 50e9, stem = 'model', metadata } = options;
  if (!(maxShardBytes > 0)) {
    throw new LatheError('ERR_CONFIG', `expected maxShardBytes above 0, received ${maxShardBytes}`, {
      at: dir,
      remedy: `leave it out, or give bytes (${formatBytes(5 * 2 ** 30)} is common)`,
    });
  }
  const sized = await collectTensors(tensors, dir);
  const totalBytes = sized.reduce((sum, { byteLength }) => sum + byteLength, 0);
  const totalParameters = options.totalParameters ?? sized.reduce((sum, { shape }) => sum + elementCount(shape)!, 0);
  const shards = planShards(
    sized.map(({ byteLength }) => byteLength),
    maxShardBytes,
  );
  const index = `${stem}.safetensors.index.json`;
  const files: string[] = [];
  const weightMap: [string, string][] = [];
  const pad = (value: number): string => String(value).padStart(5, '0');
  for (const [i, members] of shards.entries()) {
    const file =
      shards.length === 1 ? `${stem}.safetensors` : `${stem}-${pad(i + 1)}-of-${pad(shards.length)}.safetensors`;
    await writeSafetensors(
      join(dir, file),
      members.map((member) => sized[member]),
      metadata,
    );
    files.push(file);
    for (const member of members) weightMap.push([sized[member].name, file]);
  }
  if (shards.length > 1) {
    await writeFileAtomic(join(dir, index), encodeIndex(weightMap, totalBytes, totalParameters));
    files.push(index);
  }
  return { files, totalBytes, totalParameters };
}

/** Two spaces, sorted keys, final newline: json.dumps(index, indent=2, sort_keys=True). */
function encodeIndex(weightMap: [string, string][], totalBytes: number, totalParameters: number): string {
  weightMap.sort(([a], [b]) => (a < b ? -1 : a > b ? 1 : 0));
  const lines = weightMap.map(([name, file]) => `    ${asciiJson(name)}: ${asciiJson(file)}`);
  return `{\n  "metadata": {\n    "total_parameters": ${totalParameters},\n    "total_size": ${totalBytes}\n  },\n  "weight_map": {\n${lines.join(',\n')}\n  }\n}\n`;
}

function asciiJson(text: string): string {
  return JSON.stringify(text).replace(
    /[\u007f-\uffff]/g,
    (unit) => `\\u${unit.charCodeAt(0).toString(16).padStart(4, '0')}`,
  );
}
