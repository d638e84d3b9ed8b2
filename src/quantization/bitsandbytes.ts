/**
 * BitsAndBytesConfig: which linear weights are held in 4 bits, in the names and defaults of transformers.
 * Source: QLoRA, arXiv 2305.14314. The default type is fp4, as in bitsandbytes; recipes ask for nf4.
 */
import { LatheError, refuseUnknownOptions } from '../errors';
import type { DType } from '../graph/dtype';
import type { QuantType } from '../ops/quant';
import { Linear } from '../nn/layers';
import type { CausalLm } from '../models/causal-lm';

export interface BitsAndBytesOptions {
  loadIn4bit?: boolean;
  bnb4bitQuantType?: QuantType;
  bnb4bitUseDoubleQuant?: boolean;
  /** What other programs should compute in, as saved; here matrix products run in the type of the activations. */
  bnb4bitComputeDtype?: DType;
  /** Module names (whole path or last part) kept dense besides the output head. */
  llmInt8SkipModules?: readonly string[];
}

export class BitsAndBytesConfig {
  readonly loadIn4bit: boolean;
  readonly bnb4bitQuantType: QuantType;
  readonly bnb4bitUseDoubleQuant: boolean;
  readonly bnb4bitComputeDtype: DType | undefined;
  readonly llmInt8SkipModules: readonly string[];

  constructor(o: BitsAndBytesOptions = {}) {
    this.loadIn4bit = o.loadIn4bit ?? false;
    this.bnb4bitQuantType = o.bnb4bitQuantType ?? 'fp4';
    this.bnb4bitUseDoubleQuant = o.bnb4bitUseDoubleQuant ?? false;
    this.bnb4bitComputeDtype = o.bnb4bitComputeDtype;
    this.llmInt8SkipModules = o.llmInt8SkipModules ?? [];
    refuseUnknownOptions(o, Object.keys(this), 'BitsAndBytesConfig');
    if (this.bnb4bitQuantType !== 'nf4' && this.bnb4bitQuantType !== 'fp4') {
      throw new LatheError(
        'ERR_CONFIG',
        `bnb_4bit_quant_type expected nf4 or fp4, received '${String(o.bnb4bitQuantType)}'`,
      );
    }
  }

  /** `nf4 with double quantisation`, for messages. */
  describe(): string {
    return this.loadIn4bit
      ? `4-bit ${this.bnb4bitQuantType}${this.bnb4bitUseDoubleQuant ? ' with double quantisation' : ''}`
      : 'dense';
  }

  /** From config.json's `quantization_config`. */
  static fromJson(raw: Readonly<Record<string, unknown>>): BitsAndBytesConfig {
    if (raw.load_in_8bit)
      throw new LatheError('ERR_UNSUPPORTED', '8-bit bitsandbytes checkpoints are not supported', {
        remedy: 'use a 4-bit or a dense checkpoint',
      });
    const dtypes: Record<string, DType> = { float32: 'f32', bfloat16: 'bf16', float16: 'bf16' };
    return new BitsAndBytesConfig({
      loadIn4bit: raw.load_in_4bit === true,
      bnb4bitQuantType: raw.bnb_4bit_quant_type as QuantType | undefined,
      bnb4bitUseDoubleQuant: raw.bnb_4bit_use_double_quant === true,
      bnb4bitComputeDtype: dtypes[String(raw.bnb_4bit_compute_dtype)],
      llmInt8SkipModules: (raw.llm_int8_skip_modules as string[] | null) ?? [],
    });
  }

  /** The `quantization_config` object transformers writes. @param dtype compute type when none was asked for */
  toJson(dtype: DType = 'bf16'): Record<string, unknown> {
    const name = { f32: 'float32', bf16: 'bfloat16' } as Record<string, string>;
    return {
      _load_in_4bit: this.loadIn4bit,
      _load_in_8bit: false,
      bnb_4bit_compute_dtype: name[this.bnb4bitComputeDtype ?? dtype],
      bnb_4bit_quant_storage: 'uint8',
      bnb_4bit_quant_type: this.bnb4bitQuantType,
      bnb_4bit_use_double_quant: this.bnb4bitUseDoubleQuant,
      llm_int8_enable_fp32_cpu_offload: false,
      llm_int8_has_fp16_weight: false,
      llm_int8_skip_modules: this.llmInt8SkipModules.length ? [...this.llmInt8SkipModules] : null,
      llm_int8_threshold: 6.0,
      load_in_4bit: this.loadIn4bit,
      load_in_8bit: false,
      quant_method: 'bitsandbytes',
    };
  }
}

/** Marks the linear weights of a description as 4-bit; the output head and skipped modules stay dense. Returns how many. */
export function quantizeModel(model: CausalLm, config: BitsAndBytesConfig): number {
  if (!config.loadIn4bit) return 0;
  let count = 0;
  for (const module of model.modules()) {
    if (!(module instanceof Linear) || module.weight === model.head) continue;
    const skipped = config.llmInt8SkipModules.some(
      (name) => module.path === name || module.path.endsWith(`.${name}`) || module.path.startsWith(`${name}.`),
    );
    if (skipped) continue;
    module.weight.quant = { type: config.bnb4bitQuantType, nested: config.bnb4bitUseDoubleQuant };
    count++;
  }
  return count;
}
