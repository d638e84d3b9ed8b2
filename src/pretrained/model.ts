/**
 * PreTrainedModel: a description, where its weights come from, and (once needed) a session that holds them.
 *
 * Everything that changes the description (quantisation, adapters, resizing) happens before bytes exist, so a plan is
 * known before anything is allocated. `ready()` creates the session and streams the weights in; it is called by whoever
 * runs a program first.
 */
import { LatheError } from '../errors';
import type { StateSlot } from '../graph/tensor';
import type { CausalLm } from '../models/causal-lm';
import type { RawConfig } from '../models/config-reader';
import type { Parameter } from '../nn/module';
import { getPeftModel, adapterParameters, type PeftModel } from '../peft/inject';
import type { LoraConfig } from '../peft/lora-config';
import type { BitsAndBytesConfig } from '../quantization/bitsandbytes';
import { Session } from '../runtime/session';
import { checkNames, materialize } from './materialize';
import type { WeightSource } from './weights';

export interface ModelOptions {
  device?: string;
  threads?: number;
  /** Seed of initial values that no file gives: new rows, adapters, a model from config. Default 42. */
  seed?: number;
}

export class PreTrainedModel {
  /** Set by `addAdapter` or by loading one. */
  peft: PeftModel | null = null;
  /** Vocabulary rows of the files, when resized. */
  private sourceRows = new Map<string, number>();
  private meanResizing = true;
  private adapterSources = new Map<string, WeightSource>();
  private session: Session | null = null;
  private loading: Promise<Session> | null = null;

  constructor(
    readonly module: CausalLm,
    /** config.json as it will be saved. */
    public config: RawConfig,
    /** Empty for a model with random weights. */
    private sources: ReadonlyMap<string, WeightSource>,
    readonly origin: { path: string; generationConfig: RawConfig | null; quantization: BitsAndBytesConfig | null },
    readonly options: ModelOptions = {},
  ) {
    if (sources.size) checkNames(module.parameters().keys(), sources.keys(), origin.path, isIgnorable(module));
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

  /** Puts a new LoRA adapter on the model and freezes the rest. */
  addAdapter(config: LoraConfig, name = 'default'): PeftModel {
    this.beforeWeights('add an adapter');
    if (this.peft) throw new LatheError('ERR_CONFIG', `the model already has an adapter named '${this.peft.adapterName}'`);
    this.peft = getPeftModel(this.module, config, name);
    return this.peft;
  }

  /** Values of a saved adapter, by PEFT's keys; every key must be there and none too many. */
  setAdapterSources(sources: ReadonlyMap<string, WeightSource>, at: string): void {
    if (!this.peft) throw new LatheError('ERR_CONFIG', 'the model has no adapter to load');
    checkNames(adapterParameters(this.peft).keys(), sources.keys(), at);
    this.adapterSources = new Map(sources);
  }

  /** Makes every parameter trainable; for full fine-tuning and pretraining. */
  trainAll(): void {
    for (const p of this.module.parameters().values()) {
      if (p.quant) throw new LatheError('ERR_CONFIG', 'a 4-bit model cannot be trained in full', { remedy: 'use an adapter (use_peft: true) or load it without load_in_4bit' });
      p.trainable = true;
    }
  }

  /** Changes the vocabulary to `rows`; new rows follow the distribution of the old ones unless meanResizing is false. */
  resizeTokenEmbeddings(rows: number, o: { padToMultipleOf?: number; meanResizing?: boolean } = {}): number {
    this.beforeWeights('resize the embeddings');
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

  private beforeWeights(action: string): void {
    if (this.session) throw new LatheError('ERR_CONFIG', `cannot ${action} after the weights were loaded`, { remedy: 'do it right after fromPretrained' });
  }

  /** The session with all weights in place. */
  ready(): Promise<Session> {
    this.loading ??= this.load();
    return this.loading;
  }

  private async load(): Promise<Session> {
    const { device, threads, seed = 42 } = this.options;
    const session = (this.session = Session.create({ device, threads }));
    const sources = new Map(this.sources);
    for (const [key, source] of this.adapterSources) sources.set(this.slotNameOf(key), source);
    await materialize(session, this.parameters(), sources, { seed, sourceRows: this.sourceRows, meanResizing: this.meanResizing });
    return session;
  }

  /** An adapter file's key as a slot name: LoRA keys are slots of their own, saved modules are the base's. */
  private slotNameOf(key: string): string {
    const saved = [...this.peft!.saved.keys()].find((name) => key === `base_model.model.${name}`);
    return saved ?? key;
  }

  /** Frees everything native; the description stays. */
  async close(): Promise<void> {
    const session = this.session;
    this.session = null;
    this.loading = null;
    await session?.close();
  }
}

/** Tensors a checkpoint may hold beyond the parameters: a copy of the tied head, rotary tables of old versions. */
function isIgnorable(module: CausalLm): (name: string) => boolean {
  return (name) => (name === 'lm_head.weight' && module.config.tieWordEmbeddings) || name.endsWith('rotary_emb.inv_freq');
}
