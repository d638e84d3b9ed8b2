/** Reverse mode: which paths are walked, what is refused, and a whole model's gradient against finite differences in f64. */
import { gradients } from '../../../src/autodiff/grad';
import type { StateSlot, Tensor } from '../../../src/graph/tensor';
import { apply, input, output, readState, scope, trace } from '../../../src/graph/trace';
import { attentionOps } from '../../../src/ops/attention';
import { activation, add, cast, expand, mul, scale } from '../../../src/ops/elementwise';
import { embedding } from '../../../src/ops/embedding';
import { computeOf, matmul } from '../../../src/ops/matmul';
import { normOps } from '../../../src/ops/norm';
import { sum } from '../../../src/ops/reduce';
import { evaluate } from '../../ops/interpreter';
import { batchOf, leavesOf, tinyLlama, type TinyOptions } from './tiny-llama';

const slot = (name: string, shape: number[], dtype: StateSlot['dtype'] = 'f32'): StateSlot => ({
  name,
  shape,
  dtype,
  role: 'weights',
});
const linear = (x: Tensor, weight: Tensor): Tensor =>
  matmul(x, weight, { transB: true, compute: computeOf(x), dtype: x.dtype });

describe('paths', () => {
  test('a frozen weight gets a dX and no dW', () => {
    const graph = trace('lora', () => {
      const x = input('x', [5, 8], 'f32');
      const h = linear(linear(x, readState(slot('lora_A', [2, 8]))), readState(slot('lora_B', [6, 2])));
      const y = add(linear(x, readState(slot('frozen', [6, 8]))), h);
      const z = linear(activation(y, 'silu'), readState(slot('frozen2', [4, 6])));
      const wanted = [readState(slot('lora_A', [2, 8])), readState(slot('lora_B', [6, 2]))];
      gradients(sum(z), wanted).forEach((g, i) => output(`g${i}`, g));
    });
    const shapes = graph.nodes
      .filter((n) => n.phase === 'backward')
      .flatMap((n) => n.outputs.map((t) => t.shape.join()));
    expect(shapes).not.toContain('6,8');
    expect(shapes).not.toContain('4,6');
    // dX of the second frozen weight is needed, dX of the input is not.
    expect(shapes).toContain('5,6');
    expect(shapes).not.toContain('5,8');
  });

  test('an op without a gradient on the path is named, with its place', () => {
    const graph = (): unknown =>
      trace('t', () => {
        const w = readState(slot('w', [1]));
        const x = scope('model.mixer', () => expand(w, 3));
        gradients(sum(mul(x, x)), [w]);
      });
    expect(graph).toThrow(
      expect.objectContaining({
        code: 'ERR_UNSUPPORTED',
        message: expect.stringContaining("op 'expand' has no gradient (at model.mixer)") as string,
      }),
    );
  });

  test('an op without a gradient off the path', () => {
    const graph = trace('t', () => {
      const w = readState(slot('w', [3]));
      const factor = expand(input('s', [1], 'f32'), 3);
      output('g', gradients(sum(mul(w, factor)), [w])[0]);
    });
    const leaves = new Map([
      ['w', { shape: [3], data: Float64Array.of(1, 2, 3) }],
      ['s', { shape: [1], data: Float64Array.of(0.5) }],
    ]);
    expect(Array.from(evaluate(graph, leaves).outputs.get('g')!.data)).toEqual([0.5, 0.5, 0.5]);
  });

  test('a tensor that the loss does not depend on, a loss that is no scalar', () => {
    const unrelated = (): unknown =>
      trace('t', () => gradients(sum(readState(slot('a', [3]))), [readState(slot('b', [3]))]));
    expect(unrelated).toThrow(
      expect.objectContaining({
        code: 'ERR_TRACE',
        message: expect.stringContaining('does not depend on b') as string,
      }),
    );
    const vector = (): unknown =>
      trace('t', () => gradients(scale(readState(slot('a', [3])), 2), [readState(slot('a', [3]))]));
    expect(vector).toThrow(expect.objectContaining({ code: 'ERR_SHAPE' }));
  });

  test('a saved statistic is no way to a gradient', () => {
    const through = (pick: (x: Tensor) => Tensor) => () =>
      trace('t', () => gradients(sum(pick(input('x', [4, 8], 'f32'))), [readState(slot('w', [4, 8]))]));
    const w = (): Tensor => readState(slot('w', [4, 8]));
    const rstd = (): Tensor => apply(normOps.rms_norm, [w(), input('g', [8], 'f32')], { eps: 1e-5, unit_offset: 0 })[1];
    const lse = (): Tensor =>
      apply(attentionOps.attention, [w(), w(), w(), input('cu', [2], 'i32')], {
        heads: 2,
        kv_heads: 2,
        head_dim: 4,
        scale: 1,
        causal: 1,
        window: 0,
        softcap: 0,
      })[1];
    for (const pick of [rstd, lse])
      expect(through(pick)).toThrow(
        expect.objectContaining({
          code: 'ERR_UNSUPPORTED',
          message: expect.stringContaining('only output 0 is differentiable') as string,
        }),
      );
  });
});

