/**
 * SFTTrainer: supervised fine-tuning in TRL's names. It prepares data (format, mask, doctor, pack or pad) and the model
 * (adapter or full), and hands the rest to the Trainer.
 */
import { assertHealthy, badRowHandler, createLoader, formatFinding, inspectDataset, IterableDataset, StreamLoader, tokenizeDataset, type Finding, type Formatter, type Loader, type Row, type StepSource, type TextTokenizer, type TokenizedDataset, type TokenizeOptions } from '../data';
import { LatheError } from '../errors';
import { LoraConfig } from '../peft/lora-config';
import { AutoModelForCausalLM } from '../pretrained/auto';
import type { PreTrainedModel } from '../pretrained/model';
import { currentWorld } from '../runtime/world';
import type { ResolvedConfig } from './arguments';
import type { TrainerCallback, TrainEvent } from './events';
import { lossOf } from './losses';
import type { Loss } from './losses/loss';
import { reportersOf } from './reporters';
import type { LogEntry, TrainerState } from './state';
import { firstRows } from './open-data';
import { Ranks } from './ranks';
import { Trainer, type RunOptions } from './trainer';
import type { TrainerPlan } from './training-plan';

/** Rows with optional names; a `Dataset` is one. */
export interface TrainRows extends Iterable<Row> {
  describeRow?(i: number): string;
}

export type SavableTokenizer = TextTokenizer & { savePretrained(dir: string): void | Promise<void> };

export interface SFTTrainerOptions {
  /** A model or the folder of one. */
  model: PreTrainedModel | string;
  args: ResolvedConfig;
  /** Rows in memory, rows that are tokenised already, or a stream that is tokenised and packed as training goes on (needs maxSteps). */
  trainDataset: TrainRows | IterableDataset | TokenizedDataset;
  /** Of a stream all rows are read, once. */
  evalDataset?: TrainRows | IterableDataset | TokenizedDataset | null;
  /** The tokenizer. */
  processingClass: SavableTokenizer;
  /** New adapter; without one (and without an adapter on the model) all weights are trained. */
  peftConfig?: LoraConfig | null;
  formattingFunc?: Formatter;
  callbacks?: readonly TrainerCallback[];
  /** Findings of the doctor that the user accepts. */
  allow?: readonly Finding['code'][];
  warn?: (message: string) => void;
}

/** Rows of a stream that the doctor looks at before the run. */
const kInspectedRows = 256;

export class SFTTrainer {
  private prepared: Promise<Trainer> | null = null;
  private trainData: TokenizedDataset | null = null;
  private readonly loss: Loss;

  constructor(private readonly options: SFTTrainerOptions) {
    this.loss = lossOf(options.args);
  }

  /**
   * Tokenises, checks and packs the data and describes the model; nothing heavy is allocated. Idempotent.
   * @throws LatheError ERR_DATA naming the row, with every error of the doctor; ERR_CONFIG, ERR_UNSUPPORTED
   */
  prepare(): Promise<Trainer> {
    this.prepared ??= this.build();
    return this.prepared;
  }

  private async build(): Promise<Trainer> {
    const { options } = this;
    const { args } = options;
    const model = typeof options.model === 'string' ? await AutoModelForCausalLM.fromPretrained(options.model, modelOptions(args)) : options.model;
    if (options.peftConfig) model.addAdapter(options.peftConfig);
    else if (!model.peft) model.trainAll();
    const { trainDataset, evalDataset } = options;
    const trainLoader = trainDataset instanceof IterableDataset ? await this.streamLoader(trainDataset, model) : await this.tableLoader(trainDataset, model);
    const evalRows = evalDataset instanceof IterableDataset ? await firstRows(evalDataset, Infinity) : evalDataset;
    const evaluation = evalRows ? await this.tokenize(evalRows, model, 'evaluation data') : null;
    return new Trainer({
      model,
      args,
      loss: this.loss,
      trainLoader,
      evalLoader: evaluation && evalLoader(evaluation, args),
      callbacks: [...(currentWorld().rank === 0 ? reportersOf(args) : []), ...(options.callbacks ?? [])],
      tokenizer: options.processingClass,
      warn: options.warn,
    });
  }

