/**
 * Elementwise ops: one value in, one value out, no mixing between elements.
 *
 * Sources: GELU (arXiv 1606.08415), SwiGLU / GEGLU (arXiv 2002.05202).
 */
import { apply, sharedAttributes } from '../graph/trace';
import type { OpDef } from '../graph/op-def';
import type { Attributes, Tensor, TensorType } from '../graph/tensor';
import type { DType } from '../graph/dtype';
import { LatheError } from '../errors';
import {
  expectCount,
  expectDtype,
  expectFloat,
  expectSameType,
  expectType,
  ndArray,
  numberOf,
  streamCost,
  stringOf,
} from './expect';

export type ActivationKind = 'gelu' | 'gelu_tanh' | 'relu' | 'silu' | 'tanh' | 'sigmoid' | 'exp';

const SQRT_2_OVER_PI = Math.sqrt(2 / Math.PI);

/** erf to about 1e-16 by its series (small x) or continued fraction (large x). */
function erf(x: number): number {
  const t = Math.abs(x);
  if (t > 6) return Math.sign(x);
  if (t < 2.5) {
    let term = t;
    let sum = t;
    for (let n = 1; n < 100 && Math.abs(term) > 1e-18 * Math.abs(sum); n++) {
      term *= (-t * t) / n;
      sum += term / (2 * n + 1);
    }
    return (Math.sign(x) * 2 * sum) / Math.sqrt(Math.PI);
  }
  let f = 0;
  for (let k = 60; k >= 1; k--) f = k / 2 / (t + f);
  return Math.sign(x) * (1 - Math.exp(-t * t) / (Math.sqrt(Math.PI) * (t + f)));
}

const sigmoid = (x: number): number => 1 / (1 + Math.exp(-x));

/** Value and derivative of each activation, in f64. */
const ACTIVATIONS: Record<ActivationKind, { f: (x: number) => number; df: (x: number) => number }> = {
  gelu: {
    f: (x) => 0.5 * x * (1 + erf(x / Math.SQRT2)),
    df: (x) => 0.5 * (1 + erf(x / Math.SQRT2)) + (x * Math.exp((-x * x) / 2)) / Math.sqrt(2 * Math.PI),
  },
  gelu_tanh: {
    f: (x) => 0.5 * x * (1 + Math.tanh(SQRT_2_OVER_PI * (x + 0.044715 * x ** 3))),
    df: (x) => {
      const t = Math.tanh(SQRT_2_OVER_PI * (x + 0.044715 * x ** 3));
      return 0.5 * (1 + t) + 0.5 * x * (1 - t * t) * SQRT_2_OVER_PI * (1 + 3 * 0.044715 * x * x);
    },
  },
  relu: { f: (x) => Math.max(0, x), df: (x) => (x > 0 ? 1 : 0) },
  silu: { f: (x) => x * sigmoid(x), df: (x) => sigmoid(x) * (1 + x * (1 - sigmoid(x))) },
  tanh: { f: Math.tanh, df: (x) => 1 - Math.tanh(x) ** 2 },
  sigmoid: { f: sigmoid, df: (x) => sigmoid(x) * (1 - sigmoid(x)) },
  exp: { f: Math.exp, df: Math.exp },
};

function activationOf(op: string, kind: string): { f: (x: number) => number; df: (x: number) => number } {
  const found = ACTIVATIONS[kind as ActivationKind];
  if (!found)
    throw new LatheError('ERR_UNSUPPORTED', `[${op}] unknown activation '${kind}'`, {
      remedy: `use one of ${Object.keys(ACTIVATIONS).join(', ')}`,
    });
  return found;
}

/** Activations that gate; the others have no fused kernel. */
const GATES: readonly string[] = ['silu', 'gelu', 'gelu_tanh'];

function expectGate(op: string, a: Attributes): void {
  const kind = stringOf(op, a, 'kind');
  if (!GATES.includes(kind))
    throw new LatheError('ERR_UNSUPPORTED', `[${op}] unknown gate '${kind}'`, {
      remedy: `use one of ${GATES.join(', ')}`,
    });
}

function binary(name: string, f: (a: number, b: number) => number, vjp: OpDef['vjp']): OpDef {
  return {
    name,
    infer(x) {
      expectCount(name, x, 2);
      expectFloat(name, 'a', x[0]);
      expectSameType(name, x[0], x[1]);
      return [x[0]];
    },
    vjp,
    reference: ([a, b]) => [ndArray(a.shape, (i) => f(a.data[i], b.data[i]))],
    cost: (x) => streamCost(x, [x[0]], 1),
    mayAlias: () => [
      [0, 0],
      [0, 1],
    ],
    recompute: 'cheap',
  };
}

const addDef = binary(
  'add',
  (a, b) => a + b,
  ({ cotangents: [dy] }) => [dy, dy],
);
const mulDef = binary(
  'mul',
  (a, b) => a * b,
  ({ inputs: [a, b], cotangents: [dy], needs }) => [needs(0) ? mul(dy!, b) : null, needs(1) ? mul(dy!, a) : null],
);

