/**
 * The machine's arithmetic peak, measured by peak.cpp, which is compiled on first use into build/bench. Without a
 * compiler there is no peak and the fractions are left out, which is said once.
 *
 * Two figures of it. The register loop as a contender of an interleaved run: a share of peak is then the median over
 * undisturbed pairs of our rate over the loop's in the same round, and what the neighbours take is taken from both. And the
 * best burst ever, for the record and for training steps, whose runs the loop is no contender of: a neighbour on the same
 * physical core halves the rate of a thread without any trace in its CPU time, so a low measurement means little and the
 * best one of this machine is kept in build/bench/peak.json from run to run; no share of it above one is quoted.
 */
import { execFile, execFileSync, spawnSync } from 'node:child_process';
import { existsSync, mkdirSync, readFileSync, statSync, writeFileSync } from 'node:fs';
import { cpus } from 'node:os';
import { dirname, join } from 'node:path';
import { promisify } from 'node:util';
import type { Contender, Interleaved, Ratio, Slice } from './interleave';
import { ROOT } from './machine';
import { QUIET_SHARE } from './statistics';

export type Precision = 'f32' | 'bf16';

export interface PeakMeasurement {
  readonly gflops: number;
  /** What ran, e.g. `VDPBF16PS`. */
  readonly instruction: string;
  /** Of the best burst; below 0.9 per thread somebody disturbed even that one, and the peak is too low. */
  readonly cpuPerWall: number;
}

/** Best-of figures by precision and thread count, refreshed as a run goes on: a peak is what the machine can do at its best. */
export class MachinePeak {
  private readonly best: Map<string, PeakMeasurement>;
  /** What the register loop runs, decided once a run: a faster one found later must not change it between shapes. */
  private readonly chosen = new Map<string, string>();

  /** `program`: the compiled loop, null without a compiler. `kept`: where the best of this machine is remembered. */
  constructor(
    private readonly program: string | null = compilePeak(),
    private readonly kept: string = BEST,
  ) {
    this.best = readBest(kept);
  }

  /**
   * The register loop as a program under measurement: slices of `milliseconds` on all threads, their work in operations.
   * Null without a compiler. @throws Error from a slice when the loop cannot run
   */
  contender(precision: Precision, threads: number, milliseconds: number): Contender | null {
    const { program } = this;
    if (!program) return null;
    const instruction = this.instruction(precision, threads);
    const slice = async (): Promise<Slice> => {
      const { stdout } = await promisify(execFile)(program, [
        precision,
        String(threads),
        String(milliseconds),
        instruction,
      ]);
      return JSON.parse(stdout) as Slice;
    };
    return { name: REGISTER_LOOP, threads, busy: true, slice };
  }

  private instruction(precision: Precision, threads: number): string {
    const key = `${precision} ${threads}`;
    if (!this.chosen.has(key)) {
      this.measure(precision, threads);
      this.chosen.set(key, this.best.get(key)!.instruction);
    }
    return this.chosen.get(key)!;
  }

  /** GFLOP/s of `threads` threads; NaN without a compiler. Measures for `milliseconds` on each call. */
  measure(precision: Precision, threads: number, milliseconds = 400): number {
    if (!this.program) return NaN;
    const text = execFileSync(this.program, [precision, String(threads), String(milliseconds)], { encoding: 'utf8' });
    const now = JSON.parse(text) as PeakMeasurement;
    const key = `${precision} ${threads}`;
    if (now.gflops > (this.best.get(key)?.gflops ?? 0)) {
      this.best.set(key, now);
      mkdirSync(dirname(this.kept), { recursive: true });
      writeFileSync(this.kept, JSON.stringify({ processor: processor(), best: Object.fromEntries(this.best) }));
    }
    return this.gflops(precision, threads);
  }

