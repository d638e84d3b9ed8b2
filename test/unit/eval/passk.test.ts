/** pass@k without running anything: the estimator, the files, what is sampled and how it is cut, how verdicts are counted. */
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { gzipSync } from 'node:zlib';
import fc from 'fast-check';
import { estimatePassAtK, judgeCompletions, scorePassAtK, usableKs, type Judged } from '../../../src/eval/passk';
import {
  BUNDLED_PROBLEMS,
  programOf,
  readCompletions,
  readProblems,
  type Problem,
} from '../../../src/eval/passk-problems';
import { completionOf, firstBlock, promptIds, sampleCompletions } from '../../../src/eval/passk-samples';
import type { Outcome } from '../../../src/eval/sandbox';
import { AutoModelForCausalLM } from '../../../src/pretrained/auto';
import { AutoTokenizer } from '../../../src/tokenizers/auto-tokenizer';
import type { Tokenizer } from '../../../src/tokenizers/tokenizer';
import { TINY_CONFIG } from '../../train/tiny-folder';

const dir = mkdtempSync(join(tmpdir(), 'lathe-passk-'));
afterAll(() => rmSync(dir, { recursive: true, force: true }));
const file = (name: string, content: string | Buffer): string => {
  writeFileSync(join(dir, name), content);
  return join(dir, name);
};
const problem = (taskId: string, more: Partial<Problem> = {}): Problem => ({
  taskId,
  prompt: 'def f(x):\n',
  canonicalSolution: '    return x\n',
  test: 'def check(c):\n    assert c(1) == 1\n',
  entryPoint: 'f',
  ...more,
});

describe('the estimator', () => {
  /** C(n, k) exactly. */
  const choose = (n: bigint, k: bigint): bigint => {
    if (k > n) return 0n;
    let result = 1n;
    for (let i = 1n; i <= k; i++) result = (result * (n - k + i)) / i;
    return result;
  };

  test('equals 1 - C(n-c, k) / C(n, k) in exact arithmetic', () => {
    const counts = fc
      .tuple(fc.integer({ min: 1, max: 300 }), fc.nat(), fc.nat())
      .map(([n, c, k]) => [n, c % (n + 1), 1 + (k % n)] as const);
    fc.assert(
      fc.property(counts, ([n, c, k]) => {
        const scale = 10n ** 18n;
        const exact = 1 - Number((choose(BigInt(n - c), BigInt(k)) * scale) / choose(BigInt(n), BigInt(k))) / 1e18;
        expect(Math.abs(estimatePassAtK(n, c, k) - exact)).toBeLessThan(1e-12);
      }),
      { seed: 5, numRuns: 300 },
    );
  });

  test('the ends: none passes, all pass, fewer failures than k', () => {
    expect(estimatePassAtK(200, 0, 100)).toBe(0);
    expect(estimatePassAtK(200, 200, 1)).toBe(1);
    expect(estimatePassAtK(10, 1, 10)).toBe(1);
    expect(estimatePassAtK(10, 3, 1)).toBeCloseTo(0.3, 15);
    expect(() => estimatePassAtK(5, 1, 6)).toThrow('1 <= k <= n');
  });

  test('k that the samples allow', () => {
    expect(usableKs(null, 10)).toEqual([1, 10]);
    expect(usableKs([5, 1, 5], 8)).toEqual([1, 5]);
    expect(() => usableKs([1, 100], 20)).toThrow('pass@100 needs at least 100 samples of each problem, received 20');
  });
});

describe('problem files', () => {
  const row = {
    task_id: 'T/0',
    prompt: 'def f(x):\n',
    canonical_solution: '    return x\n',
    test: 'def check(c):\n    pass\n',
    entry_point: 'f',
    extra: [1],
  };

  test('plain and gzipped, blank lines left out', () => {
    const text = `${JSON.stringify(row)}\n\n${JSON.stringify({ ...row, task_id: 'T/1' })}`;
    const plain = readProblems(file('p.jsonl', text));
    expect(plain.map((p) => p.taskId)).toEqual(['T/0', 'T/1']);
    expect(readProblems(file('p.jsonl.gz', gzipSync(text)))).toEqual(plain);
    expect(programOf(plain[0], '    return x')).toBe('def f(x):\n    return x\ndef check(c):\n    pass\n\ncheck(f)\n');
  });

  test.each([
    ['{"task_id": 1}', /expected texts task_id, prompt, test, entry_point.*bad\.jsonl:1/],
    [`${JSON.stringify(row)}\n{`, /expected a JSON object.*bad\.jsonl:2/],
    [JSON.stringify({ ...row, entry_point: 'f; import os' }), /entry_point expected the name of a function/],
    [`${JSON.stringify(row)}\n${JSON.stringify(row)}`, /'T\/0' is there twice/],
    ['\n', /empty file/],
  ])('%j is refused', (text, message) => {
    expect(() => readProblems(file('bad.jsonl', text))).toThrow(message);
  });

  test('completions belong to problems', () => {
    const path = file('s.jsonl', '{"task_id":"T/0","completion":"    return 1"}\n{"task_id":"T/9","completion":""}\n');
    expect(() => readCompletions(path, [problem('T/0')])).toThrow(/'T\/9' that is not in the problem file.*s\.jsonl:2/);
    expect(readCompletions(path, [problem('T/0'), problem('T/9')])).toHaveLength(2);
    expect(() => readCompletions(join(dir, 'none.jsonl'), [])).toThrow('cannot read the file');
  });

  test('the bundled ones are twenty, each with a solution', () => {
    const problems = readProblems(BUNDLED_PROBLEMS);
    expect(problems).toHaveLength(20);
    for (const p of problems) expect(p.canonicalSolution).toMatch(/^ {4}\S/);
  });
});

