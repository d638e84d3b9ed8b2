/** Checkpointing: less planned memory, the same bits, and clones that later passes keep apart. */
import { checkpoint, type CheckpointPolicy } from '../../../src/autodiff/checkpoint';
import { optimize } from '../../../src/compile/compile';
import { cse } from '../../../src/passes/cse';
import { fuse } from '../../../src/passes/fuse';
import { sameBits } from '../../ops/program';
import { evaluate } from '../../ops/interpreter';
import { batchOf, leavesOf, runStep, tinyLlama, type TinyOptions } from './tiny-llama';

const POLICIES: readonly CheckpointPolicy[] = ['none', 'light', 'smart', 'block'];
const FOUR: TinyOptions = {
  layers: 4,
  hidden: 32,
  vocab: 40,
  dropout: 0.1,
  targets: ['q_proj', 'v_proj', 'down_proj'],
  shape: { tokens: 96, documents: 4 },
};

test('smart and block lower the planned arena of four layers', () => {
  const tiny = tinyLlama(FOUR);
  const [none, light, smart, block] = POLICIES.map((policy) => tiny.program(policy));
  expect(light.arenaBytes).toBeLessThan(0.85 * none.arenaBytes);
  expect(light.arenaBytes).toBeGreaterThan(smart.arenaBytes);
  expect(light.flops).toBeLessThan(1.1 * none.flops);
  expect(smart.arenaBytes).toBeLessThan(0.5 * none.arenaBytes);
  expect(block.arenaBytes).toBeLessThan(0.5 * none.arenaBytes);
  // What is saved is paid for in arithmetic, and smart pays less.
  expect(block.flops).toBeGreaterThan(smart.flops);
  expect(smart.flops).toBeGreaterThan(none.flops);
  expect(block.flops).toBeLessThan(1.5 * none.flops);
});

test('with many layers block keeps least', () => {
  // Smart keeps O per layer, but need not have a layer's attention and MLP in memory together: with few layers it wins.
  const tiny = tinyLlama({ ...FOUR, layers: 12 });
  const [none, , smart, block] = POLICIES.map((policy) => tiny.program(policy).arenaBytes);
  expect(block).toBeLessThan(smart);
  expect(smart).toBeLessThan(0.3 * none);
});

test.each<[string, TinyOptions]>([
  ['f32 with dropout', FOUR],
  ['bf16', { ...FOUR, dtype: 'bf16' }],
  ['4-bit bf16', { ...FOUR, dtype: 'bf16', quantised: true, hidden: 64 }],
  ['every weight', { ...FOUR, full: true, tied: true }],
])('losses and gradients have the same bits under every policy: %s', async (_name, options) => {
  const tiny = tinyLlama(options);
  const batch = batchOf(tiny.shape, 40);
  const results = await Promise.all(POLICIES.map((policy) => runStep(tiny.program(policy), batch)));
  const [none] = results;
  expect(Number.isFinite(none.outputs.loss_sum[0]) && none.outputs.loss_sum[0] > 0).toBe(true);
  results.forEach((other, i) => {
    const different = [
      ...Object.keys(none.outputs).filter((k) => !sameBits(none.outputs[k], other.outputs[k])),
      ...Object.keys(none.slots).filter((k) => !sameBits(none.slots[k], other.slots[k])),
    ];
    expect([POLICIES[i], different]).toEqual([POLICIES[i], []]);
  });
});

test('a compiled step is what the reference interpreter says, under every policy', async () => {
  const tiny = tinyLlama({ ...FOUR, layers: 2, hidden: 16, shape: { tokens: 17, documents: 2 } });
  const graph = tiny.graph();
  const batch = batchOf(tiny.shape, 40);
  const want = evaluate(graph, leavesOf(graph, batch));
  for (const policy of POLICIES) {
    const { outputs, slots } = await runStep(tiny.program(policy), batch);
    for (const [name, value] of want.outputs)
      expect(Math.abs(outputs[name][0] - value.data[0])).toBeLessThan(2e-5 * Math.max(1, Math.abs(value.data[0])));
    for (const [name, value] of want.updates) {
      const size = value.data.reduce((m, v) => Math.max(m, Math.abs(v)), 0);
      expect(size).toBeGreaterThan(0);
      value.data.forEach((v, i) => expect(Math.abs(slots[name][i] - v)).toBeLessThan(2e-5 * size));
    }
  }
});

test('clones carry their tag through cse, sit in the recompute phase, and the interpreter sees no difference', () => {
  const tiny = tinyLlama({ ...FOUR, layers: 2, hidden: 16, shape: { tokens: 9, documents: 2 } });
  const graph = tiny.graph();
  const clones = (g: typeof graph): number => g.nodes.filter((n) => n.phase === 'recompute').length;
  const tagged = checkpoint(fuse(graph), 'block');
  expect(clones(tagged)).toBeGreaterThan(10);
  expect(clones(cse(tagged))).toBe(clones(tagged));
  expect(tagged.nodes.filter((n) => (n.phase === 'recompute') !== (n.recompute !== undefined))).toEqual([]);
  // The block's last projection is never recomputed.
  expect(
    tagged.nodes.some(
      (n) =>
        n.phase === 'recompute' &&
        n.where.endsWith('down_proj') &&
        n.op!.name === 'matmul' &&
        n.attributes.addend === 1,
    ),
  ).toBe(false);
  const leaves = leavesOf(graph, batchOf(tiny.shape, 40));
  const [a, b] = [evaluate(graph, leaves), evaluate(optimize(graph, 'block'), leaves)];
  for (const [name, value] of a.updates)
    b.updates.get(name)!.data.forEach((v, i) => expect(v).toBeCloseTo(value.data[i], 8));
});

test('light keeps products and attention, smart the attention output', () => {
  const tiny = tinyLlama({ ...FOUR, layers: 2 });
  const recomputed = (policy: CheckpointPolicy): string[] =>
    optimize(tiny.graph(), policy)
      .nodes.filter((n) => n.phase === 'recompute')
      .map((n) => n.op!.name);
  expect(recomputed('block')).toContain('attention');
  expect(recomputed('smart')).not.toContain('attention');
  expect(recomputed('light')).not.toContain('attention');
  expect(recomputed('light')).not.toContain('matmul');
  expect(recomputed('light')).toContain('rms_norm');
  expect(recomputed('none')).toEqual([]);
});
