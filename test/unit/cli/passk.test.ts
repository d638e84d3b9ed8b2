/** `lathe eval passk`: it runs nothing unasked, samples, scores, and leaves HumanEval's files. */
import { execFileSync } from 'node:child_process';
import { existsSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { BUNDLED_PROBLEMS, readProblems } from '../../../src/eval/passk-problems';
import { writeModel } from '../../train/tiny-folder';
import { temporaryFolder } from '../../train/tiny-run';
import { lathe, output } from './lathe';

jest.setTimeout(180_000);

const base = temporaryFolder('passk-cli');
const problems = readProblems(BUNDLED_PROBLEMS);
const ALLOW = ['--allow-code-execution', '--timeout', '20'];
const samples = (name: string, rows: readonly { task_id: string; completion: string }[]): string => {
  const path = join(base, name);
  writeFileSync(path, rows.map((row) => `${JSON.stringify(row)}\n`).join(''));
  return path;
};
const solutions = (n: number): { task_id: string; completion: string }[] =>
  problems.slice(0, n).map((p) => ({ task_id: p.taskId, completion: p.canonicalSolution }));

const exitCode = process.exitCode;
afterEach(() => {
  process.exitCode = exitCode;
  delete process.env.HF_ALLOW_CODE_EVAL;
});

describe('refusals come before anything runs', () => {
  const file = (): string => samples('one.jsonl', solutions(1));

  test.each([
    [
      'without consent',
      () => ['--samples', file()],
      /you have not said that it may.*--allow-code-execution.*HF_ALLOW_CODE_EVAL=1/,
    ],
    ['nothing to score', () => ALLOW, /expected --model or --samples, received neither/],
    ['two things to score', () => ['--model', 'm', '--samples', file(), ...ALLOW], /received both/],
    [
      'more than was sampled',
      () => ['--samples', file(), '--k', '1,10', ...ALLOW],
      /pass@10 needs at least 10 samples of each problem, received 1/,
    ],
    ['a k that is no number', () => ['--samples', file(), '--k', 'ten', ...ALLOW], /--k expected whole numbers/],
    [
      'no interpreter',
      () => ['--samples', file(), ...ALLOW, '--python', join(base, 'none')],
      /does not start.*install Python/,
    ],
    [
      'a limit that is none',
      () => ['--samples', file(), '--allow-code-execution', '--timeout', '0'],
      /--timeout expected a number above 0/,
    ],
    [
      'a greedy crowd',
      () => ['--model', base, '--num-samples', '3', '--temperature', '0', ...ALLOW],
      /3 samples at temperature 0/,
    ],
  ])('%s', async (_name, args, message) => {
    const { error } = await lathe('eval', 'passk', ...args());
    expect(error).toMatchObject({ name: 'LatheError', message: expect.stringMatching(message) as string });
  });
});

const hasPython = ((): boolean => {
  try {
    execFileSync('python3', ['-c', 'import sys; assert sys.version_info >= (3, 8)']);
    return true;
  } catch {
    return false;
  }
})();
if (!hasPython)
  process.stdout.write(
    'lathe eval passk: running programs is not tested, this machine has no python3 of version 3.8 or later\n',
  );

(hasPython ? describe : describe.skip)('with Python', () => {
  test('a file of completions: table, verdicts, problems without one', async () => {
    const [a, b] = solutions(2);
    const file = samples('mixed.jsonl', [
      a,
      { ...a, completion: '    return None\n' },
      b,
      { ...b, completion: '    return (\n' },
    ]);
    const { out, err, error } = await lathe('eval', 'passk', '--samples', file, '--k', '1,2', ...ALLOW);
    expect(error).toBeUndefined();
    expect(out).toMatch(/^Simple\/0 +1 +1 +0 +0$/m);
    expect(out).toMatch(/^all +2 +2 +0 +0$/m);
    expect(out).toMatch(/pass@1 +50\.0 %/);
    expect(out).toMatch(/pass@2 +100\.0 %/);
    expect(err).toContain('18 problems have no completion');
    const rows = readFileSync(`${file}_results.jsonl`, 'utf8')
      .trim()
      .split('\n')
      .map((line) => JSON.parse(line) as { result: string; passed: boolean });
    expect(rows.map((r) => [r.passed, r.result.split(':').slice(0, 2).join(':')])).toEqual([
      [true, 'passed'],
      [false, 'failed: AssertionError'],
      [true, 'passed'],
      [false, 'failed: SyntaxError'],
    ]);
    expect(process.exitCode).toBe(exitCode);
  });

  test("HF's variable is consent too; JSON", async () => {
    process.env.HF_ALLOW_CODE_EVAL = '1';
    const result = JSON.parse(
      await output('eval', 'passk', '--samples', samples('all.jsonl', solutions(20)), '--json', '--timeout', '20'),
    ) as Record<string, unknown>;
    expect(result).toMatchObject({
      'pass@1': 1,
      outcomes: { passed: 20, failed: 0, 'timed out': 0, 'could not run': 0 },
      problems_without_samples: [],
    });
  });

  test('a model: completions are kept as they are made, and score the same again', async () => {
    const model = await writeModel(join(base, 'model'));
    const file = join(base, 'out', 'samples.jsonl');
    const args = [
      'eval',
      'passk',
      '--model',
      model,
      '--limit',
      '2',
      '--num-samples',
      '3',
      '--max-new-tokens',
      '8',
      '--threads',
      '1',
      ...ALLOW,
    ];
    const text = await output(...args, '--output', file);
    expect(text).toMatch(/sampled 6 completions/);
    expect(text).toMatch(/pass@1 +0\.0 %/);
    expect(readFileSync(file, 'utf8').trim().split('\n')).toHaveLength(6);
    expect(existsSync(`${file}_results.jsonl`)).toBe(true);
    expect((await lathe(...args, '--output', file)).error).toMatchObject({
      message: expect.stringContaining('is there already') as string,
    });
    const again = JSON.parse(await output('eval', 'passk', '--samples', file, '--limit', '2', '--json', ...ALLOW)) as {
      outcomes: Record<string, number>;
    };
    expect(Object.values(again.outcomes).reduce((x, y) => x + y)).toBe(6);
  });
});
