/**
 * Training steps beside torch + transformers + peft: the same shapes, batch, LoRA targets and optimizer.
 *
 * Two workers of ours (bf16 and NF4 base) and torch's take turns, one step a slice. Memory is the peak resident set of
 * each process, its loading included.
 */
import { asSlice, Interleaved, type Contender } from '../harness/interleave';
import { nodeWorker, type Worker } from '../harness/worker';
import { LORA_RANK, SEVEN_MODULES, shapeConfig, type ModelShape, type TrainingRun } from '../step/shapes';
import type { PeersContext } from './context';
import { withWorkers } from './context';
import { pythonWorker } from './environment';
import { judge, memoryVerdict, pairRow, ratioVerdict, type Group, type PeerRow } from './row';

interface Setting {
  readonly group: Group;
  readonly name: string;
  readonly shape: ModelShape;
  readonly train: 'lora' | 'full';
  readonly checkpoint: boolean;
  readonly batch: number;
  readonly length: number;
  /** Bases of our workers; the first is compared with torch unless `nf4` is the only one. */
  readonly bases: readonly TrainingRun['base'][];
  readonly torchBase: 'f32' | 'bf16';
  readonly targetRatio: number;
  /** Upper bound on our resident set as a share of the peer's. */
  readonly memoryShare?: number;
  readonly memoryBytes?: number;
}

const MB135 = { shape: 'smollm2-135m', train: 'lora', batch: 2, length: 512 } as const;
const GPT2 = { shape: 'gpt2-124m', train: 'full', checkpoint: false, batch: 4, length: 256 } as const;

const SETTINGS: readonly Setting[] = [
  {
    ...MB135,
    group: 'lora',
    name: 'LoRA 135M bf16 2x512',
    checkpoint: false,
    bases: ['bf16', 'nf4'],
    torchBase: 'bf16',
    targetRatio: 1.5,
    memoryShare: 0.5,
  },
  {
    ...MB135,
    group: 'lora-checkpoint',
    name: 'LoRA 135M bf16 2x512, checkpointing',
    checkpoint: true,
    bases: ['bf16', 'nf4'],
    torchBase: 'bf16',
    targetRatio: 1.6,
    memoryShare: 0.5,
  },
  {
    ...MB135,
    group: 'lora-f32',
    name: 'LoRA 135M fp32 2x512',
    checkpoint: false,
    bases: ['f32'],
    torchBase: 'f32',
    targetRatio: 1.4,
  },
  {
    ...MB135,
    group: 'lora-f32',
    name: 'LoRA 135M fp32 2x512, checkpointing',
    checkpoint: true,
    bases: ['f32'],
    torchBase: 'f32',
    targetRatio: 1.4,
  },
  {
    shape: 'tinyllama-1.1b',
    train: 'lora',
    batch: 1,
    length: 512,
    group: 'tinyllama',
    name: 'LoRA TinyLlama 1.1B 1x512, checkpointing, NF4 against bf16',
    checkpoint: true,
    bases: ['nf4'],
    torchBase: 'bf16',
    targetRatio: 1.25,
    memoryBytes: 1.6 * 2 ** 30,
  },
  { ...GPT2, group: 'gpt2', name: 'GPT-2 124M full fp32 4x256', bases: ['f32'], torchBase: 'f32', targetRatio: 1.25 },
  { ...GPT2, group: 'gpt2', name: 'GPT-2 124M full bf16 4x256', bases: ['bf16'], torchBase: 'bf16', targetRatio: 1.35 },
];

/** NF4 may be this much slower than our own bf16 base. */
const NF4_RATIO = 0.97;

/** Every setting of a group, one after another. */
export async function* trainingRows(group: Group, context: PeersContext): AsyncGenerator<PeerRow> {
  for (const setting of SETTINGS.filter((s) => s.group === group)) yield* rowsOf(setting, context);
}

