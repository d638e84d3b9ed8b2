/**
 * PreTrainedModel: a description, where its weights come from, and (once needed) a session that holds them.
 *
 * Everything that changes the description (quantisation, adapters, resizing) happens before bytes exist, so a plan is
 * known before anything is allocated. `ready()` creates the session and streams the weights in; it is called by whoever
 * runs a program first.
 */
import { LatheError } from '../errors';
import { generateAll, type GenerateOptions } from '../generation/generate';
import type { GeneratedSequence } from '../generation/sequence';
import type { StateSlot } from '../graph/tensor';
import type { CausalLm } from '../models/causal-lm';
import type { RawConfig } from '../models/config-reader';
import type { Parameter } from '../nn/module';
import {
  ADAPTER_PREFIX,
  adapterParameters,
  getPeftModel,
  needsUntiedHead,
  trainableParameters,
  type PeftModel,
} from '../peft/inject';
import type { LoraConfig } from '../peft/lora-config';
import type { BitsAndBytesConfig } from '../quantization/bitsandbytes';
import { resolveDevice } from '../runtime/device';
import { Session } from '../runtime/session';
import { checkNames, materialize } from './materialize';
import { saveModelFiles, type ModelSaved, type SaveOptions } from './save';
import { checkShape, sourceShape, type WeightSource } from './weights';

export interface ModelOptions {
  /** Where its programs run: 'cpu', 'cuda', 'cuda:1', or 'auto' for the first GPU when there is one. Default 'cpu'. */
  device?: string;
  threads?: number;
  /** Seed of initial values that no file gives: new rows, adapters, a model from config. Default 42. */
  seed?: number;
}

/** Where a model comes from. */
export interface ModelOrigin {
  /** Folder or GGUF file; empty for a model from a config object. */
  readonly path: string;
  readonly generationConfig: RawConfig | null;
  /** 4-bit storage of the linear weights; null for a dense model. */
  readonly quantization: BitsAndBytesConfig | null;
  /** Builds the same description from another config. */
  readonly rebuild?: (config: RawConfig) => CausalLm;
}

const HEAD = 'lm_head.weight';

export class PreTrainedModel {
  /** Set by `addAdapter` or by loading one. */
  peft: PeftModel | null = null;
  /** Base model that a loaded adapter names; null for a new adapter. */
  adapterBase: string | null = null;
  /** Vocabulary rows of the files, when resized. */
  private sourceRows = new Map<string, number>();
  private meanResizing = true;
  private sameStart = new Map<string, string>();
  private adapterSeed: number | undefined;
  private adapterSources = new Map<string, WeightSource>();
  private session: Session | null = null;
  private loading: Promise<Session> | null = null;
  /** Set when the session holds weights that no file has: by what they came to be, 'trained' or 'merged'. */
  private unsaved: 'trained' | 'merged' | null = null;
  private trainer: object | null = null;
  private decidedDevice: string | null = null;

  constructor(
    private description: CausalLm,
    /** config.json as it will be saved. */
    public config: RawConfig,
    /** Empty for a model with random weights. */
    private sources: ReadonlyMap<string, WeightSource>,
    public origin: ModelOrigin,
    readonly options: ModelOptions = {},
  ) {
    if (sources.size)
      checkNames(description.parameters().keys(), sources.keys(), origin.path, isIgnorable(description));
  }

  get module(): CausalLm {
    return this.description;
  }

  /** Where its programs run; 'auto' is decided when this is first asked. */
  get device(): string {
    this.decidedDevice ??= resolveDevice(this.options.device ?? 'cpu');
    return this.decidedDevice;
  }

  get generationConfig(): RawConfig | null {
    return this.origin.generationConfig;
  }

  /** Base and adapter parameters by slot name. */
  parameters(): Map<string, Parameter> {
    const all = this.module.parameters();
    if (this.peft) for (const pair of this.peft.pairs.values()) for (const p of [pair.a, pair.b]) all.set(p.name, p);
    return all;
  }

  /** What an optimizer changes, in a fixed order. */
  trainableParameters(): Parameter[] {
    return [...this.parameters().values()].filter((p) => p.trainable);
  }

  /** Slots of all weights, for plans. */
  slots(): StateSlot[] {
    return [...this.parameters().values()].flatMap((p) => p.slots());
  }

