/**
 * `lathe eval passk`: completions of problems, run against the problems' tests, as pass@k.
 *
 * Nothing is run unless the user says so. The interpreter is tried before a token is generated, so a machine that cannot run
 * programs says so at once. Completions go to --output as they are made, verdicts to <that file>_results.jsonl, both in
 * HumanEval's format.
 */
import { appendFileSync, existsSync, writeFileSync } from 'node:fs';
import { dirname } from 'node:path';
import { LatheError } from '../errors';
import { judgeCompletions, OUTCOMES, scorePassAtK, usableKs, type Judged, type PasskResult } from '../eval/passk';
import { BUNDLED_PROBLEMS, readCompletions, readProblems, type Completion, type Problem } from '../eval/passk-problems';
import { checkSampling, sampleCompletions } from '../eval/passk-samples';
import { Sandbox } from '../eval/sandbox';
import { writeFileAtomic } from '../io/atomic-file';
import { makeFolder } from '../io/io-error';
import { countFlag, endTokens, numberFlag, openFromFlags, type Flags } from './model-flags';
import { duration, say, style, warn } from './output';

/** Problems up to which each gets a line. */
const LISTED = 40;
const CONSENT = 'HF_ALLOW_CODE_EVAL';

export async function passkCommand(o: Flags): Promise<void> {
  requireConsent(o);
  requireOneSource(o);
  const all = readProblems((o.problems as string | undefined) ?? BUNDLED_PROBLEMS);
  const problems = all.slice(0, countFlag(o, 'limit') ?? all.length);
  const asked = askedKs(o.k as string | undefined);
  const quiet = o.json === true;
  const stored = o.samples ? ofProblems(readCompletions(o.samples as string, all), problems) : null;
  const numSamples = stored ? mostSamples(stored) : (countFlag(o, 'numSamples') ?? 10);
  const ks = usableKs(asked, numSamples);
  const sandbox = await Sandbox.open({
    python: o.python as string | undefined,
    timeoutSeconds: positive(o, 'timeout'),
    memoryBytes: (countFlag(o, 'memoryLimit', 64) ?? 1024) * 2 ** 20,
  });
  if (!quiet) {
    say(`${problems.length} problem${problems.length === 1 ? '' : 's'}, Python ${sandbox.version}`);
    say(sandbox.describe());
  } else if (sandbox.isolation.why) warn(sandbox.describe());
  const completions = stored ?? (await sampled(o, problems, numSamples, quiet));
  const judged = await judge(sandbox, problems, completions, countFlag(o, 'workers'), quiet);
  const file = (o.samples ?? o.output) as string | undefined;
  const resultsFile = (o.results as string | undefined) ?? (file && `${file}_results.jsonl`);
  if (resultsFile) await writeFileAtomic(resultsFile, judged.map((j) => `${JSON.stringify(resultRow(j))}\n`).join(''));
  const result = scorePassAtK(problems, judged, ks);
  if (quiet) say(JSON.stringify(toJson(result, sandbox), null, 2));
  else report(result, judged, resultsFile);
  // A score with holes is no score: scripts should notice.
  if (result.outcomes['could not run'] > 0) process.exitCode = 3;
}

function requireConsent(o: Flags): void {
  if (o.allowCodeExecution === true || process.env[CONSENT] === '1') return;
  throw new LatheError(
    'ERR_CONFIG',
    'this command runs programs that a model wrote, and you have not said that it may',
    {
      remedy: `pass --allow-code-execution (or set ${CONSENT}=1) after reading docs/evaluation.md on what the sandbox does and does not hold back`,
    },
  );
}

function requireOneSource(o: Flags): void {
  if ((o.model === undefined) !== (o.samples === undefined)) return;
  throw new LatheError(
    'ERR_CONFIG',
    o.model === undefined
      ? 'expected --model or --samples, received neither'
      : 'expected --model or --samples, received both',
    {
      remedy: 'give a model to sample from, or a file of completions to score',
    },
  );
}

/** The completions of these problems; at least one. */
function ofProblems(completions: readonly Completion[], problems: readonly Problem[]): Completion[] {
  const wanted = new Set(problems.map((p) => p.taskId));
  const kept = completions.filter((c) => wanted.has(c.taskId));
  if (kept.length) return kept;
  throw new LatheError('ERR_DATA', `none of the completions belongs to the first ${problems.length} problems`, {
    remedy: 'raise --limit',
  });
}

function askedKs(text: string | undefined): number[] | null {
  if (text === undefined) return null;
  const ks = text.split(',').map(Number);
  if (ks.every((k) => Number.isInteger(k) && k >= 1)) return ks;
  throw new LatheError(
    'ERR_CONFIG',
    `--k expected whole numbers with commas between them, such as 1,10,100, received '${text}'`,
  );
}

function positive(o: Flags, key: string): number | undefined {
  const value = numberFlag(o, key);
  if (value === undefined || value > 0) return value;
  throw new LatheError('ERR_CONFIG', `--${key} expected a number above 0, received ${value}`);
}

/** Completions of the problem that has most; a k beyond it can be estimated nowhere. */
function mostSamples(completions: readonly Completion[]): number {
  const counts = new Map<string, number>();
  for (const { taskId } of completions) counts.set(taskId, (counts.get(taskId) ?? 0) + 1);
  return Math.max(...counts.values());
}

