/**
 * Hub names as local folders: a path as it is, a snapshot in the Hugging Face cache, or a download into that cache.
 *
 * The cache is the one Python uses (HF_HUB_CACHE, HF_HOME), so a model is stored once for both. Only files that are
 * read here are fetched. HF_HUB_OFFLINE=1 never touches the network; HF_ENDPOINT and HF_TOKEN are honoured.
 */
import { existsSync, mkdirSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { LatheError } from '../errors';

/** The Hub's library, loaded when a name has to be looked up: most runs are of local folders. */
const hub = (): typeof import('@huggingface/hub') => require('@huggingface/hub') as typeof import('@huggingface/hub');

export type RepoType = 'model' | 'dataset';

export interface HubOptions {
  revision?: string | null;
  /** Called with each file that is about to be downloaded. */
  onDownload?: (file: string) => void;
}

/** Files of a repository worth fetching; weights in other formats, images and the like are left. */
const WANTED: Record<RepoType, RegExp> = {
  model: /^[^/]*\.(json|jinja|safetensors|model|txt)$|^additional_chat_templates\/.*\.jinja$/,
  dataset: /\.(json|jsonl|csv|parquet|txt|gz|zst)$|^README\.md$/,
};

/** What ends like a file is one that is not there, and no repository. */
const FILE_NAME = /\.(jsonl?|ndjson|csv|tsv|parquet|txt|gz|zst|gguf|safetensors|ya?ml)$/i;

/** PyTorch's archives, for repositories that have nothing else. */
const TORCH_WEIGHTS = /^(pytorch_model(-\d+-of-\d+)?|adapter_model)\.bin$/;

/** Which of a repository's files are fetched: safetensors, or else PyTorch's archives. */
export function wantedFiles(files: readonly string[], type: RepoType): string[] {
  const wanted = files.filter((file) => WANTED[type].test(file));
  const hasWeights = wanted.some((file) => file.endsWith('.safetensors'));
  return type === 'model' && !hasWeights
    ? files.filter((file) => WANTED.model.test(file) || TORCH_WEIGHTS.test(file))
    : wanted;
}

/**
 * A local path for `name`: itself when it exists here, else the repository `organisation/name` of the Hub.
 * @throws LatheError ERR_CONFIG when it is neither, ERR_DATA when the download fails
 */
export async function resolveRepo(name: string, type: RepoType, options: HubOptions = {}): Promise<string> {
  if (existsSync(name)) return name;
  if (!/^[\w.-]+\/[\w.-]+$/.test(name) || name.startsWith('.') || FILE_NAME.test(name)) {
    throw new LatheError('ERR_CONFIG', `${type} '${name}' does not exist here`, {
      remedy: `give a local path, or a Hub name like organisation/${type}`,
    });
  }
  const revision = options.revision ?? 'main';
  const cached = cachedSnapshot(name, type, revision);
  if (cached) return cached;
  refuseOffline(name, type);
  return download(name, type, revision, options);
}

/**
 * config.json of a model on the Hub, from the cache or by itself from the network: nothing is stored, because a snapshot
 * with config.json counts as complete.
 * @throws LatheError as `resolveRepo`; ERR_FORMAT when the file is no JSON object
 */
export async function fetchModelConfig(name: string, revision = 'main'): Promise<Record<string, unknown>> {
  const cached = cachedSnapshot(name, 'model', revision);
  if (!cached) refuseOffline(name, 'model');
  const text = cached
    ? readFileSync(join(cached, 'config.json'), 'utf8')
    : await downloadText(name, 'config.json', revision);
  try {
    const value: unknown = JSON.parse(text);
    if (typeof value === 'object' && value !== null && !Array.isArray(value)) return value as Record<string, unknown>;
  } catch {
    // The same message for what is no JSON and for JSON that is no object.
  }
  throw new LatheError('ERR_FORMAT', 'config.json expected a JSON object', {
    at: name,
    remedy: 'check the repository',
  });
}

async function downloadText(name: string, path: string, revision: string): Promise<string> {
  const blob = await hub()
    .downloadFile({ ...hubAccess(), repo: { type: 'model', name }, revision, path })
    .catch((cause: unknown) => {
      throw downloadError(name, 'model', cause);
    });
  if (!blob) throw new LatheError('ERR_DATA', `model '${name}' has no ${path}`, { remedy: 'check the name' });
  return blob.text();
}

function refuseOffline(name: string, type: RepoType): void {
  if (process.env.HF_HUB_OFFLINE !== '1' && process.env.HF_HUB_OFFLINE?.toLowerCase() !== 'true') return;
  throw new LatheError('ERR_CONFIG', `${type} '${name}' is not in the Hugging Face cache and HF_HUB_OFFLINE is set`, {
    at: hub().getHFHubCachePath(),
    remedy: 'download it first, or give a local folder',
  });
}

function hubAccess(): { hubUrl?: string; accessToken?: string } {
  return { hubUrl: process.env.HF_ENDPOINT, ...(process.env.HF_TOKEN ? { accessToken: process.env.HF_TOKEN } : {}) };
}

function downloadError(name: string, type: RepoType, cause: unknown): LatheError {
  return new LatheError('ERR_DATA', `cannot download ${type} '${name}' from the Hub: ${(cause as Error).message}`, {
    remedy: `check the name and the network, set HF_TOKEN for gated repositories, or give a local folder`,
    cause,
  });
}

/** The snapshot folder of a revision when it is in the cache. */
function cachedSnapshot(name: string, type: RepoType, revision: string): string | undefined {
  const repo = join(hub().getHFHubCachePath(), `${type}s--${name.replace('/', '--')}`);
  const ref = join(repo, 'refs', revision);
  const commit = existsSync(ref) ? readFileSync(ref, 'utf8').trim() : revision;
  const snapshot = join(repo, 'snapshots', commit);
  const complete =
    existsSync(snapshot) &&
    (type === 'dataset' ? readdirSync(snapshot).length > 0 : existsSync(join(snapshot, 'config.json')));
  return complete ? snapshot : undefined;
}

async function download(name: string, type: RepoType, revision: string, o: HubOptions): Promise<string> {
  const repo = { type, name } as const;
  const access = hubAccess();
  try {
    // A commit, not a branch: all files must come from one, and the library files them by it.
    const query = { ...access, name, revision, additionalFields: ['sha' as const] };
    const { sha: commit } = type === 'model' ? await hub().modelInfo(query) : await hub().datasetInfo(query);
    const files: string[] = [];
    for await (const file of hub().listFiles({ ...access, repo, revision: commit, recursive: true }))
      if (file.type === 'file') files.push(file.path);
    let folder: string | undefined;
    for (const file of wantedFiles(files, type)) {
      o.onDownload?.(file);
      const path = await hub().downloadFileToCacheDir({ ...access, repo, revision: commit, path: file });
      folder ??= path.slice(0, path.length - file.length - 1);
    }
    if (folder) {
      const refs = join(hub().getHFHubCachePath(), `${type}s--${name.replace('/', '--')}`, 'refs');
      mkdirSync(refs, { recursive: true });
      writeFileSync(join(refs, revision), commit);
      return folder;
    }
  } catch (cause) {
    throw downloadError(name, type, cause);
  }
  throw new LatheError('ERR_DATA', `${type} '${name}' has no file that can be read`, {
    remedy:
      type === 'model'
        ? 'it needs config.json and *.safetensors (or pytorch_model*.bin)'
        : 'it needs JSON, CSV, Parquet or text files',
  });
}
