/**
 * Module and Parameter: how a model describes its weights.
 *
 * A module's fields are named like the checkpoint's keys (`self_attn.q_proj.weight`), so a parameter's name is its
 * path and loading needs no table. A parameter is a description: where its bytes live is one or more state slots of a
 * session, which `slots()` names. A quantised parameter has the slots of its parts and reads as `dequantize_4bit`.
 */
import type { DType } from '../graph/dtype';
import type { StateRole, StateSlot, Tensor } from '../graph/tensor';
import { elementCount } from '../graph/tensor';
import { readState } from '../graph/trace';
import { BLOCK, dequantizeParts, NESTED_BLOCK, quantCode, type QuantType } from '../ops/quant';

/** How a parameter without a checkpoint starts. */
export type Init =
  { kind: 'zeros' } | { kind: 'ones' } | { kind: 'normal'; std: number } | { kind: 'uniform'; bound: number };

export interface QuantFormat {
  type: QuantType;
  /** Double quantisation of the block scales. */
  nested: boolean;
}

export class Parameter {
  /** Checkpoint key, set when the model is bound. */
  name = '';
  trainable = false;
  role: StateRole = 'weights';
  /** 4-bit storage; null = dense. */
  quant: QuantFormat | null = null;

  constructor(
    public shape: readonly number[],
    public dtype: DType,
    public init: Init,
  ) {}

  /** State slots that hold this parameter: itself, or the parts of its 4-bit form. */
  slots(): StateSlot[] {
    if (!this.quant) return [{ name: this.name, shape: this.shape, dtype: this.dtype, role: this.role }];
    const n = elementCount(this.shape);
    const nb = Math.ceil(n / BLOCK);
    const part = (suffix: string, shape: number[], dtype: DType, role: StateRole): StateSlot => ({
      name: this.name + suffix,
      shape,
      dtype,
      role,
    });
    const packed = part('', [Math.ceil(n / 2)], 'u8', 'weights');
    if (!this.quant.nested) return [packed, part('.absmax', [nb], 'f32', 'quantization')];
    return [
      packed,
      part('.absmax', [nb], 'u8', 'quantization'),
      part('.nested_absmax', [Math.ceil(nb / NESTED_BLOCK)], 'f32', 'quantization'),
      part('.nested_offset', [1], 'f32', 'quantization'),
    ];
  }

  /** The value inside the current trace; a 4-bit one as its dequantisation to `dtype`, which a matmul takes apart again. */
  read(dtype: DType): Tensor {
    const parts = this.slots().map(readState);
    if (!this.quant) return parts[0];
    const [rows, cols] = this.shape;
    return dequantizeParts(parts, quantCode(this.quant.type, this.quant.nested), rows, cols, dtype);
  }

  /** The dense slot, for training; a 4-bit parameter has none. */
  slot(): StateSlot {
    return this.slots()[0];
  }
}

export class Module {
  /** Module path inside the model, e.g. `model.layers.0.self_attn`; set when the model is bound. */
  path = '';

  /** Direct sub-modules by checkpoint name; arrays give `name.index`. */
  children(): [string, Module][] {
    const found: [string, Module][] = [];
    for (const key in this) {
      const value: unknown = this[key];
      if (value instanceof Module) found.push([key, value]);
      else if (Array.isArray(value))
        value.forEach((item, i) => item instanceof Module && found.push([`${key}.${i}`, item]));
    }
    return found;
  }

  /** Direct parameters by name. */
  ownParameters(): [string, Parameter][] {
    const found: [string, Parameter][] = [];
    for (const key in this) {
      const value: unknown = this[key];
      if (value instanceof Parameter) found.push([key, value]);
    }
    return found;
  }

  /** Names every module and parameter below; a parameter shared by two modules keeps its first name. Idempotent. */
  bind(path = ''): this {
    this.path = path;
    const prefix = path ? `${path}.` : '';
    for (const [key, p] of this.ownParameters()) if (!p.name) p.name = prefix + key;
    for (const [key, child] of this.children()) child.bind(prefix + key);
    return this;
  }

  /** This module and all below it, depth first. */
  modules(): Module[] {
    const all: Module[] = [];
    const visit = (module: Module): void => {
      all.push(module);
      module.children().forEach((entry) => visit(entry[1]));
    };
    visit(this);
    return all;
  }

  /** Every distinct parameter by name, in checkpoint order. */
  parameters(): Map<string, Parameter> {
    const all = new Map<string, Parameter>();
    for (const module of this.modules())
      for (const [, p] of module.ownParameters()) if (!all.has(p.name)) all.set(p.name, p);
    return all;
  }
}
