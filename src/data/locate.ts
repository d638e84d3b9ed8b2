/**
 * Which files make up which split of a dataset folder, by the naming rules of Hugging Face `datasets`.
 *
 * The idea, in order of preference: `configs` in the folder's README.md; shards named
 * `<split>-00000-of-00002.<ext>`; file names that hold a split's word (train, test, validation and their synonyms) between
 * separators; folders named so; otherwise everything is "train".
 *
 * Invariants: files of a split come in sorted order, hidden files are left out, and files of one dataset share a format.
 */
import { readdir, readFile, stat } from 'node:fs/promises';
import { isAbsolute, join, relative, sep } from 'node:path';
import { LatheError, nearest } from '../errors';

export type FileFormat = 'json' | 'jsonl' | 'csv' | 'parquet' | 'text';

/** Split name to file paths. */
export type SplitFiles = Map<string, string[]>;

const kFormats: Record<string, FileFormat> = {
  json: 'json',
  jsonl: 'jsonl',
  ndjson: 'jsonl',
  csv: 'csv',
  tsv: 'csv',
  parquet: 'parquet',
  txt: 'text',
};
const kSynonyms: [split: string, words: string[]][] = [
  ['train', ['train', 'training']],
  ['validation', ['validation', 'valid', 'dev', 'val']],
  ['test', ['test', 'testing', 'eval', 'evaluation']],
];
const kShard = /(?:^|\/)([A-Za-z][\w-]*?)-\d{5}-of-\d{5}[^/]*$/;

/** The format by the file's extension, a compression suffix aside. */
export function formatOf(path: string): FileFormat | undefined {
  const name = path.replace(/\.(gz|zst|zstd)$/i, '');
  return kFormats[name.slice(name.lastIndexOf('.') + 1).toLowerCase()];
}

async function walk(root: string, folder = root): Promise<string[]> {
  const files: string[] = [];
  for (const entry of await readdir(folder, { withFileTypes: true })) {
    if (entry.name.startsWith('.') || entry.name.startsWith('__')) continue;
    const path = join(folder, entry.name);
    const isFolder = entry.isDirectory() || (entry.isSymbolicLink() && (await stat(path)).isDirectory());
    if (isFolder) files.push(...(await walk(root, path)));
    else if (formatOf(path)) files.push(relative(root, path).split(sep).join('/'));
  }
  return files.sort();
}

function splitByWord(text: string): string | undefined {
  for (const [split, words] of kSynonyms) {
    if (new RegExp(`(?:^|[-._ 0-9/])(?:${words.join('|')})(?:[-._ 0-9/]|$)`).test(text)) return split;
  }
  return undefined;
}

function group(files: string[], splitOf: (file: string) => string | undefined): SplitFiles {
  const splits: SplitFiles = new Map();
  for (const file of files) {
    const split = splitOf(file);
    if (split !== undefined) splits.set(split, [...(splits.get(split) ?? []), file]);
  }
  return splits;
}

/** `*` within a folder, `**` across folders, `?`, `[abc]`. */
export function globToRegExp(pattern: string): RegExp {
  const source = pattern.replace(/\*\*\/|\*\*|\*|\?|\[[^\]]+\]|[.+^${}()|\\]/g, (part) => {
    if (part === '**/') return '(?:.*/)?';
    if (part === '**') return '.*';
    if (part === '*') return '[^/]*';
    if (part === '?') return '[^/]';
    return part.startsWith('[') ? part : `\\${part}`;
  });
  return new RegExp(`^${source}$`);
}

