/**
 * getPeftModel: puts LoRA pairs beside a model's linear layers and freezes the rest.
 *
 * The adapter's parameters get PEFT's names, `base_model.model.<module>.lora_A.weight`, so saving needs no table.
 * Adapters are fp32 whatever the base is (PEFT's autocast_adapter_dtype). Init: A ~ U(-1/sqrt(in), 1/sqrt(in)) (Kaiming
 * uniform with a = sqrt 5), B = 0.
 *
 * `modules_to_save` and biases are not copied: the base's own parameter is trained, in fp32, and saved under PEFT's key. A
 * tied embedding that PEFT would copy away from its head has to be untied before (`needsUntiedHead`).
 */
import { LatheError } from '../errors';
import { elementCount } from '../graph/tensor';
import type { CausalLm } from '../models/causal-lm';
import { Embedding, Linear, type LowRank } from '../nn/layers';
import { Parameter, type Module } from '../nn/module';
import type { LoraConfig } from './lora-config';
import { matchesModule, unknownTarget } from './lora-config';

export const ADAPTER_PREFIX = 'base_model.model.';
/** Path of the output head in every causal model of transformers. */
const HEAD = 'lm_head';

export interface PeftModel {
  readonly base: CausalLm;
  readonly config: LoraConfig;
  readonly adapterName: string;
  /** LoRA pairs by module path. */
  readonly pairs: ReadonlyMap<string, LowRank>;
  /** Base parameters trained and saved in full (modules_to_save, biases), by checkpoint name. */
  readonly saved: ReadonlyMap<string, Parameter>;
  /** Of `saved`, those of modules_to_save, which PEFT holds as copies. */
  readonly copied: ReadonlySet<string>;
  /** True when the head was untied from the embedding for this adapter. */
  readonly untiedHead: boolean;
}

/** Adds an adapter to `model` in place and returns a handle on it. Everything else stops being trainable. */
export function getPeftModel(
  model: CausalLm,
  config: LoraConfig,
  adapterName = 'default',
  untiedHead = false,
): PeftModel {
  const linears = [...model.modules()].filter((m): m is Linear => m instanceof Linear);
  const targets = selectTargets(model, linears, config);
  const { saved, copied } = selectSaved(model, targets, config);
  // Nothing throws from here on: a refused adapter leaves the model as it was.
  for (const p of model.parameters().values()) p.trainable = false;
  for (const p of saved.values()) {
    // Trained in full precision: a bf16 weight would swallow small updates.
    p.dtype = 'f32';
    p.trainable = true;
  }
  const pairs = new Map<string, LowRank>();
  for (const linear of targets) {
    const pair = makePair(linear, config, adapterName);
    linear.lowRank.push(pair);
    pairs.set(linear.path, pair);
  }
  return { base: model, config, adapterName, pairs, saved, copied, untiedHead };
}

function selectTargets(model: CausalLm, linears: readonly Linear[], config: LoraConfig): Linear[] {
  const spec = config.targetModules ?? model.loraTargets;
  const paths = linears.map((m) => m.path);
  const isHead = (m: Linear): boolean => m.weight === model.head;
  const chosen = linears.filter(
    (m) => config.targets(m.path, model.loraTargets) && !(spec === 'all-linear' && isHead(m)),
  );
  rejectEmbeddings(model, config, chosen.some(isHead));
  // One unknown name among others would train less than was asked for.
  const missing =
    typeof spec === 'string' ? [] : spec.filter((name) => !paths.some((path) => matchesModule([name], path)));
  if (missing.length) throw unknownTarget(missing, paths);
  if (chosen.length === 0) throw unknownTarget(spec, paths);
  return chosen;
}

/** The head runs inside the fused loss and the embedding is a gather: neither has a place for a pair. */
function rejectEmbeddings(model: CausalLm, config: LoraConfig, headChosen: boolean): void {
  const named = (path: string): boolean =>
    config.targetModules !== null && config.targetModules !== 'all-linear' && config.targets(path, []);
  const embeddings = [...model.modules()].filter((m) => m instanceof Embedding && named(m.path)).map((m) => m.path);
  if (headChosen || (model.config.tieWordEmbeddings && named(HEAD))) embeddings.push(HEAD);
  if (embeddings.length === 0) return;
  const [path] = embeddings;
  throw new LatheError(
    'ERR_UNSUPPORTED',
    `[LoraConfig] target_modules include '${path}': LoRA on an embedding or the output head is not supported`,
    {
      remedy: `train it in full instead: modules_to_save: [${path.slice(path.lastIndexOf('.') + 1)}]`,
    },
  );
}

function makePair(linear: Linear, config: LoraConfig, adapterName: string): LowRank {
  const { r, scaling } = config.scalingOf(linear.path);
  const prefix = `${ADAPTER_PREFIX}${linear.path}`;
  const a = adapterParameter(`${prefix}.lora_A.weight`, [r, linear.inFeatures]);
  const b = adapterParameter(`${prefix}.lora_B.weight`, [linear.outFeatures, r]);
  a.init =
    config.initLoraWeights === 'gaussian'
      ? { kind: 'normal', std: 1 / r }
      : { kind: 'uniform', bound: 1 / Math.sqrt(linear.inFeatures) };
  // PEFT leaves torch's Linear initialisation: U(-1/sqrt(r), 1/sqrt(r)).
  if (config.initLoraWeights === false) b.init = { kind: 'uniform', bound: 1 / Math.sqrt(r) };
  return { name: adapterName, a, b, scaling, dropout: config.loraDropout, active: true };
}

