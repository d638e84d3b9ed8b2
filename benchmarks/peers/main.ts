/**
 * `npm run bench:peers`: this engine beside the tools that users would pick instead, in one run on the same cores.
 *
 * Slices of the programs alternate (harness/interleave.ts); what is quoted is the median ratio of undisturbed pairs with its
 * spread. The bar is a fair one: tcmalloc preloaded, fused AdamW. One table at the end: our figure, the peer's, the ratio,
 * share of the machine's peak, memory, target. A missed target stays in the table. Figures are appended to
 * benchmarks/results/peers.jsonl after every group, and the chart shows the latest figure of each row in it.
 */
import { existsSync, mkdirSync, readFileSync } from 'node:fs';
import { join, relative } from 'node:path';
import { listFlag, numberFlag, parseFlags, runMain } from '../harness/arguments';
import { describeMachine, machineLine, ROOT, type MachineRecord } from '../harness/machine';
import { MachinePeak } from '../harness/peak';
import { appendResults, RESULTS } from '../harness/results';
import { figure, formatTable, mebibytes, percent } from '../harness/table';
import { drawable, writePeersChart } from './chart';
import { makeScratch, removeScratch, type PeersContext } from './context';
import { llamaPackage, pythonEnvironment } from './environment';
import { generationRows } from './generation-rows';
import { attentionRows, gemmRows } from './kernel-rows';
import { missedLines } from './reasons';
import { GROUPS, ratioText, verdictText, type Group, type PeerRow } from './row';
import { planRows, startRows } from './start-rows';
import { trainingRows } from './training-rows';

const FLAGS = {
  quick: { help: 'tiny shapes, two rounds: shows that everything runs; not saved, its figures mean nothing' },
  rows: { value: 'LIST', help: `of ${GROUPS.join(', ')} (default all)` },
  threads: { value: 'N', help: 'threads of both sides (default 2)' },
  rounds: {
    value: 'N',
    help: 'undisturbed pairs wanted per comparison (default 10; at most twice as many are run); half of it per shape of GEMM and attention (at most three times as many)',
  },
  'no-save': { help: 'do not append to benchmarks/results/ nor draw the chart there' },
} as const;

function rowsOf(group: Group, context: PeersContext, details: PeerRow[]): AsyncGenerator<PeerRow> {
  switch (group) {
    case 'gemm':
      return gemmRows(context, details);
    case 'attention':
      return attentionRows(context, details);
    case 'generate':
      return generationRows(context);
    case 'start':
      return startRows(context);
    case 'plan':
      return planRows(context);
    default:
      return trainingRows(group, context);
  }
}

function printTable(rows: readonly PeerRow[]): void {
  const memory = (r: PeerRow): string =>
    r.oursPeakRssBytes === null ? '' : `${mebibytes(r.oursPeakRssBytes)} / ${mebibytes(r.peerPeakRssBytes ?? NaN)}`;
  const cells = rows.map((r) => [
    r.name,
    `${figure(r.oursValue)} ${r.unit}`,
    r.peer ? `${figure(r.peerValue)} ${r.peer}` : '',
    r.peer ? ratioText(r.ratio) : '',
    r.shareOfPeak === null ? '' : percent(r.shareOfPeak),
    memory(r),
    verdictText(r.verdicts),
  ]);
  console.log(
    `\n${formatTable(['comparison', 'ours', 'peer', 'ratio, spread, pairs', 'of peak', 'peak RSS MiB', 'target'], cells, [0, 6])}`,
  );
}

/** The last record of every row name, in the order of the groups. */
function latestRows(path: string): (PeerRow & MachineRecord)[] {
  const latest = new Map<string, PeerRow & MachineRecord>();
  for (const line of readFileSync(path, 'utf8').split('\n').filter(Boolean)) {
    const row = JSON.parse(line) as PeerRow & MachineRecord & { detail?: boolean };
    if (row.bench !== 'peers' || row.detail) continue;
    // A worst-of row names its shape, which may be another one next time.
    latest.set(`${row.group} ${row.name.replace(/ \(.*\)$/, '')}`, row);
  }
  return [...latest.values()].sort((a, b) => GROUPS.indexOf(a.group) - GROUPS.indexOf(b.group));
}

function drawChart(saved: boolean, rows: readonly PeerRow[], machine: MachineRecord): void {
  const path = join(RESULTS, 'peers.jsonl');
  const shown = saved && existsSync(path) ? latestRows(path) : rows;
  if (drawable(shown).length === 0) return;
  const stem = saved ? join(RESULTS, 'peers') : join(ROOT, 'build', 'bench', 'peers-quick');
  mkdirSync(join(stem, '..'), { recursive: true });
  const { torch = '?', transformers = '?', peft = '?' } = machine.versions;
  writePeersChart(
    stem,
    shown,
    `${machine.cpu}, ${machine.cores} cores; torch ${torch}, transformers ${transformers}, peft ${peft}; ${machine.date.slice(0, 10)}; median of interleaved pairs`,
  );
  console.log(`chart: ${relative(ROOT, stem)}.svg and .png`);
}

runMain(async () => {
  const flags = parseFlags(
    'npm run bench:peers --',
    'this engine beside torch, OpenBLAS and llama.cpp on the same cores',
    FLAGS,
    process.argv.slice(2),
  );
  const quick = flags.quick !== undefined;
  const save = !quick && flags['no-save'] === undefined;
  const groups = listFlag(flags, 'rows', GROUPS, GROUPS);
  const python = pythonEnvironment();
  const llama = groups.includes('generate') ? llamaPackage() : null;
  const machine = describeMachine({
    ...python.versions,
    ...(llama ? { 'node-llama-cpp': llama.version } : {}),
    tcmalloc: python.tcmalloc ? 'preloaded' : 'none',
  });
  console.log(machineLine(machine));
  const context: PeersContext = {
    python,
    llama,
    peak: new MachinePeak(),
    threads: numberFlag(flags, 'threads', 2),
    rounds: numberFlag(flags, 'rounds', quick ? 2 : 10),
    quick,
    scratch: makeScratch(),
  };
  const all: PeerRow[] = [];
  try {
    for (const group of groups) {
      const rows: PeerRow[] = [];
      const details: PeerRow[] = [];
      for await (const row of rowsOf(group, context, details)) {
        rows.push(row);
        console.log(
          `${row.name}: ${figure(row.oursValue)} ${row.unit}${row.peer ? `, ${row.peer} ${figure(row.peerValue)}: ${ratioText(row.ratio)}` : ''} (${row.note})`,
        );
      }
      all.push(...rows);
      const records = [...rows, ...details.map((d) => ({ ...d, detail: true }))];
      appendResults(
        'peers',
        machine,
        records.map((r) => ({ ...r, machinePeak: context.peak.describe() })),
        save,
      );
    }
  } finally {
    removeScratch(context.scratch);
  }
  printTable(all);
  const missed = missedLines(all);
  if (missed.length) console.log(`\ntargets missed, and why:\n${missed.map((line) => `  ${line}`).join('\n')}\n`);
  if (quick) console.log('QUICK SETTINGS: tiny shapes and few rounds; these figures mean nothing');
  console.log(context.peak.line());
  drawChart(save, all, machine);
});
