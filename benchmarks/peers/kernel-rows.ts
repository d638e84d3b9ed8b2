/**
 * GEMM and attention beside torch and numpy's OpenBLAS, shape by shape, on one thread and on all.
 *
 * The peer of a shape is the better of the alternatives; NF4 is compared with our own bf16. The machine's register loop is
 * a contender of every run, so a share of peak is a ratio of pairs like the others. The rows say the worst shape and how
 * many met the target; the whole table is printed and recorded beside them.
 */
import { asSlice, Interleaved, type Contender, type Slice } from '../harness/interleave';
import { peakRatio, shareOfPeak } from '../harness/peak';
import { figure, formatTable, percent } from '../harness/table';
import { nodeWorker, type Worker } from '../harness/worker';
import { caseName, type AttentionCase, type MatmulCase, type OpCase } from '../ops/cases';
import { attentionCases, largeMatmuls, NF4_SMALLEST } from '../ops/table';
import { withWorkers, type PeersContext } from './context';
import { pythonWorker } from './environment';
import { judge, pairRow, peakVerdict, ratioText, type Group, type PeerRow, type Verdict } from './row';

const SLICE_MS = 120;
const LEAST_ROUNDS = 3;
/** Shares of peak that GEMMs reach at least. */
const PEAK_TARGET = { bf16: 0.9, f32: 0.85 } as const;

interface Sides {
  readonly ours: Worker;
  readonly python: Worker;
}

/** Loads a case on both sides; contenders by name, ours first. */
async function prepare(
  sides: Sides,
  c: OpCase,
  threads: number,
  nf4: MatmulCase | null,
  runMs: number,
): Promise<{ contenders: Contender[]; libraries: string[] }> {
  const { ours, python } = sides;
  const { flops, repeats } = (await ours.request({ prepare: c, key: 'main' })) as { flops: number; repeats: number };
  if (nf4) await ours.request({ prepare: nf4, key: 'nf4' });
  const { libraries } = (await python.request({ prepare: c, repeats })) as { libraries: string[] };
  const contender = (name: string, work: () => Promise<Slice>): Contender => ({
    name,
    threads,
    busy: true,
    slice: work,
  });
  const own = (name: string, key: string): Contender =>
    contender(name, async () => asSlice((await ours.work({ runMs, key })).samples, flops));
  return {
    contenders: [
      own('lathe', 'main'),
      ...(nf4 ? [own('lathe nf4', 'nf4')] : []),
      ...libraries.map((library) =>
        contender(library, async () => asSlice((await python.work({ runMs, library })).samples, flops)),
      ),
    ],
    libraries,
  };
}

/** Work is counted in operations; rows show GFLOP/s. */
function inGiga(row: PeerRow): PeerRow {
  return { ...row, oursValue: row.oursValue * 1e-9, peerValue: row.peerValue * 1e-9 };
}

async function shapeRows(
  sides: Sides,
  c: MatmulCase | AttentionCase,
  threads: number,
  context: PeersContext,
  nf4: MatmulCase | null,
): Promise<{ main: PeerRow; nf4: PeerRow | null }> {
  const runMs = context.quick ? 5 : SLICE_MS;
  const { contenders, libraries } = await prepare(sides, c, threads, nf4, runMs);
  const loop = context.peak.contender(c.form === 'f32' ? 'f32' : 'bf16', threads, runMs);
  const run = new Interleaved(loop ? [...contenders, loop] : contenders);
  const fastest = (): string => libraries.reduce((a, b) => (run.rate(b).median > run.rate(a).median ? b : a));
  const own = nf4 ? ['lathe', 'lathe nf4'] : ['lathe'];
  const quoted = (): string[][] => [
    ['lathe', fastest()],
    ...(nf4 ? [['lathe nf4', 'lathe']] : []),
    ...(loop ? own.map((name) => [name, loop.name]) : []),
  ];
  // With so many pairs to quote one of them is soon short of a round, so the bound is wider than elsewhere.
  const rounds = context.quick ? 1 : Math.max(LEAST_ROUNDS, Math.ceil(context.rounds / 2));
  await run.run(rounds, 3 * rounds, quoted);
  await sides.ours.request({ release: true });
  const best = fastest();
  const group: Group = c.kind === 'matmul' ? 'gemm' : 'attention';
  const common = { group, unit: 'GFLOP/s', rounds: undefined };
  const share = (name: string): Pick<PeerRow, 'shareOfPeak' | 'peakRatio'> => {
    const ratio = peakRatio(run, name);
    return { shareOfPeak: shareOfPeak(ratio), peakRatio: ratio };
  };
  const targetRatio = c.kind === 'matmul' ? 1 : 1.5;
  const main = inGiga(
    pairRow(run, {
      ...common,
      name: `${caseName(c)}, ${threads} thread${threads > 1 ? 's' : ''}`,
      ours: 'lathe',
      peer: best,
      targetRatio,
      ...share('lathe'),
    }),
  );
  if (!nf4) return { main, nf4: null };
  const quantised = pairRow(run, {
    ...common,
    name: `${caseName(nf4)}, ${threads} thread${threads > 1 ? 's' : ''}`,
    ours: 'lathe nf4',
    peer: 'lathe',
    targetRatio: 0.97,
    ...share('lathe nf4'),
  });
  return { main, nf4: inGiga(quantised) };
}

