/**
 * Problems and completions in HumanEval's files: JSON Lines, gzipped or not.
 *
 * A problem is {task_id, prompt, canonical_solution, test, entry_point}; a completion {task_id, completion}. The program that
 * is run is prompt + completion + test + a call of `check(entry_point)`. Other keys are left alone.
 * Source: openai/human-eval, data.py and execution.py (Chen et al. 2021).
 */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { gunzipSync } from 'node:zlib';
import { LatheError } from '../errors';

export interface Problem {
  readonly taskId: string;
  readonly prompt: string;
  readonly canonicalSolution: string;
  readonly test: string;
  readonly entryPoint: string;
}

export interface Completion {
  readonly taskId: string;
  readonly completion: string;
}

/** Twenty small problems that come with the package. */
export const BUNDLED_PROBLEMS = join(__dirname, '..', '..', 'data', 'problems', 'simple.jsonl');

/** The whole program of a completion. */
export function programOf(problem: Problem, completion: string): string {
  return `${problem.prompt}${completion}\n${problem.test}\ncheck(${problem.entryPoint})\n`;
}

/** Reads problems. @throws LatheError ERR_DATA naming file and line */
export function readProblems(path: string): Problem[] {
  const problems = readRows(path, ['task_id', 'prompt', 'test', 'entry_point']).map(({ row, at }): Problem => {
    if (!/^[A-Za-z_]\w*$/.test(row.entry_point))
      throw new LatheError(
        'ERR_DATA',
        `entry_point expected the name of a function, received ${JSON.stringify(row.entry_point)}`,
        { at },
      );
    return {
      taskId: row.task_id,
      prompt: row.prompt,
      canonicalSolution: typeof row.canonical_solution === 'string' ? row.canonical_solution : '',
      test: row.test,
      entryPoint: row.entry_point,
    };
  });
  const seen = new Set<string>();
  for (const { taskId } of problems) {
    if (seen.has(taskId))
      throw new LatheError('ERR_DATA', `problem '${taskId}' is there twice`, {
        at: path,
        remedy: 'give every problem a task_id of its own',
      });
    seen.add(taskId);
  }
  return problems;
}

/** Reads completions; every one must belong to a problem. @throws LatheError ERR_DATA naming file and line */
export function readCompletions(path: string, problems: readonly Problem[]): Completion[] {
  const known = new Set(problems.map((p) => p.taskId));
  return readRows(path, ['task_id', 'completion']).map(({ row, at }) => {
    if (!known.has(row.task_id))
      throw new LatheError('ERR_DATA', `completion of a problem '${row.task_id}' that is not in the problem file`, {
        at,
        remedy: 'give the problems it was made for with --problems',
      });
    return { taskId: row.task_id, completion: row.completion };
  });
}

function readRows<K extends string>(
  path: string,
  keys: readonly K[],
): { row: Record<K | 'canonical_solution', string>; at: string }[] {
  const rows = textOf(path)
    .split('\n')
    .map((line, i) => ({ line, at: `${path}:${i + 1}` }))
    .filter(({ line }) => line.trim() !== '')
    .map(({ line, at }) => ({ row: parseRow(line, keys, at), at }));
  if (rows.length === 0) throw new LatheError('ERR_DATA', 'expected rows, received an empty file', { at: path });
  return rows;
}

function parseRow<K extends string>(
  line: string,
  keys: readonly K[],
  at: string,
): Record<K | 'canonical_solution', string> {
  let value: unknown;
  try {
    value = JSON.parse(line);
  } catch (cause) {
    throw new LatheError('ERR_DATA', `expected a JSON object, received: ${(cause as Error).message}`, {
      at,
      remedy: "the file is JSON Lines: one object on each line, as HumanEval's",
      cause,
    });
  }
  const row = (typeof value === 'object' && value !== null ? value : {}) as Record<string, unknown>;
  const missing = keys.filter((key) => typeof row[key] !== 'string');
  if (missing.length)
    throw new LatheError('ERR_DATA', `expected texts ${keys.join(', ')}, received none for ${missing.join(', ')}`, {
      at,
      remedy: "give a file in HumanEval's format",
    });
  return row as Record<K | 'canonical_solution', string>;
}

function textOf(path: string): string {
  try {
    const bytes = readFileSync(path);
    return (bytes[0] === 0x1f && bytes[1] === 0x8b ? gunzipSync(bytes) : bytes).toString('utf8');
  } catch (cause) {
    throw new LatheError('ERR_DATA', `cannot read the file: ${(cause as Error).message}`, {
      at: path,
      remedy: 'check the path',
      cause,
    });
  }
}