function adapterParameter(name: string, shape: number[]): Parameter {
  const p = new Parameter(shape, 'f32', { kind: 'zeros' });
  p.name = name;
  p.role = 'adapter';
  p.trainable = true;
  return p;
}

/** Which module paths of `model` count as its embedding: the table, and the head even when it is the same tensor. */
function embeddingPaths(model: CausalLm): string[] {
  return [model.embedding.name.replace(/\.weight$/, ''), HEAD];
}

/** True when PEFT would copy one side of a tied embedding and leave the other: the head must become a tensor of its own. */
export function needsUntiedHead(model: CausalLm, config: LoraConfig): boolean {
  return (
    model.config.tieWordEmbeddings &&
    !config.ensureWeightTying &&
    embeddingPaths(model).some((path) => config.savesModule(path))
  );
}

/** True when a tied embedding stays one tensor and is trained. */
function tiedAndSaved(model: CausalLm, config: LoraConfig): boolean {
  return (
    model.config.tieWordEmbeddings &&
    config.ensureWeightTying &&
    embeddingPaths(model).some((path) => config.savesModule(path))
  );
}

/** Base parameters to train in full: modules_to_save with all below them, and biases. */
function selectSaved(
  model: CausalLm,
  targets: readonly Linear[],
  config: LoraConfig,
): { saved: Map<string, Parameter>; copied: Set<string> } {
  const saved = new Map<string, Parameter>();
  const copied = new Set<string>();
  const add = (p: Parameter): void => {
    if (p.quant)
      throw new LatheError('ERR_CONFIG', `'${p.name}' is held in 4 bits and cannot be trained`, {
        remedy: 'add its module to llm_int8_skip_modules or drop it from modules_to_save',
      });
    saved.set(p.name, p);
  };
  const copy = (p: Parameter): void => {
    add(p);
    copied.add(p.name);
  };
  if (needsUntiedHead(model, config)) {
    throw new LatheError('ERR_CONFIG', '[LoraConfig] modules_to_save names a tied embedding', {
      remedy: 'set ensure_weight_tying: true, or add the adapter through a PreTrainedModel, which unties it',
    });
  }
  const tied = tiedAndSaved(model, config);
  if (tied) copy(model.embedding);
  for (const name of config.modulesToSave ?? []) {
    const modules = [...model.modules()].filter((m: Module) => m.path.endsWith(name));
    if (modules.length === 0 && !(tied && HEAD.endsWith(name)))
      throw unknownTarget(
        [name],
        [...model.modules()].map((m) => m.path),
        'modules_to_save',
      );
    for (const m of modules) for (const p of m.parameters().values()) copy(p);
  }
  if (config.bias !== 'none') {
    const owners = config.bias === 'lora_only' ? targets : [...model.modules()];
    for (const m of owners) for (const [key, p] of m.ownParameters()) if (key === 'bias') add(p);
  }
  return { saved, copied };
}

/** PEFT's key of a base parameter: the bias of a module that carries a pair sits one level deeper there. */
function savedKey(peft: PeftModel, name: string): string {
  const owner = name.replace(/\.bias$/, '');
  return ADAPTER_PREFIX + (owner !== name && peft.pairs.has(owner) ? `${owner}.base_layer.bias` : name);
}

/**
 * Parameters of the adapter by saved key: `lora_*`, whole saved modules and biases; with `embeddings`, also the embedding
 * and the head, which PEFT saves when the vocabulary was resized. A tied pair that is saved stands there twice.
 */
export function adapterParameters(peft: PeftModel, o: { embeddings?: boolean } = {}): Map<string, Parameter> {
  const all = new Map<string, Parameter>();
  for (const pair of peft.pairs.values()) for (const p of [pair.a, pair.b]) all.set(p.name, p);
  for (const [name, p] of peft.saved) all.set(savedKey(peft, name), p);
  const { base } = peft;
  if (o.embeddings || tiedAndSaved(base, peft.config)) {
    all.set(ADAPTER_PREFIX + base.embedding.name, base.embedding);
    all.set(`${ADAPTER_PREFIX}${HEAD}.weight`, base.head);
  }
  return all;
}

/** The line PEFT prints: trainable, all, and their share. Like PEFT, `all` counts the copies of modules_to_save. */
export function trainableParameters(peft: PeftModel): { trainable: number; all: number; text: string } {
  const count = (ps: Iterable<Parameter>): number => [...ps].reduce((n, p) => n + elementCount(p.shape), 0);
  const lora = count([...peft.pairs.values()].flatMap((pair) => [pair.a, pair.b]));
  const trainable = lora + count(peft.saved.values());
  const copies = count([...peft.saved].filter(([name]) => peft.copied.has(name)).map(([, p]) => p));
  const all =
    count(peft.base.parameters().values()) + lora + copies - (peft.untiedHead ? elementCount(peft.base.head.shape) : 0);
  const text = `trainable params: ${trainable.toLocaleString('en-US')} || all params: ${all.toLocaleString('en-US')} || trainable%: ${((100 * trainable) / all).toFixed(4)}`;
  return { trainable, all, text };
}
