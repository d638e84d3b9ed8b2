/**
 * LoraConfig in PEFT's names and defaults (peft/tuners/lora/config.py). Options of PEFT that change the mathematics and
 * are not implemented are refused by name, never ignored.
 */
import { LatheError, nearest } from '../errors';

export interface LoraOptions {
  r?: number;
  loraAlpha?: number;
  loraDropout?: number;
  /** Module name endings, 'all-linear', or a regular expression over whole module paths. */
  targetModules?: readonly string[] | string | null;
  excludeModules?: readonly string[] | string | null;
  bias?: 'none' | 'all' | 'lora_only';
  taskType?: string | null;
  modulesToSave?: readonly string[] | null;
  useRslora?: boolean;
  initLoraWeights?: boolean | 'gaussian';
  rankPattern?: Readonly<Record<string, number>>;
  alphaPattern?: Readonly<Record<string, number>>;
  layersToTransform?: readonly number[] | number | null;
  layersPattern?: readonly string[] | string | null;
  fanInFanOut?: boolean;
}

export class LoraConfig {
  readonly r: number;
  readonly loraAlpha: number;
  readonly loraDropout: number;
  readonly targetModules: readonly string[] | string | null;
  readonly excludeModules: readonly string[] | string | null;
  readonly bias: 'none' | 'all' | 'lora_only';
  readonly taskType: string | null;
  readonly modulesToSave: readonly string[] | null;
  readonly useRslora: boolean;
  readonly initLoraWeights: boolean | 'gaussian';
  readonly rankPattern: Readonly<Record<string, number>>;
  readonly alphaPattern: Readonly<Record<string, number>>;
  readonly layersToTransform: readonly number[] | null;
  readonly layersPattern: readonly string[] | null;
  readonly fanInFanOut: boolean;

  constructor(o: LoraOptions = {}) {
    this.r = o.r ?? 8;
    this.loraAlpha = o.loraAlpha ?? 8;
    this.loraDropout = o.loraDropout ?? 0;
    this.targetModules = o.targetModules ?? null;
    this.excludeModules = o.excludeModules ?? null;
    this.bias = o.bias ?? 'none';
    this.taskType = o.taskType ?? 'CAUSAL_LM';
    this.modulesToSave = o.modulesToSave?.length ? o.modulesToSave : null;
    this.useRslora = o.useRslora ?? false;
    this.initLoraWeights = o.initLoraWeights ?? true;
    this.rankPattern = o.rankPattern ?? {};
    this.alphaPattern = o.alphaPattern ?? {};
    this.layersToTransform = typeof o.layersToTransform === 'number' ? [o.layersToTransform] : (o.layersToTransform ?? null);
    this.layersPattern = typeof o.layersPattern === 'string' ? [o.layersPattern] : (o.layersPattern ?? null);
    this.fanInFanOut = o.fanInFanOut ?? false;
    this.validate();
  }

  private validate(): void {
    const bad = (key: string, expected: string, received: unknown): never => {
      throw new LatheError('ERR_CONFIG', `[LoraConfig] ${key} expected ${expected}, received ${JSON.stringify(received)}`);
    };
    if (!Number.isInteger(this.r) || this.r <= 0) bad('r', 'a positive integer', this.r);
    if (!(this.loraAlpha > 0)) bad('lora_alpha', 'a positive number', this.loraAlpha);
    if (!(this.loraDropout >= 0 && this.loraDropout < 1)) bad('lora_dropout', 'a number in [0, 1)', this.loraDropout);
    if (!['none', 'all', 'lora_only'].includes(this.bias)) bad('bias', 'none, all or lora_only', this.bias);
  }

  /** alpha / r, or alpha / sqrt(r) with rank-stabilised LoRA (arXiv 2312.03732), for one module. */
  scalingOf(path: string): { r: number; alpha: number; scaling: number } {
    const r = patternValue(this.rankPattern, path) ?? this.r;
    const alpha = patternValue(this.alphaPattern, path) ?? this.loraAlpha;
    return { r, alpha, scaling: this.useRslora ? alpha / Math.sqrt(r) : alpha / r };
  }
}

/** PEFT's rule: a pattern matches the end of the path at a dot, or the whole path, as a regular expression. */
function patternValue(patterns: Readonly<Record<string, number>>, path: string): number | undefined {
  for (const [pattern, value] of Object.entries(patterns)) if (new RegExp(`^(.*\\.)?(${pattern})$`).test(path)) return value;
  return undefined;
}

/** True when `path` ends with one of `names` at a dot, or matches the whole-path regular expression. */
export function matchesModule(spec: readonly string[] | string, path: string): boolean {
  if (typeof spec === 'string') return new RegExp(`^(?:${spec})$`).test(path);
  return spec.some((name) => path === name || path.endsWith(`.${name}`));
}

/** A name that no module has, with the nearest that exist. */
export function unknownTarget(spec: readonly string[] | string, existing: Iterable<string>): LatheError {
  const names = new Set([...existing].map((p) => p.slice(p.lastIndexOf('.') + 1)));
  const wanted = typeof spec === 'string' ? spec : spec.join(', ');
  const guess = typeof spec === 'string' ? undefined : spec.map((s) => nearest(s, names)).find(Boolean);
  return new LatheError('ERR_CONFIG', `[LoraConfig] target_modules '${wanted}' match no linear module`, {
    remedy: `use names among ${[...names].join(', ')}${guess ? ` (did you mean '${guess}'?)` : ''}`,
  });
}
