/**
 * `npm run bench:ops`: single ops through a session, against the machine's arithmetic peak.
 *
 * For each case the median and best time of one application, GFLOP/s, share of peak (the median of undisturbed pairs of
 * slices of the op and of the machine's register loop, which alternate), and the bytes the op must move at least. What is
 * bound by memory shows in GB/s.
 */
import { numberFlag, parseFlags, runMain } from '../harness/arguments';
import { asSlice, Interleaved, type Contender, type Ratio } from '../harness/interleave';
import { describeMachine, machineLine } from '../harness/machine';
import { MachinePeak, peakRatio, shareOfPeak } from '../harness/peak';
import { appendResults } from '../harness/results';
import { summarize, type Sample } from '../harness/statistics';
import { figure, formatTable, percent } from '../harness/table';
import { nodeWorker } from '../harness/worker';
import { caseName, precisionOf, type OpCase } from './cases';
import { allOps } from './table';

const FLAGS = {
  quick: { help: 'every fifth case for 20 ms; not saved' },
  threads: { value: 'N', help: 'engine threads (default 2)' },
  filter: { value: 'TEXT', help: 'only cases whose name contains it, e.g. "bf16 NT"' },
  ms: { value: 'N', help: 'milliseconds per case, and as many of the register loop (default 600)' },
  'no-save': { help: 'do not append to benchmarks/results/' },
} as const;

interface OpFigures {
  readonly bench: 'op';
  readonly name: string;
  readonly case: OpCase;
  readonly threads: number;
  readonly medianMs: number;
  readonly bestMs: number;
  readonly gflops: number;
  readonly bestGflops: number;
  readonly shareOfPeak: number;
  readonly peakRatio: Ratio | null;
  readonly gigabytesPerSecond: number;
  readonly cpuPerWall: number;
  readonly quiet: number;
  readonly total: number;
}

/** Length of a slice: the op's time is split into slices of about that, each beside one of the loop. */
const SLICE_MS = 120;

runMain(async () => {
  const flags = parseFlags(
    'npm run bench:ops --',
    'single ops against the machine’s peak',
    FLAGS,
    process.argv.slice(2),
  );
  const quick = flags.quick !== undefined;
  const threads = numberFlag(flags, 'threads', 2);
  const ms = numberFlag(flags, 'ms', quick ? 20 : 600);
  const chosen = allOps().filter(
    (c, i) => caseName(c).includes(flags.filter ?? '') && (!quick || flags.filter !== undefined || i % 5 === 0),
  );
  const machine = describeMachine();
  console.log(machineLine(machine));
  const peak = new MachinePeak();
  const worker = nodeWorker('ops', 'benchmarks/ops/child.ts', { threads });
  const all: OpFigures[] = [];
  try {
    for (const c of chosen) {
      const { flops, bytes } = (await worker.request({ prepare: c })) as { flops: number; bytes: number };
      const rounds = Math.max(1, Math.round(ms / SLICE_MS));
      const runMs = ms / rounds;
      const samples: Sample[] = [];
      const op: Contender = {
        name: 'op',
        threads,
        busy: c.kind !== 'row',
        slice: async () => {
          const slice = (await worker.work({ runMs })).samples;
          samples.push(...slice);
          return asSlice(slice, flops);
        },
      };
      const loop = peak.contender(precisionOf(c), threads, runMs);
      // The time per case is fixed: a disturbed machine shows as `-`, not as a longer run.
      const run = await new Interleaved(loop ? [op, loop] : [op]).run(rounds, rounds);
      const ratio = peakRatio(run, op.name);
      const s = summarize(samples, threads, op.busy);
      const gflops = flops / s.medianMs / 1e6;
      const bestGflops = flops / s.bestMs / 1e6;
      await worker.request({ release: true });
      all.push({
        bench: 'op',
        name: caseName(c),
        case: c,
        threads,
        medianMs: s.medianMs,
        bestMs: s.bestMs,
        gflops,
        bestGflops,
        shareOfPeak: shareOfPeak(ratio),
        peakRatio: ratio,
        gigabytesPerSecond: bytes / s.medianMs / 1e6,
        cpuPerWall: s.cpuPerWall,
        quiet: s.quiet,
        total: s.total,
      });
    }
  } finally {
    await worker.close();
  }
  const rows = all.map((f) => {
    const computes = f.gflops > 5;
    return [
      f.name,
      figure(f.medianMs * 1e3),
      figure(f.bestMs * 1e3),
      computes ? figure(f.gflops) : '',
      computes ? figure(f.bestGflops) : '',
      computes ? percent(f.shareOfPeak) : '',
      figure(f.gigabytesPerSecond),
      figure(f.cpuPerWall),
      `${f.quiet}/${f.total}`,
    ];
  });
  console.log(
    formatTable(['op', 'µs', 'best µs', 'GFLOP/s', 'best', 'of peak', 'GB/s', 'CPU/wall', 'undisturbed'], rows),
  );
  console.log(peak.line());
  appendResults(
    'ops',
    machine,
    all.map((f) => ({ ...f, machinePeak: peak.describe() })),
    !quick && flags['no-save'] === undefined,
  );
});