  private async tableLoader(rows: TrainRows | TokenizedDataset, model: PreTrainedModel): Promise<Loader> {
    const { args } = this.options;
    this.trainData = await this.tokenize(rows, model);
    return createLoader(this.trainData.examples, {
      batchSize: args.perDeviceTrainBatchSize,
      gradientAccumulationSteps: args.gradientAccumulationSteps,
      packing: args.packing ? args.packingStrategy : false,
      maxLength: args.maxLength ?? undefined,
      seed: args.dataSeed ?? args.seed,
      samplingStrategy: args.trainSamplingStrategy as 'random',
      dropLast: args.dataloaderDropLast,
      name: 'training data',
      ...ranks(),
    });
  }

  /** Of a stream the doctor sees the first rows only. */
  private async streamLoader(stream: IterableDataset, model: PreTrainedModel): Promise<StepSource> {
    const { args, processingClass } = this.options;
    const { maxLength } = args;
    if (maxLength === null) throw new LatheError('ERR_CONFIG', 'max_length: expected a number with a stream, received null', { remedy: 'set maxLength: batches have one shape before any row is read' });
    this.trainData = await this.tokenize(await firstRows(stream, kInspectedRows), model);
    const { rank, size } = currentWorld();
    const peers = new Ranks(currentWorld(), () => model.ready());
    const loader = new StreamLoader(stream, processingClass, {
      ...this.tokenizeOptions(),
      maxLength,
      batchSize: args.perDeviceTrainBatchSize,
      gradientAccumulationSteps: args.gradientAccumulationSteps,
      packing: args.packing ? args.packingStrategy : false,
      seed: args.dataSeed ?? args.seed,
      shuffleWindows: args.trainSamplingStrategy !== 'sequential',
      rank,
      worldSize: size,
      lanes: args.streamLanes,
      peers: { gather: (bytes) => peers.gatherBytes(bytes) },
    });
    if (loader.note && rank === 0) this.options.warn?.(loader.note);
    return loader;
  }

  private tokenizeOptions(): ReturnType<typeof tokenizeOptions> {
    const { args, formattingFunc, warn } = this.options;
    return { ...tokenizeOptions(args, warn), ...(formattingFunc ? { formatting: formattingFunc } : {}) };
  }

  private async tokenize(rows: TrainRows | TokenizedDataset, model: PreTrainedModel, name = 'data'): Promise<TokenizedDataset> {
    const { options } = this;
    const data = 'examples' in rows ? rows : await tokenizeDataset(rows, options.processingClass, this.tokenizeOptions());
    const findings = inspectDataset(data, { tokenizer: options.processingClass, embeddingRows: model.vocabSize, eosTokenIds: eosIds(model, options.processingClass) });
    for (const finding of findings.filter((f) => f.severity === 'warning')) (options.warn ?? process.emitWarning)(formatFinding(finding));
    assertHealthy(findings, { allow: options.allow, name });
    return data;
  }

  /** The tokenised training set, of a stream its first rows, after `prepare`. */
  get data(): TokenizedDataset | null {
    return this.trainData;
  }

  /** What the run will hold in bytes, with the shapes of the real data; remedies only when it does not fit. */
  async plan(): Promise<TrainerPlan> {
    return (await this.prepare()).plan();
  }

  /** The run as events; see Trainer.run. */
  async *run(o: RunOptions = {}): AsyncGenerator<TrainEvent, void, void> {
    yield* (await this.prepare()).run(o);
  }

  /** Trains to the end; resolves to the final metrics. See Trainer.run for errors. */
  async train(o: RunOptions = {}): Promise<LogEntry> {
    return (await this.prepare()).train(o);
  }

