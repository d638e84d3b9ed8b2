/**
 * From a resolved configuration to a trainer: tokenizer, rows, model, adapter. What `lathe train CONFIG` runs,
 * and what other commands take parts of.
 */
import { existsSync, readFileSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { LatheError } from '../errors';
import { loadDataset, type Dataset } from '../data';
import { openGguf } from '../io/gguf/reader';
import { resolveRepo } from '../io/hub';
import { AutoModelForCausalLM } from '../pretrained/auto';
import type { PreTrainedModel } from '../pretrained/model';
import { readModelConfig } from '../pretrained/open';
import { PeftModel } from '../pretrained/peft-model';
import { BitsAndBytesConfig } from '../quantization/bitsandbytes';
import { AutoTokenizer } from '../tokenizers/auto-tokenizer';
import { tokenizerFromGguf } from '../tokenizers/gguf-tokenizer';
import type { Tokenizer } from '../tokenizers/tokenizer';
import type { ResolvedConfig, RowFilter } from './arguments';
import type { TrainerCallback } from './events';
import { loraConfigOf, modelOptions, SFTTrainer, type SFTTrainerOptions } from './sft-trainer';

export interface RunParts {
  readonly trainer: SFTTrainer;
  readonly model: PreTrainedModel;
  readonly tokenizer: Tokenizer;
  readonly train: Dataset;
  readonly test: Dataset | null;
}

/** Builds everything a run needs; no weight is read and nothing is trained yet. */
export async function setupSft(config: ResolvedConfig, o: { callbacks?: readonly TrainerCallback[]; warn?: (message: string) => void } = {}): Promise<RunParts> {
  const tokenizer = await openTokenizer(config);
  const { train, test } = await openData(config);
  const model = await openModelFor(config, tokenizer);
  const trainer = new SFTTrainer({
    model,
    args: config,
    trainDataset: train,
    evalDataset: test,
    processingClass: tokenizer,
    peftConfig: config.usePeft && !model.peft ? loraConfigOf(config) : null,
    allow: config.doctorAllow as SFTTrainerOptions['allow'],
    callbacks: o.callbacks,
    warn: o.warn,
  });
  return { trainer, model, tokenizer, train, test };
}

/** The configured model as a local folder or file; a Hub name is looked up in the cache or downloaded. */
async function modelPath(config: ResolvedConfig): Promise<string> {
  if (config.modelNameOrPath) return resolveRepo(config.modelNameOrPath, 'model', { revision: config.modelRevision });
  throw new LatheError('ERR_CONFIG', 'expected model_name_or_path, received none', { remedy: 'name a local model folder, a .gguf file or a model on the Hub' });
}

/** The tokenizer of the model (or of tokenizer_name_or_path), with the configured tokens added. */
export async function openTokenizer(config: ResolvedConfig): Promise<Tokenizer> {
  const tokenizer = config.tokenizerNameOrPath ? await openTokenizerAt(config.tokenizerNameOrPath) : await openTokenizerAt(await modelPath(config), config.adapterNameOrPath);
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
  throw new LatheError('ERR_CONFIG', 'chat_template_path names a tokenizer without a chat template', { at: path, remedy: 'give a .jinja file' });
}

/** The tokenizer of a model folder or GGUF file; an adapter folder's own, when it has one, comes first. */
export async function openTokenizerAt(model: string, adapter?: string | null): Promise<Tokenizer> {
  if (adapter && existsSync(join(adapter, 'tokenizer.json'))) return AutoTokenizer.fromPretrained(adapter);
  if (existsSync(model) && statSync(model).isFile()) return tokenizerFromGguf((await openGguf(model)).metadata, model);
  return AutoTokenizer.fromPretrained(model);
}

/** Rows to train and to evaluate on, after filter, split and limits. */
export async function openData(config: ResolvedConfig): Promise<{ train: Dataset; test: Dataset | null }> {
  const splits = config.datasets.length ? { [config.datasetTrainSplit]: await openMixture(config.datasets) } : await openSplits(config);
  let train: Dataset | undefined = splits[config.datasetTrainSplit];
  if (!train) {
    throw new LatheError('ERR_DATA', `split '${config.datasetTrainSplit}' is not in ${config.datasetName}`, { remedy: `set dataset_train_split to one of ${Object.keys(splits).join(', ')}` });
  }
  let test: Dataset | null = splits[config.datasetTestSplit] ?? null;
  if (config.shuffleDataset) train = train.shuffle({ seed: config.seed });
  train = await filtered(train, config.rowFilter);
  if (test) test = await filtered(test, config.rowFilter);
  if (config.testSplitSize) ({ train, test } = split(train, config));
  if (config.evalStrategy === 'no' && !config.evalOnStart) test = null;
  else if (!test) throw new LatheError('ERR_CONFIG', `${config.evalStrategy === 'no' ? 'eval_on_start is set' : `eval_strategy is ${config.evalStrategy}`}, but ${config.datasetName} has no split '${config.datasetTestSplit}'`, { remedy: 'set test_split_size, dataset_test_split, or eval_strategy: no' });
  for (const [name, rows] of [[config.datasetTrainSplit, train], [config.datasetTestSplit, test]] as const) {
    if (rows?.length !== 0) continue;
    const why = config.rowFilter ? ' that row_filter keeps' : '';
    throw new LatheError('ERR_DATA', `expected rows in split '${name}'${why}, received none`, {
      at: config.datasetName ?? 'datasets',
      remedy: config.rowFilter ? 'loosen row_filter' : 'check the file, or choose another split',
    });
  }
  if (config.maxTrainSamples) train = train.take(config.maxTrainSamples);
  if (config.maxEvalSamples && test) test = test.take(config.maxEvalSamples);
  return { train, test };
}

function openSplits(config: ResolvedConfig): Promise<Record<string, Dataset>> {
  const { datasetName, datasetConfig } = config;
  if (!datasetName) throw new LatheError('ERR_CONFIG', 'expected dataset_name, received none', { remedy: 'name a local file, a folder with train and test files, or a dataset on the Hub' });
  return resolveRepo(datasetName, 'dataset').then((path) => loadDataset(path, datasetConfig ? { name: datasetConfig } : {}));
}

/** The members of `datasets`, one after the other. */
async function openMixture(members: ResolvedConfig['datasets']): Promise<Dataset> {
  const parts: Dataset[] = [];
  for (const m of members) {
    if (m.fraction !== null || m.data_dir !== null) {
      throw new LatheError('ERR_UNSUPPORTED', `datasets: ${m.fraction !== null ? 'fraction' : 'data_dir'} is not supported`, { at: m.path, remedy: 'prepare the mixture as one file' });
    }
    const rows = await loadDataset(await resolveRepo(m.path, 'dataset'), { split: m.split, ...(m.name ? { name: m.name } : {}), ...(m.data_files ? { dataFiles: m.data_files } : {}) });
    parts.push(m.columns ? rows.selectColumns(m.columns) : rows);
  }
  return parts.reduce((a, b) => a.concatenate(b));
}

function split(rows: Dataset, config: ResolvedConfig): { train: Dataset; test: Dataset } {
  return rows.trainTestSplit({ testSize: config.testSplitSize!, seed: config.splitSeed ?? config.seed });
}

async function filtered(rows: Dataset, filter: RowFilter | null): Promise<Dataset> {
  if (!filter) return rows;
  for (const column of Object.keys(filter)) {
    if (!rows.columnNames.includes(column)) {
      throw new LatheError('ERR_CONFIG', `row_filter names the column '${column}', which the data does not have`, { remedy: `use one of ${rows.columnNames.join(', ')}` });
    }
  }
  return rows.filter((row) => Object.entries(filter).every(([column, condition]) => matches(row[column], condition)));
}

function matches(value: unknown, condition: RowFilter[string]): boolean {
  if (Array.isArray(condition)) return condition.some((c) => c === value);
  if (typeof condition === 'object' && condition !== null) return !matches(value, condition.not);
  return value === condition || (condition === '' && (value === null || value === undefined));
}

/** The model as the configuration describes it: quantised, resized for added tokens, with a saved adapter. */
export async function openModelFor(config: ResolvedConfig, tokenizer: Tokenizer | null): Promise<PreTrainedModel> {
  const options = {
    ...modelOptions(config),
    quantizationConfig: config.loadIn4bit
      ? new BitsAndBytesConfig({ loadIn4bit: true, bnb4bitQuantType: config.bnb4bitQuantType, bnb4bitUseDoubleQuant: config.useBnbNestedQuant })
      : undefined,
  };
  const path = await modelPath(config);
  const model = config.fromConfig ? AutoModelForCausalLM.fromConfig(readModelConfig(path), options) : await AutoModelForCausalLM.fromPretrained(path, options);
  // Only when asked: a tokenizer that is larger by itself is most likely another model's, which the doctor says.
  if (tokenizer && ((config.addedSpecialTokens.length && tokenizer.vocabSize > model.vocabSize) || config.resizeToMultipleOf)) {
    model.resizeTokenEmbeddings(Math.max(tokenizer.vocabSize, model.vocabSize), { padToMultipleOf: config.resizeToMultipleOf ?? undefined });
  }
  // A saved adapter names the model as the user does, not by its place in this machine's cache.
  if (config.modelNameOrPath && path !== config.modelNameOrPath) model.origin = { ...model.origin, path: config.modelNameOrPath };
  if (config.adapterNameOrPath) await PeftModel.fromPretrained(model, config.adapterNameOrPath, { isTrainable: true });
  return model;
}
