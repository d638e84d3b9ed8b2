/**
 * The machine's arithmetic peak, measured by peak.cpp, which is compiled on first use into build/bench. Without a
 * compiler there is no peak and the fractions are left out, which is said once.
 *
 * A neighbour on the same physical core halves the rate of a thread without any trace in its CPU time, so a low
 * measurement means little: the best one of this machine is kept in build/bench/peak.json from run to run, and no share
 * above one is ever quoted.
 */
import { execFileSync, spawnSync } from 'node:child_process';
import { existsSync, mkdirSync, readFileSync, statSync, writeFileSync } from 'node:fs';
import { cpus } from 'node:os';
import { join } from 'node:path';
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
  private readonly best = readBest();
  private readonly program = compilePeak();

  /** GFLOP/s of `threads` threads; NaN without a compiler. Measures for `milliseconds` on each call. */
  measure(precision: Precision, threads: number, milliseconds = 400): number {
    if (!this.program) return NaN;
    const text = execFileSync(this.program, [precision, String(threads), String(milliseconds)], { encoding: 'utf8' });
    const now = JSON.parse(text) as PeakMeasurement;
    const key = `${precision} ${threads}`;
    if (now.gflops > (this.best.get(key)?.gflops ?? 0)) {
      this.best.set(key, now);
      writeFileSync(BEST, JSON.stringify({ processor: processor(), best: Object.fromEntries(this.best) }));
    }
    return this.gflops(precision, threads);
  }

  /** Share of the peak that a rate in GFLOP/s is; NaN when the peak itself was never measured undisturbed. */
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

const BEST = join(ROOT, 'build', 'bench', 'peak.json');

function processor(): string {
  return `${cpus()[0]?.model ?? 'unknown'} x ${cpus().length}`;
}

/** What earlier runs on this machine reached at their best. */
function readBest(): Map<string, PeakMeasurement> {
  try {
    const kept = JSON.parse(readFileSync(BEST, 'utf8')) as { processor: string; best: Record<string, PeakMeasurement> };
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
