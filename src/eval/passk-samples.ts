/**
 * Completions of problems from a model: sampled, and cut to the first block.
 *
 * The recipe is CodeParrot's: a begin token if there is one, the prompt without surrounding white space (a trailing line
 * break would be split off from the indentation that follows it, which a byte-level tokenizer joins), nucleus sampling, and
 * everything up to the first line that begins something new at the left margin.
 *
 * Invariant: prompt + completion is the prompt's text followed by what the model wrote: white space cut from the prompt's end
 * is cut from the completion's start when the model wrote it again.
 * Sources: codeparrot/scripts/human_eval.py in transformers; HumanEval's stop sequences.
 */
import { LatheError } from '../errors';
import { generateAll, type GenerateOptions, type GenerationTarget } from '../generation/generate';
import type { Tokenizer } from '../tokenizers/tokenizer';
import type { Completion, Problem } from './passk-problems';

/** A text that begins one of these has left the function. */
const STOP_STRINGS: readonly string[] = ['\nclass', '\ndef', '\n#', '\n@', '\nprint', '\nif'];

export interface SampleOptions {
  /** Completions of each problem. */
  readonly numSamples: number;
  /** Sequences generated at once. Default 10. */
  readonly batchSize?: number;
  readonly seed?: number;
  /** Temperature and so on; doSample false is for one sample only. */
  readonly generation: Pick<
    GenerateOptions,
    'maxNewTokens' | 'temperature' | 'topP' | 'topK' | 'doSample' | 'eosTokenId' | 'signal'
  >;
}

/** The text up to the first stop string, without white space at its end. */
export function firstBlock(text: string): string {
  const ends = STOP_STRINGS.map((stop) => text.indexOf(stop)).filter((at) => at >= 0);
  return text.slice(0, Math.min(text.length, ...ends)).trimEnd();
}

/** What is appended to the full prompt, from what followed the trimmed one. */
export function completionOf(prompt: string, text: string): string {
  const cut = prompt.slice(prompt.trimEnd().length);
  return cut && text.startsWith(cut) ? text.slice(cut.length) : text;
}

/** A problem's prompt as the model reads it. */
export async function promptIds(tokenizer: Tokenizer, prompt: string): Promise<number[]> {
  const ids = await tokenizer.encode(prompt.trim());
  const { bosTokenId, eosTokenId } = tokenizer;
  // A post-processor may close the text as well; nothing would follow an end token.
  while (ids.length > 1 && ids[ids.length - 1] === eosTokenId) ids.pop();
  return bosTokenId === undefined || ids[0] === bosTokenId ? ids : [bosTokenId, ...ids];
}

/** Seed of a batch: draws depend on seed, place in the batch and step alone, so each batch needs its own. */
function seedOf(seed: number, problem: number, batch: number): number {
  return (seed * 1_000_003 + problem * 10_007 + batch) % Number.MAX_SAFE_INTEGER;
}

/**
 * Yields the completions of one problem after the other. A prompt that fills the model's context is given out with an empty
 * completion, which fails: that is the model's limit and not the machine's.
 */
export async function* sampleCompletions(
  target: GenerationTarget,
  tokenizer: Tokenizer,
  problems: readonly Problem[],
  o: SampleOptions,
): AsyncGenerator<{ problem: Problem; completions: Completion[]; note: string | null }, void, void> {
  const batchSize = Math.max(1, o.batchSize ?? 10);
  for (const [index, problem] of problems.entries()) {
    const ids = await promptIds(tokenizer, problem.prompt);
    const completions: Completion[] = [];
    const room = target.module.config.maxPositions - ids.length;
    if (room < 1) {
      for (let i = 0; i < o.numSamples; i++) completions.push({ taskId: problem.taskId, completion: '' });
      yield {
        problem,
        completions,
        note: `${problem.taskId}: the prompt's ${ids.length} tokens fill the model's context of ${target.module.config.maxPositions}; its samples are empty`,
      };
      continue;
    }
    for (let batch = 0; completions.length < o.numSamples; batch++) {
      const numReturnSequences = Math.min(batchSize, o.numSamples - completions.length);
      const sequences = await generateAll(target, [ids], {
        ...o.generation,
        tokenizer,
        stopStrings: STOP_STRINGS,
        numReturnSequences,
        seed: seedOf(o.seed ?? 42, index, batch),
      });
      for (const { text } of sequences)
        completions.push({ taskId: problem.taskId, completion: completionOf(problem.prompt, firstBlock(text)) });
    }
    yield { problem, completions, note: null };
  }
}

/** Fails for settings that would make all samples of a problem the same. */
export function checkSampling(doSample: boolean, numSamples: number): void {
  if (doSample || numSamples === 1) return;
  throw new LatheError('ERR_CONFIG', `${numSamples} samples at temperature 0 would all be the same text`, {
    remedy: 'set --num-samples 1, or a temperature above 0',
  });
}