describe('values', () => {
  test('a tensor with several uses sums its cotangents, also one that is itself wanted', () => {
    const graph = trace('t', () => {
      const x = input('x', [4], 'f32');
      const y = mul(x, x);
      const z = add(mul(y, x), activation(y, 'tanh'));
      const [dy, dx] = gradients(sum(z), [y, x]);
      output('dy', dy);
      output('dx', dx);
    });
    const at = [0.3, -0.7, 1.1, 0.5];
    const { outputs } = evaluate(graph, new Map([['x', { shape: [4], data: Float64Array.from(at) }]]));
    const dtanh = (y: number): number => 1 - Math.tanh(y) ** 2;
    at.forEach((x, i) => {
      expect(outputs.get('dy')!.data[i]).toBeCloseTo(x + dtanh(x * x), 12);
      expect(outputs.get('dx')!.data[i]).toBeCloseTo(3 * x * x + 2 * x * dtanh(x * x), 12);
    });
  });

  test('a bf16 parameter gets an fp32 gradient', () => {
    trace('t', () => {
      const w = readState(slot('w', [6, 8], 'bf16'));
      const table = readState(slot('table', [9, 8], 'bf16'));
      const x = embedding(table, input('ids', [5], 'i32'), 'bf16');
      const y = cast(linear(x, w), 'f32');
      expect(gradients(sum(y), [w, table]).map((g) => g.type)).toEqual([
        { shape: [6, 8], dtype: 'f32' },
        { shape: [9, 8], dtype: 'f32' },
      ]);
      output('y', y);
    });
  });

  test.each<[string, TinyOptions]>([
    [
      'adapter',
      { targets: ['q_proj', 'k_proj', 'v_proj', 'o_proj', 'gate_proj', 'up_proj', 'down_proj'], dropout: 0.2 },
    ],
    ['every weight, tied embedding', { full: true, tied: true }],
    ['adapter on a 4-bit model', { quantised: true, hidden: 64 }],
  ])("a model's gradient against finite differences in f64: %s", (_name, options) => {
    const tiny = tinyLlama({ hidden: 8, vocab: 11, shape: { tokens: 7, documents: 2 }, ...options });
    const graph = tiny.graph();
    const batch = batchOf(tiny.shape, 11);
    const leaves = leavesOf(graph, batch);
    const { updates } = evaluate(graph, leaves);
    const loss = (): number => evaluate(graph, leaves).outputs.get('loss_sum')!.data[0] * batch.loss_scale[0];
    const h = 1e-5;
    for (const { slot: p, gradient } of tiny.parameters) {
      const g = updates.get(gradient.name)!.data;
      const x = leaves.get(p.name)!.data;
      // Two elements of every parameter, one of them the most important.
      const top = g.reduce((best, v, i) => (Math.abs(v) > Math.abs(g[best]) ? i : best), 0);
      for (const j of options.hidden ? [top] : [top, Math.floor(g.length / 2)]) {
        const at = x[j];
        x[j] = at + h;
        const high = loss();
        x[j] = at - h;
        const low = loss();
        x[j] = at;
        expect(Math.abs(g[j] - (high - low) / (2 * h))).toBeLessThan(1e-7 * Math.max(1, Math.abs(g[top])));
      }
    }
  });
});
