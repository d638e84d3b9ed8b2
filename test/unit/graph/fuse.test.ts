/** Each rule of fuse on the smallest graph that shows it, read from the printed graph, and where it must not apply. */
import { gradients } from '../../../src/autodiff/grad';
import type { NdArray } from '../../../src/graph/op-def';
import { printGraph } from '../../../src/graph/print';
import type { StateSlot, Tensor } from '../../../src/graph/tensor';
import { inPhase, input, output, readState, trace, updateState, type Graph } from '../../../src/graph/trace';
import { add, mul, scale } from '../../../src/ops/elementwise';
import { linearCrossEntropy } from '../../../src/ops/loss';
import { matmul, MAX_TERMS } from '../../../src/ops/matmul';
import { rmsNorm } from '../../../src/ops/norm';
import { dequantizeParts } from '../../../src/ops/quant';
import { sum } from '../../../src/ops/reduce';
import { fuse } from '../../../src/passes/fuse';
import { drawFor } from '../../ops/case';
import { evaluate } from '../../ops/interpreter';

const F32 = { compute: 'f32', dtype: 'f32' } as const;
const slot = (name: string, shape: number[]): StateSlot => ({ name, shape, dtype: 'f32', role: 'weights' });

/** The printed graph after fusion; the f64 meaning of every output and update must be what it was. */
function fused(fn: () => void): string {
  const graph = trace('t', fn);
  const after = fuse(graph);
  const leaves = leavesFor(graph);
  const [a, b] = [evaluate(graph, leaves), evaluate(after, leaves)];
  for (const [before, now] of [
    [a.outputs, b.outputs],
    [a.updates, b.updates],
  ] as const) {
    expect([...now.keys()]).toEqual([...before.keys()]);
    for (const [name, value] of before) now.get(name)!.data.forEach((v, i) => expect(v).toBeCloseTo(value.data[i], 9));
  }
  return printGraph(after);
}

function leavesFor(graph: Graph): Map<string, NdArray> {
  const leaves = new Map<string, NdArray>();
  for (const node of graph.nodes) {
    const name = node.input?.name ?? node.slot?.name;
    if (name === undefined) continue;
    const draw = drawFor(name);
    const { shape, dtype } = node.outputs[0];
    const value = (): number =>
      dtype === 'i32' ? Math.floor(4 * draw()) : dtype === 'u8' ? Math.floor(256 * draw()) : draw() - 0.5;
    leaves.set(name, { shape, data: Float64Array.from({ length: shape.reduce((x, y) => x * y, 1) }, value) });
  }
  return leaves;
}

const count = (text: string, op: string): number =>
  text.split('\n').filter((line) => line.includes(` = ${op}(`)).length;
const backward = <T>(fn: () => T): T => inPhase('backward', fn);

describe('dequantise', () => {
  const parts = (): Tensor[] => [input('packed', [64], 'u8'), input('absmax', [2], 'f32')];

  test('is folded into every product that reads it', () => {
    const text = fused(() => {
      const weight = dequantizeParts(parts(), 1, 8, 16, 'f32');
      output('y', matmul(input('x', [3, 16], 'f32'), weight, { ...F32, transB: true }));
      output(
        'dx',
        backward(() => matmul(input('dy', [3, 8], 'f32'), weight, F32)),
      );
    });
    expect(count(text, 'dequantize_4bit')).toBe(0);
    expect(text).toContain('matmul($x, $packed, $absmax) {trans_a=[0] trans_b=[1] quant=[1]');
    expect(text).toContain('matmul($dy, $packed, $absmax) {trans_a=[0] trans_b=[0] quant=[1]');
  });

  test('stays where something else reads it', () => {
    const text = fused(() => {
      const weight = dequantizeParts(parts(), 1, 8, 16, 'f32');
      output('y', matmul(input('x', [3, 16], 'f32'), weight, { ...F32, transB: true }));
      output('w', mul(weight, weight));
    });
    expect(count(text, 'dequantize_4bit')).toBe(1);
    expect(text).toContain('quant=[1]');
  });
});

describe('loss', () => {
  const head = (softcap = 0): Tensor =>
    linearCrossEntropy(input('x', [5, 8], 'f32'), readState(slot('w', [7, 8])), input('labels', [5], 'i32'), {
      softcap,
    }).nll;

  test('is taken from the gradient op', () => {
    const text = fused(() => {
      const loss = sum(head());
      output('dx', gradients(loss, [input('x', [5, 8], 'f32')])[0]);
      output('loss', loss);
    });
    expect(count(text, 'linear_cross_entropy')).toBe(0);
    expect(count(text, 'linear_cross_entropy_grad')).toBe(1);
  });

  test('is computed first when its gradient depends on it', () => {
    const text = fused(() => {
      const nll = head();
      const loss = sum(mul(nll, nll));
      output('dx', gradients(loss, [input('x', [5, 8], 'f32')])[0]);
      output('loss', loss);
    });
    expect(count(text, 'linear_cross_entropy')).toBe(1);
    expect(count(text, 'linear_cross_entropy_grad')).toBe(1);
  });

  test('of another softcap is another loss', () => {
    const text = fused(() => {
      output('dx', gradients(sum(head()), [input('x', [5, 8], 'f32')])[0]);
      output('other', head(2));
    });
    expect(count(text, 'linear_cross_entropy')).toBe(1);
  });
});

