/** Brings a model's tokenizer into the folder that the model is saved to. */
import { existsSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { openGguf } from '../io/gguf/reader';
import { ggufTokenizerFiles } from '../tokenizers/gguf-tokenizer';
import { currentFormat, readTokenizerFolder, writeTokenizerFiles } from '../tokenizers/tokenizer-files';

/** A tokenizer, or the path of a folder or GGUF file that may hold one. */
export type TokenizerSource = string | { savePretrained(folder: string): void | Promise<void> };

/**
 * Writes the tokenizer's files. A folder's are copied byte for byte, a GGUF's are made from its metadata.
 * @returns names of the files written; none when the path holds no tokenizer
 * @throws LatheError ERR_UNSUPPORTED / ERR_FORMAT for a GGUF whose tokenizer cannot be expressed
 */
export async function copyTokenizer(source: TokenizerSource, dir: string): Promise<string[]> {
  if (typeof source !== 'string') {
    await source.savePretrained(dir);
    return ['tokenizer.json', 'tokenizer_config.json'].filter((name) => existsSync(join(dir, name)));
  }
  const files = await tokenizerFiles(source);
  writeTokenizerFiles(dir, files);
  return [...files.keys()];
}

async function tokenizerFiles(path: string): Promise<Map<string, Buffer | string>> {
  if (path === '' || !existsSync(path)) return new Map();
  if (statSync(path).isDirectory())
    return existsSync(join(path, 'tokenizer.json')) ? readTokenizerFolder(path).originals : new Map();
  const { tokenizerJson, config, chatTemplates } = ggufTokenizerFiles((await openGguf(path)).metadata, path);
  return currentFormat(`${JSON.stringify(tokenizerJson, null, 2)}\n`, config, chatTemplates);
}
