/**
 * `npm run bench:ops`: single ops through a session, against the machine's arithmetic peak.
 *
 * For each case the median and best time of one application, GFLOP/s, share of the peak measured beside it, and the bytes
 * the op must move at least. What is bound by memory shows in GB/s.
 */
import { numberFlag, parseFlags, runMain } from '../harness/arguments';
import { describeMachine, machineLine } from '../harness/machine';
import { MachinePeak } from '../harness/peak';
import { appendResults } from '../harness/results';
import { summarize } from '../harness/statistics';
import { figure, formatTable, percent } from '../harness/table';
import { nodeWorker } from '../harness/worker';
import { caseName, precisionOf, type OpCase } from './cases';
import { allOps } from './table';

const FLAGS = {
  quick: { help: 'every fifth case for 20 ms; not saved' },
  threads: { value: 'N', help: 'engine threads (default 2)' },
  filter: { value: 'TEXT', help: 'only cases whose name contains it, e.g. "bf16 NT"' },
  ms: { value: 'N', help: 'milliseconds per case (default 600)' },
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
  readonly gigabytesPerSecond: number;
  readonly cpuPerWall: number;
  readonly quiet: number;
  readonly total: number;
}

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
      peak.measure(precisionOf(c), threads, 60);
      const s = summarize((await worker.work({ runMs: ms })).samples, threads, c.kind !== 'row');
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
        shareOfPeak: peak.share(gflops, precisionOf(c), threads),
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
