/**
 * `npm run bench`: training steps of this engine alone, against the machine's own peak.
 *
 * Every configuration runs in a process of its own (peak memory) with random weights; a step is one micro-batch and one
 * optimizer step. Printed and appended to benchmarks/results/step.jsonl: median tokens/s of undisturbed steps, FLOP/s
 * (recomputation counted, attention by document) and their share of the peak, resident and planned memory.
 */
import { LatheError } from '../../src/errors';
import { listFlag, numberFlag, parseFlags, runMain } from '../harness/arguments';
import { describeMachine, machineLine } from '../harness/machine';
import { MachinePeak } from '../harness/peak';
import { appendResults } from '../harness/results';
import { quietNote, summarize, type Sample } from '../harness/statistics';
import { figure, formatTable, mebibytes, percent } from '../harness/table';
import { nodeWorker } from '../harness/worker';
import { printProfile, type ProfileEntry } from './profile';
import { MODEL_SHAPES, runName, type TrainingRun } from './shapes';

const FLAGS = {
  quick: { help: 'two steps of 1x64 per configuration: shows that it runs; not saved' },
  threads: { value: 'N', help: 'engine threads (default 2)' },
  shapes: { value: 'LIST', help: `of ${MODEL_SHAPES.join(', ')} (default smollm2-135m)` },
  bases: { value: 'LIST', help: 'of nf4, bf16, f32 (default nf4,bf16)' },
  checkpoint: { value: 'LIST', help: 'of none, smart, block (default none,smart)' },
  full: { help: 'train all weights instead of LoRA r 16 on seven modules' },
  batch: { value: 'BxL', help: 'documents x tokens (default 2x512)' },
  steps: {
    value: 'N',
    help: 'undisturbed steps wanted per configuration (default 8; at most three times as many are run)',
  },
  profile: { help: 'print the time per op of two further steps' },
  'no-save': { help: 'do not append to benchmarks/results/' },
} as const;

export interface StepFigures {
  readonly bench: 'step';
  readonly name: string;
  readonly run: TrainingRun;
  readonly tokensPerSecond: number;
  readonly bestTokensPerSecond: number;
  readonly gflops: number;
  readonly peakGflops: number;
  /** NaN (null in the record) when the peak was disturbed. */
  readonly shareOfPeak: number;
  readonly peakRssBytes: number;
  readonly plannedPeakBytes: number;
  readonly compileMs: number;
  readonly loadMs: number;
  readonly samples: readonly Sample[];
  readonly quiet: number;
}

/** Steps until `wanted` were undisturbed, or three times as many were run. */
async function measure(
  run: TrainingRun,
  wanted: number,
  peak: MachinePeak,
  profile: boolean,
): Promise<{ figures: StepFigures; profile: ProfileEntry[] }> {
  const worker = nodeWorker(runName(run), 'benchmarks/step/child.ts', run);
  try {
    const ready = await worker.ready;
    await worker.work({ run: 1 }); // pages, caches, the engine's threads
    const samples: Sample[] = [];
    let last = await worker.work({ run: 1 });
    for (;;) {
      samples.push(...last.samples);
      if (summarize(samples, run.threads).quiet >= wanted || samples.length >= 3 * wanted) break;
      last = await worker.work({ run: 1 });
    }
    const precision = run.base === 'f32' ? 'f32' : 'bf16';
    const peakGflops = peak.measure(precision, run.threads);
    const s = summarize(samples, run.threads);
    const tokens = run.batch * run.length;
    const gflops = (ready.flopsPerStep as number) / s.medianMs / 1e6;
    const figures: StepFigures = {
      bench: 'step',
      name: runName(run),
      run,
      tokensPerSecond: tokens / (s.medianMs / 1e3),
      bestTokensPerSecond: tokens / (s.bestMs / 1e3),
      gflops,
      peakGflops,
      shareOfPeak: peak.share(gflops, precision, run.threads),
      peakRssBytes: last.peakBytes as number,
      plannedPeakBytes: ready.plannedPeakBytes as number,
      compileMs: ready.compileMs as number,
      loadMs: ready.loadMs as number,
      samples,
      quiet: s.quiet,
    };
    const entries = profile ? ((await worker.request({ profile: 2 })).profile as ProfileEntry[]) : [];
    return { figures, profile: entries };
  } finally {
    await worker.close();
  }
}

function row(f: StepFigures): string[] {
  const s = summarize(f.samples, f.run.threads);
  return [
    f.name,
    figure(f.tokensPerSecond),
    figure(f.bestTokensPerSecond),
    figure(f.gflops),
    percent(f.shareOfPeak),
    mebibytes(f.peakRssBytes),
    mebibytes(f.plannedPeakBytes),
    figure(s.cpuPerWall),
    quietNote(s),
  ];
}

runMain(async () => {
  const flags = parseFlags(
    'npm run bench --',
    'training steps of this engine against the machine’s peak',
    FLAGS,
    process.argv.slice(2),
  );
  const quick = flags.quick !== undefined;
  const [, batch, length] = /^(\d+)x(\d+)$/.exec(flags.batch ?? (quick ? '1x64' : '2x512')) ?? [];
  if (!batch)
    throw new LatheError('ERR_CONFIG', `--batch expected documents x tokens like 2x512, received '${flags.batch}'`);
  const threads = numberFlag(flags, 'threads', 2);
  const wanted = numberFlag(flags, 'steps', quick ? 2 : 8);
  const peak = new MachinePeak();
  const machine = describeMachine();
  console.log(machineLine(machine));
  const all: StepFigures[] = [];
  for (const shape of listFlag(flags, 'shapes', MODEL_SHAPES, ['smollm2-135m'])) {
    for (const base of listFlag(flags, 'bases', ['nf4', 'bf16', 'f32'] as const, ['nf4', 'bf16'])) {
      for (const checkpoint of listFlag(flags, 'checkpoint', ['none', 'smart', 'block'] as const, ['none', 'smart'])) {
        const run: TrainingRun = {
          shape,
          base,
          train: flags.full ? 'full' : 'lora',
          checkpoint,
          batch: Number(batch),
          length: Number(length),
          threads,
        };
        const { figures, profile } = await measure(run, wanted, peak, flags.profile !== undefined);
        all.push(figures);
        console.log(
          `${figures.name}: ${figure(figures.tokensPerSecond)} tokens/s, ${percent(figures.shareOfPeak)} of peak, ${mebibytes(figures.peakRssBytes)} MiB`,
        );
        if (profile.length) console.log(`\n${printProfile(profile, figures.peakGflops)}\n`);
      }
    }
  }
  const header = [
    'configuration',
    'tokens/s',
    'best',
    'GFLOP/s',
    'of peak',
    'RSS MiB',
    'plan MiB',
    'CPU/wall',
    'steps',
  ];
  console.log(`\n${formatTable(header, all.map(row))}\n${peak.line()}`);
  appendResults(
    'step',
    machine,
    all.map((f) => ({ ...f, machinePeak: peak.describe() })),
    !quick && flags['no-save'] === undefined,
  );
});
