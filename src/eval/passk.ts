/**
 * pass@k: the chance that at least one of k completions of a problem passes its tests, estimated without bias.
 *
 * From n completions of which c pass: 1 - C(n-c, k) / C(n, k), as a product of n-c+1 .. n of (1 - k/i), which neither
 * overflows nor cancels. The score is the mean over problems. A completion that could not be run says nothing about the
 * model: it does not count in n, and a problem with fewer than k runs has no pass@k.
 * Source: Chen et al. 2021, "Evaluating Large Language Models Trained on Code", section 2.1.
 */
import { availableParallelism } from 'node:os';
import { LatheError } from '../errors';
import { programOf, type Completion, type Problem } from './passk-problems';
import type { Outcome, RunResult } from './sandbox';

/** A completion with what became of it. */
export interface Judged extends Completion, RunResult {}

export interface ProblemScore {
  readonly taskId: string;
  readonly outcomes: Readonly<Record<Outcome, number>>;
}

export interface PasskResult {
  /** By k; null when no problem has k runs. */
  readonly passAtK: Readonly<Record<number, number | null>>;
  /** Problems whose runs are fewer than k, by k: they are not in that mean. */
  readonly tooFew: Readonly<Record<number, number>>;
  readonly outcomes: Readonly<Record<Outcome, number>>;
  readonly problems: readonly ProblemScore[];
  /** Problems without any completion. */
  readonly missing: readonly string[];
}

export const OUTCOMES: readonly Outcome[] = ['passed', 'failed', 'timed out', 'could not run'];

/** 1 - C(n-c, k) / C(n, k). Errors: ERR_CONFIG for k outside of 1..n or c outside of 0..n. */
export function estimatePassAtK(n: number, c: number, k: number): number {
  if (!(Number.isInteger(n) && Number.isInteger(c) && Number.isInteger(k) && k >= 1 && k <= n && c >= 0 && c <= n)) {
    throw new LatheError('ERR_CONFIG', `pass@k expected 1 <= k <= n and 0 <= c <= n, received n ${n}, c ${c}, k ${k}`);
  }
  if (n - c < k) return 1;
  let allFail = 1;
  for (let i = n - c + 1; i <= n; i++) allFail *= 1 - k / i;
  return 1 - allFail;
}

/** Which of the asked k can be estimated from n completions each. Errors: ERR_CONFIG when k was asked for by name and is too large. */
export function usableKs(asked: readonly number[] | null, n: number): number[] {
  if (!asked) return [1, 10, 100].filter((k) => k <= n);
  const large = asked.find((k) => k > n);
  if (large === undefined) return [...new Set(asked)].sort((a, b) => a - b);
  throw new LatheError('ERR_CONFIG', `pass@${large} needs at least ${large} samples of each problem, received ${n}`, {
    remedy: `set --num-samples ${large}, or a smaller --k`,
  });
}

const noOutcomes = (): Record<Outcome, number> => ({ passed: 0, failed: 0, 'timed out': 0, 'could not run': 0 });

/** Counts and means over all judged completions. */
export function scorePassAtK(
  problems: readonly Problem[],
  judged: readonly Judged[],
  ks: readonly number[],
): PasskResult {
  const byTask = new Map(problems.map((p) => [p.taskId, noOutcomes()]));
  const outcomes = noOutcomes();
  for (const { taskId, outcome } of judged) {
    byTask.get(taskId)![outcome]++;
    outcomes[outcome]++;
  }
  const scores = [...byTask].map(([taskId, counts]): ProblemScore => ({ taskId, outcomes: counts }));
  const total = (s: ProblemScore): number => OUTCOMES.reduce((sum, o) => sum + s.outcomes[o], 0);
  const attempted = scores.filter((s) => total(s) > 0);
  const passAtK: Record<number, number | null> = {};
  const tooFew: Record<number, number> = {};
  for (const k of ks) {
    const runs = (s: ProblemScore): number => total(s) - s.outcomes['could not run'];
    const enough = attempted.filter((s) => runs(s) >= k);
    tooFew[k] = attempted.length - enough.length;
    passAtK[k] = enough.length
      ? enough.reduce((sum, s) => sum + estimatePassAtK(runs(s), s.outcomes.passed, k), 0) / enough.length
      : null;
  }
  return {
    passAtK,
    tooFew,
    outcomes,
    problems: attempted,
    missing: scores.filter((s) => total(s) === 0).map((s) => s.taskId),
  };
}

/** What runs programs; `Sandbox` is one. */
export interface ProgramRunner {
  run(program: string): Promise<RunResult>;
}

/**
 * Runs every completion against its problem's tests, `workers` at a time.
 * @param onJudged called as verdicts come in
 * @returns in the order of `completions`
 */
export async function judgeCompletions(
  runner: ProgramRunner,
  problems: readonly Problem[],
  completions: readonly Completion[],
  o: { workers?: number; onJudged?: (judged: Judged, done: number) => void } = {},
): Promise<Judged[]> {
  const byTask = new Map(problems.map((p) => [p.taskId, p]));
  const judged = new Array<Judged>(completions.length);
  let next = 0;
  let done = 0;
  const worker = async (): Promise<void> => {
    while (next < completions.length) {
      const i = next++;
      const completion = completions[i];
      const result = await runner.run(programOf(byTask.get(completion.taskId)!, completion.completion));
      judged[i] = { taskId: completion.taskId, completion: completion.completion, ...result };
      o.onJudged?.(judged[i], ++done);
    }
  };
  await Promise.all(Array.from({ length: Math.max(1, o.workers ?? availableParallelism()) }, worker));
  return judged;
}
