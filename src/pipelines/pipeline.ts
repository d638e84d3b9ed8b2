/**
 * pipeline(task, source): a model, its tokenizer and a task in one callable, in the names people know.
 *
 *   const generator = await pipeline('text-generation', './model');
 *   const [{ generatedText }] = await generator([{ role: 'user', content: 'Hi' }], { maxNewTokens: 40 });
 */
import { existsSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { LatheError, nearest } from '../errors';
import { openGguf } from '../io/gguf/reader';
import { AutoModelForCausalLM, type FromPretrainedOptions } from '../pretrained/auto';
import type { PreTrainedModel } from '../pretrained/model';
import { AutoPeftModelForCausalLM } from '../pretrained/peft-model';
import type { GenerationTarget } from '../generation/generate';
import { AutoTokenizer } from '../tokenizers/auto-tokenizer';
import { tokenizerFromGguf } from '../tokenizers/gguf-tokenizer';
import type { Tokenizer } from '../tokenizers/tokenizer';
import {
  TextGenerationPipeline,
  type TextGenerationInput,
  type TextGenerationOptions,
  type TextGenerationOutput,
} from './text-generation';

const PIPELINE_TASKS = ['text-generation'] as const;
export type PipelineTask = (typeof PIPELINE_TASKS)[number];

/** A model folder, an adapter folder or a GGUF file; or a model that is already open, with its tokenizer. */
export type PipelineSource =
  string | { model: string | (GenerationTarget & { close?(): Promise<void> }); tokenizer?: string | Tokenizer };

/** The pipeline as a function, with `stream` and `close`. */
export interface TextGenerator {
  (input: TextGenerationInput, options?: TextGenerationOptions): Promise<TextGenerationOutput[]>;
  (
    inputs: readonly TextGenerationInput[],
    options?: TextGenerationOptions & { batchSize?: number },
  ): Promise<TextGenerationOutput[][]>;
  /** New text of one input, piece by piece. */
  stream(input: TextGenerationInput, options?: TextGenerationOptions): AsyncGenerator<string, void, void>;
  /** Frees the model when the pipeline opened it; one that was passed in stays open. */
  close(): Promise<void>;
  readonly model: GenerationTarget;
  readonly tokenizer: Tokenizer;
}

/**
 * Opens a pipeline. `options` are those of AutoModelForCausalLM.fromPretrained, used when `source` names a path, and
 * `generation`: settings for every call.
 * Errors: ERR_CONFIG for an unknown task or a model object without a tokenizer; those of loading.
 */
export async function pipeline(
  task: PipelineTask,
  source: PipelineSource,
  options: FromPretrainedOptions & { generation?: TextGenerationOptions } = {},
): Promise<TextGenerator> {
  if (!PIPELINE_TASKS.includes(task)) {
    const close = nearest(String(task), PIPELINE_TASKS);
    throw new LatheError('ERR_CONFIG', `unknown pipeline task '${String(task)}'`, {
      remedy: close ? `did you mean '${close}'?` : `use one of ${PIPELINE_TASKS.join(', ')}`,
    });
  }
  const { generation, ...loading } = options;
  const { model, tokenizer } = typeof source === 'string' ? { model: source, tokenizer: undefined } : source;
  if (!tokenizer && typeof model !== 'string')
    throw new LatheError('ERR_CONFIG', 'a model object comes without a tokenizer', {
      at: `pipeline('${task}')`,
      remedy: 'pass { model, tokenizer }',
    });
  const opened = typeof model === 'string' ? await openModel(model, loading) : null;
  const target = opened ?? (model as GenerationTarget);
  const text =
    typeof tokenizer === 'object'
      ? tokenizer
      : await openTokenizer(tokenizer ?? tokenizerPath(model as string, opened!));
  const inner = new TextGenerationPipeline(target, text, generation);
  const run: TextGenerationPipeline['run'] = inner.run.bind(inner);
  return Object.assign(run, {
    stream: inner.stream.bind(inner),
    close: async () => opened?.close(),
    model: target,
    tokenizer: text,
  });
}

function openModel(path: string, options: FromPretrainedOptions): Promise<PreTrainedModel> {
  const isAdapter = existsSync(join(path, 'adapter_config.json'));
  return isAdapter
    ? AutoPeftModelForCausalLM.fromPretrained(path, options)
    : AutoModelForCausalLM.fromPretrained(path, options);
}

/** An adapter folder may bring its own tokenizer; otherwise the base model's is meant. */
function tokenizerPath(path: string, model: PreTrainedModel): string {
  return existsSync(join(path, 'tokenizer.json')) ? path : model.origin.path;
}

async function openTokenizer(path: string): Promise<Tokenizer> {
  const isGguf = path.endsWith('.gguf') && statSync(path, { throwIfNoEntry: false })?.isFile() === true;
  return isGguf ? tokenizerFromGguf((await openGguf(path)).metadata, path) : AutoTokenizer.fromPretrained(path);
}