/** Files under `root` that a pattern names; a pattern without wildcards is a path. */
function matchPattern(pattern: string, files: string[]): string[] {
  const clean = pattern.replace(/^\.\//, '');
  const expression = globToRegExp(clean);
  return files.filter((file) => file === clean || expression.test(file));
}

interface CardConfig {
  config_name?: string;
  data_files?: string | string[] | { split?: string; path: string | string[] }[];
  data_dir?: string;
  default?: boolean;
}

/** The `configs` list in the YAML header of README.md, if there is one. */
async function cardConfigs(root: string): Promise<CardConfig[]> {
  let readme: string;
  try {
    readme = await readFile(join(root, 'README.md'), 'utf8');
  } catch {
    return [];
  }
  const header = /^---\r?\n([\s\S]*?)\r?\n---/.exec(readme);
  if (!header) return [];
  const card = (require('yaml') as typeof import('yaml')).parse(header[1]) as { configs?: CardConfig[] } | null;
  return Array.isArray(card?.configs) ? card.configs : [];
}

function pickConfig(configs: CardConfig[], name: string | undefined, root: string): CardConfig | undefined {
  if (configs.length === 0) return undefined;
  const names = configs.map((config) => config.config_name ?? 'default');
  const chosen =
    name === undefined
      ? (configs.find((c) => c.default) ??
        configs.find((c) => (c.config_name ?? 'default') === 'default') ??
        (configs.length === 1 ? configs[0] : undefined))
      : configs[names.indexOf(name)];
  if (chosen) return chosen;
  const near = name === undefined ? undefined : nearest(name, names);
  throw new LatheError(
    'ERR_CONFIG',
    `dataset configuration: expected one of ${names.join(', ')}, received ${name === undefined ? 'none' : JSON.stringify(name)}`,
    {
      at: join(root, 'README.md'),
      remedy: near ? `did you mean ${JSON.stringify(near)}?` : `pass name: ${JSON.stringify(names[0])}`,
    },
  );
}

function splitsOfConfig(config: CardConfig, files: string[]): SplitFiles | undefined {
  if (config.data_files === undefined) return undefined;
  const entries = typeof config.data_files === 'string' ? [config.data_files] : config.data_files;
  const splits: SplitFiles = new Map();
  for (const entry of entries) {
    const { split, path } = typeof entry === 'string' ? { split: undefined, path: entry } : entry;
    const matched = [path].flat().flatMap((pattern) => matchPattern(pattern, files));
    splits.set(split ?? 'train', [...(splits.get(split ?? 'train') ?? []), ...matched]);
  }
  return splits;
}

function splitsByName(files: string[]): SplitFiles {
  const shards = group(files, (file) => kShard.exec(file)?.[1]);
  if (shards.size > 0) return shards;
  const byFile = group(files, (file) => splitByWord(file.slice(file.lastIndexOf('/') + 1)));
  if (byFile.size > 0) return byFile;
  const byFolder = group(files, (file) =>
    file.includes('/') ? splitByWord(file.slice(0, file.lastIndexOf('/') + 1)) : undefined,
  );
  if (byFolder.size > 0) return byFolder;
  return files.length > 0 ? new Map([['train', files]]) : new Map<string, typeof files>();
}

/**
 * The splits of a dataset folder. Paths in the result are joined with `root`.
 * @param configName one of the README's configurations
 * @throws ERR_DATA when the folder holds no data file
 */
export async function locateSplits(root: string, configName?: string): Promise<SplitFiles> {
  let files = await walk(root);
  const config = pickConfig(await cardConfigs(root), configName, root);
  if (config?.data_dir !== undefined) {
    const prefix = `${config.data_dir.replace(/^\.\//, '').replace(/\/$/, '')}/`;
    files = files.filter((file) => file.startsWith(prefix));
  }
  const splits = (config && splitsOfConfig(config, files)) ?? splitsByName(files);
  const found = new Map(
    [...splits]
      .filter(([, paths]) => paths.length > 0)
      .map(([split, paths]): [string, string[]] => [split, paths.map((path) => join(root, path))]),
  );
  if (found.size === 0) {
    throw new LatheError(
      'ERR_DATA',
      `expected data files (${Object.keys(kFormats)
        .map((ext) => `.${ext}`)
        .join(' ')}, also .gz and .zst), received none`,
      {
        at: root,
        remedy: 'check the path, or name the files with dataFiles',
      },
    );
  }
  return found;
}

/** Files for an explicit list of paths and patterns (relative to `base`). @throws ERR_DATA when one matches nothing */
export async function locateFiles(patterns: string | string[], base: string): Promise<string[]> {
  const found: string[] = [];
  for (const pattern of [patterns].flat()) {
    if (!/[*?[]/.test(pattern)) {
      found.push(isAbsolute(pattern) ? pattern : join(base, pattern));
      continue;
    }
    const fixed = pattern.slice(0, pattern.search(/[*?[]/));
    const root = join(isAbsolute(pattern) ? '' : base, fixed.slice(0, fixed.lastIndexOf('/') + 1));
    const matched = matchPattern(pattern.slice(fixed.lastIndexOf('/') + 1), await walk(root).catch(() => []));
    if (matched.length === 0) {
      throw new LatheError('ERR_DATA', `expected files that match ${JSON.stringify(pattern)}, received none`, {
        at: root,
        remedy: 'check the pattern',
      });
    }
    found.push(...matched.map((file) => join(root, file)));
  }
  return found;
}
