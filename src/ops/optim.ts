/**
 * Optimizer steps as ops over many tensors at once, so that a backend can do them in one launch.
 *
 * AdamW: arXiv 1711.05101 in torch's order (decay, moments, update). 8-bit: arXiv 2110.02861 with bitsandbytes'
 * block-wise codes (blocks of 256, signed and unsigned dynamic maps). Learning rate and step are inputs. Gradients are only
 * read: the next step's first micro-batch writes over them.
 */
import { apply } from '../graph/trace';
import type { Cost, NdArray, OpDef } from '../graph/op-def';
import { elementCount, typeBytes, type Attributes, type Tensor, type TensorType } from '../graph/tensor';
import { expectCount, expectFloat, expectType, ndArray, numberOf, streamCost } from './expect';
import { DYNAMIC_MAP_SIGNED, DYNAMIC_MAP_UNSIGNED } from './quant-tables';

export const OPTIMIZER_BLOCK = 256;

/** `perParameter`, here and below: inputs of a parameter, the gradient among them. */
function checkGroup(op: string, x: readonly TensorType[], a: Attributes, perParameter: number): number {
  const count = numberOf(op, a, 'count');
  expectCount(op, x, 3 + perParameter * count);
  expectType(op, 'lr', x[0], 'f32', [1]);
  expectType(op, 'step', x[1], 'i32', [1]);
  expectType(op, 'grad_scale', x[2], 'f32', [1]);
  for (let i = 0; i < count; i++) {
    const p = x[3 + i * perParameter];
    expectFloat(op, `parameter ${i}`, p);
    expectType(op, `gradient ${i}`, x[4 + i * perParameter], 'f32', p.shape);
  }
  return count;
}

/** A parameter's tensors come back in the order they were given, without the gradient; each may lie where it lay. */
function inPlace(a: Attributes, perParameter: number): (readonly [number, number])[] {
  const pairs: (readonly [number, number])[] = [];
  for (let i = 0; i < (a.count as number); i++) {
    const [out, first] = [i * (perParameter - 1), 3 + i * perParameter];
    pairs.push([out, first]);
    for (let k = 2; k < perParameter; k++) pairs.push([out + k - 1, first + k]);
  }
  return pairs;
}

/** Everything is read once, and all but the gradients written once. */
function stepCost(x: readonly TensorType[], a: Attributes, perParameter: number, flopsPerElement: number): Cost {
  let elements = 0;
  let bytes = 2 * streamCost(x, [], 0).bytes;
  for (let i = 0; i < (a.count as number); i++) {
    elements += elementCount(x[3 + i * perParameter].shape);
    bytes -= typeBytes(x[4 + i * perParameter]);
  }
  return { flops: flopsPerElement * elements, bytes };
}

const adamwDef: OpDef = {
  name: 'adamw',
  infer(x, a) {
    const count = checkGroup('adamw', x, a, 4);
    const out: TensorType[] = [];
    for (let i = 0; i < count; i++) {
      const [p, first, second] = [x[3 + 4 * i], x[5 + 4 * i], x[6 + 4 * i]];
      for (const moment of [first, second]) expectType('adamw', `a moment of parameter ${i}`, moment, 'f32', p.shape);
      out.push(p, first, second);
    }
    return out;
  },
  reference(x, a) {
    const out: NdArray[] = [];
    for (let i = 0; i < (a.count as number); i++) {
      const [p, g, m, v] = x.slice(3 + 4 * i, 7 + 4 * i);
      const [np, nm, nv] = [ndArray(p.shape), ndArray(p.shape), ndArray(p.shape)];
      for (let j = 0; j < p.data.length; j++) {
        const s = adamStep(p.data[j], g.data[j] * x[2].data[0], m.data[j], v.data[j], x[0].data[0], x[1].data[0], a);
        [np.data[j], nm.data[j], nv.data[j]] = [s.p, s.m, s.v];
      }
      out.push(np, nm, nv);
    }
    return out;
  },
  cost: (x, a) => stepCost(x, a, 4, 14),
  mayAlias: (a) => inPlace(a, 4),
};

function adamStep(
  p: number,
  g: number,
  m: number,
  v: number,
  lr: number,
  step: number,
  a: Attributes,
): { p: number; m: number; v: number } {
  const { beta1, beta2, eps, weight_decay } = a as Record<string, number>;
  const nm = m * beta1 + (1 - beta1) * g;
  const nv = v * beta2 + (1 - beta2) * g * g;
  const c1 = 1 - beta1 ** step;
  const c2 = Math.sqrt(1 - beta2 ** step);
  return { p: p * (1 - lr * weight_decay) - ((lr / c1) * nm) / (Math.sqrt(nv) / c2 + eps), m: nm, v: nv };
}

