/**
 * `npm run bench:plan`: how long a run takes from config.json to programs and a memory plan, for 30 and 80 layers.
 *
 * Each figure is the first thing a fresh process does after its imports; the warm figure is the median of repetitions in
 * the same process. `--profile` adds where the time goes. Targets: under 300 ms for 30 layers, 1 s for 80.
 */
import type { Profiler } from 'node:inspector';
import { listFlag, numberFlag, parseFlags, runMain } from '../harness/arguments';
import { describeMachine, machineLine } from '../harness/machine';
import { appendResults } from '../harness/results';
import { median } from '../harness/statistics';
import { figure, formatTable, mebibytes } from '../harness/table';
import { nodeWorker } from '../harness/worker';
import { MODEL_SHAPES, runName } from '../step/shapes';
import type { PlanRun, PlanTimes } from './child';
import { hotSpots } from './hot-spots';

/** Milliseconds for trace + compile + plan by depth. */
export const PLAN_TARGET_MS: Readonly<Record<number, number>> = { 30: 300, 80: 1000 };

export interface PlanFigures {
  readonly bench: 'plan';
  readonly run: PlanRun;
  readonly cold: PlanTimes;
  /** Median total over the fresh processes. */
  readonly coldMs: number;
  readonly coldMsEach: readonly number[];
  /** Median CPU time of the same work, compiler threads of V8 included: what is left on a busy machine. */
  readonly coldCpuMs: number;
  readonly warmMs: number;
  readonly peakRssBytes: number;
}

const totalMs = (t: PlanTimes): number => t.describeMs + t.compileMs + t.planMs;

/** Times one depth in `processes` fresh processes. */
export async function measurePlan(run: PlanRun, processes: number): Promise<PlanFigures> {
  const cold: PlanTimes[] = [];
  let warm: PlanTimes[] = [];
  const cpu: number[] = [];
  let peakRssBytes = 0;
  for (let i = 0; i < processes; i++) {
    const worker = nodeWorker(`plan ${run.layers} layers`, 'benchmarks/plan/child.ts', {
      ...run,
      repeats: i === 0 ? run.repeats : 0,
    });
    const ready = await worker.ready;
    await worker.close();
    cold.push(ready.cold as PlanTimes);
    cpu.push(ready.coldCpuMs as number);
    if (i === 0) warm = ready.warm as PlanTimes[];
    peakRssBytes = Math.max(peakRssBytes, ready.peakBytes as number);
  }
  const each = cold.map(totalMs);
  const middle = cold.find((t) => totalMs(t) >= median(each))!;
  return {
    bench: 'plan',
    run,
    cold: middle,
    coldMs: median(each),
    coldMsEach: each,
    coldCpuMs: median(cpu),
    warmMs: median(warm.map(totalMs)),
    peakRssBytes,
  };
}

async function printHotSpots(run: PlanRun): Promise<void> {
  const worker = nodeWorker(`profile of ${run.layers} layers`, 'benchmarks/plan/child.ts', { ...run, profile: true });
  const { profile } = await worker.ready;
  await worker.close();
  const { files, functions } = hotSpots(profile as Profiler.Profile);
  const cells = (list: typeof files, rows: number): string[][] =>
    list.slice(0, rows).map((s) => [s.what, figure(s.selfMs), s.totalMs ? figure(s.totalMs) : '']);
  console.log(
    `\n${formatTable(['file', 'self ms', 'with callees'], cells(files, 20))}\n\n${formatTable(['function', 'self ms', ''], cells(functions, 20))}\n`,
  );
}

const FLAGS = {
  quick: { help: 'one process per depth; not saved' },
  layers: { value: 'LIST', help: 'depths (default 30,80)' },
  shape: { value: 'NAME', help: `of ${MODEL_SHAPES.join(', ')} (default smollm2-135m)` },
  base: { value: 'NAME', help: 'bf16, nf4 or f32 (default nf4)' },
  checkpoint: { value: 'NAME', help: 'none, smart or block (default smart)' },
  profile: { help: 'print the files and functions with the most time' },
  'no-save': { help: 'do not append to benchmarks/results/' },
} as const;

async function main(): Promise<void> {
  const flags = parseFlags(
    'npm run bench:plan --',
    'time from config.json to programs and a memory plan',
    FLAGS,
    process.argv.slice(2),
  );
  const quick = flags.quick !== undefined;
  const [shape] = listFlag(flags, 'shape', MODEL_SHAPES, ['smollm2-135m']);
  const [base] = listFlag(flags, 'base', ['bf16', 'nf4', 'f32'] as const, ['nf4']);
  const [checkpoint] = listFlag(flags, 'checkpoint', ['none', 'smart', 'block'] as const, ['smart']);
  const machine = describeMachine();
  console.log(machineLine(machine));
  const all: PlanFigures[] = [];
  for (const text of (flags.layers ?? '30,80').split(',')) {
    const layers = numberFlag({ layers: text }, 'layers', 30);
    const run: PlanRun = {
      shape,
      base,
      train: 'lora',
      checkpoint,
      batch: 2,
      length: 512,
      threads: 2,
      layers,
      repeats: quick ? 1 : 5,
      profile: false,
    };
    all.push(await measurePlan(run, quick ? 1 : 5));
    if (flags.profile !== undefined) await printHotSpots(run);
  }
  const rows = all.map(({ run, cold, coldMs, coldCpuMs, warmMs }) => {
    const target = PLAN_TARGET_MS[run.layers];
    const verdict = target === undefined ? '' : `${target} ms ${coldMs <= target ? 'met' : 'MISSED'}`;
    return [
      `${runName(run)}, ${run.layers} layers`,
      figure(coldMs),
      figure(coldCpuMs),
      figure(cold.describeMs),
      figure(cold.compileMs),
      figure(cold.planMs),
      figure(warmMs),
      String(cold.nodes),
      mebibytes(cold.programBytes),
      verdict,
    ];
  });
  console.log(
    formatTable(
      ['run', 'ms', 'CPU ms', 'describe', 'compile', 'plan', 'warm ms', 'nodes', 'program MiB', 'target'],
      rows,
    ),
  );
  appendResults('plan', machine, all, !quick && flags['no-save'] === undefined);
}

if (require.main === module) runMain(main);
