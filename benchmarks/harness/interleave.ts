/**
 * Alternating slices: the only way to compare two programs on a machine whose speed changes by the second.
 *
 * A round gives every contender one short slice, in an order that turns from round to round. Within a round the machine
 * is nearly the same for all, so what is quoted is the median of the ratios of rounds, with their spread. A pair in which
 * either slice was disturbed (statistics.ts, or the probe around the round) is dropped; rounds go on until enough are left
 * of every pair that is quoted, or the bound is reached. Which rounds count never depends on the ratios themselves.
 */
import { cpuPerWall, median, QUIET_SHARE, quietBound, type Sample } from './statistics';

/** A slice: its time and the work done in it, in any unit that both sides of a ratio share. */
export interface Slice extends Sample {
  readonly work: number;
}

export interface Contender {
  readonly name: string;
  readonly threads: number;
  /** Keeps all its threads busy, so that less CPU time means disturbance. */
  readonly busy: boolean;
  slice(): Promise<Slice>;
}

/** Slices by contender's name. */
export type Round = Readonly<Record<string, Slice>>;

/** CPU/wall that a program which does nothing but compute gets right now. */
export type Probe = () => number;

export interface Rate {
  /** Work per second: median over undisturbed slices, or over all when none is. */
  readonly median: number;
  readonly best: number;
  readonly cpuPerWall: number;
  readonly quiet: number;
  readonly total: number;
}

export interface Ratio {
  readonly median: number;
  readonly low: number;
  readonly high: number;
  /** Pairs that count. */
  readonly pairs: number;
  readonly dropped: number;
  /** True when every pair was disturbed: the figures are then of all pairs and judge nothing. */
  readonly disturbed: boolean;
}

const rate = (s: Slice): number => s.work / (s.wallMs / 1e3);

export class Interleaved {
  readonly rounds: Round[] = [];
  /** Lower of the probes before and after each round; NaN without one. */
  readonly probed: number[] = [];

  /** `probe` judges rounds of programs that wait by themselves, whose own CPU/wall cannot tell. */
  constructor(
    readonly contenders: readonly Contender[],
    private readonly probe: Probe | null = null,
  ) {}

  /**
   * Runs rounds until `wanted` had no disturbed slice, at most `atMost`. `quoted` names the pairs whose ratios are quoted,
   * which may follow from the rounds so far (the faster peer): then each of them needs `wanted` rounds, not necessarily
   * the same ones. Without it a round counts when no contender was disturbed.
   */
  async run(
    wanted: number,
    atMost = 2 * wanted,
    quoted: (run: this) => readonly (readonly string[])[] = () => [this.contenders.map((c) => c.name)],
  ): Promise<this> {
    const undisturbed = (): number => Math.min(...quoted(this).map((names) => this.quietRounds(names).length));
    while (this.rounds.length < atMost && undisturbed() < wanted) {
      const turn = this.rounds.length % this.contenders.length;
      const order = [...this.contenders.slice(turn), ...this.contenders.slice(0, turn)];
      const round: Record<string, Slice> = {};
      const before = this.probe?.() ?? NaN;
      for (const c of order) round[c.name] = await c.slice();
      this.rounds.push(round);
      this.probed.push(Math.min(before, this.probe?.() ?? NaN));
    }
    return this;
  }

  /** Rounds in which none of these was disturbed. */
  private quietRounds(names: readonly string[]): Round[] {
    const bounds = names.map((name) => this.bound(this.contender(name)));
    const quietMachine = QUIET_SHARE * Math.max(...this.contenders.map((c) => c.threads));
    return this.rounds.filter(
      (r, i) => !(this.probed[i] < quietMachine) && names.every((name, j) => cpuPerWall(r[name]) >= bounds[j]),
    );
  }

  private bound({ name, threads, busy }: Contender): number {
    return quietBound(
      this.rounds.map((r) => r[name]),
      threads,
      busy,
    );
  }

  private contender(name: string): Contender {
    return this.contenders.find((c) => c.name === name)!;
  }

  /** A contender's own rate in work per second. */
  rate(name: string): Rate {
    const slices = this.rounds.map((r) => r[name]);
    const quiet = this.quietRounds([name]).map((r) => r[name]);
    const used = quiet.length ? quiet : slices;
    return {
      median: median(used.map(rate)),
      best: Math.max(...used.map(rate)),
      cpuPerWall: median(used.map(cpuPerWall)),
      quiet: quiet.length,
      total: slices.length,
    };
  }

  /** Rate of `ours` over rate of `peer`, pair by pair. */
  ratio(ours: string, peer: string): Ratio {
    const quiet = this.quietRounds([ours, peer]);
    const used = quiet.length ? quiet : this.rounds;
    const ratios = used.map((r) => rate(r[ours]) / rate(r[peer]));
    return {
      median: median(ratios),
      low: Math.min(...ratios),
      high: Math.max(...ratios),
      pairs: quiet.length,
      dropped: this.rounds.length - quiet.length,
      disturbed: quiet.length === 0,
    };
  }
}

/** Several timed repetitions as one slice. */
export function asSlice(samples: readonly Sample[], workEach: number): Slice {
  const sum = (f: (s: Sample) => number): number => samples.reduce((n, s) => n + f(s), 0);
  return { wallMs: sum((s) => s.wallMs), cpuMs: sum((s) => s.cpuMs), work: workEach * samples.length };
}