describe('completions', () => {
  test('end with the first block', () => {
    expect(firstBlock('\n    return 1\n\n\ndef g():\n    pass')).toBe('\n    return 1');
    expect(firstBlock('    if x:\n        return 1\n    # inside\n    return 2\n# outside\nx')).toBe(
      '    if x:\n        return 1\n    # inside\n    return 2',
    );
    expect(firstBlock('    return 1  \n\n')).toBe('    return 1');
    for (const stop of ['\nclass A', '\n@decorator', '\nprint(1)', '\nif x:'])
      expect(firstBlock(`    pass${stop}`)).toBe('    pass');
  });

  test('continue the full prompt although the model read a trimmed one', () => {
    expect(completionOf('def f():\n', '\n    return 1')).toBe('    return 1');
    expect(completionOf('def f():\n', '  # here\n    return 1')).toBe('  # here\n    return 1');
    expect(completionOf('def f():', '\n    return 1')).toBe('\n    return 1');
  });

  describe('of a model', () => {
    const tokenizer: Tokenizer = AutoTokenizer.fromPretrained(join(__dirname, '../../../data/base-model'));
    const model = AutoModelForCausalLM.fromConfig(TINY_CONFIG, { threads: 1 });
    afterAll(() => model.close());
    const problems = [
      problem('A'),
      problem('B'),
      problem('C', { prompt: `def f(x):\n    """${'word '.repeat(400)}"""\n` }),
    ];
    const generation = { maxNewTokens: 6, doSample: true, temperature: 0.9, topP: 0.95, topK: 0 };
    const sample = async (seed: number) => {
      const all = [];
      for await (const batch of sampleCompletions(model, tokenizer, problems, {
        numSamples: 5,
        batchSize: 2,
        seed,
        generation,
      }))
        all.push(batch);
      return all;
    };

    test('the prompt begins with the begin token and has no white space around it', async () => {
      const ids = await promptIds(tokenizer, '\n\ndef f(x):\n');
      expect(ids[0]).toBe(tokenizer.bosTokenId);
      expect(tokenizer.decode(ids.slice(1))).toBe('def f(x):');
    });

    test('as many as asked, no two batches alike, the same for the same seed', async () => {
      const first = await sample(1);
      expect(first.map((b) => b.completions.length)).toEqual([5, 5, 5]);
      expect(new Set(first.slice(0, 2).flatMap((b) => b.completions.map((c) => c.completion))).size).toBeGreaterThan(7);
      expect(await sample(1)).toEqual(first);
      expect(await sample(2)).not.toEqual(first);
      expect(first[2].note).toMatch(/^C: the prompt's \d+ tokens fill the model's context of 256/);
      expect(first[2].completions.every((c) => c.completion === '')).toBe(true);
    });
  });
});

describe('verdicts', () => {
  const problems = [problem('A'), problem('B'), problem('C')];
  const judged = (taskId: string, ...outcomes: Outcome[]): Judged[] =>
    outcomes.map((outcome) => ({ taskId, completion: '', outcome, detail: '', seconds: 0 }));

  test('what could not run does not count as failed', () => {
    const result = scorePassAtK(
      problems,
      [
        ...judged('A', 'passed', 'failed', 'could not run', 'timed out'),
        ...judged('B', 'could not run', 'could not run', 'failed', 'failed'),
      ],
      [1, 3],
    );
    expect(result.passAtK[1]).toBeCloseTo((1 / 3 + 0) / 2, 12);
    // B has two runs: too few for pass@3.
    expect(result.passAtK[3]).toBe(1);
    expect(result.tooFew).toEqual({ 1: 0, 3: 1 });
    expect(result.outcomes).toEqual({ passed: 1, failed: 3, 'timed out': 1, 'could not run': 3 });
    expect(result.missing).toEqual(['C']);
  });

  test('no run at all: no number', () => {
    expect(scorePassAtK(problems, judged('A', 'could not run'), [1]).passAtK[1]).toBeNull();
  });

  test('programs run a few at a time; the order stays', async () => {
    let running = 0;
    let most = 0;
    const runner = {
      async run(program: string) {
        most = Math.max(most, ++running);
        await new Promise((resolve) => setTimeout(resolve, Math.random() * 10));
        running--;
        return {
          outcome: program.includes('return 7') ? ('passed' as const) : ('failed' as const),
          detail: '',
          seconds: 0,
        };
      },
    };
    const completions = Array.from({ length: 12 }, (_, i) => ({ taskId: 'A', completion: `    return ${i}` }));
    const seen: number[] = [];
    const result = await judgeCompletions(runner, problems, completions, {
      workers: 3,
      onJudged: (_, done) => seen.push(done),
    });
    expect(result.map((r) => r.outcome === 'passed')).toEqual(completions.map((_, i) => i === 7));
    expect(most).toBe(3);
    expect(seen).toEqual(completions.map((_, i) => i + 1));
  });
});
