/** A line of the peers' table: two programs, the ratio of their interleaved slices, and what the target says to it. */
import type { Interleaved, Rate, Ratio } from '../harness/interleave';
import { shareOfPeak } from '../harness/peak';
import { figure, percent } from '../harness/table';

export type Group =
  'lora' | 'lora-checkpoint' | 'lora-f32' | 'tinyllama' | 'gpt2' | 'gemm' | 'attention' | 'generate' | 'start' | 'plan';

export const GROUPS: readonly Group[] = [
  'lora',
  'lora-checkpoint',
  'lora-f32',
  'tinyllama',
  'gpt2',
  'gemm',
  'attention',
  'generate',
  'start',
  'plan',
];

/** One condition of a target. `met` null: could not be judged (disturbed, or a side is missing). */
export interface Verdict {
  readonly target: string;
  readonly measured: string;
  readonly met: boolean | null;
}

export interface PeerRow {
  readonly bench: 'peers';
  readonly group: Group;
  readonly name: string;
  readonly ours: string;
  readonly peer: string;
  readonly unit: string;
  readonly oursValue: number;
  readonly peerValue: number;
  /** How much better ours is: rate by rate, or the peer's time by our time. */
  readonly ratio: Ratio;
  /** Target ratio; null when the row has none. */
  readonly targetRatio: number | null;
  /** Share of the machine's arithmetic peak that ours reached; null where it means nothing, NaN when it was not judged. */
  readonly shareOfPeak: number | null;
  /** The share's pairs, where the register loop was a contender of the run; otherwise the share is of the best burst. */
  readonly peakRatio?: Ratio | null;
  readonly oursPeakRssBytes: number | null;
  readonly peerPeakRssBytes: number | null;
  readonly verdicts: readonly Verdict[];
  readonly note: string;
  /** Slices of every round, for whoever wants to look again. */
  readonly rounds?: Interleaved['rounds'];
}

/** What a judgement needs besides its numbers. */
export function judge(target: string, measured: string, met: boolean, judgeable = true): Verdict {
  return { target, measured, met: judgeable ? met : null };
}

export function ratioVerdict(ratio: Ratio, target: number, of = ''): Verdict {
  return judge(`>= ${target}x${of}`, `${ratio.median.toFixed(2)}x`, ratio.median >= target, !ratio.disturbed);
}

export function memoryVerdict(ours: number, peer: number, share: number): Verdict {
  return judge(`RSS <= ${share}x`, `${(ours / peer).toFixed(2)}x`, ours <= share * peer);
}

/**
 * A target for the shares of peak of several shapes. Disturbed shapes are counted beside: they cannot meet it, and a judged
 * one that misses is a miss whatever they would have said.
 */
export function peakVerdict(rows: readonly PeerRow[], target: number): Verdict {
  const shares = rows.map((r) => shareOfPeak(r.peakRatio ?? null)).filter(Number.isFinite);
  const met = shares.filter((s) => s >= target).length;
  const disturbed = rows.filter((r) => r.peakRatio?.disturbed).length;
  const lowest = shares.length ? `, lowest ${percent(Math.min(...shares))}` : '';
  return judge(
    `>= ${percent(target)} of peak on every shape`,
    `${met} of ${rows.length}${lowest}${disturbed ? `, ${disturbed} disturbed` : ''}`,
    met === rows.length,
    shares.length === rows.length || met < shares.length,
  );
}

/** `1.52x [1.48, 1.55] of 12`, or that every pair was disturbed. */
export function ratioText(r: Ratio): string {
  const spread = `${r.median.toFixed(2)}x [${r.low.toFixed(2)}, ${r.high.toFixed(2)}]`;
  return r.disturbed ? `${spread} DISTURBED` : `${spread} of ${r.pairs}${r.dropped ? `, ${r.dropped} dropped` : ''}`;
}

export function verdictText(verdicts: readonly Verdict[]): string {
  return verdicts
    .map((v) => `${v.target}: ${v.met === null ? 'not judged' : v.met ? 'met' : 'MISSED'} (${v.measured})`)
    .join('; ');
}

/** A row out of two contenders of one interleaved run. */
export function pairRow(
  run: Interleaved,
  fields: Pick<PeerRow, 'group' | 'name' | 'ours' | 'peer' | 'unit' | 'targetRatio'> &
    Partial<PeerRow> & { memory?: { ours: number; peer: number } },
): PeerRow {
  const { memory, ...rest } = fields;
  const [ours, peer]: Rate[] = [run.rate(fields.ours), run.rate(fields.peer)];
  const ratio = run.ratio(fields.ours, fields.peer);
  return {
    bench: 'peers',
    oursValue: ours.median,
    peerValue: peer.median,
    ratio,
    shareOfPeak: null,
    oursPeakRssBytes: memory?.ours ?? null,
    peerPeakRssBytes: memory?.peer ?? null,
    verdicts: fields.targetRatio === null ? [] : [ratioVerdict(ratio, fields.targetRatio)],
    note: `CPU/wall ${figure(ours.cpuPerWall)} and ${figure(peer.cpuPerWall)}`,
    rounds: run.rounds,
    ...rest,
  };
}