const scaleDef: OpDef = {
  name: 'scale',
  infer(x, a) {
    expectCount('scale', x, 1);
    expectFloat('scale', 'a', x[0]);
    numberOf('scale', a, 'factor');
    return [x[0]];
  },
  vjp: ({ cotangents: [dy], attributes }) => [scale(dy!, attributes.factor as number)],
  reference: ([x], a) => [ndArray(x.shape, (i) => x.data[i] * (a.factor as number))],
  cost: (x) => streamCost(x, [x[0]], 1),
  mayAlias: () => [[0, 0]],
  recompute: 'cheap',
};

const scaleByDef: OpDef = {
  name: 'scale_by',
  infer(x) {
    expectCount('scale_by', x, 2);
    expectFloat('scale_by', 'a', x[0]);
    expectType('scale_by', 's', x[1], 'f32', [1]);
    return [x[0]];
  },
  vjp({ inputs: [, s], cotangents: [dy], needs }) {
    if (needs(1))
      throw new LatheError('ERR_UNSUPPORTED', '[scale_by] is not differentiable with respect to its scalar');
    return [scaleBy(dy!, s), null];
  },
  reference: ([x, s]) => [ndArray(x.shape, (i) => x.data[i] * s.data[0])],
  cost: (x) => streamCost(x, [x[0]], 1),
  mayAlias: () => [[0, 0]],
};

const castDef: OpDef = {
  name: 'cast',
  infer(x, a) {
    expectCount('cast', x, 1);
    expectDtype('cast', 'a', x[0], 'f32', 'bf16', 'f16');
    const type: TensorType = { shape: x[0].shape, dtype: stringOf('cast', a, 'dtype') as DType };
    expectDtype('cast', 'the result', type, 'f32', 'bf16', 'f16');
    return [type];
  },
  vjp: ({ inputs: [x], cotangents: [dy] }) => [cast(dy!, x.node.kind === 'state' ? 'f32' : x.dtype)],
  reference: ([x]) => [x],
  cost: (x, a) => streamCost(x, [{ shape: x[0].shape, dtype: a.dtype as DType }], 1),
  typeAttributes: ['dtype'],
  recompute: 'cheap',
};

const copyDef: OpDef = {
  name: 'copy',
  infer(x) {
    expectCount('copy', x, 1);
    return [x[0]];
  },
  vjp: ({ cotangents: [dy] }) => [dy],
  reference: ([x]) => [x],
  cost: (x) => streamCost(x, [x[0]], 0),
};

/** The same kernel; a gradient does not pass. */
const stopGradientDef: OpDef = { ...copyDef, vjp: () => [null] };

const expandDef: OpDef = {
  name: 'expand',
  infer(x, a) {
    expectCount('expand', x, 1);
    expectType('expand', 's', x[0], 'f32', [1]);
    return [{ shape: [numberOf('expand', a, 'n')], dtype: 'f32' }];
  },
  reference: ([s], a) => [ndArray([a.n as number], () => s.data[0])],
  cost: (_x, a) => ({ flops: 0, bytes: 4 * (a.n as number) }),
};

const fillDef: OpDef = {
  name: 'fill',
  infer(x, a) {
    expectCount('fill', x, 0);
    numberOf('fill', a, 'value');
    return [{ shape: a.shape as number[], dtype: a.dtype as DType }];
  },
  reference: (_x, a) => [ndArray(a.shape as number[], () => a.value as number)],
  cost: (_x, a) => streamCost([], [{ shape: a.shape as number[], dtype: a.dtype as DType }], 0),
  typeAttributes: ['shape', 'dtype'],
};

const activationDef: OpDef = {
  name: 'activation',
  infer(x, a) {
    expectCount('activation', x, 1);
    expectFloat('activation', 'x', x[0]);
    activationOf('activation', stringOf('activation', a, 'kind'));
    return [x[0]];
  },
  vjp: ({ inputs: [x], cotangents: [dy], attributes }) => [apply(activationGradDef, [dy!, x], attributes)[0]],
  reference: ([x], a) => [ndArray(x.shape, (i) => activationOf('activation', a.kind as string).f(x.data[i]))],
  cost: (x) => streamCost(x, [x[0]], 12),
  mayAlias: () => [[0, 0]],
  recompute: 'cheap',
};

const activationGradDef: OpDef = {
  name: 'activation_grad',
  infer(x, a) {
    expectCount('activation_grad', x, 2);
    expectFloat('activation_grad', 'x', x[1]);
    expectSameType('activation_grad', x[0], x[1]);
    activationOf('activation_grad', stringOf('activation_grad', a, 'kind'));
    return [x[1]];
  },
  reference: ([dy, x], a) => [
    ndArray(x.shape, (i) => dy.data[i] * activationOf('activation_grad', a.kind as string).df(x.data[i])),
  ],
  cost: (x) => streamCost(x, [x[0]], 16),
  mayAlias: () => [[0, 0]],
};

