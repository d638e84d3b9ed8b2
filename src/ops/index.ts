/** All ops by family. A family's name is the same here, in native/cpu, native/cuda and test/ops. */
import type { OpDef } from '../graph/op-def';
import { attentionOps } from './attention';
import { collectiveOps } from './collective';
import { elementwiseOps } from './elementwise';
import { embeddingOps } from './embedding';
import { lossOps } from './loss';
import { matmulOps } from './matmul';
import { movementOps } from './movement';
import { normOps } from './norm';
import { optimOps } from './optim';
import { quantOps } from './quant';
import { randomOps } from './random';
import { reduceOps } from './reduce';
import { ropeOps } from './rope';
import { samplingOps } from './sampling';

export const FAMILIES: Readonly<Record<string, Readonly<Record<string, OpDef>>>> = {
  elementwise: elementwiseOps,
  reduce: reduceOps,
  movement: movementOps,
  matmul: matmulOps,
  norm: normOps,
  rope: ropeOps,
  attention: attentionOps,
  embedding: embeddingOps,
  loss: lossOps,
  quant: quantOps,
  random: randomOps,
  optim: optimOps,
  sampling: samplingOps,
  collective: collectiveOps,
};

export const OPS: ReadonlyMap<string, OpDef> = new Map(
  Object.values(FAMILIES).flatMap((family) => Object.entries(family)),
);
