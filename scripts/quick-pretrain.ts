/**
 * From source code to a model that completes it, in one command and without a network:
 *
 *   npm run quick-pretrain                                          (under five minutes on two cores)
 *   npm run quick-pretrain -- max_steps=2000                        (keys of configs/quick-pretrain.yaml)
 *   npm run quick-pretrain -- resume_from_checkpoint=true
 *
 * Collects the Python and JavaScript source that is on the machine anyway (node_modules, the library folders of Node and Python) as
 * compressed JSON lines, trains a tokenizer on it, pretrains a small GPT-2 through a stream, and completes a few beginnings.
 * Everything goes to the output folder of configs/quick-pretrain.yaml.
 */
import { createHash } from 'node:crypto';
import { existsSync, mkdirSync, readdirSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { dirname, extname, join } from 'node:path';
import { gzipSync } from 'node:zlib';
import { CONFIG_DIR, trainCommand } from '../src/cli/train';
import { reportError, say, style } from '../src/cli/output';
import { AutoModelForCausalLM, AutoTokenizer, generateAll, loadConfig, loadDataset } from '../src';

const root = join(__dirname, '..');
const CONFIG = join(CONFIG_DIR, 'quick-pretrain.yaml');
const SHARDS = 8;
/** Text of each language; several times what the run reads. */
const BYTES_PER_LANGUAGE = 8e6;
const TEST_FILES = 30;
const PROMPTS = [
  'def __init__(self,',
  'import os\nimport re\n',
  'for (let i = 0; i <',
  'module.exports = {',
  'if (typeof',
];

interface SourceFile {
  text: string;
  path: string;
  /** Of the text: decides order and split, so that the same files give the same rows whatever folder they lie in. */
  hash: string;
}

// ---- the source

/** Where Python keeps its library on common systems. */
function pythonFolders(): string[] {
  const parents = [
    '/usr/lib',
    '/usr/local/lib',
    '/opt/homebrew/lib',
    '/Library/Frameworks/Python.framework/Versions/Current/lib',
  ];
  return parents.flatMap((parent) =>
    existsSync(parent)
      ? readdirSync(parent)
          .filter((name) => /^python3\.\d+$/.test(name))
          .map((name) => join(parent, name))
      : [],
  );
}

function* walk(folder: string, extensions: readonly string[]): Generator<string> {
  for (const entry of readdirSync(folder, { withFileTypes: true }).sort((a, b) => (a.name < b.name ? -1 : 1))) {
    const path = join(folder, entry.name);
    if (entry.name.startsWith('.')) continue;
    if (entry.isDirectory()) yield* walk(path, extensions);
    else if (entry.isFile() && extensions.includes(extname(entry.name))) yield path;
  }
}

/** Code that somebody wrote: neither minified nor generated tables, and neither a snippet nor a whole bundle. */
function isReadable(text: string): boolean {
  if (text.length < 300 || text.length > 60_000 || text.includes('\0') || text.includes('\ufffd')) return false;
  const lines = text.split('\n');
  return (
    text.length / lines.length < 80 &&
    lines.every((line) => line.length < 400) &&
    (text.match(/\d/g) ?? []).length < text.length * 0.1
  );
}

/** Distinct files in an order that depends on their content only. */
function collect(folders: readonly string[], extensions: readonly string[]): SourceFile[] {
  const byHash = new Map<string, SourceFile>();
  for (const folder of folders.filter((f) => existsSync(f))) {
    for (const path of walk(folder, extensions)) {
      if (statSync(path).size > 60_000) continue;
      const text = readFileSync(path, 'utf8');
      if (isReadable(text)) {
        const hash = createHash('sha256').update(text).digest('hex');
        byHash.set(hash, { text, path, hash });
      }
    }
  }
  const files = [...byHash.values()].sort((a, b) => (a.hash < b.hash ? -1 : 1));
  let bytes = 0;
  return files.filter(({ text }) => (bytes += text.length) <= BYTES_PER_LANGUAGE);
}

/** Shards of compressed JSON lines, train and test. */
function writeSource(folder: string): void {
  const nodeFolders = [join(root, 'node_modules'), join(dirname(process.execPath), '..', 'lib', 'node_modules')];
  const javascript = collect(nodeFolders, ['.js', '.mjs', '.cjs']);
  const python = collect([...pythonFolders(), ...nodeFolders], ['.py']);
  const files = [...javascript, ...python].sort((a, b) => (a.hash < b.hash ? -1 : 1));
  const lines = (part: readonly SourceFile[]): Buffer =>
    gzipSync(part.map(({ text, path }) => `${JSON.stringify({ text, path })}\n`).join(''));
  rmSync(folder, { recursive: true, force: true });
  mkdirSync(folder, { recursive: true });
  writeFileSync(join(folder, 'test-00000-of-00001.jsonl.gz'), lines(files.slice(0, TEST_FILES)));
  const train = files.slice(TEST_FILES);
  for (let shard = 0; shard < SHARDS; shard++) {
    const name = `train-${String(shard).padStart(5, '0')}-of-${String(SHARDS).padStart(5, '0')}.jsonl.gz`;
    writeFileSync(join(folder, name), lines(train.filter((_, i) => i % SHARDS === shard)));
  }
  const megabytes = (part: readonly SourceFile[]): string =>
    (part.reduce((sum, { text }) => sum + text.length, 0) / 1e6).toFixed(1);
  say(
    `source: ${javascript.length} JavaScript files (${megabytes(javascript)} MB), ${python.length} Python files (${megabytes(python)} MB) in ${folder}`,
  );
}

// ---- the tokenizer

async function trainTokenizer(source: string, folder: string): Promise<void> {
  const rows = await loadDataset(source, { split: 'train', streaming: true });
  const texts = async function* (): AsyncGenerator<string> {
    for await (const { text } of rows) yield text as string;
  };
  const tokenizer = await AutoTokenizer.trainNewFromIterator(texts(), {
    vocabSize: 4096,
    eosToken: '<|endoftext|>',
    bosToken: '<|endoftext|>',
    padToken: '<|pad|>',
  });
  tokenizer.savePretrained(folder);
  const line = 'def say_hello(name):\n    print(f"Hello, {name}!")\n';
  const tokens = (await tokenizer.encode(line)).map((id) => JSON.stringify(tokenizer.decode([id])));
  say(`tokenizer: ${tokenizer.vocabSize} tokens in ${folder}; for example ${tokens.join(' ')}`);
}

// ---- completions

async function complete(folder: string): Promise<void> {
  const tokenizer = AutoTokenizer.fromPretrained(folder);
  const model = await AutoModelForCausalLM.fromPretrained(folder);
  try {
    for (const prompt of PROMPTS) {
      const [result] = await generateAll(model, [await tokenizer.encode(prompt)], {
        tokenizer,
        maxNewTokens: 48,
        doSample: true,
        temperature: 0.6,
        topP: 0.9,
        repetitionPenalty: 1.2,
        seed: 1,
        eosTokenId: tokenizer.eosTokenId,
      });
      say();
      say(`${style.bold(prompt)}${result.text ?? ''}`);
    }
  } finally {
    await model.close();
  }
}

async function main(overrides: readonly string[]): Promise<void> {
  // Paths in the configuration are relative to the package.
  process.chdir(root);
  const config = loadConfig(CONFIG, overrides);
  const started = performance.now();
  if (!config.resumeFromCheckpoint) {
    writeSource(config.datasetName!);
    await trainTokenizer(config.datasetName!, config.tokenizerNameOrPath!);
  }
  await trainCommand(CONFIG, overrides);
  await complete(config.outputDir);
  say();
  say(
    `all of it took ${((performance.now() - started) / 60_000).toFixed(1)} minutes; the model is in ${config.outputDir}, its curve in ${join(config.outputDir, 'loss-curve.png')}`,
  );
}

main(process.argv.slice(2)).catch((error: unknown) => {
  reportError(error);
  process.exitCode = 1;
});