const gluDef: OpDef = {
  name: 'glu',
  infer(x, a) {
    expectCount('glu', x, 2);
    expectFloat('glu', 'gate', x[0]);
    expectSameType('glu', x[0], x[1]);
    expectGate('glu', a);
    return [x[0]];
  },
  vjp: ({ inputs: [gate, up], cotangents: [dy], attributes }) => [...apply(gluGradDef, [dy!, gate, up], attributes)],
  reference: ([g, u], a) => [ndArray(g.shape, (i) => activationOf('glu', a.kind as string).f(g.data[i]) * u.data[i])],
  cost: (x) => streamCost(x, [x[0]], 13),
  mayAlias: () => [
    [0, 0],
    [0, 1],
  ],
  recompute: 'cheap',
};

const gluGradDef: OpDef = {
  name: 'glu_grad',
  infer(x, a) {
    expectCount('glu_grad', x, 3);
    expectFloat('glu_grad', 'gate', x[1]);
    expectGate('glu_grad', a);
    expectSameType('glu_grad', x[0], x[1]);
    expectSameType('glu_grad', x[1], x[2]);
    return [x[1], x[2]];
  },
  reference([dy, g, u], a) {
    const { f, df } = activationOf('glu_grad', a.kind as string);
    return [
      ndArray(g.shape, (i) => dy.data[i] * u.data[i] * df(g.data[i])),
      ndArray(g.shape, (i) => dy.data[i] * f(g.data[i])),
    ];
  },
  cost: (x) => streamCost(x, [x[1], x[2]], 20),
  mayAlias: () => [
    [0, 1],
    [1, 2],
  ],
};

const clipCoefficientDef: OpDef = {
  name: 'clip_coefficient',
  infer(x, a) {
    expectCount('clip_coefficient', x, 1);
    expectType('clip_coefficient', 'norm', x[0], 'f32', [1]);
    numberOf('clip_coefficient', a, 'max_norm');
    return [{ shape: [1], dtype: 'f32' }];
  },
  reference: ([n], a) => [
    ndArray([1], () => ((a.max_norm as number) <= 0 ? 1 : Math.min(1, (a.max_norm as number) / (n.data[0] + 1e-6)))),
  ],
  cost: () => ({ flops: 3, bytes: 8 }),
};

export const elementwiseOps = {
  add: addDef,
  mul: mulDef,
  scale: scaleDef,
  scale_by: scaleByDef,
  cast: castDef,
  copy: copyDef,
  expand: expandDef,
  fill: fillDef,
  activation: activationDef,
  activation_grad: activationGradDef,
  glu: gluDef,
  glu_grad: gluGradDef,
  clip_coefficient: clipCoefficientDef,
};

/** a + b, equal shapes. */
export const add = (a: Tensor, b: Tensor): Tensor => apply(addDef, [a, b])[0];
/** a * b, equal shapes. */
export const mul = (a: Tensor, b: Tensor): Tensor => apply(mulDef, [a, b])[0];
/** a times a constant. */
export const scale = (a: Tensor, factor: number): Tensor => (factor === 1 ? a : apply(scaleDef, [a], { factor })[0]);
/** a times a run-time scalar `[1]`. */
export const scaleBy = (a: Tensor, s: Tensor): Tensor => apply(scaleByDef, [a, s])[0];
/** a in another float type; no node when it already has it. */
export const cast = (a: Tensor, dtype: DType): Tensor => (a.dtype === dtype ? a : apply(castDef, [a], { dtype })[0]);
/** The value as a constant: nothing is trained through it (torch's detach). */
export const stopGradient = (a: Tensor): Tensor => apply(stopGradientDef, [a])[0];
/** A scalar repeated n times. Not differentiable. */
export const expand = (s: Tensor, n: number): Tensor => apply(expandDef, [s], { n })[0];
/** A tensor of one value. */
export const fill = ({ shape, dtype }: TensorType, value: number): Tensor =>
  apply(
    fillDef,
    [],
    sharedAttributes(`fill ${value} ${dtype} ${shape.join()}`, () => ({ value, shape: [...shape], dtype })),
  )[0];
export const activation = (x: Tensor, kind: ActivationKind): Tensor => apply(activationDef, [x], { kind })[0];
/** act(gate) * up. */
export const glu = (gate: Tensor, up: Tensor, kind: ActivationKind): Tensor => apply(gluDef, [gate, up], { kind })[0];
/** min(1, max_norm / (norm + 1e-6)), as torch.nn.utils.clip_grad_norm_. */
export const clipCoefficient = (norm: Tensor, maxNorm: number): Tensor =>
  apply(clipCoefficientDef, [norm], { max_norm: maxNorm })[0];