  /** Puts a new LoRA adapter on the model and freezes the rest. @param seed of its initial values; default: the model's */
  addAdapter(config: LoraConfig, name = 'default', seed?: number): PeftModel {
    this.beforeWeights('add an adapter');
    this.adapterSeed = seed;
    if (this.peft)
      throw new LatheError('ERR_CONFIG', `the model already has an adapter named '${this.peft.adapterName}'`);
    const untie = needsUntiedHead(this.module, config);
    if (untie) this.untieHead();
    this.peft = getPeftModel(this.module, config, name, untie);
    return this.peft;
  }

  /** Gives the head a tensor of its own that starts as the embedding, as PEFT does when it copies one of a tied pair. */
  private untieHead(): void {
    if (!this.origin.rebuild)
      throw new LatheError('ERR_CONFIG', 'this model cannot untie its head', {
        remedy: 'set ensure_weight_tying: true',
      });
    const from = this.module.embedding.name;
    this.config = { ...this.config, tie_word_embeddings: false };
    this.description = this.origin.rebuild(this.config);
    const source = this.sources.get(from);
    if (source) this.sources = new Map([...this.sources, [HEAD, source]]);
    const rows = this.sourceRows.get(from);
    if (rows !== undefined) this.sourceRows.set(HEAD, rows);
    this.sameStart.set(HEAD, from);
  }

  /**
   * Values of a saved adapter, by PEFT's keys; every key must be there and none too many. A whole embedding of another size
   * resizes the vocabulary: the adapter was trained with it.
   */
  setAdapterSources(sources: ReadonlyMap<string, WeightSource>, at: string): void {
    if (!this.peft) throw new LatheError('ERR_CONFIG', 'the model has no adapter to load');
    this.beforeWeights('load an adapter');
    const embeddingKey = ADAPTER_PREFIX + this.module.embedding.name;
    const embedding = sources.get(embeddingKey);
    // PEFT saves embedding and head of a resized vocabulary whether or not modules_to_save names one of them.
    const embeddings =
      embedding !== undefined &&
      (!this.peft.saved.has(this.module.embedding.name) || sources.has(ADAPTER_PREFIX + HEAD));
    const expected = adapterParameters(this.peft, { embeddings });
    checkNames(expected.keys(), sources.keys(), at);
    // A vocabulary that was resized on purpose has to fit; the shape check below names the tensor if it does not.
    const rows = embedding ? sourceShape(embedding)[0] : this.vocabSize;
    if (rows !== this.vocabSize && this.sourceRows.size === 0) this.resizeTokenEmbeddings(rows);
    for (const [key, p] of expected) checkShape(key, sources.get(key)!, p.shape);
    this.adapterSources = new Map([...expected].map(([key, p]) => [p.name, sources.get(key)!]));
  }

  /** Makes every parameter trainable; for full fine-tuning and pretraining. */
  trainAll(): void {
    if (this.session && [...this.module.parameters().values()].some((p) => !p.quant && p.dtype !== 'f32')) {
      throw new LatheError(
        'ERR_CONFIG',
        'cannot train all weights in full precision after they were loaded in bfloat16',
        { remedy: 'make the trainer (or call trainAll) before anything runs, or open the model with dtype float32' },
      );
    }
    for (const p of this.module.parameters().values()) {
      if (p.quant)
        throw new LatheError('ERR_CONFIG', 'a 4-bit model cannot be trained in full', {
          remedy: 'use an adapter (use_peft: true) or load it without load_in_4bit',
        });
      // Trained in full precision whatever the activations are: GEMMs round operands as they pack them.
      p.dtype = 'f32';
      p.trainable = true;
    }
  }

  /** Changes the vocabulary to `rows`; new rows follow the distribution of the old ones unless meanResizing is false. */
  resizeTokenEmbeddings(rows: number, o: { padToMultipleOf?: number; meanResizing?: boolean } = {}): number {
    this.beforeWeights('resize the embeddings');
    if (!Number.isInteger(rows) || rows <= 0)
      throw new LatheError('ERR_CONFIG', `[resizeTokenEmbeddings] rows expected a positive integer, received ${rows}`);
    const multiple = o.padToMultipleOf ?? 1;
    const size = Math.ceil(rows / multiple) * multiple;
    this.meanResizing = o.meanResizing ?? true;
    for (const p of new Set([this.module.embedding, this.module.head])) {
      if (this.sources.size && !this.sourceRows.has(p.name)) this.sourceRows.set(p.name, p.shape[0]);
      p.shape = [size, ...p.shape.slice(1)];
    }
    this.config = { ...this.config, vocab_size: size };
    return size;
  }

