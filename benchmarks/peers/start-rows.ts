/**
 * Time from the start of the process to the end of the first optimizer step, and of trace + compile + plan.
 *
 * The 135M shape in bf16 with LoRA, its weights in the page cache, a batch of 1 x 16 tokens so that it is the start that is
 * measured and not the first step. Starting is partly single-threaded on both sides, so its own CPU/wall says little, and a
 * probe of the machine around every round judges.
 */
import { join } from 'node:path';
import { Interleaved, type Contender, type Slice } from '../harness/interleave';
import { QUIET_SHARE } from '../harness/statistics';
import { figure } from '../harness/table';
import { nodeWorker, type Worker } from '../harness/worker';
import { measurePlan, PLAN_TARGET_MS } from '../plan/main';
import { LORA_RANK, SEVEN_MODULES, type ModelShape, type TrainingRun } from '../step/shapes';
import type { PeersContext } from './context';
import { pythonWorker } from './environment';
import { judge, pairRow, type PeerRow } from './row';

const START_TARGET_MS = 1500;

/** Starts a program, waits for its first step, ends it. One unit of work per start. */
async function startOnce(
  start: () => Worker,
  keep: (ready: Record<string, unknown>, startedAt: number) => void,
): Promise<Slice> {
  const startedAt = Date.now();
  const worker = start();
  const ready = await worker.ready;
  await worker.close();
  keep(ready, startedAt);
  return { wallMs: (ready.doneAt as number) - startedAt, cpuMs: ready.cpuMs as number, work: 1 };
}

export async function* startRows(context: PeersContext): AsyncGenerator<PeerRow> {
  const { threads, quick } = context;
  const shape: ModelShape = quick ? 'tiny' : 'smollm2-135m';
  const weights = join(context.scratch, `${shape}-bf16`);
  const maker = nodeWorker('make-weights', 'benchmarks/peers/make-weights.ts', { shape, folder: weights });
  await maker.ready;
  await maker.close();
  const run: TrainingRun = {
    shape,
    base: 'bf16',
    train: 'lora',
    checkpoint: 'none',
    batch: 1,
    length: 16,
    threads,
    weights,
  };
  const peakBytes = { ours: 0, peer: 0 };
  const parts: string[] = [];
  const ours: Contender = {
    name: 'lathe',
    threads,
    busy: false,
    slice: () =>
      startOnce(
        () => nodeWorker('lathe start', 'benchmarks/peers/start-child.ts', run),
        (ready, at) => {
          peakBytes.ours = Math.max(peakBytes.ours, ready.peakBytes as number);
          parts.push(
            `imports ${figure((ready.importedAt as number) - at)}, compile ${figure(ready.compileMs as number)}, weights ${figure(ready.loadMs as number)}, first step ${figure((ready.doneAt as number) - (ready.begunAt as number))} ms`,
          );
        },
      ),
  };
  const { shape: _shape, ...config } = run;
  const peer: Contender = {
    name: 'torch + peft',
    threads,
    busy: false,
    slice: () =>
      startOnce(
        () =>
          pythonWorker(
            context.python,
            'torch start',
            'start.py',
            { ...config, rank: LORA_RANK, targets: SEVEN_MODULES },
            threads,
          ),
        (ready) => void (peakBytes.peer = Math.max(peakBytes.peer, ready.peakBytes as number)),
      ),
  };
  // The first start of each reads the files; it is not counted.
  for (const c of [ours, peer]) await c.slice();
  const starts = await new Interleaved([ours, peer], () => context.peak.probe(threads)).run(
    quick ? 1 : Math.max(3, Math.ceil(context.rounds / 2)),
  );
  const [oursMs, peerMs] = ['lathe', 'torch + peft'].map((name) => 1000 / starts.rate(name).median);
  const row = pairRow(starts, {
    group: 'start',
    name: 'start to the end of the first optimizer step, 1x16',
    ours: 'lathe',
    peer: 'torch + peft',
    unit: 'ms',
    targetRatio: null,
    memory: peakBytes,
    note: parts[parts.length - 1],
  });
  yield {
    ...row,
    oursValue: oursMs,
    peerValue: peerMs,
    verdicts: [
      judge(`< ${START_TARGET_MS} ms`, `${figure(oursMs)} ms`, oursMs < START_TARGET_MS, !row.ratio.disturbed),
    ],
  };
}

/** Rows without a peer: the engine's own budget for compiling. */
export async function* planRows(context: PeersContext): AsyncGenerator<PeerRow> {
  for (const [layers, target] of Object.entries(PLAN_TARGET_MS)) {
    const run = {
      shape: 'smollm2-135m',
      base: 'nf4',
      train: 'lora',
      checkpoint: 'smart',
      batch: 2,
      length: 512,
      threads: context.threads,
      layers: Number(layers),
      repeats: 0,
      profile: false,
    } as const;
    const { coldMs, coldMsEach, coldCpuMs } = await measurePlan(run, context.quick ? 1 : 5);
    const each = `of ${coldMsEach.length} fresh processes, ${figure(Math.min(...coldMsEach))} to ${figure(Math.max(...coldMsEach))} ms; CPU ${figure(coldCpuMs)} ms`;
    yield {
      bench: 'peers',
      group: 'plan',
      name: `trace + compile + plan, ${layers} layers`,
      ours: 'lathe',
      peer: '',
      unit: 'ms',
      oursValue: coldMs,
      peerValue: NaN,
      ratio: { median: NaN, low: NaN, high: NaN, pairs: 0, dropped: 0, disturbed: false },
      targetRatio: null,
      shareOfPeak: null,
      oursPeakRssBytes: null,
      peerPeakRssBytes: null,
      // Compiling is one thread of ours and some of V8's: less CPU time than wall time means disturbance.
      verdicts: [judge(`< ${target} ms`, `${figure(coldMs)} ms`, coldMs < target, coldCpuMs >= QUIET_SHARE * coldMs)],
      note: each,
    };
  }
}