async function* rowsOf(given: Setting, context: PeersContext): AsyncGenerator<PeerRow> {
  const setting = context.quick
    ? { ...given, shape: given.shape === 'gpt2-124m' ? given.shape : ('tiny' as const), batch: 1, length: 64 }
    : given;
  const { threads } = context;
  const ours = setting.bases.map((base): [string, Worker] => [
    `lathe ${base}`,
    nodeWorker(`lathe ${base}`, 'benchmarks/step/child.ts', runOf(setting, base, threads)),
  ]);
  const torchName = `torch ${setting.torchBase}`;
  const { shape, ...run } = runOf(setting, setting.torchBase, threads);
  const torch = pythonWorker(
    context.python,
    torchName,
    'train.py',
    { ...run, model: shapeConfig(shape), rank: LORA_RANK, targets: SEVEN_MODULES },
    threads,
  );
  const rows = await withWorkers([...ours.map(([, w]) => w), torch], () =>
    measure(setting, [...ours, [torchName, torch]], context),
  );
  yield* rows;
}

function runOf(s: Setting, base: TrainingRun['base'], threads: number): TrainingRun {
  return {
    shape: s.shape,
    base,
    train: s.train,
    checkpoint: s.checkpoint ? 'smart' : 'none',
    batch: s.batch,
    length: s.length,
    threads,
  };
}

async function measure(
  setting: Setting,
  workers: readonly (readonly [string, Worker])[],
  context: PeersContext,
): Promise<PeerRow[]> {
  const tokens = setting.batch * setting.length;
  const peakBytes = new Map<string, number>();
  const step = async (
    [name, worker]: readonly [string, Worker],
    steps: number,
  ): Promise<ReturnType<typeof asSlice>> => {
    const answer = await worker.work({ run: steps });
    peakBytes.set(name, answer.peakBytes as number);
    return asSlice(answer.samples, tokens);
  };
  for (const w of workers) await step(w, 2); // pages, caches, threads
  const contenders = workers.map((w): Contender => ({
    name: w[0],
    threads: context.threads,
    busy: true,
    slice: () => step(w, 1),
  }));
  const run = await new Interleaved(contenders).run(context.rounds);
  const precision = setting.torchBase;
  context.peak.measure(precision, context.threads);
  const share = async (name: string, worker: Worker): Promise<number> => {
    const { flopsPerStep } = await worker.ready;
    return context.peak.share(
      ((flopsPerStep as number) / tokens) * run.rate(name).median * 1e-9,
      precision,
      context.threads,
    );
  };
  const [torch] = workers[workers.length - 1];
  const { group, name, targetRatio, memoryShare, memoryBytes } = setting;
  const rows: PeerRow[] = [];
  for (const [ours, worker] of workers.slice(0, -1)) {
    const memory = { ours: peakBytes.get(ours)!, peer: peakBytes.get(torch)! };
    const verdicts = [ratioVerdict(run.ratio(ours, torch), targetRatio)];
    if (memoryShare !== undefined) verdicts.push(memoryVerdict(memory.ours, memory.peer, memoryShare));
    if (memoryBytes !== undefined)
      verdicts.push(
        judge(
          `RSS < ${(memoryBytes / 2 ** 30).toFixed(1)} GiB`,
          `${(memory.ours / 2 ** 30).toFixed(2)} GiB`,
          memory.ours < memoryBytes,
        ),
      );
    rows.push(
      pairRow(run, {
        group,
        name: setting.bases.length > 1 ? `${name}, ${ours.replace('lathe ', '')} base` : name,
        ours,
        peer: torch,
        unit: 'tokens/s',
        targetRatio,
        memory,
        verdicts,
        shareOfPeak: await share(ours, worker),
      }),
    );
  }
  if (setting.bases.length > 1) {
    const [[dense], [quantised]] = workers;
    const memory = { ours: peakBytes.get(quantised)!, peer: peakBytes.get(dense)! };
    rows.push(
      pairRow(run, {
        group,
        name: `${name}: NF4 against our bf16`,
        ours: quantised,
        peer: dense,
        unit: 'tokens/s',
        targetRatio: NF4_RATIO,
        memory,
        rounds: undefined,
      }),
    );
  }
  return rows;
}