const adamw8bitDef: OpDef = {
  name: 'adamw_8bit',
  infer(x, a) {
    const count = checkGroup('adamw_8bit', x, a, 6);
    const out: TensorType[] = [];
    for (let i = 0; i < count; i++) {
      const [p, , c1, c2, a1, a2] = x.slice(3 + 6 * i, 9 + 6 * i);
      const n = elementCount(p.shape);
      for (const c of [c1, c2]) expectType('adamw_8bit', `codes of parameter ${i}`, c, 'u8', [n]);
      for (const s of [a1, a2])
        expectType('adamw_8bit', `absmax of parameter ${i}`, s, 'f32', [Math.ceil(n / OPTIMIZER_BLOCK)]);
      out.push(p, c1, c2, a1, a2);
    }
    return out;
  },
  reference(x, a) {
    const out: NdArray[] = [];
    for (let i = 0; i < (a.count as number); i++) out.push(...adam8Reference(x, x.slice(3 + 6 * i, 9 + 6 * i), a));
    return out;
  },
  cost: (x, a) => stepCost(x, a, 6, 30),
  mayAlias: (a) => inPlace(a, 6),
};

function adam8Reference(x: readonly NdArray[], [p, g, c1, c2, a1, a2]: readonly NdArray[], a: Attributes): NdArray[] {
  const [np, nc1, nc2, na1, na2] = [p, c1, c2, a1, a2].map((t) => ndArray(t.shape));
  const n = p.data.length;
  for (let b = 0; b * OPTIMIZER_BLOCK < n; b++) {
    const end = Math.min(n, (b + 1) * OPTIMIZER_BLOCK);
    const ms: number[] = [];
    const vs: number[] = [];
    for (let j = b * OPTIMIZER_BLOCK; j < end; j++) {
      const grad = g.data[j] * x[2].data[0];
      if (!Number.isFinite(grad)) {
        ms.push(0);
        vs.push(0);
        np.data[j] = p.data[j];
        continue;
      }
      const m = DYNAMIC_MAP_SIGNED[c1.data[j]] * a1.data[b];
      const v = DYNAMIC_MAP_UNSIGNED[c2.data[j]] * a2.data[b];
      const s = adamStep(p.data[j], grad, m, v, x[0].data[0], x[1].data[0], a);
      np.data[j] = s.p;
      ms.push(s.m);
      vs.push(s.v);
    }
    const maxM = ms.reduce((s, m) => Math.max(s, Math.abs(m)), 0);
    const maxV = vs.reduce((s, v) => Math.max(s, Math.abs(v)), 0);
    na1.data[b] = maxM;
    na2.data[b] = maxV;
    ms.forEach((m, j) => {
      let code = maxM > 0 ? nearestCode(DYNAMIC_MAP_SIGNED, m / maxM) : 127;
      // The code keeps the sign of the moment.
      if (m < 0 && DYNAMIC_MAP_SIGNED[code] >= 0) code--;
      else if (m > 0 && DYNAMIC_MAP_SIGNED[code] < 0) code++;
      nc1.data[b * OPTIMIZER_BLOCK + j] = code;
      nc2.data[b * OPTIMIZER_BLOCK + j] = maxV > 0 ? nearestCode(DYNAMIC_MAP_UNSIGNED, vs[j] / maxV) : 0;
    });
  }
  return [np, nc1, nc2, na1, na2];
}

/** Index of the nearest entry of a sorted map; a tie takes the lower one. */
function nearestCode(map: Float32Array, x: number): number {
  let [low, high] = [0, map.length - 1];
  while (low < high) {
    const mid = (low + high) >> 1;
    if (map[mid] < x) low = mid + 1;
    else high = mid;
  }
  return low > 0 && x - map[low - 1] <= Math.abs(map[low] - x) ? low - 1 : low;
}

export const optimOps = { adamw: adamwDef, adamw_8bit: adamw8bitDef };

export interface AdamOptions {
  beta1: number;
  beta2: number;
  eps: number;
  weightDecay: number;
}

export interface StepInputs {
  /** f32 `[1]`. */
  lr: Tensor;
  /** i32 `[1]`, counting from 1. */
  step: Tensor;
  /** f32 `[1]`, multiplies every gradient (clipping). */
  gradScale: Tensor;
}

const adamAttributes = (count: number, o: AdamOptions): Attributes => ({
  count,
  beta1: o.beta1,
  beta2: o.beta2,
  eps: o.eps,
  weight_decay: o.weightDecay,
});

/** One AdamW step over groups [p, g, m, v]; returns [p, m, v] for each. */
export function adamw(inputs: StepInputs, groups: readonly (readonly Tensor[])[], o: AdamOptions): Tensor[][] {
  const out = apply(
    adamwDef,
    [inputs.lr, inputs.step, inputs.gradScale, ...groups.flat()],
    adamAttributes(groups.length, o),
  );
  return groups.map((_, i) => out.slice(3 * i, 3 * i + 3));
}

/** One 8-bit AdamW step over groups [p, g, code1, code2, absmax1, absmax2]; returns the same for each, without g. */
export function adamw8bit(inputs: StepInputs, groups: readonly (readonly Tensor[])[], o: AdamOptions): Tensor[][] {
  const out = apply(
    adamw8bitDef,
    [inputs.lr, inputs.step, inputs.gradScale, ...groups.flat()],
    adamAttributes(groups.length, o),
  );
  return groups.map((_, i) => out.slice(5 * i, 5 * i + 5));
}
