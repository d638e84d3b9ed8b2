/** examples/codeparrot.ts as a user runs it, at small scale: tokenizer, streamed pretraining, perplexity, completions. */
import { spawnSync } from 'node:child_process';
import { existsSync, mkdirSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { gzipSync } from 'node:zlib';
import { temporaryFolder } from './tiny-run';

const root = join(__dirname, '../..');
const base = temporaryFolder('codeparrot');

/** This project's own source in two shards, split into parts so that there are rows enough. */
function writeCode(): string {
  const files = (readdirSync(join(root, 'src'), { recursive: true }) as string[])
    .filter((name) => name.endsWith('.ts'))
    .sort();
  const parts = files
    .flatMap((name) => readFileSync(join(root, 'src', name), 'utf8').split(/\n(?=export )/))
    .filter((text) => text.length > 80);
  mkdirSync(join(base, 'code'));
  for (const shard of [0, 1]) {
    const lines = parts.filter((_, i) => i % 2 === shard).map((content) => `${JSON.stringify({ content })}\n`);
    writeFileSync(join(base, 'code', `train-0000${shard}-of-00002.jsonl.gz`), gzipSync(lines.join('')));
  }
  return join(base, 'code', '*.jsonl.gz');
}

test('codeparrot.ts', () => {
  const out = join(base, 'out');
  const child = spawnSync(
    process.execPath,
    ['-r', 'ts-node/register/transpile-only', join(root, 'examples/codeparrot.ts'), writeCode(), out, 'tiny', '40'],
    { encoding: 'utf8' },
  );
  expect([child.status, child.stderr]).toEqual([0, expect.not.stringContaining('Error')]);
  const perplexities = [...child.stdout.matchAll(/perplexity ([\d.]+)/g)].map((m) => Number(m[1]));
  expect(perplexities.length).toBe(5);
  expect(perplexities[4]).toBeLessThan(0.8 * perplexities[0]);
  expect(child.stdout).toMatch(/def say_hello\(\):/);
  expect(child.stdout.split('---').length).toBe(4);
  for (const file of ['model.safetensors', 'tokenizer.json', 'loss-curve.png'])
    expect([file, existsSync(join(out, file))]).toEqual([file, true]);
}, 240_000);
