/**
 * One JSON from what the parts of gpu-check.sh left in a folder: `node report.js PARTS > gpu-check.json`. Facts of the machine,
 * status and seconds of each part, its numbers, and the targets with what was reached of them; a target whose numbers are not
 * there says so. Missing a target is told, not a failure: the exit status of gpu-check.sh is about correctness.
 */
import { existsSync, readdirSync, readFileSync } from 'node:fs';
import path from 'node:path';

const folder = process.argv[2];
const read = (name: string): string => readFileSync(path.join(folder, name), 'utf8');
/** What a part printed; undefined when it did not run or broke off. */
function numbersOf(part: string): unknown {
  try {
    return JSON.parse(read(`${part}.json`));
  } catch {
    return undefined;
  }
}

const facts = Object.fromEntries(
  read('facts.tsv')
    .trimEnd()
    .split('\n')
    .map((line) => line.split('\t')),
);
const steps = Object.fromEntries(
  readdirSync(folder)
    .filter((f) => f.endsWith('.status'))
    .map((f) => {
      const [status, seconds] = read(f).trim().split(' ').map(Number);
      return [path.basename(f, '.status'), { status, seconds }];
    }),
);
const results = Object.fromEntries(
  ['rows', 'training', 'torch', 'ops', 'speed', 'decode'].map((part) => [part, numbersOf(part)]),
);

type Row = Record<string, number | undefined> & { name: string };
const named = (part: string, name: string): Row | undefined =>
  ((results[part] ?? []) as Row[]).find((row) => row.name === name);
const torch = (results.torch ?? {}) as Record<string, number | undefined>;
const ratio = (a?: number, b?: number): number | undefined => (a && b ? a / b : undefined);

interface Target {
  what: string;
  atLeast: number;
  value: number | undefined;
}

/** Both passes of attention together, counted as torch's. */
function attention(): number | undefined {
  const [forward, backward] = ['attention forward', 'attention backward'].map((name) => named('ops', name));
  const seconds = (row?: Row): number | undefined => row?.microseconds && row.microseconds / 1e6;
  const [f, b] = [seconds(forward), seconds(backward)];
  return f && b ? (forward!.teraflops! * f + backward!.teraflops! * b) / (f + b) : undefined;
}

const copy = torch.copyGigabytesPerSecond;
/** Dense bf16 of the datasheet, for MFU. */
const peak = /H100|H200|GH200/.test(facts.gpu ?? '') ? 989.5 : /A100/.test(facts.gpu ?? '') ? 312 : undefined;
const targets: Target[] = [
  {
    what: 'NF4 dequantisation, share of copy bandwidth',
    atLeast: 0.85,
    value: ratio(named('ops', 'dequantize nf4 nested')?.gigabytesPerSecond, copy),
  },
  {
    what: "bf16 GEMM, share of torch's",
    atLeast: 0.95,
    value: ratio(named('ops', 'gemm bf16')?.teraflops, torch.gemmTeraflops),
  },
  { what: 'attention forward and backward, TFLOP/s', atLeast: 270, value: attention() },
  {
    what: 'Llama-3-8B QLoRA, nothing recomputed, tokens/s',
    atLeast: 17_000,
    value: named('speed', 'llama-3-8b qlora, nothing recomputed')?.tokensPerSecond,
  },
  {
    what: 'Llama-3-8B QLoRA, blocks recomputed, tokens/s',
    atLeast: 12_000,
    value: named('speed', 'llama-3-8b qlora, blocks recomputed')?.tokensPerSecond,
  },
  {
    what: '8-bit AdamW, share of copy bandwidth',
    atLeast: 0.8,
    value: ratio(named('ops', 'adamw_8bit')?.gigabytesPerSecond, copy),
  },
  {
    what: 'decode NF4, share of copy bandwidth',
    atLeast: 0.6,
    value: ratio(named('decode', 'decode nf4')?.gigabytesPerSecond, copy),
  },
  {
    what: 'GPT-2 124M pretraining, MFU',
    atLeast: 0.45,
    value: ratio(named('speed', 'gpt-2 124m pretraining')?.teraflops, peak),
  },
];

const report = {
  ...facts,
  device: existsSync(path.join(folder, 'device.log')) ? read('device.log').trim().split('\n') : undefined,
  steps,
  targets: targets.map((t) => ({
    what: t.what,
    atLeast: t.atLeast,
    value: t.value ?? null,
    met: facts.rehearsal ? 'a rehearsal' : t.value === undefined ? 'not measured' : t.value >= t.atLeast,
  })),
  results,
};
process.stdout.write(`${JSON.stringify(report, null, 1)}\n`);