  /** Loss and perplexity on the evaluation set, before, during or after a run. */
  async evaluate(): Promise<LogEntry> {
    return (await this.prepare()).evaluate();
  }

  /** Writes adapter or model and the tokenizer; default folder: output_dir. @throws LatheError ERR_CHECKPOINT for the disk */
  async saveModel(dir?: string): Promise<void> {
    await (await this.prepare()).saveModel(dir);
  }

  async state(): Promise<TrainerState> {
    return (await this.prepare()).state;
  }
}

/** Each rank's loader gives its part of every step. */
function ranks(): { rank: number; worldSize: number } {
  const { rank, size } = currentWorld();
  return { rank, worldSize: size };
}

/** How the configuration wants a model's numbers stored and computed. */
export function modelOptions(args: ResolvedConfig): { dtype: 'auto' | 'f32' | 'bf16'; weightDtype?: 'f32' | 'bf16'; device: string; threads?: number; seed: number } {
  const stored = args.dtype === 'float32' ? 'f32' : args.dtype === 'bfloat16' ? 'bf16' : 'auto';
  const common = { device: args.device, threads: args.threads ?? undefined, seed: args.seed };
  // bf16: true computes in bf16 whatever the weights are stored in, as autocast does.
  if (args.bf16) return { dtype: 'bf16', weightDtype: stored === 'auto' ? undefined : stored, ...common };
  return { dtype: stored, ...common };
}

export function loraConfigOf(args: ResolvedConfig): LoraConfig {
  const targets = args.loraTargetModules;
  return new LoraConfig({
    r: args.loraR,
    loraAlpha: args.loraAlpha,
    loraDropout: args.loraDropout,
    targetModules: targets?.length === 1 && targets[0] === 'all-linear' ? 'all-linear' : targets,
    modulesToSave: args.loraModulesToSave,
    taskType: args.loraTaskType,
    useRslora: args.useRslora,
  });
}

export function tokenizeOptions(args: ResolvedConfig, warn?: (message: string) => void): TokenizeOptions {
  const kinds = { auto: undefined, alpaca: 'instruction', text: 'text', prompt_completion: 'prompt_completion', messages: 'messages', tokens: 'tokens' } as const;
  // A packing strategy that cuts by itself must see whole rows.
  const packingCuts = args.packing && args.packingStrategy !== 'bfd';
  return {
    kind: kinds[args.datasetFormat],
    textColumn: args.datasetTextField,
    formatting: args.formatting ?? undefined,
    systemPrompt: args.systemPrompt ?? undefined,
    maxLength: packingCuts ? null : args.maxLength,
    truncation: args.truncationMode,
    completionOnlyLoss: args.completionOnlyLoss ?? undefined,
    assistantOnlyLoss: args.assistantOnlyLoss,
    responseTemplate: args.responseTemplate ?? undefined,
    instructionTemplate: args.instructionTemplate ?? undefined,
    onBadRow: badRowHandler(args.onBadRow, warn),
  };
}

function evalLoader(data: TokenizedDataset, args: ResolvedConfig): Loader {
  return createLoader(data.examples, {
    batchSize: args.perDeviceEvalBatchSize,
    packing: args.evalPacking ? args.packingStrategy : false,
    maxLength: args.maxLength ?? undefined,
    samplingStrategy: 'sequential',
    name: 'evaluation data',
    ...ranks(),
  });
}

/** Ids that may end an answer: those at which the model stops, and the tokenizer's, which rows are ended with. */
function eosIds(model: PreTrainedModel, tokenizer: TextTokenizer): number[] | undefined {
  const ids = [model.generationConfig?.eos_token_id, model.config.eos_token_id, tokenizer.eosTokenId].flat().filter((id): id is number => typeof id === 'number');
  return ids.length ? [...new Set(ids)] : undefined;
}
