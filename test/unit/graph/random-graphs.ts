/**
 * Random graphs for property tests: a list of small instructions, each of which picks its operands among the tensors made
 * so far, with gradients of the result in the backward phase and updates of state slots. fast-check shrinks the list.
 */
import fc from 'fast-check';
import { gradients } from '../../../src/autodiff/grad';
import type { NdArray } from '../../../src/graph/op-def';
import { elementCount, type StateSlot, type Tensor } from '../../../src/graph/tensor';
import {
  apply,
  checkpointBlock,
  inPhase,
  input,
  output,
  readState,
  trace,
  updateState,
  type Graph,
} from '../../../src/graph/trace';
import { activation, add, glu, mul, scale } from '../../../src/ops/elementwise';
import { matmul } from '../../../src/ops/matmul';
import { concatCols, gatherRows, movementOps, reshape, splitCols, transpose } from '../../../src/ops/movement';
import { layerNorm, rmsNorm } from '../../../src/ops/norm';
import { dropout } from '../../../src/ops/random';
import { sum } from '../../../src/ops/reduce';
import { drawFor } from '../../ops/case';

const ROWS = 3;
const COLS = 4;
const OPS = [
  'add',
  'mul',
  'scale',
  'tanh',
  'glu',
  'matmul',
  'matmul_addend',
  'matmul_lora',
  'rms_norm',
  'layer_norm',
  'transpose',
  'split',
  'gather',
  'reshape',
  'dropout',
  'copy',
] as const;

export interface Instruction {
  op: (typeof OPS)[number];
  /** Picks operands: indices modulo the number of tensors there are. */
  a: number;
  b: number;
  c: number;
  /** Which checkpoint block it belongs to; 0 = none. */
  block: number;
}

export interface Recipe {
  instructions: Instruction[];
  /** Weights to differentiate with respect to, as a bit mask. */
  wanted: number;
  /** Further outputs besides the loss. */
  outputs: number[];
  /** [slot, tensor] pairs: slot <- tensor. */
  updates: [number, number][];
  /** Adds gradients into slots, as training does. */
  accumulate: boolean;
  /** Puts the forward ops in the backward phase too, so that fusion of sums applies to everything. */
  allBackward: boolean;
  policy: 'none' | 'light' | 'block' | 'smart';
}

const WEIGHTS = 3;
const slotOf = (name: string): StateSlot => ({ name, shape: [ROWS, COLS], dtype: 'f32', role: 'weights' });

const index = fc.nat(40);
export const recipes: fc.Arbitrary<Recipe> = fc.record({
  instructions: fc.array(fc.record({ op: fc.constantFrom(...OPS), a: index, b: index, c: index, block: fc.nat(2) }), {
    minLength: 1,
    maxLength: 14,
  }),
  wanted: fc.nat(2 ** WEIGHTS - 1),
  outputs: fc.array(index, { maxLength: 3 }),
  updates: fc.array(fc.tuple(fc.nat(4), index), { maxLength: 4 }),
  accumulate: fc.boolean(),
  allBackward: fc.boolean(),
  policy: fc.constantFrom('none', 'light', 'block', 'smart'),
});

/** All tensors are [3, 4] f32, so that every one fits everywhere. */
function step(i: Instruction, pool: readonly Tensor[]): Tensor {
  const pick = (n: number): Tensor => pool[n % pool.length];
  const [a, b, c] = [pick(i.a), pick(i.b), pick(i.c)];
  const F32 = { compute: 'f32', dtype: 'f32' } as const;
  switch (i.op) {
    case 'add':
      return add(a, b);
    case 'mul':
      return mul(a, b);
    case 'scale':
      return scale(a, 0.5 + (i.b % 3));
    case 'tanh':
      return activation(a, 'tanh');
    case 'glu':
      return glu(a, b, 'silu');
    case 'matmul':
      return matmul(matmul(a, b, { ...F32, transB: true }), c, F32);
    case 'matmul_addend':
      return matmul(matmul(a, b, { ...F32, transB: true }), c, { ...F32, addend: a, alpha: 0.5 });
    case 'matmul_lora':
      return matmul(matmul(a, b, { ...F32, transB: true }), c, {
        ...F32,
        extra: [{ a: matmul(c, a, { ...F32, transB: true }), b }],
      });
    case 'rms_norm':
      return rmsNorm(a, row(b), 1e-2);
    case 'layer_norm':
      return layerNorm(a, row(b), row(c), 1e-2);
    case 'transpose':
      return transpose(transpose(a));
    case 'split': {
      const [left, right] = splitCols(a, [1, 3]);
      return concatCols([right, left]);
    }
    case 'gather':
      return gatherRows(a, input('rows', [ROWS], 'i32'));
    case 'reshape':
      return reshape(activation(reshape(a, [2, 6]), 'tanh'), [ROWS, COLS]);
    case 'dropout':
      return dropout(a, input('rng', [4], 'i32'), 0.25, `site${i.b % 3}`);
    case 'copy':
      return apply(movementOps.transpose, [transpose(a)])[0];
  }
}