  /**
   * Share of the best burst that a rate in GFLOP/s is, of a program that did not alternate with the loop. NaN when the best
   * burst itself was disturbed, or the share is above one.
   */
  share(rate: number, precision: Precision, threads: number): number {
    const share = rate / this.gflops(precision, threads);
    return this.quiet(precision, threads) && share <= 1 ? share : NaN;
  }

  /** CPU/wall of one burst of some 20 ms on `threads` threads: what the machine gives now. NaN without a compiler. */
  probe(threads: number): number {
    if (!this.program) return NaN;
    const text = execFileSync(this.program, ['bf16', String(threads), '1'], { encoding: 'utf8' });
    return (JSON.parse(text) as PeakMeasurement).cpuPerWall;
  }

  private quiet(precision: Precision, threads: number): boolean {
    return (this.best.get(`${precision} ${threads}`)?.cpuPerWall ?? 0) >= QUIET_SHARE * threads;
  }

  /** The best so far; measured now when it never was. */
  gflops(precision: Precision, threads: number): number {
    return this.best.get(`${precision} ${threads}`)?.gflops ?? this.measure(precision, threads);
  }

  /** For the record and for people: what was measured and how. */
  describe(): Record<string, PeakMeasurement> {
    return Object.fromEntries(this.best);
  }

  line(): string {
    const parts = [...this.best].map(([key, p]) => {
      const [precision, threads] = key.split(' ') as [Precision, string];
      const disturbed = this.quiet(precision, Number(threads)) ? '' : ', DISTURBED: no fractions';
      return `${precision} on ${threads} thread${threads === '1' ? '' : 's'} ${p.gflops.toFixed(0)} GFLOP/s (${p.instruction}, CPU/wall ${p.cpuPerWall.toFixed(2)}${disturbed})`;
    });
    return parts.length ? `machine peak, native register loop: ${parts.join('; ')}` : 'machine peak: not measured';
  }
}

/** The loop's name among the contenders of a run. */
export const REGISTER_LOOP = 'register loop';

/** Rate of `ours` over the loop's, pair by pair; null when the loop is no contender of the run. */
export function peakRatio(run: Interleaved, ours: string): Ratio | null {
  return run.contenders.some((c) => c.name === REGISTER_LOOP) ? run.ratio(ours, REGISTER_LOOP) : null;
}

/** The share of peak to quote. NaN when nothing judges it: no loop, or no undisturbed pair. Above one is noise, and shown. */
export function shareOfPeak(ratio: Ratio | null): number {
  return ratio && !ratio.disturbed ? ratio.median : NaN;
}

const BEST = join(ROOT, 'build', 'bench', 'peak.json');

function processor(): string {
  return `${cpus()[0]?.model ?? 'unknown'} x ${cpus().length}`;
}

/** What earlier runs on this machine reached at their best. */
function readBest(path: string): Map<string, PeakMeasurement> {
  try {
    const kept = JSON.parse(readFileSync(path, 'utf8')) as { processor: string; best: Record<string, PeakMeasurement> };
    return new Map(kept.processor === processor() ? Object.entries(kept.best) : []);
  } catch {
    return new Map(); // none yet
  }
}

function compilePeak(): string | null {
  const source = join(ROOT, 'benchmarks', 'harness', 'peak.cpp');
  const program = join(ROOT, 'build', 'bench', 'peak');
  if (existsSync(program) && statSync(program).mtimeMs >= statSync(source).mtimeMs) return program;
  mkdirSync(join(ROOT, 'build', 'bench'), { recursive: true });
  for (const compiler of [process.env.CXX, 'c++', 'g++', 'clang++']) {
    if (!compiler) continue;
    const { status } = spawnSync(compiler, ['-O2', '-std=c++20', '-pthread', source, '-o', program], {
      stdio: 'ignore',
    });
    if (status === 0) return program;
  }
  console.error(
    'SKIPPED: the machine peak is not measured, because no C++20 compiler was found; fractions of it are left out',
  );
  return null;
}
