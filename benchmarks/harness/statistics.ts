/**
 * Medians of undisturbed samples.
 *
 * A shared host may take a core away for seconds to minutes without any steal being visible; what shows it is the CPU
 * time that a process got per wall time. So every sample carries both, and one whose share of the cores fell below the
 * bound counts as disturbed: it is kept in the record and left out of the median.
 */

/** A timed piece of work. */
export interface Sample {
  readonly wallMs: number;
  /** User and system time of the whole process. */
  readonly cpuMs: number;
}

/** Share of its threads that an undisturbed sample gets at least: 1.8 of 2. */
export const QUIET_SHARE = 0.9;

/** A program that waits by itself (reading one token leaves cores idle) is compared with its own best share. */
const QUIET_OF_OWN = 0.95;

export function median(values: readonly number[]): number {
  return quantile(values, 0.5);
}

/** Linear interpolation between order statistics; NaN when there are none. */
export function quantile(values: readonly number[], q: number): number {
  if (values.length === 0) return NaN;
  const sorted = [...values].sort((a, b) => a - b);
  const at = q * (sorted.length - 1);
  const low = Math.floor(at);
  return sorted[low] + (at - low) * (sorted[Math.min(low + 1, sorted.length - 1)] - sorted[low]);
}

export function cpuPerWall(s: Sample): number {
  return s.wallMs > 0 ? s.cpuMs / s.wallMs : 0;
}

/**
 * The CPU/wall below which a sample of this program is disturbed.
 * `busy`: the program keeps all its threads busy, so the bound is absolute. Otherwise the bound follows the program's
 * own upper decile, which cannot tell a machine that was disturbed all the time from a program that waits.
 */
export function quietBound(samples: readonly Sample[], threads: number, busy: boolean): number {
  const absolute = QUIET_SHARE * threads;
  return busy ? absolute : Math.min(absolute, QUIET_OF_OWN * quantile(samples.map(cpuPerWall), 0.9));
}

export interface Summary {
  /** Median wall time of the undisturbed samples, or of all when none is. */
  readonly medianMs: number;
  readonly bestMs: number;
  readonly cpuPerWall: number;
  readonly quiet: number;
  readonly total: number;
}

export function summarize(samples: readonly Sample[], threads: number, busy = true): Summary {
  const bound = quietBound(samples, threads, busy);
  const quiet = samples.filter((s) => cpuPerWall(s) >= bound);
  const used = quiet.length ? quiet : samples;
  const wall = used.map((s) => s.wallMs);
  return {
    medianMs: median(wall),
    bestMs: Math.min(...wall),
    cpuPerWall: median(used.map(cpuPerWall)),
    quiet: quiet.length,
    total: samples.length,
  };
}

/** `9 of 12 undisturbed`, with a warning when the figure rests on disturbed samples. */
export function quietNote(s: { quiet: number; total: number }): string {
  return s.quiet === 0
    ? `NO undisturbed sample of ${s.total}: the figure is of a disturbed machine`
    : `${s.quiet} of ${s.total} undisturbed`;
}