/** The first row of a tensor as a vector, by ops that have a gradient. */
function row(t: Tensor): Tensor {
  return reshape(matmul(input('first', [1, ROWS], 'f32'), t, { compute: 'f32', dtype: 'f32' }), [COLS]);
}

/** The graph of a recipe, or null when it describes none (a loss without any wanted weight). */
export function graphOf(r: Recipe): Graph {
  return trace('random', () => {
    const weights = Array.from({ length: WEIGHTS }, (_, i) => readState(slotOf(`w${i}`)));
    const pool: Tensor[] = [input('x', [ROWS, COLS], 'f32'), ...weights];
    const build = (): void => {
      for (const i of r.instructions) {
        const make = (): Tensor => step(i, pool);
        pool.push(i.block ? checkpointBlock(`block${i.block}`, make) : make());
      }
    };
    if (r.allBackward) inPhase('backward', build);
    else build();
    const last = pool[pool.length - 1];
    const loss = sum(mul(last, input('cotangent', [ROWS, COLS], 'f32')));
    output('loss', loss);
    r.outputs.forEach((i, k) => output(`out${k}`, pool[i % pool.length]));

    const wanted = weights.filter((w, i) => (r.wanted >> i) & 1 && depends(last, w));
    const grads = wanted.length ? gradients(loss, wanted) : [];
    const taken = new Set<string>();
    grads.forEach((g, i) => {
      const slot = slotOf(`grad:${wanted[i].node.slot!.name}`);
      taken.add(slot.name);
      inPhase('update', () => updateState(slot, r.accumulate ? add(g, readState(slot)) : g));
    });
    for (const [s, t] of r.updates) {
      // Slots 0..2 are weights, so a program may read what it overwrites; 3 and 4 are only written.
      const slot = slotOf(s < WEIGHTS ? `w${s}` : `free${s}`);
      if (taken.has(slot.name)) continue;
      taken.add(slot.name);
      updateState(slot, pool[t % pool.length]);
    }
  });
}

function depends(t: Tensor, on: Tensor): boolean {
  if (t === on) return true;
  const seen = new Set<Tensor>();
  const stack = [t];
  while (stack.length) {
    const next = stack.pop()!;
    if (next === on) return true;
    for (const x of next.node.inputs) {
      if (seen.has(x)) continue;
      seen.add(x);
      stack.push(x);
    }
  }
  return false;
}

/** Values for a graph's inputs and slots. */
export function leavesOf(graph: Graph): Map<string, NdArray> {
  const leaves = new Map<string, NdArray>();
  for (const node of graph.nodes) {
    const name = node.input?.name ?? node.slot?.name;
    if (name === undefined) continue;
    const draw = drawFor(name);
    const { shape } = node.outputs[0];
    const value =
      name === 'rows'
        ? (i: number): number => [2, -1, 0][i]
        : name === 'rng'
          ? (i: number): number => i
          : name === 'first'
            ? (i: number): number => (i === 0 ? 1 : 0)
            : (): number => Math.fround(2 * draw() - 1);
    leaves.set(name, { shape, data: Float64Array.from({ length: elementCount(shape) }, (_, i) => value(i)) });
  }
  return leaves;
}