function sidesOf(context: PeersContext, threads: number): Sides {
  return {
    ours: nodeWorker('lathe ops', 'benchmarks/ops/child.ts', { threads }),
    python: pythonWorker(context.python, 'python ops', 'ops.py', { threads }, threads),
  };
}

/** Summary of several shapes as one row: the one that does worst against its target. */
function worst(rows: readonly PeerRow[], name: string, extra: readonly Verdict[]): PeerRow {
  const row = rows.reduce((a, b) => (b.ratio.median < a.ratio.median ? b : a));
  const judged = rows.filter((r) => !r.ratio.disturbed);
  const met = judged.filter((r) => r.ratio.median >= r.targetRatio!).length;
  const verdict = judge(
    `>= ${row.targetRatio}x on every shape`,
    `${met} of ${rows.length}${judged.length < rows.length ? `, ${rows.length - judged.length} disturbed` : ''}`,
    met === rows.length,
    judged.length === rows.length || met < judged.length,
  );
  return { ...row, name: `${name}: worst of ${rows.length} (${row.name})`, verdicts: [verdict, ...extra] };
}

function printShapes(title: string, rows: readonly PeerRow[]): void {
  const cells = rows.map((r) => [
    r.name,
    figure(r.oursValue),
    percent(r.shareOfPeak ?? NaN),
    r.peer,
    figure(r.peerValue),
    ratioText(r.ratio),
  ]);
  console.log(
    `\n${title}\n${formatTable(['shape (M x K x N)', 'ours GFLOP/s', 'of peak', 'peer', 'GFLOP/s', 'ratio'], cells, [0, 3])}\n`,
  );
}

/** GEMM: a row per precision, thread count and question; `details` gets every shape. */
export async function* gemmRows(context: PeersContext, details: PeerRow[]): AsyncGenerator<PeerRow> {
  for (const threads of [...new Set([1, context.threads])]) {
    const sides = sidesOf(context, threads);
    yield* await withWorkers([sides.ours, sides.python], async () => {
      const summaries: PeerRow[] = [];
      for (const form of ['bf16', 'f32'] as const) {
        const main: PeerRow[] = [];
        const quantised: PeerRow[] = [];
        for (const c of gemmCases(form, context.quick)) {
          const nf4: MatmulCase | null = form === 'bf16' && c.layout !== 'TN' ? { ...c, form: 'nf4' } : null;
          const rows = await shapeRows(sides, c, threads, context, nf4);
          // M = 256 is there for NF4 alone: the targets against peers begin at 512.
          if (c.m >= 512) main.push(rows.main);
          if (rows.nf4) quantised.push(rows.nf4);
        }
        printShapes(`GEMM ${form}, ${threads} thread${threads > 1 ? 's' : ''}`, [...main, ...quantised]);
        details.push(...main, ...quantised);
        summaries.push(
          worst(main, `GEMM ${form}, ${threads} thread${threads > 1 ? 's' : ''}`, [
            peakVerdict(main, PEAK_TARGET[form]),
          ]),
        );
        if (quantised.length)
          summaries.push(worst(quantised, `GEMM NF4 against our bf16, ${threads} thread${threads > 1 ? 's' : ''}`, []));
      }
      return summaries;
    });
  }
}

function gemmCases(form: 'bf16' | 'f32', quick: boolean): MatmulCase[] {
  const all = [...largeMatmuls(form), ...(form === 'bf16' ? [{ ...NF4_SMALLEST, form }] : [])];
  return quick ? all.filter((c) => c.m === 512 && c.k === 512) : all;
}

/** Attention forward and backward: a row per precision. */
export async function* attentionRows(context: PeersContext, details: PeerRow[]): AsyncGenerator<PeerRow> {
  const sides = sidesOf(context, context.threads);
  yield* await withWorkers([sides.ours, sides.python], async () => {
    const summaries: PeerRow[] = [];
    for (const form of ['bf16', 'f32'] as const) {
      const rows: PeerRow[] = [];
      for (const c of attentionCases(form).slice(0, context.quick ? 1 : undefined))
        rows.push((await shapeRows(sides, c, context.threads, context, null)).main);
      printShapes(`attention ${form}, ${context.threads} threads`, rows);
      details.push(...rows);
      summaries.push(worst(rows, `attention forward + backward ${form}`, []));
    }
    return summaries;
  });
}
