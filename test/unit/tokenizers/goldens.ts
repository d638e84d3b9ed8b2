/** Paths and readers of the tokenizer goldens; the real tokenizers are looked for where LATHE_TOKENIZERS points. */
import { existsSync, mkdtempSync, readFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

export const GOLDEN = join(__dirname, '../../golden/tokenizers');

export function golden<T>(name: string): T {
  return JSON.parse(readFileSync(join(GOLDEN, name), 'utf8')) as T;
}

export function temporaryFolder(): string {
  return mkdtempSync(join(tmpdir(), 'lathe-test-'));
}

/** The folder of a real tokenizer, or undefined after saying on stderr why the test is skipped. */
export function realTokenizer(name: string): string | undefined {
  const base = process.env.LATHE_TOKENIZERS;
  const folder = base && join(base, name);
  if (folder && existsSync(join(folder, 'tokenizer.json'))) return folder;
  process.stderr.write(
    `SKIPPED real tokenizer '${name}': ${base ? `no ${name}/tokenizer.json in LATHE_TOKENIZERS=${base}` : 'LATHE_TOKENIZERS is not set to a folder with gpt2, llama3, qwen3, smollm2'}\n`,
  );
  return undefined;
}
