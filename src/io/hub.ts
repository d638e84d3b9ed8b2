/**
 * Hub names as local folders: a path as it is, a snapshot in the Hugging Face cache, or a download into that cache.
 *
 * The cache is the one Python uses (HF_HUB_CACHE, HF_HOME), so a model is stored once for both. Only files that are
 * read here are fetched. HF_HUB_OFFLINE=1 never touches the network; HF_ENDPOINT and HF_TOKEN are honoured.
 */
import { existsSync, mkdirSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { datasetInfo, downloadFileToCacheDir, getHFHubCachePath, listFiles, modelInfo } from '@huggingface/hub';
import { LatheError } from '../errors';

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

/**
 * A local path for `name`: itself when it exists here, else the repository `organisation/name` of the Hub.
 * @throws LatheError ERR_CONFIG when it is neither, ERR_DATA when the download fails
 */
export async function resolveRepo(name: string, type: RepoType, options: HubOptions = {}): Promise<string> {
  if (existsSync(name)) return name;
  if (!/^[\w.-]+\/[\w.-]+$/.test(name) || name.startsWith('.')) {
    throw new LatheError('ERR_CONFIG', `${type} '${name}' does not exist here`, { remedy: `give a local path, or a Hub name like organisation/${type}` });
  }
  const revision = options.revision ?? 'main';
  const cached = cachedSnapshot(name, type, revision);
  const offline = process.env.HF_HUB_OFFLINE === '1' || process.env.HF_HUB_OFFLINE?.toLowerCase() === 'true';
  if (cached || offline) {
    if (cached) return cached;
    throw new LatheError('ERR_CONFIG', `${type} '${name}' is not in the Hugging Face cache and HF_HUB_OFFLINE is set`, { at: getHFHubCachePath(), remedy: 'download it first, or give a local folder' });
  }
  return download(name, type, revision, options);
}

/** The snapshot folder of a revision when it is in the cache. */
export function cachedSnapshot(name: string, type: RepoType, revision: string): string | undefined {
  const repo = join(getHFHubCachePath(), `${type}s--${name.replace('/', '--')}`);
  const ref = join(repo, 'refs', revision);
  const commit = existsSync(ref) ? readFileSync(ref, 'utf8').trim() : revision;
  const snapshot = join(repo, 'snapshots', commit);
  const complete = existsSync(snapshot) && (type === 'dataset' ? readdirSync(snapshot).length > 0 : existsSync(join(snapshot, 'config.json')));
  return complete ? snapshot : undefined;
}

async function download(name: string, type: RepoType, revision: string, o: HubOptions): Promise<string> {
  const repo = { type, name } as const;
  const access = { hubUrl: process.env.HF_ENDPOINT, ...(process.env.HF_TOKEN ? { accessToken: process.env.HF_TOKEN } : {}) };
  try {
    // A commit, not a branch: all files must come from one, and the library files them by it.
    const query = { ...access, name, revision, additionalFields: ['sha' as const] };
    const { sha: commit } = type === 'model' ? await modelInfo(query) : await datasetInfo(query);
    let folder: string | undefined;
    for await (const file of listFiles({ ...access, repo, revision: commit, recursive: true })) {
      if (file.type !== 'file' || !WANTED[type].test(file.path)) continue;
      o.onDownload?.(file.path);
      const path = await downloadFileToCacheDir({ ...access, repo, revision: commit, path: file.path });
      folder ??= path.slice(0, path.length - file.path.length - 1);
    }
    if (folder) {
      const refs = join(getHFHubCachePath(), `${type}s--${name.replace('/', '--')}`, 'refs');
      mkdirSync(refs, { recursive: true });
      writeFileSync(join(refs, revision), commit);
      return folder;
    }
  } catch (cause) {
    throw new LatheError('ERR_DATA', `cannot download ${type} '${name}' from the Hub: ${(cause as Error).message}`, {
      remedy: `check the name and the network, set HF_TOKEN for gated repositories, or give a local folder`,
      cause,
    });
  }
  throw new LatheError('ERR_DATA', `${type} '${name}' has no file that can be read`, { remedy: type === 'model' ? 'it needs config.json and *.safetensors' : 'it needs JSON, CSV, Parquet or text files' });
}
