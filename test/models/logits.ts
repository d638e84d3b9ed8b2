/** Runs a model on single rows and compares with what transformers computed for them (test/golden). */
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { compile } from '../../src/compile/compile';
import { deviceSpec } from '../../src/compile/devices';
import { input, output, readState, trace } from '../../src/graph/trace';
import { openSafetensors } from '../../src/io/safetensors';
import { readTensorFloats } from '../../src/io/float-codec';
import { linearCrossEntropy } from '../../src/ops/loss';
import { matmul } from '../../src/ops/matmul';
import { sum } from '../../src/ops/reduce';
import type { PreTrainedModel } from '../../src/pretrained/model';

export const GOLDEN = join(__dirname, '..', 'golden');

export interface Rows {
  input_ids: number[][];
  labels: number[][];
}

export function readJson<T>(...path: string[]): T {
  return JSON.parse(readFileSync(join(...path), 'utf8')) as T;
}

/** Logits fp32 [T, V] of every row, each run alone, and the token-mean loss over all rows. */
export async function runRows(model: PreTrainedModel, rows: Rows): Promise<{ logits: Float32Array[]; loss: number }> {
  const session = await model.ready();
  const logits: Float32Array[] = [];
  let nll = 0;
  let count = 0;
  for (const [r, ids] of rows.input_ids.entries()) {
    const T = ids.length;
    const graph = trace('logits', () => {
      const x = model.module.forward({
        inputIds: input('ids', [T], 'i32'),
        positionIds: input('positions', [T], 'i32'),
        cuSeqlens: input('cu', [2], 'i32'),
        rng: null,
      });
      const head = readState(model.module.head.slot());
      output('logits', matmul(x, head, { transB: true, compute: x.dtype === 'bf16' ? 'bf16' : 'f32', dtype: 'f32' }));
      output('nll', sum(linearCrossEntropy(x, head, input('labels', [T], 'i32')).nll));
    });
    const program = session.loadProgram(compile(graph, { device: deviceSpec('cpu', session.stats().threads) }).bytes);
    // Labels in the files are unshifted.
    const labels = Int32Array.from([...rows.labels[r].slice(1), -100]);
    const out = await session.run(program, {
      ids: Int32Array.from(ids),
      positions: Int32Array.from(ids, (_, i) => i),
      cu: Int32Array.of(0, T),
      labels,
    });
    session.releaseProgram(program);
    logits.push(out.logits as Float32Array);
    nll += out.nll[0];
    count += labels.filter((label) => label !== -100).length;
  }
  return { logits, loss: nll / count };
}

/** The arrays `<prefix>.0`, `<prefix>.1`, ... of a golden file. */
export async function goldenRows(path: string, prefix = 'logits'): Promise<Float32Array[]> {
  const { tensors } = await openSafetensors(path);
  const rows: Float32Array[] = [];
  for (let i = 0; tensors.has(`${prefix}.${i}`); i++) rows.push(await readTensorFloats(tensors.get(`${prefix}.${i}`)!));
  return rows;
}

export function maxDifference(a: readonly Float32Array[], b: readonly Float32Array[]): number {
  expect(a.map((x) => x.length)).toEqual(b.map((x) => x.length));
  let most = 0;
  a.forEach((row, r) => row.forEach((value, i) => (most = Math.max(most, Math.abs(value - b[r][i])))));
  return most;
}

/** A folder that is removed after the test file. */
export function temporaryFolder(): string {
  const dir = mkdtempSync(join(tmpdir(), 'lathe-test-'));
  afterAll(() => rmSync(dir, { recursive: true, force: true }));
  return dir;
}