describe('sums', () => {
  const x = (i: number): Tensor => input(`x${i}`, [3, 5], 'f32');
  const w = (i: number): Tensor => input(`w${i}`, [5, 4], 'f32');
  const product = (i: number): Tensor => matmul(x(i), w(i), F32);

  test('of products are one product with more terms, also in a chain', () => {
    const text = fused(() =>
      output(
        'y',
        backward(() => add(add(product(0), product(1)), product(2))),
      ),
    );
    expect(count(text, 'matmul')).toBe(1);
    expect(count(text, 'add')).toBe(0);
    expect(text).toContain('matmul($x0, $w0, $x1, $w1, $x2, $w2)');
  });

  test('of more products than a kernel takes stay two', () => {
    const text = fused(() =>
      output(
        'y',
        backward(() => Array.from({ length: MAX_TERMS + 3 }, (_, i) => product(i)).reduce((a, b) => add(a, b))),
      ),
    );
    expect(count(text, 'add')).toBe(0);
    expect(count(text, 'matmul')).toBeGreaterThan(1);
    for (const list of text.matchAll(/quant=\[([\d,]+)\]/g))
      expect(list[1].split(',').length).toBeLessThanOrEqual(MAX_TERMS);
  });

  test('with anything else take it as addend', () => {
    const text = fused(() =>
      output(
        'y',
        backward(() => add(input('t', [3, 4], 'f32'), product(0))),
      ),
    );
    expect(count(text, 'add')).toBe(0);
    expect(text).toMatch(/matmul\(\$x0, \$w0, \$t\).*addend=1/);
  });

  test('in the forward pass keep their roundings', () => {
    const text = fused(() => output('y', add(product(0), product(1))));
    expect(count(text, 'matmul')).toBe(2);
    expect(count(text, 'add')).toBe(1);
  });

  test('are left alone where a product is read twice', () => {
    const text = fused(() =>
      backward(() => {
        const [a, b] = [product(0), product(1)];
        output('y', add(a, b));
        output('a', a);
      }),
    );
    // b still takes a as addend.
    expect(count(text, 'matmul')).toBe(2);
    expect(text).toMatch(/matmul\(\$x1, \$w1, %0\).*addend=1/);
  });

  test('a scaled product has an alpha, and is not merged with another one', () => {
    const text = fused(() =>
      output(
        'y',
        backward(() => add(scale(product(0), 0.5), product(1))),
      ),
    );
    expect(text).toContain('alpha=0.5');
    expect(count(text, 'scale')).toBe(0);
    expect(count(text, 'matmul')).toBe(2);
    expect(text).toMatch(/addend=1/);
  });

  test('of a product with itself', () => {
    const text = fused(() =>
      output(
        'y',
        backward(() => {
          const p = product(0);
          return add(p, p);
        }),
      ),
    );
    expect(count(text, 'add')).toBe(1);
  });

  test('gradient accumulation is an addend', () => {
    const gradient: StateSlot = { ...slot('grad:w', [5, 4]), role: 'gradients' };
    const text = fused(() => {
      const y = matmul(x(0), readState(slot('w', [5, 4])), F32);
      const [dw] = gradients(sum(mul(y, y)), [readState(slot('w', [5, 4]))]);
      inPhase('update', () => updateState(gradient, add(dw, readState(gradient))));
    });
    expect(text).toMatch(/matmul\(.*@grad:w\).*addend=1/);
    expect(text).toMatch(/update @grad:w <- %\d+/);
  });

  test('a residual gradient goes into rms_norm_grad, and its weight gradient stays', () => {
    const text = fused(() => {
      const h = readState(slot('h', [3, 8]));
      const g = readState(slot('g', [8]));
      const y = add(h, rmsNorm(h, g, 1e-5));
      const [dh, dg] = gradients(sum(mul(y, y)), [h, g]);
      output('dh', dh);
      output('dg', dg);
    });
    expect(text).toMatch(/rms_norm_grad\(.*\).*addend=1/);
    expect(count(text, 'rms_norm_grad')).toBe(1);
  });

  test('no addend that depends on the op itself', () => {
    const text = fused(() => {
      const h = readState(slot('h', [3, 8]));
      const g = readState(slot('g', [8]));
      const y = rmsNorm(h, g, 1e-5);
      const [dh, dg] = gradients(sum(mul(y, y)), [h, g]);
      // A tensor of dh's type that is made of dg.
      output(
        'z',
        backward(() => add(dh, matmul(input('one', [3, 1], 'f32'), reshapeRow(dg), F32))),
      );
    });
    expect(text).not.toMatch(/rms_norm_grad\(.*\).*addend=1/);
  });

  const reshapeRow = (t: Tensor): Tensor => matmul(input('unit', [1, 8], 'f32'), diagonal(t), F32);
  const diagonal = (t: Tensor): Tensor =>
    matmul(input('eye', [8, 8], 'f32'), matmul(readState(slot('ones', [8, 1])), row(t), F32), F32);
  const row = (t: Tensor): Tensor => rmsNorm(input('r', [1, 8], 'f32'), t, 1e-5);
});
