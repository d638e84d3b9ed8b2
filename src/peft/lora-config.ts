/**
 * LoraConfig in PEFT's names and defaults (peft/tuners/lora/config.py), and which modules it means.
 *
 * Module matching follows PEFT to the letter, because a saved adapter's keys depend on it: a list matches the end of a
 * path at a dot, a string is a regular expression over the whole path, `modules_to_save` matches the plain end of a path
 * and wins over `target_modules`. The JSON form lives in adapter-json.ts.
 */
import { LatheError, nearest, refuseUnknownOptions } from '../errors';
import { adapterConfigJson, parseAdapterConfig, type RawAdapterConfig } from './adapter-json';

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
  /** Keeps a tied embedding and head one tensor when modules_to_save names either; PEFT's default trains two copies. */
  ensureWeightTying?: boolean;
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
  readonly ensureWeightTying: boolean;

  constructor(o: LoraOptions = {}) {
    this.r = o.r ?? 8;
    this.loraAlpha = o.loraAlpha ?? 8;
    this.loraDropout = o.loraDropout ?? 0;
    this.targetModules = allLinear(o.targetModules ?? null);
    this.excludeModules = o.excludeModules?.length ? o.excludeModules : null;
    this.bias = o.bias ?? 'none';
    this.taskType = o.taskType === undefined ? 'CAUSAL_LM' : o.taskType;
    this.modulesToSave = o.modulesToSave?.length ? o.modulesToSave : null;
    this.useRslora = o.useRslora ?? false;
    this.initLoraWeights = o.initLoraWeights ?? true;
    this.rankPattern = o.rankPattern ?? {};
    this.alphaPattern = o.alphaPattern ?? {};
    this.layersToTransform =
      typeof o.layersToTransform === 'number'
        ? [o.layersToTransform]
        : o.layersToTransform?.length
          ? o.layersToTransform
          : null;
    this.layersPattern =
      typeof o.layersPattern === 'string' && o.layersPattern
        ? [o.layersPattern]
        : o.layersPattern?.length
          ? (o.layersPattern as readonly string[])
          : null;
    this.fanInFanOut = o.fanInFanOut ?? false;
    this.ensureWeightTying = o.ensureWeightTying ?? false;
    refuseUnknownOptions(o, Object.keys(this), 'LoraConfig');
    this.validate();
  }

  /** From the object of an adapter_config.json. @throws LatheError ERR_FORMAT / ERR_UNSUPPORTED naming the key */
  static fromJson(raw: RawAdapterConfig, at = 'adapter_config.json'): LoraConfig {
    return new LoraConfig(parseAdapterConfig(raw, at).options);
  }

  /** The object of an adapter_config.json, without a base model. */
  toJson(): Record<string, unknown> {
    return adapterConfigJson(this, { baseModel: null, revision: null });
  }

  private validate(): void {
    const bad = (key: string, expected: string, received: unknown): never => {
      throw new LatheError(
        'ERR_CONFIG',
        `[LoraConfig] ${key} expected ${expected}, received ${JSON.stringify(received)}`,
      );
    };
    if (!Number.isInteger(this.r) || this.r <= 0) bad('r', 'a positive integer', this.r);
    if (!(this.loraAlpha > 0)) bad('lora_alpha', 'a positive number', this.loraAlpha);
    if (!(this.loraDropout >= 0 && this.loraDropout < 1)) bad('lora_dropout', 'a number in [0, 1)', this.loraDropout);
    if (!['none', 'all', 'lora_only'].includes(this.bias)) bad('bias', 'none, all or lora_only', this.bias);
    if (![true, false, 'gaussian'].includes(this.initLoraWeights))
      bad('init_lora_weights', 'true, false or gaussian', this.initLoraWeights);
    for (const [pattern, r] of Object.entries(this.rankPattern))
      if (!Number.isInteger(r) || r <= 0) bad(`rank_pattern '${pattern}'`, 'a positive integer', r);
    for (const [pattern, alpha] of Object.entries(this.alphaPattern))
      if (!(alpha > 0)) bad(`alpha_pattern '${pattern}'`, 'a positive number', alpha);
    // Broken patterns fail here and not at the first module.
    for (const pattern of [...Object.keys(this.rankPattern), ...Object.keys(this.alphaPattern)]) patternOf(pattern);
    for (const spec of [this.targetModules, this.excludeModules]) if (typeof spec === 'string') fullMatch(spec);
  }

  /** alpha / r, or alpha / sqrt(r) with rank-stabilised LoRA (arXiv 2312.03732), for one module. */
  scalingOf(path: string): { r: number; alpha: number; scaling: number } {
    const r = patternValue(this.rankPattern, path) ?? this.r;
    const alpha = patternValue(this.alphaPattern, path) ?? this.loraAlpha;
    return { r, alpha, scaling: this.useRslora ? alpha / Math.sqrt(r) : alpha / r };
  }

  /** True when a module is trained and saved in full: PEFT compares the plain end of its path. */
  savesModule(path: string): boolean {
    return this.modulesToSave?.some((name) => path.endsWith(name)) ?? false;
  }

  /** True when a linear module gets a LoRA pair; 'all-linear' leaves the output head to the caller. */
  targets(path: string, defaults: readonly string[]): boolean {
    const spec = this.targetModules ?? defaults;
    if (this.excludeModules && matchesModule(this.excludeModules, path)) return false;
    if (this.modulesToSave?.some((name) => new RegExp(`^(?:.*\\.)?(?:${name})(?:\\.|$)`).test(path))) return false;
    if (typeof spec === 'string') return spec === ALL_LINEAR || matchesModule(spec, path);
    if (spec.includes(path)) return true;
    return matchesModule(spec, path) && this.inLayers(path);
  }

  /** Layer filters look at the first numbered segment of the path. */
  private inLayers(path: string): boolean {
    if (!this.layersToTransform) return true;
    const patterns = this.layersPattern ? this.layersPattern.map((p) => `(?:^|.*?\\.)${p}`) : ['.*?\\.[^.]*'];
    for (const pattern of patterns) {
      const index = new RegExp(`^${pattern}\\.(\\d+)\\.`).exec(path)?.[1];
      if (index !== undefined) return this.layersToTransform.includes(Number(index));
    }
    return false;
  }
}

