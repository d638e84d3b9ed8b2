/**
 * SFTTrainer: supervised fine-tuning in TRL's names. It prepares data (format, mask, doctor, pack or pad) and the model
 * (adapter or full), and hands the rest to the Trainer.
 */
import {
  assertHealthy,
  badRowHandler,
  createLoader,
  formatFinding,
  inspectDataset,
  IterableDataset,
  StreamLoader,
  tokenizeDataset,
  type Finding,
  type Formatter,
  type Loader,
  type Row,
  type StepSource,
  type TextTokenizer,
  type TokenizedDataset,
  type TokenizeOptions,
} from '../data';
import { LatheError, refuseUnknownOptions } from '../errors';
import { LoraConfig } from '../peft/lora-config';
import type { CausalLm } from '../models/causal-lm';
import { AutoModelForCausalLM } from '../pretrained/auto';
import type { PreTrainedModel } from '../pretrained/model';
import { currentWorld } from '../runtime/world';
import { configFromObject, type ResolvedConfig } from './arguments';
import type { TrainerCallback, TrainEvent } from './events';
import { lossOf } from './losses';
import type { Loss } from './losses/loss';
import { reportersOf } from './reporters';
import type { LogEntry, TrainerState } from './state';
import { firstRows } from './open-data';
import { Ranks } from './ranks';
import { alignSpecialTokens } from './special-tokens';
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
  private readonly options: SFTTrainerOptions;

  constructor(options: SFTTrainerOptions) {
    this.options = checkedOptions(options);
    this.loss = lossOf(this.options.args);
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
    const model =
      typeof options.model === 'string'
        ? await AutoModelForCausalLM.fromPretrained(options.model, modelOptions(args))
        : options.model;
    if (options.peftConfig) model.addAdapter(options.peftConfig, 'default', args.seed);
    else if (!model.peft) model.trainAll();
    const { trainDataset, evalDataset } = options;
    let trainLoader: StepSource;
    if (trainDataset instanceof IterableDataset) {
      trainLoader = await this.streamLoader(trainDataset, model);
      if (args.packing && args.packingStrategy === 'wrapped') checkPositions(model.module, args.maxLength ?? 0);
    } else {
      const loader = await this.tableLoader(trainDataset, model);
      checkPositions(model.module, loader.summary.longestDocument);
      trainLoader = loader;
    }
    const evalRows = evalDataset instanceof IterableDataset ? await firstRows(evalDataset, Infinity) : evalDataset;
    const evaluation = evalRows ? await this.tokenize(evalRows, model, 'evaluation data', args.evalPacking) : null;
    const evalBatches = evaluation && evalLoader(evaluation, args);
    if (evalBatches) checkPositions(model.module, evalBatches.summary.longestDocument);
    // Last: until here the files' own end tokens count as ends of rows too.
    const aligned = Object.entries(alignSpecialTokens(model, options.processingClass));
    if (aligned.length)
      options.warn?.(
        `the model's configuration takes over the tokenizer's ${aligned.map(([key, id]) => `${key} ${id}`).join(', ')}`,
      );
    return new Trainer({
      model,
      args,
      loss: this.loss,
      trainLoader,
      evalLoader: evalBatches,
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
    if (maxLength === null)
      throw new LatheError('ERR_CONFIG', 'max_length: expected a number with a stream, received null', {
        remedy: 'set maxLength: batches have one shape before any row is read',
      });
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

  private tokenizeOptions(packing?: boolean): ReturnType<typeof tokenizeOptions> {
    const { args, formattingFunc, warn } = this.options;
    return { ...tokenizeOptions(args, warn, packing), ...(formattingFunc ? { formatting: formattingFunc } : {}) };
  }

  private async tokenize(
    rows: TrainRows | TokenizedDataset,
    model: PreTrainedModel,
    name = 'data',
    packing?: boolean,
  ): Promise<TokenizedDataset> {
    const { options } = this;
    const data =
      'examples' in rows ? rows : await tokenizeDataset(rows, options.processingClass, this.tokenizeOptions(packing));
    const findings = inspectDataset(data, {
      tokenizer: options.processingClass,
      embeddingRows: model.vocabSize,
      eosTokenIds: eosIds(model, options.processingClass),
    });
    for (const finding of findings.filter((f) => f.severity === 'warning'))
      (options.warn ?? process.emitWarning)(formatFinding(finding));
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

const OPTIONS: readonly (keyof SFTTrainerOptions)[] = [
  'model',
  'args',
  'trainDataset',
  'evalDataset',
  'processingClass',
  'peftConfig',
  'formattingFunc',
  'callbacks',
  'allow',
  'warn',
];

/** What programs without types get wrong. Settings that are not resolved yet become an SFTConfig's, as the data class's are in TRL. */
function checkedOptions(options: SFTTrainerOptions): SFTTrainerOptions {
  const o = (options ?? {}) as Partial<SFTTrainerOptions>;
  refuseUnknownOptions(o, OPTIONS, 'SFTTrainer');
  for (const name of ['model', 'trainDataset', 'processingClass'] as const) {
    if (o[name] == null)
      throw new LatheError('ERR_CONFIG', `[SFTTrainer] expected ${name}, received none`, {
        remedy: `pass { model, args, trainDataset, processingClass }`,
      });
  }
  const args = o.args && 'notes' in o.args ? o.args : configFromObject(o.args ?? {});
  return { ...(o as SFTTrainerOptions), args };
}

/** Each rank's loader gives its part of every step. */
function ranks(): { rank: number; worldSize: number } {
  const { rank, size } = currentWorld();
  return { rank, worldSize: size };
}

/** How the configuration wants a model's numbers stored and computed. */
export function modelOptions(args: ResolvedConfig): {
  dtype: 'auto' | 'f32' | 'bf16';
  weightDtype?: 'f32' | 'bf16';
  device: string;
  threads?: number;
  seed: number;
} {
  const stored = args.dtype === 'float32' ? 'f32' : args.dtype === 'bfloat16' ? 'bf16' : 'auto';
  const common = { device: args.device, threads: args.threads ?? undefined, seed: args.seed };
  // bf16: true computes in bf16 whatever the weights are stored in, as autocast does.
  if (args.bf16) return { dtype: 'bf16', weightDtype: stored === 'auto' ? undefined : stored, ...common };
  return { dtype: stored, ...common };
}

/** TRL hands a list of one to PEFT as a text, which is a regular expression over whole paths there; a plain name stays a name here. */
function targetsOf(targets: readonly string[] | null): readonly string[] | string | null {
  return targets?.length === 1 && (targets[0] === 'all-linear' || /[\\()[\]*+?|^$]/.test(targets[0]))
    ? targets[0]
    : targets;
}

export function loraConfigOf(args: ResolvedConfig): LoraConfig {
  return new LoraConfig({
    r: args.loraR,
    loraAlpha: args.loraAlpha,
    loraDropout: args.loraDropout,
    targetModules: targetsOf(args.loraTargetModules),
    modulesToSave: args.loraModulesToSave,
    taskType: args.loraTaskType,
    useRslora: args.useRslora,
  });
}

/** @param packing whether the split is packed: `args.evalPacking` for one to evaluate on */
export function tokenizeOptions(
  args: ResolvedConfig,
  warn?: (message: string) => void,
  packing = args.packing,
): TokenizeOptions {
  const kinds = {
    auto: undefined,
    alpaca: 'instruction',
    text: 'text',
    prompt_completion: 'prompt_completion',
    messages: 'messages',
    tokens: 'tokens',
  } as const;
  // A packing strategy that cuts by itself must see whole rows.
  const packingCuts = packing && args.packingStrategy !== 'bfd';
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

/** The batches of an evaluation set, in its order. */
export function evalLoader(data: TokenizedDataset, args: ResolvedConfig): Loader {
  return createLoader(data.examples, {
    batchSize: args.perDeviceEvalBatchSize,
    packing: args.evalPacking ? args.packingStrategy : false,
    maxLength: args.maxLength ?? undefined,
    samplingStrategy: 'sequential',
    name: 'evaluation data',
    ...ranks(),
  });
}

/** @throws LatheError ERR_CONFIG where positions are a table that ends before the longest document does */
export function checkPositions(module: CausalLm, longest: number): void {
  const { positionRows = Infinity } = module;
  if (longest <= positionRows) return;
  throw new LatheError(
    'ERR_CONFIG',
    `expected rows of at most ${positionRows} tokens, as many as the model has positions, received one of ${longest}`,
    { remedy: `set max_length: ${positionRows}` },
  );
}

/** Ids that may end an answer: those at which the model stops, and the tokenizer's, which rows are ended with. */
function eosIds(model: PreTrainedModel, tokenizer: TextTokenizer): number[] | undefined {
  const ids = [model.generationConfig?.eos_token_id, model.config.eos_token_id, tokenizer.eosTokenId]
    .flat()
    .filter((id): id is number => typeof id === 'number');
  return ids.length ? [...new Set(ids)] : undefined;
}
