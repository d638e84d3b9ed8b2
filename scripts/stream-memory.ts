/**
 * Streams a large compressed data set the way training does (read, tokenise, pack, batch) and prints memory and tokens per second.
 *
 *   npx ts-node scripts/stream-memory.ts [--gz-mb 2048] [--seconds 600] [--shuffle 1000] [--warm-up 0.1] [--tokenizer data/base-model]
 *
 * The set is made in a temporary folder: shards of 16 MB of gzip, filled with the source code in node_modules; most are links to one
 * of four, so that 2 GB of shards take little disk. Memory must not grow: exit code 1 when it does by more than 50 MB after the
 * warm-up (the first tenth of the tokens). One JSON object as the last line.
 */
import {
  closeSync,
  linkSync,
  mkdtempSync,
  openSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  writeSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { gzipSync } from 'node:zlib';
import { loadDataset, StreamLoader } from '../src/data';
import { AutoTokenizer } from '../src/pretrained/auto-tokenizer';

const root = join(__dirname, '..');
const DISTINCT = 4;
const MB = 1e6;

export interface StreamRun {
  gzMegabytes: number;
  shardMegabytes?: number;
  seconds?: number;
  shuffle?: number;
  /** Share of the tokens. */
  warmUp?: number;
  tokenizer?: string;
  say?: (line: string) => void;
}

export interface StreamResult {
  tokens: number;
  textMegabytes: number;
  gzMegabytes: number;
  seconds: number;
  tokensPerSecond: number;
  cpuSecondsPerMegatoken: number;
  /** Resident memory after the warm-up and the most there was later. */
  warmRssMegabytes: number;
  peakRssMegabytes: number;
}

/** One pass (or `seconds` of it) in steps of 8 x 1,024 tokens. */
async function streamRun(run: StreamRun): Promise<StreamResult> {
  const say = run.say ?? (() => undefined);
  const folder = mkdtempSync(join(tmpdir(), 'lathe-stream-set-'));
  try {
    const made = makeSet(folder, run.gzMegabytes * MB, (run.shardMegabytes ?? 16) * MB);
    say(
      `${made.shards} shards, ${(made.gzBytes / MB).toFixed(0)} MB of gzip, ${(made.textBytes / MB).toFixed(0)} MB of JSON lines`,
    );
    return await consume(folder, made.gzBytes, run, say);
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}

async function consume(
  folder: string,
  gzBytes: number,
  run: StreamRun,
  say: (line: string) => void,
): Promise<StreamResult> {
  const tokenizer = AutoTokenizer.fromPretrained(join(root, run.tokenizer ?? 'data/base-model'));
  const rows = await loadDataset(folder, { split: 'train', streaming: true });
  let text = 0;
  const counted = rows.map((row) => {
    text += (row.text as string).length;
    return {};
  });
  const stream = run.shuffle ? counted.shuffle({ seed: 1, bufferSize: run.shuffle }) : counted;
  const loader = new StreamLoader(stream, tokenizer, { batchSize: 8, maxLength: 1024, packing: 'wrapped' });
  const rss = (): number => process.memoryUsage.rss() / MB;
  const started = performance.now();
  const cpu = process.cpuUsage();
  // The most of each second: what is noted here must not grow by step itself.
  const samples: { at: number; rss: number }[] = [];
  let tokens = 0;
  for (let shown = 0, second = -1, ended = false; !ended;) {
    const step = await loader.next();
    for (const batch of step.microBatches) tokens += batch.numTokens;
    const seconds = (performance.now() - started) / 1000;
    ended = step.endsEpoch || (run.seconds !== undefined && seconds > run.seconds);
    const now = { at: tokens, rss: rss() };
    if (Math.floor(seconds) === second) samples.push({ at: tokens, rss: Math.max(now.rss, samples.pop()!.rss) });
    else samples.push(now);
    second = Math.floor(seconds);
    if (seconds - shown > 5) {
      shown = seconds;
      say(
        `${seconds.toFixed(0).padStart(5)} s  ${(tokens / 1e6).toFixed(1)} million tokens  ${Math.round(tokens / seconds)} tokens/s  ${rss().toFixed(0)} MB`,
      );
    }
  }
  await loader.close();
  const seconds = (performance.now() - started) / 1000;
  const used = process.cpuUsage(cpu);
  const boundary = tokens * (run.warmUp ?? 0.1);
  const warm = samples.filter(({ at }) => at <= boundary);
  const later = samples.filter(({ at }) => at > boundary);
  const peak = (list: typeof samples): number => Math.max(...list.map((sample) => sample.rss));
  return {
    tokens,
    textMegabytes: text / MB,
    gzMegabytes: gzBytes / MB,
    seconds,
    tokensPerSecond: tokens / seconds,
    cpuSecondsPerMegatoken: (used.user + used.system) / tokens,
    warmRssMegabytes: peak(warm.length > 0 ? warm : later),
    peakRssMegabytes: peak(later.length > 0 ? later : warm),
  };
}

// ---- the set

function makeSet(
  folder: string,
  gzBytes: number,
  shardBytes: number,
): { shards: number; gzBytes: number; textBytes: number } {
  const lines = sourceLines(Math.min(48 * MB, 4 * gzBytes));
  const made: { path: string; gz: number; text: number }[] = [];
  let total = 0;
  let text = 0;
  for (let shard = 0; total < gzBytes; shard++) {
    const path = join(folder, `train-${String(shard).padStart(5, '0')}-of-99999.jsonl.gz`);
    if (shard < DISTINCT) made.push({ path, ...writeShard(path, lines, shard, shardBytes) });
    else linkSync(made[shard % DISTINCT].path, path);
    total += made[shard % DISTINCT].gz;
    text += made[shard % DISTINCT].text;
  }
  return { shards: readdirSync(folder).length, gzBytes: total, textBytes: text };
}

/** Members of gzip one after the other, which is a gzip file too. */
function writeShard(
  path: string,
  lines: readonly string[],
  seed: number,
  shardBytes: number,
): { gz: number; text: number } {
  const file = openSync(path, 'w');
  let [gz, text, next] = [0, 0, seed * 997];
  while (gz < shardBytes) {
    const block: string[] = [];
    for (let size = 0; size < 4 * MB && size < shardBytes * 4; next++) {
      block.push(lines[next % lines.length]);
      size += lines[next % lines.length].length;
    }
    const bytes = Buffer.from(block.join(''));
    const packed = gzipSync(bytes, { level: 1 });
    writeSync(file, packed);
    gz += packed.length;
    text += bytes.length;
  }
  closeSync(file);
  return { gz, text };
}

/** A JSON line for each source file of this project's dependencies. */
function sourceLines(mostCharacters: number): string[] {
  const files = (readdirSync(join(root, 'node_modules'), { recursive: true }) as string[]).filter(
    (name) => /\.(js|ts|md)$/.test(name) && !name.includes('.min.'),
  );
  const lines: string[] = [];
  let size = 0;
  for (const name of files) {
    const path = join(root, 'node_modules', name);
    const { size: bytes } = statSync(path);
    if (bytes > 200_000 || !statSync(path).isFile()) continue;
    const line = `${JSON.stringify({ text: readFileSync(path, 'utf8') })}\n`;
    lines.push(line);
    if ((size += line.length) > mostCharacters) break;
  }
  return lines;
}

function flag(name: string): number | undefined {
  const at = process.argv.indexOf(`--${name}`);
  return at < 0 ? undefined : Number(process.argv[at + 1]);
}

if (require.main === module) {
  const at = process.argv.indexOf('--tokenizer');
  const run: StreamRun = {
    gzMegabytes: flag('gz-mb') ?? 2048,
    shardMegabytes: flag('shard-mb'),
    seconds: flag('seconds'),
    shuffle: flag('shuffle') ?? 1000,
    warmUp: flag('warm-up'),
    tokenizer: at < 0 ? undefined : process.argv[at + 1],
    say: (line) => console.log(line),
  };
  void streamRun(run).then((result) => {
    const growth = result.peakRssMegabytes - result.warmRssMegabytes;
    console.log(
      `memory: ${result.warmRssMegabytes.toFixed(0)} MB after the warm-up, at most ${growth.toFixed(0)} MB more later`,
    );
    console.log(JSON.stringify(result));
    if (growth > 50) process.exitCode = 1;
  });
}
