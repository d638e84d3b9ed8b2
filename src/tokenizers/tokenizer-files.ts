/**
 * Reading and writing a tokenizer folder: tokenizer.json, tokenizer_config.json, special_tokens_map.json,
 * added_tokens.json, chat_template.jinja and additional_chat_templates/.
 *
 * Two generations of files are read alike. transformers 4 put `added_tokens_decoder` and `chat_template` into
 * tokenizer_config.json; transformers 5 writes the special tokens inline, `extra_special_tokens`, and the templates
 * as .jinja files. Rules of precedence are those of transformers 5 (`PreTrainedTokenizerBase._from_pretrained`):
 * a .jinja file wins over the config's template, and special_tokens_map.json / added_tokens.json are looked at only
 * when the config has no `added_tokens_decoder`. They are legacy: read, never written.
 *
 * Invariant: the bytes of every file read are kept, so a tokenizer that nobody changed saves byte-identical files.
 */
import { existsSync, mkdirSync, readFileSync, readdirSync, renameSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { basename, dirname, join } from 'node:path';
import { LatheError, formatBytes } from '../errors';

/** One entry of `added_tokens` in tokenizer.json (and of `added_tokens_decoder`). */
export interface AddedTokenEntry {
  id?: number;
  content: string;
  single_word?: boolean;
  lstrip?: boolean;
  rstrip?: boolean;
  normalized?: boolean;
  special?: boolean;
}

/** tokenizer.json as far as this package looks into it; the rest passes through untouched. */
export interface TokenizerJson {
  version?: string;
  truncation?: unknown;
  padding?: unknown;
  added_tokens?: AddedTokenEntry[];
  normalizer?: Component | null;
  pre_tokenizer?: Component | null;
  post_processor?: Component | null;
  decoder?: Component | null;
  model: { type?: string; vocab?: unknown; merges?: unknown; unk_token?: string | null; [key: string]: unknown };
}

export interface Component {
  type: string;
  [key: string]: unknown;
}

export type TokenizerConfig = Record<string, unknown>;

/** Everything a tokenizer is made of, from a folder, a GGUF or a training run. */
export interface TokenizerFiles {
  /** The text of tokenizer.json. */
  tokenizerJson: string;
  config: TokenizerConfig;
  /** special_tokens_map.json (legacy), or undefined. */
  specialTokensMap?: Record<string, unknown>;
  /** added_tokens.json (legacy): token -> id, or undefined. */
  addedTokens?: Record<string, number>;
  /** Family whose defaults hold for special tokens that the files do not name: 'bert', 't5'... */
  family?: string;
  /** Named chat templates; the unnamed one is 'default'. */
  chatTemplates: Map<string, string>;
  /** Relative path -> bytes of every file read; empty when the tokenizer was built in memory. */
  originals: Map<string, Buffer>;
  /** Where it came from, for messages. */
  origin: string;
}

const TOKENIZER_FILE = 'tokenizer.json';
const CONFIG_FILE = 'tokenizer_config.json';
const SPECIAL_TOKENS_MAP_FILE = 'special_tokens_map.json';
const ADDED_TOKENS_FILE = 'added_tokens.json';
const CHAT_TEMPLATE_FILE = 'chat_template.jinja';
const CHAT_TEMPLATE_FOLDER = 'additional_chat_templates';

/** Every file that is read: what a save leaves of an earlier one's would be read with it, a chat template for instance. */
export const TOKENIZER_FILES = {
  lead: TOKENIZER_FILE,
  owns: /^(tokenizer\.json|tokenizer_config\.json|special_tokens_map\.json|added_tokens\.json|chat_template\.jinja|additional_chat_templates\/[^/]+\.jinja)$/,
  folders: [CHAT_TEMPLATE_FOLDER],
};

/**
 * Reads the tokenizer files of a folder (or of the folder that holds the given tokenizer.json).
 * Errors: ERR_FORMAT naming the file, what is wrong with it and what to do.
 */
export function readTokenizerFolder(path: string): TokenizerFiles {
  const folder = basename(path) === TOKENIZER_FILE ? dirname(path) : path;
  if (!existsSync(folder) || !statSync(folder).isDirectory()) {
    throw new LatheError('ERR_CONFIG', `expected a folder with ${TOKENIZER_FILE}, received a path that is no folder`, {
      at: folder,
      remedy: 'pass the folder that the model was saved to, or download it first',
    });
  }
  const originals = new Map<string, Buffer>();
  const read = (name: string): Buffer | undefined => {
    const file = join(folder, name);
    if (!existsSync(file)) return undefined;
    const bytes = readFileSync(file);
    originals.set(name, bytes);
    return bytes;
  };

  const tokenizerBytes = read(TOKENIZER_FILE);
  if (!tokenizerBytes) throw missingTokenizer(folder);
  const tokenizerJson = tokenizerBytes.toString('utf8');
  checkTokenizerText(tokenizerJson, join(folder, TOKENIZER_FILE), tokenizerBytes.length);

  const config = parseObject(read(CONFIG_FILE), join(folder, CONFIG_FILE)) ?? {};
  const specialTokensMap = parseObject(read(SPECIAL_TOKENS_MAP_FILE), join(folder, SPECIAL_TOKENS_MAP_FILE));
  const addedTokens = parseObject(read(ADDED_TOKENS_FILE), join(folder, ADDED_TOKENS_FILE));
  return {
    tokenizerJson,
    config,
    specialTokensMap,
    addedTokens: addedTokens as Record<string, number> | undefined,
    family: familyOf(folder, config),
    chatTemplates: readChatTemplates(folder, config, read),
    originals,
    origin: folder,
  };
}

/** `tokenizer_class` without its ending, else `model_type` of the model in the same folder, as AutoTokenizer chooses a class. */
function familyOf(folder: string, config: TokenizerConfig): string | undefined {
  const name = config.tokenizer_class;
  if (typeof name === 'string') return name.replace(/Tokenizer(Fast)?$/, '').toLowerCase();
  const file = join(folder, 'config.json');
  if (!existsSync(file)) return undefined;
  const type = parseObject(readFileSync(file), file)?.model_type;
  return typeof type === 'string' ? type.replace(/[-_]/g, '').toLowerCase() : undefined;
}

/**
 * Writes `files` (relative path -> content) into `folder`, creating it and any sub-folder, then removes files of a tokenizer that
 * was there before. Each file is whole or as it was.
 */
export function writeTokenizerFiles(folder: string, files: Map<string, Buffer | string>): void {
  mkdirSync(folder, { recursive: true });
  for (const [name, content] of files) {
    const file = join(folder, name);
    mkdirSync(dirname(file), { recursive: true });
    replaceFile(file, content);
  }
  if (!files.has(TOKENIZER_FILES.lead)) return;
  for (const inner of ['', ...TOKENIZER_FILES.folders.map((name) => `${name}/`)]) {
    if (!existsSync(join(folder, inner))) continue;
    for (const name of readdirSync(join(folder, inner))) {
      const path = inner + name;
      if (TOKENIZER_FILES.owns.test(path) && !files.has(path)) rmSync(join(folder, path));
    }
  }
}

function replaceFile(file: string, content: Buffer | string): void {
  const temporary = join(dirname(file), `.${basename(file)}.tmp-${process.pid}`);
  try {
    writeFileSync(temporary, content, { flush: true });
    renameSync(temporary, file);
  } catch (error) {
    rmSync(temporary, { force: true });
    throw error;
  }
}

/**
 * The file set of the current format (transformers 5): tokenizer.json, tokenizer_config.json with its keys sorted,
 * chat_template.jinja and additional_chat_templates/<name>.jinja.
 */
export function currentFormat(
  tokenizerJson: string,
  config: TokenizerConfig,
  chatTemplates: Map<string, string>,
): Map<string, Buffer | string> {
  const files = new Map<string, Buffer | string>();
  files.set(TOKENIZER_FILE, tokenizerJson);
  files.set(CONFIG_FILE, `${JSON.stringify(sortKeys(config), null, 2)}\n`);
  for (const [name, template] of chatTemplates) {
    if (name !== basename(name) || name === '' || name === '..') {
      throw new LatheError('ERR_CONFIG', `a chat template's name becomes a file name, received '${name}'`, {
        at: 'chatTemplates',
        remedy: 'use a plain name without slashes',
      });
    }
    files.set(name === 'default' ? CHAT_TEMPLATE_FILE : `${CHAT_TEMPLATE_FOLDER}/${name}.jinja`, template);
  }
  return files;
}

/** Parses tokenizer.json's text; `where` is the file (or GGUF, or 'trained tokenizer') for messages. */
export function parseTokenizerJson(text: string, where: string): TokenizerJson {
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch (cause) {
    const message = cause instanceof Error ? cause.message.slice(0, 160) : String(cause);
    throw new LatheError(
      'ERR_FORMAT',
      `expected ${TOKENIZER_FILE} to be JSON, but parsing failed (${message}), as in a truncated download`,
      {
        at: where,
        remedy: `fetch the file again (it has ${formatBytes(Buffer.byteLength(text))} here) or copy it from the original model`,
        cause,
      },
    );
  }
  const model = (value as TokenizerJson | null)?.model;
  if (typeof model !== 'object' || model === null || model.vocab === undefined) {
    throw new LatheError(
      'ERR_FORMAT',
      `expected ${TOKENIZER_FILE} to hold 'model.vocab', received keys [${Object.keys(value ?? {})
        .slice(0, 12)
        .join(', ')}]`,
      {
        at: where,
        remedy:
          'this is not a fast-tokenizer file; convert the tokenizer with transformers (AutoTokenizer.from_pretrained(...).save_pretrained(...))',
      },
    );
  }
  return value as TokenizerJson;
}

function missingTokenizer(folder: string): LatheError {
  const names = readdirSync(folder);
  const legacy = names.filter((n) =>
    /^(vocab\.(json|txt|bpe)|merges\.txt|.*\.model|tekken\.json|encoder\.json)$/.test(n),
  );
  const remedy = legacy.length
    ? `only ${legacy.join(', ')} is here: convert once with transformers (AutoTokenizer.from_pretrained(...).save_pretrained(...)), which writes ${TOKENIZER_FILE}`
    : `copy ${TOKENIZER_FILE} from the base model, or train one with trainNewFromIterator`;
  return new LatheError('ERR_FORMAT', `expected a file ${TOKENIZER_FILE}, received none`, { at: folder, remedy });
}

function checkTokenizerText(text: string, file: string, bytes: number): void {
  if (text.startsWith('version https://git-lfs')) {
    throw new LatheError('ERR_FORMAT', `expected ${TOKENIZER_FILE}, received a Git LFS pointer of ${bytes} bytes`, {
      at: file,
      remedy: 'run `git lfs pull` in the model folder, or download the file from the hub',
    });
  }
  if (text.trim() === '') {
    throw new LatheError('ERR_FORMAT', `expected ${TOKENIZER_FILE}, received an empty file`, {
      at: file,
      remedy: 'the download did not finish: fetch the file again',
    });
  }
}

function parseObject(bytes: Buffer | undefined, file: string): Record<string, unknown> | undefined {
  if (!bytes) return undefined;
  let value: unknown;
  try {
    value = JSON.parse(bytes.toString('utf8'));
  } catch (cause) {
    throw new LatheError(
      'ERR_FORMAT',
      `expected JSON, but parsing failed (${(cause as Error).message.slice(0, 160)})`,
      {
        at: file,
        remedy: 'fetch the file again; it may be truncated',
        cause,
      },
    );
  }
  if (typeof value !== 'object' || value === null || Array.isArray(value)) {
    throw new LatheError(
      'ERR_FORMAT',
      `expected a JSON object, received ${Array.isArray(value) ? 'a list' : String(value)}`,
      {
        at: file,
        remedy: 'copy the file from the original model',
      },
    );
  }
  return value as Record<string, unknown>;
}

function readChatTemplates(
  folder: string,
  config: TokenizerConfig,
  read: (name: string) => Buffer | undefined,
): Map<string, string> {
  const fromFiles = new Map<string, string>();
  const single = read(CHAT_TEMPLATE_FILE);
  if (single) fromFiles.set('default', single.toString('utf8'));
  const extra = join(folder, CHAT_TEMPLATE_FOLDER);
  if (existsSync(extra) && statSync(extra).isDirectory()) {
    for (const name of readdirSync(extra).sort()) {
      if (!name.endsWith('.jinja')) continue;
      const bytes = read(`${CHAT_TEMPLATE_FOLDER}/${name}`);
      if (bytes) fromFiles.set(name.slice(0, -'.jinja'.length), bytes.toString('utf8'));
    }
  }
  return fromFiles.size ? fromFiles : configTemplates(config);
}

/** `chat_template` of a transformers 4 config: a string, or a list of {name, template}. */
function configTemplates(config: TokenizerConfig): Map<string, string> {
  const templates = new Map<string, string>();
  const value = config.chat_template;
  if (typeof value === 'string') templates.set('default', value);
  else if (Array.isArray(value)) {
    for (const entry of value as { name?: unknown; template?: unknown }[]) {
      if (typeof entry?.name === 'string' && typeof entry.template === 'string')
        templates.set(entry.name, entry.template);
    }
  } else if (typeof value === 'object' && value !== null) {
    for (const [name, template] of Object.entries(value))
      if (typeof template === 'string') templates.set(name, template);
  }
  return templates;
}

function sortKeys(value: TokenizerConfig): TokenizerConfig {
  return Object.fromEntries(Object.entries(value).sort(([a], [b]) => (a < b ? -1 : 1)));
}
