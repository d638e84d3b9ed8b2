/**
 * getPeftModel: puts LoRA pairs beside a model's linear layers and freezes the rest.
 *
 * The adapter's parameters get PEFT's names, `base_model.model.<module>.lora_A.weight`, so saving needs no table.
 * Adapters are fp32 whatever the base is (PEFT's autocast_adapter_dtype). Init: A ~ U(-1/sqrt(in), 1/sqrt(in)) (Kaiming
 * uniform with a = sqrt 5), B = 0.
 */
import { LatheError } from '../errors';
import type { CausalLm } from '../models/causal-lm';
import { Linear, type LowRank } from '../nn/layers';
import { Parameter, type Module } from '../nn/module';
import { elementCount } from '../graph/tensor';
import { LoraConfig, matchesModule, unknownTarget } from './lora-config';

export const ADAPTER_PREFIX = 'base_model.model.';

export interface PeftModel {
  readonly base: CausalLm;
  readonly config: LoraConfig;
  readonly adapterName: string;
  /** LoRA pairs by module path. */
  readonly pairs: ReadonlyMap<string, LowRank>;
  /** Base parameters trained and saved in full (modules_to_save, biases), by checkpoint name. */
  readonly saved: ReadonlyMap<string, Parameter>;
}

/** Adds an adapter to `model` in place and returns a handle on it. Everything else stops being trainable. */
export function getPeftModel(model: CausalLm, config: LoraConfig, adapterName = 'default'): PeftModel {
  const linears = [...model.modules()].filter((m): m is Linear => m instanceof Linear);
  const targets = selectTargets(model, linears, config);
  for (const p of model.parameters().values()) p.trainable = false;
  const pairs = new Map<string, LowRank>();
  for (const linear of targets) {
    const pair = makePair(linear, config, adapterName);
    linear.lowRank.push(pair);
    pairs.set(linear.path, pair);
  }
  return { base: model, config, adapterName, pairs, saved: markSaved(model, targets, config) };
}

function selectTargets(model: CausalLm, linears: readonly Linear[], config: LoraConfig): Linear[] {
  const spec = config.targetModules ?? model.loraTargets;
  const candidates = linears.filter((m) => !config.excludeModules || !matchesModule(config.excludeModules, m.path)).filter((m) => inLayers(m.path, config));
  if (spec === 'all-linear') return candidates.filter((m) => m.weight !== model.head);
  const missing = typeof spec === 'string' ? [] : spec.filter((name) => !linears.some((m) => matchesModule([name], m.path)));
  if (missing.length) throw unknownTarget(missing, linears.map((m) => m.path));
  const chosen = candidates.filter((m) => matchesModule(spec, m.path));
  if (chosen.length === 0) throw unknownTarget(spec, linears.map((m) => m.path));
  return chosen;
}

function inLayers(path: string, config: LoraConfig): boolean {
  if (!config.layersToTransform) return true;
  const pattern = config.layersPattern?.length ? `(?:${config.layersPattern.join('|')})` : '[^.]*';
  const index = new RegExp(`(?:^|\\.)${pattern}\\.(\\d+)\\.`).exec(path)?.[1];
  return index !== undefined && config.layersToTransform.includes(Number(index));
}

function makePair(linear: Linear, config: LoraConfig, adapterName: string): LowRank {
  const { r, scaling } = config.scalingOf(linear.path);
  const prefix = `${ADAPTER_PREFIX}${linear.path}`;
  const a = adapterParameter(`${prefix}.lora_A.weight`, [r, linear.inFeatures]);
  const b = adapterParameter(`${prefix}.lora_B.weight`, [linear.outFeatures, r]);
  a.init = config.initLoraWeights === 'gaussian' ? { kind: 'normal', std: 1 / r } : { kind: 'uniform', bound: 1 / Math.sqrt(linear.inFeatures) };
  if (config.initLoraWeights === false) b.init = { kind: 'normal', std: 1 / Math.sqrt(r) };
  return { name: adapterName, a, b, scaling, dropout: config.loraDropout, active: true };
}

function adapterParameter(name: string, shape: number[]): Parameter {
  const p = new Parameter(shape, 'f32', { kind: 'zeros' });
  p.name = name;
  p.role = 'adapter';
  p.trainable = true;
  return p;
}

function markSaved(model: CausalLm, targets: readonly Linear[], config: LoraConfig): Map<string, Parameter> {
  const saved = new Map<string, Parameter>();
  const train = (p: Parameter): void => {
    if (p.quant) throw new LatheError('ERR_CONFIG', `'${p.name}' is held in 4 bits and cannot be trained`, { remedy: 'add its module to llm_int8_skip_modules or drop it from modules_to_save' });
    // Trained in full precision, as PEFT's copy is under mixed precision.
    p.dtype = 'f32';
    p.trainable = true;
    saved.set(p.name, p);
  };
  for (const name of config.modulesToSave ?? []) {
    const modules = [...model.modules()].filter((m: Module) => matchesModule([name], m.path));
    if (modules.length === 0) throw unknownTarget([name], [...model.modules()].map((m) => m.path));
    for (const m of modules) for (const [, p] of m.ownParameters()) train(p);
  }
  if (config.bias !== 'none') {
    const owners = config.bias === 'lora_only' ? targets : [...model.modules()];
    for (const m of owners) for (const [key, p] of m.ownParameters()) if (key === 'bias') train(p);
  }
  return saved;
}

/** Trainable parameters of the adapter by saved name (`lora_*` keys and whole saved modules). */
export function adapterParameters(peft: PeftModel): Map<string, Parameter> {
  const all = new Map<string, Parameter>();
  for (const pair of peft.pairs.values()) for (const p of [pair.a, pair.b]) all.set(p.name, p);
  for (const [name, p] of peft.saved) all.set(ADAPTER_PREFIX + name, p);
  return all;
}

/** The line PEFT prints: trainable, all, and their share. */
export function trainableParameters(peft: PeftModel): { trainable: number; all: number; text: string } {
  const count = (ps: Iterable<Parameter>): number => [...ps].reduce((n, p) => n + elementCount(p.shape), 0);
  const lora = count([...peft.pairs.values()].flatMap((pair) => [pair.a, pair.b]));
  const trainable = lora + count(peft.saved.values());
  const all = count(peft.base.parameters().values()) + lora;
  const text = `trainable params: ${trainable.toLocaleString('en-US')} || all params: ${all.toLocaleString('en-US')} || trainable%: ${((100 * trainable) / all).toFixed(4)}`;
  return { trainable, all, text };
}
