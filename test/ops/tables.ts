/** All tables by family; a family's file is named like its ops' and kernels' files. */
import type { OpCase } from './case';
import * as attention from './attention.cases';
import * as collective from './collective.cases';
import * as elementwise from './elementwise.cases';
import * as embedding from './embedding.cases';
import * as loss from './loss.cases';
import * as matmul from './matmul.cases';
import * as movement from './movement.cases';
import * as norm from './norm.cases';
import * as optim from './optim.cases';
import * as quant from './quant.cases';
import * as random from './random.cases';
import * as reduce from './reduce.cases';
import * as rope from './rope.cases';
import * as sampling from './sampling.cases';

export const TABLES: Readonly<Record<string, readonly OpCase[]>> = Object.fromEntries(
  Object.entries({
    elementwise,
    reduce,
    movement,
    matmul,
    norm,
    rope,
    attention,
    embedding,
    loss,
    quant,
    random,
    optim,
    sampling,
    collective,
  }).map(([family, { cases }]) => [family, cases]),
);

export const FAMILY_TABLES = Object.entries(TABLES);
