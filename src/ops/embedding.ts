/** Token embedding: row gather forward, deterministic scatter-add backward. */
import type { DType } from '../graph/dtype';
import { apply } from '../graph/trace';
import type { OpDef } from '../graph/op-def';
import { elementCount, type Tensor, type TensorType } from '../graph/tensor';
import { expectCount, expectFloat, expectIndices, expectRank, expectType, ndArray, numberOf } from './expect';
import { cast } from './elementwise';

const embeddingDef: OpDef = {
  name: 'embedding',
  infer(x, a) {
    expectCount('embedding', x, 2);
    expectRank('embedding', 'table', x[0], 2);
    expectFloat('embedding', 'table', x[0]);
    expectIndices('embedding', 'ids', x[1]);
    const type: TensorType = { shape: [x[1].shape[0], x[0].shape[1]], dtype: a.dtype as DType };
    expectFloat('embedding', 'the result', type);
    return [type];
  },
  vjp({ inputs: [table, ids], attributes, cotangents: [dy] }) {
    const grad = apply(embeddingGradDef, [dy!, ids], { vocab: table.shape[0], scale: attributes.scale, addend: 0 })[0];
    return [table.node.kind === 'state' ? grad : cast(grad, table.dtype), null];
  },
  reference([table, ids], a) {
    const d = table.shape[1];
    return [
      ndArray([ids.shape[0], d], (i) => {
        const id = ids.data[Math.floor(i / d)];
        return id >= 0 && id < table.shape[0] ? table.data[id * d + (i % d)] * (a.scale as number) : NaN;
      }),
    ];
  },
  cost: (x) => ({ flops: 0, bytes: 4 * elementCount([x[1].shape[0], x[0].shape[1]]) }),
  typeAttributes: ['dtype'],
};

const embeddingGradDef: OpDef = {
  name: 'embedding_grad',
  infer(x, a) {
    expectCount('embedding_grad', x, 2 + numberOf('embedding_grad', a, 'addend'));
    expectRank('embedding_grad', 'dy', x[0], 2);
    expectFloat('embedding_grad', 'dy', x[0]);
    expectType('embedding_grad', 'ids', x[1], 'i32', [x[0].shape[0]]);
    const shape = [numberOf('embedding_grad', a, 'vocab'), x[0].shape[1]];
    if (a.addend) expectType('embedding_grad', 'addend', x[2], 'f32', shape);
    return [{ shape, dtype: 'f32' }];
  },
  reference([dy, ids, addend], a) {
    const d = dy.shape[1];
    const out = ndArray([a.vocab as number, d], (i) => addend?.data[i] ?? 0);
    ids.data.forEach((id, t) => {
      if (id < 0 || id >= out.shape[0]) return;
      for (let j = 0; j < d; j++) out.data[id * d + j] += dy.data[t * d + j] * (a.scale as number);
    });
    return [out];
  },
  cost: (x, a) => ({
    flops: elementCount(x[0].shape),
    bytes: 4 * (a.addend ? 3 * elementCount(x[0].shape) : (a.vocab as number) * x[0].shape[1]),
  }),
  mayAlias: (a) => (a.addend ? [[0, 2]] : []),
};

export const embeddingOps = { embedding: embeddingDef, embedding_grad: embeddingGradDef };

/** Rows of table `[V, D]` for ids i32 `[T]`, times `scale`, as dtype. */
export const embedding = (table: Tensor, ids: Tensor, dtype: DType, scale = 1): Tensor =>
  apply(embeddingDef, [table, ids], { scale, dtype })[0];