const ALL_LINEAR = 'all-linear';

/** Command lines and YAML give lists: a list of the one word means the word. */
function allLinear(spec: readonly string[] | string | null): readonly string[] | string | null {
  return Array.isArray(spec) && spec.length === 1 && spec[0] === ALL_LINEAR ? ALL_LINEAR : spec;
}

function compilePattern(source: string, text: string): RegExp {
  try {
    return new RegExp(source);
  } catch (cause) {
    throw new LatheError(
      'ERR_CONFIG',
      `[LoraConfig] '${text}' is not a regular expression: ${(cause as Error).message}`,
      {
        remedy: "use JavaScript's syntax, or list the module names",
        cause,
      },
    );
  }
}

const fullMatch = (spec: string): RegExp => compilePattern(`^(?:${spec})$`, spec);

const patternOf = (pattern: string): RegExp => compilePattern(`^(?:.*\\.)?(?:${pattern})$`, pattern);

/** PEFT's rule: a pattern matches the end of the path at a dot, or the whole path, as a regular expression. */
function patternValue(patterns: Readonly<Record<string, number>>, path: string): number | undefined {
  for (const [pattern, value] of Object.entries(patterns)) if (patternOf(pattern).test(path)) return value;
  return undefined;
}

/** True when `path` ends with one of `names` at a dot, or matches the whole-path regular expression. */
export function matchesModule(spec: readonly string[] | string, path: string): boolean {
  if (typeof spec === 'string') return fullMatch(spec).test(path);
  return spec.some((name) => path === name || path.endsWith(`.${name}`));
}

/** A name that no module has, with the nearest that exist. */
export function unknownTarget(
  spec: readonly string[] | string,
  existing: Iterable<string>,
  key = 'target_modules',
): LatheError {
  const names = new Set(
    [...existing].map((p) => p.slice(p.lastIndexOf('.') + 1)).filter((name) => name !== '' && !/^\d+$/.test(name)),
  );
  const wanted = typeof spec === 'string' ? spec : spec.join(', ');
  const guess = typeof spec === 'string' ? undefined : spec.map((s) => nearest(s, names)).find(Boolean);
  return new LatheError(
    'ERR_CONFIG',
    `[LoraConfig] ${key} '${wanted}' match no ${key === 'target_modules' ? 'linear ' : ''}module`,
    {
      remedy: `use names among ${[...names].join(', ')}${guess ? ` (did you mean '${guess}'?)` : ''}`,
    },
  );
}