async function sampled(
  o: Flags,
  problems: readonly Problem[],
  numSamples: number,
  quiet: boolean,
): Promise<Completion[]> {
  const output = o.output as string | undefined;
  if (output && existsSync(output))
    throw new LatheError('ERR_CONFIG', 'the file of samples is there already', {
      at: output,
      remedy: 'name another one, or score it with --samples',
    });
  const temperature = numberFlag(o, 'temperature') ?? 0.4;
  const doSample = temperature > 0;
  checkSampling(doSample, numSamples);
  const { model, tokenizer } = await openFromFlags(o);
  const all: Completion[] = [];
  const line = new LiveLine(quiet);
  const started = performance.now();
  try {
    const generation = {
      maxNewTokens: countFlag(o, 'maxNewTokens') ?? 256,
      doSample,
      // Set either way: a model's own generation_config.json must not change what pass@k means.
      temperature: doSample ? temperature : 1,
      topP: doSample ? (numberFlag(o, 'topP') ?? 0.95) : 1,
      topK: doSample ? (countFlag(o, 'topK', 0) ?? 0) : 0,
      eosTokenId: endTokens(model, tokenizer),
    };
    if (output) {
      makeFolder(dirname(output));
      writeFileSync(output, '');
    }
    for await (const { completions, note } of sampleCompletions(model, tokenizer, problems, {
      numSamples,
      batchSize: countFlag(o, 'batchSize'),
      seed: countFlag(o, 'seed', 0),
      generation,
    })) {
      if (note) warn(note);
      all.push(...completions);
      if (output)
        appendFileSync(
          output,
          completions.map((c) => `${JSON.stringify({ task_id: c.taskId, completion: c.completion })}\n`).join(''),
        );
      line.show(
        `sampling ${all.length}/${numSamples * problems.length}`,
        all.length / (numSamples * problems.length),
        started,
      );
    }
  } finally {
    await model.close();
  }
  line.end(`sampled ${all.length} completions in ${duration((performance.now() - started) / 1000)}`);
  return all;
}

async function judge(
  sandbox: Sandbox,
  problems: readonly Problem[],
  completions: readonly Completion[],
  workers: number | undefined,
  quiet: boolean,
): Promise<Judged[]> {
  const line = new LiveLine(quiet);
  const started = performance.now();
  const judged = await judgeCompletions(sandbox, problems, completions, {
    workers,
    onJudged: (_, done) => line.show(`running ${done}/${completions.length}`, done / completions.length, started),
  });
  line.end(`ran ${judged.length} programs in ${duration((performance.now() - started) / 1000)}`);
  return judged;
}

/** A line that is redrawn in a terminal and not shown elsewhere; its end is. */
class LiveLine {
  private readonly live: boolean;

  constructor(private readonly quiet: boolean) {
    this.live = !quiet && process.stdout.isTTY === true;
  }

  show(text: string, done: number, startedAt: number): void {
    if (!this.live) return;
    const left = ((performance.now() - startedAt) / 1000) * (1 / done - 1);
    process.stdout.write(`\r\u001b[K${text}  ${duration(left)} left`);
  }

  end(text: string): void {
    if (this.live) process.stdout.write('\r\u001b[K');
    if (!this.quiet) say(text);
  }
}

function resultRow(j: Judged): Record<string, unknown> {
  return {
    task_id: j.taskId,
    completion: j.completion,
    result: j.detail ? `${j.outcome}: ${j.detail}` : j.outcome,
    passed: j.outcome === 'passed',
    seconds: Math.round(j.seconds * 1000) / 1000,
  };
}

function toJson(r: PasskResult, sandbox: Sandbox): Record<string, unknown> {
  return {
    ...Object.fromEntries(Object.entries(r.passAtK).map(([k, value]) => [`pass@${k}`, value])),
    outcomes: r.outcomes,
    problems: Object.fromEntries(r.problems.map((p) => [p.taskId, p.outcomes])),
    problems_without_samples: r.missing,
    problems_with_too_few_runs: r.tooFew,
    python: sandbox.version,
    isolated: sandbox.isolation.isolated,
  };
}

function report(r: PasskResult, judged: readonly Judged[], resultsFile: string | undefined): void {
  const width = Math.max(...r.problems.map((p) => p.taskId.length), 7);
  say();
  say(style.dim(`${'problem'.padEnd(width)}  ${OUTCOMES.map((o) => o.padStart(15)).join('')}`));
  if (r.problems.length <= LISTED)
    for (const p of r.problems)
      say(`${p.taskId.padEnd(width)}  ${OUTCOMES.map((o) => String(p.outcomes[o]).padStart(15)).join('')}`);
  say(`${'all'.padEnd(width)}  ${OUTCOMES.map((o) => String(r.outcomes[o]).padStart(15)).join('')}`);
  say();
  for (const [k, value] of Object.entries(r.passAtK)) {
    const left = r.tooFew[Number(k)]
      ? `  (without ${r.tooFew[Number(k)]} problems that have fewer than ${k} runs)`
      : '';
    say(style.bold(`pass@${k.padEnd(4)} ${value === null ? 'not known' : `${(100 * value).toFixed(1)} %`}`) + left);
  }
  if (resultsFile) say(`verdicts: ${resultsFile}`);
  if (r.missing.length)
    warn(
      `${r.missing.length} problems have no completion and are in no number above: ${r.missing.slice(0, 3).join(', ')}${r.missing.length > 3 ? ' ...' : ''}`,
    );
  const broken = judged.find((j) => j.outcome === 'could not run');
  if (broken)
    warn(
      `${r.outcomes['could not run']} programs could not be run, which says nothing about the model; they are left out. The first: ${broken.taskId}, ${broken.detail}`,
    );
}