  get vocabSize(): number {
    return this.module.embedding.shape[0];
  }

  /** True when the embedding no longer has the rows of the base model's files, or an adapter brought its own. */
  get vocabularyResized(): boolean {
    const { name } = this.module.embedding;
    const rows = this.sourceRows.get(name);
    return (
      (rows !== undefined && rows !== this.vocabSize) || (this.adapterSources.has(name) && !this.peft?.saved.has(name))
    );
  }

  private beforeWeights(action: string): void {
    if (this.session)
      throw new LatheError('ERR_CONFIG', `cannot ${action} after the weights were loaded`, {
        remedy: 'do it right after fromPretrained',
      });
  }

  /** The session with all weights in place. */
  ready(): Promise<Session> {
    this.loading ??= this.load();
    return this.loading;
  }

  private async load(): Promise<Session> {
    if (this.unsaved)
      throw new LatheError('ERR_CONFIG', `the ${this.unsaved} weights were freed by close()`, {
        remedy: 'save them before closing, then open that folder',
      });
    const { threads, seed = 42 } = this.options;
    const session = (this.session = Session.create({ device: this.device, threads }));
    const sources = new Map([...this.sources, ...this.adapterSources]);
    const sourceRows = new Map([...this.sourceRows].filter(([name]) => !this.adapterSources.has(name)));
    const { meanResizing, sameStart } = this;
    await materialize(session, this.parameters(), sources, {
      seed,
      adapterSeed: this.adapterSeed,
      sourceRows,
      meanResizing,
      sameStart,
    });
    return session;
  }

  /**
   * Saves what transformers' save_pretrained would: the adapter folder when the model carries an adapter, else a model
   * folder, dense or in bitsandbytes' 4-bit form. @throws LatheError ERR_CHECKPOINT for the disk
   */
  savePretrained(dir: string, o: SaveOptions = {}): Promise<ModelSaved> {
    return saveModelFiles(this, dir, o);
  }

  /** Continues prompts of token ids; see src/generation/generate.ts for a stream of tokens. */
  generate(prompts: readonly (readonly number[])[], options?: GenerateOptions): Promise<GeneratedSequence[]> {
    return generateAll(this, prompts, options);
  }

  /** PEFT's line on how many parameters are trained. */
  printTrainableParameters(): string {
    if (!this.peft)
      throw new LatheError('ERR_CONFIG', 'the model has no adapter', { remedy: 'add one with getPeftModel' });
    const { text } = trainableParameters(this.peft);
    console.log(text);
    return text;
  }

  /**
   * Makes `trainer` the one whose optimizer state stands in the session. True when another one's stood there: its values are
   * not those of a new run. From here on the weights are no longer those of the files.
   */
  takeOver(trainer: object): boolean {
    const other = this.trainer !== null && this.trainer !== trainer;
    this.trainer = trainer;
    this.unsaved = 'trained';
    return other;
  }

  /** False once another trainer took over. */
  isTrainedBy(trainer: object): boolean {
    return this.trainer === null || this.trainer === trainer;
  }

  /** Called by mergeAndUnload when the session holds dense, merged weights: the description says so from here on. */
  adoptMerged(): void {
    const { quantization_config: _dropped, ...config } = this.config;
    this.config = config;
    this.origin = { ...this.origin, quantization: null };
    this.peft = null;
    this.unsaved = 'merged';
  }

  /** Frees everything native; the description stays. Weights that were trained or merged are gone: save them before. */
  async close(): Promise<void> {
    const session = this.session;
    this.trainer = null;
    this.session = null;
    this.loading = null;
    await session?.close();
  }
}

/** Tensors a checkpoint may hold beyond the parameters: a copy of the tied head, rotary tables of old versions. */
function isIgnorable(module: CausalLm): (name: string) => boolean {
  return (name) => (name === HEAD && module.config.tieWordEmbeddings) || name.endsWith('rotary_emb.inv_freq');
}
