/**
 * From a resolved configuration to a trainer: tokenizer, rows, model, adapter. What `lathe train CONFIG` runs,
 * and what other commands take parts of.
 */
import { existsSync, readFileSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { LatheError } from '../errors';
import type { Dataset, IterableDataset, TokenizedDataset } from '../data';
import { openGguf } from '../io/gguf/reader';
import { resolveRepo } from '../io/hub';
import { AutoModelForCausalLM } from '../pretrained/auto';
import type { PreTrainedModel } from '../pretrained/model';
import { readModelConfig } from '../pretrained/open';
import { PeftModel } from '../pretrained/peft-model';
import { BitsAndBytesConfig } from '../quantization/bitsandbytes';
import { AutoTokenizer } from '../pretrained/auto-tokenizer';
import { tokenizerFromGguf } from '../tokenizers/gguf-tokenizer';
import type { Tokenizer } from '../tokenizers/tokenizer';
import type { ResolvedConfig } from './arguments';
import type { TrainerCallback } from './events';
import { openData } from './open-data';
import { loraConfigOf, modelOptions, SFTTrainer } from './sft-trainer';
import { openCachedData } from './token-cache';

export interface RunParts {
  readonly trainer: SFTTrainer;
  readonly model: PreTrainedModel;
  readonly tokenizer: Tokenizer;
  readonly train: Dataset | IterableDataset | TokenizedDataset;
  readonly test: Dataset | TokenizedDataset | null;
}

/** Builds everything a run needs; no weight is read and nothing is trained yet. */
export async function setupSft(
  config: ResolvedConfig,
  o: { callbacks?: readonly TrainerCallback[]; warn?: (message: string) => void } = {},
): Promise<RunParts> {
  const tokenizer = await openTokenizer(config);
  const { train, test } = await (config.tokenCache
    ? openCachedData(config, tokenizer, o.warn)
    : openData(config, o.warn));
  const model = await openModelFor(config, tokenizer);
  const trainer = new SFTTrainer({
    model,
    args: config,
    trainDataset: train,
    evalDataset: test,
    processingClass: tokenizer,
    peftConfig: config.usePeft && !model.peft ? loraConfigOf(config) : null,
    allow: config.doctorAllow,
    callbacks: o.callbacks,
    warn: o.warn,
  });
  return { trainer, model, tokenizer, train, test };
}

/** The configured model as a local folder or file; a Hub name is looked up in the cache or downloaded. */
async function modelPath(config: ResolvedConfig): Promise<string> {
  if (config.modelNameOrPath) return resolveRepo(config.modelNameOrPath, 'model', { revision: config.modelRevision });
  throw new LatheError('ERR_CONFIG', 'expected model_name_or_path, received none', {
    remedy: 'name a local model folder, a .gguf file or a model on the Hub',
  });
}

/** The tokenizer of the model (or of tokenizer_name_or_path), with the configured tokens added. */
export async function openTokenizer(config: ResolvedConfig): Promise<Tokenizer> {
  const tokenizer = config.tokenizerNameOrPath
    ? await openTokenizerAt(config.tokenizerNameOrPath)
    : await openTokenizerAt(await modelPath(config), config.adapterNameOrPath);
  if (config.chatTemplatePath) tokenizer.chatTemplate = await readChatTemplate(config.chatTemplatePath);
  if (config.eosToken) tokenizer.eosToken = config.eosToken;
  if (config.padToken) tokenizer.padToken = config.padToken;
  if (config.addedSpecialTokens.length) tokenizer.addSpecialTokens({ extraSpecialTokens: config.addedSpecialTokens });
  return tokenizer;
}

/** A .jinja file, or the chat template of a tokenizer folder. */
async function readChatTemplate(path: string): Promise<string> {
  if (existsSync(path) && statSync(path).isFile()) return readFileSync(path, 'utf8');
  const template = AutoTokenizer.fromPretrained(path).chatTemplate;
  if (template) return template;
  throw new LatheError('ERR_CONFIG', 'chat_template_path names a tokenizer without a chat template', {
    at: path,
    remedy: 'give a .jinja file',
  });
}

/** The tokenizer of a model folder or GGUF file; an adapter folder's own, when it has one, comes first. */
export async function openTokenizerAt(model: string, adapter?: string | null): Promise<Tokenizer> {
  if (adapter && existsSync(join(adapter, 'tokenizer.json'))) return AutoTokenizer.fromPretrained(adapter);
  if (existsSync(model) && statSync(model).isFile()) return tokenizerFromGguf((await openGguf(model)).metadata, model);
  return AutoTokenizer.fromPretrained(model);
}

/** The model as the configuration describes it: quantised, resized for added tokens, with a saved adapter. */
export async function openModelFor(config: ResolvedConfig, tokenizer: Tokenizer | null): Promise<PreTrainedModel> {
  const options = {
    ...modelOptions(config),
    quantizationConfig: config.loadIn4bit
      ? new BitsAndBytesConfig({
          loadIn4bit: true,
          bnb4bitQuantType: config.bnb4bitQuantType,
          bnb4bitUseDoubleQuant: config.useBnbNestedQuant,
        })
      : undefined,
  };
  const path = await modelPath(config);
  const model = config.fromConfig
    ? AutoModelForCausalLM.fromConfig(readModelConfig(path), options)
    : await AutoModelForCausalLM.fromPretrained(path, options);
  // Only when asked: a tokenizer that is larger by itself is most likely another model's, which the doctor says.
  if (
    tokenizer &&
    ((config.addedSpecialTokens.length && tokenizer.vocabSize > model.vocabSize) || config.resizeToMultipleOf)
  ) {
    model.resizeTokenEmbeddings(Math.max(tokenizer.vocabSize, model.vocabSize), {
      padToMultipleOf: config.resizeToMultipleOf ?? undefined,
    });
  }
  // A saved adapter names the model as the user does, not by its place in this machine's cache.
  if (config.modelNameOrPath && path !== config.modelNameOrPath)
    model.origin = { ...model.origin, path: config.modelNameOrPath };
  if (config.adapterNameOrPath) await PeftModel.fromPretrained(model, config.adapterNameOrPath, { isTrainable: true });
  return model;
}
