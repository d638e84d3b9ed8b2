/**
 * Ops over all ranks of a job, many tensors at once: every rank runs the same program and they meet here.
 *
 * `all_reduce` sums in rank order with one rounding, each element on one rank, so all ranks hold the same bits. `world`
 * (the number of ranks) is part of the program, which is refused by a process of another world. The references know one
 * rank, where both are the identity; more are tested by running them (test/train/data-parallel.test.ts).
 */
import { LatheError } from '../errors';
import { apply } from '../graph/trace';
import type { OpDef } from '../graph/op-def';
import { elementCount, type Attributes, type Tensor, type TensorType } from '../graph/tensor';
import { expectDtype, listOf, ndArray, numberOf, shapeError, streamCost } from './expect';

/** Elements of the piece that is exchanged at a time; the same in native/cpu/collective.cpp. */
const PIECE = 262_144;

function worldOf(op: string, a: Attributes): number {
  const world = numberOf(op, a, 'world');
  if (!Number.isInteger(world) || world < 1) throw shapeError(op, 'a world of at least one rank', String(world));
  return world;
}

const identity = (
  x: readonly { shape: readonly number[]; data: Float64Array }[],
  a: Attributes,
): ReturnType<NonNullable<OpDef['reference']>> => {
  if (a.world !== 1)
    throw new LatheError('ERR_UNSUPPORTED', 'the reference of an op over ranks knows one rank', {
      remedy: 'run the program under mpirun',
    });
  return x.map((t) => ndArray(t.shape, (i) => t.data[i]));
};

const eachOverItself = (_a: Attributes, inputs: number): [number, number][] =>
  Array.from({ length: inputs }, (_, i) => [i, i]);

const allReduceDef: OpDef = {
  name: 'all_reduce',
  infer(x, a) {
    worldOf('all_reduce', a);
    if (x.length === 0) throw shapeError('all_reduce', 'at least one tensor', '0');
    x.forEach((t, i) => expectDtype('all_reduce', `tensor ${i}`, t, 'f32'));
    return [...x];
  },
  reference: identity,
  cost: (x, a) => streamCost(x, x, numberOf('all_reduce', a, 'world') - 1),
  scratchBytes(x, a) {
    const world = worldOf('all_reduce', a);
    if (world === 1) return 0;
    const elements = x.reduce((n, t) => n + elementCount(t.shape), 0);
    return 8 * world * Math.ceil(Math.min(elements, PIECE) / world);
  },
  mayAlias: eachOverItself,
};

const broadcastDef: OpDef = {
  name: 'broadcast',
  infer(x: readonly TensorType[], a) {
    const world = worldOf('broadcast', a);
    const roots = listOf('broadcast', a, 'roots');
    if (x.length === 0 || roots.length !== x.length)
      throw shapeError('broadcast', 'one root per tensor', `${roots.length} roots for ${x.length} tensors`);
    const wrong = roots.find((r) => !Number.isInteger(r) || r < 0 || r >= world);
    if (wrong !== undefined) throw shapeError('broadcast', `roots below ${world}`, String(wrong));
    return [...x];
  },
  reference: identity,
  cost: (x) => streamCost(x, x, 0),
  mayAlias: eachOverItself,
};

export const collectiveOps = { all_reduce: allReduceDef, broadcast: broadcastDef };

/** Sums of f32 tensors over `world` ranks, on every rank. */
export const allReduce = (tensors: readonly Tensor[], world: number): readonly Tensor[] =>
  apply(allReduceDef, tensors, { world });

/** Every tensor as it is on its root, on every rank. Any dtype. */
export const broadcast = (tensors: readonly Tensor[], roots: readonly number[], world: number): readonly Tensor[] =>
  apply(broadcastDef, tensors, { world, roots });
