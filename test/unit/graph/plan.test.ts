/** Plans: what is summed, that a session allocates exactly that, and what a refusal says. */
import { deviceSpec } from '../../../src/compile/devices';
import { assertFits, memoryPlan, printPlan, type Remedy } from '../../../src/compile/plan';
import { elementCount, typeBytes } from '../../../src/graph/tensor';
import { Session } from '../../../src/runtime/session';
import { batchOf, tinyLlama, type TinyOptions } from './tiny-llama';

const OPTIONS: TinyOptions = {
  layers: 2,
  hidden: 64,
  vocab: 100,
  dtype: 'bf16',
  quantised: true,
  dropout: 0.1,
  shape: { tokens: 64, documents: 4 },
};
const device = deviceSpec('cpu', 2);

test('a session allocates what was planned, and no run uses more', async () => {
  const tiny = tinyLlama(OPTIONS);
  const programs = (['none', 'light', 'smart', 'block'] as const).map((policy) => tiny.program(policy));
  const slots = programs.flatMap((p) => [...p.states]);
  const plan = memoryPlan(slots, programs, device);
  await using session = Session.create({ threads: 2 });
  session.defineState(slots.filter((s, i) => slots.findIndex((o) => o.name === s.name) === i));
  const batch = batchOf(tiny.shape, 100);
  for (const program of programs) {
    const handle = session.loadProgram(program.bytes);
    expect([handle.arenaBytes, handle.scratchBytes]).toEqual([program.arenaBytes, program.scratchBytes]);
    await session.run(handle, Object.fromEntries(program.inputs.map(({ name }) => [name, batch[name]])));
  }
  const stats = session.stats();
  const stateBytes = plan.byClass.weights + plan.byClass.quantization + plan.byClass.adapter + plan.byClass.gradients;
  expect(stats).toMatchObject({
    arenaBytes: plan.arenaBytes,
    scratchBytes: plan.scratchBytes,
    stateBytes,
    constantBytes: 0,
    mappedBytes: 0,
  });
  expect(stats.arenaHighWaterBytes).toBeLessThanOrEqual(plan.arenaBytes);
  expect(stats.arenaHighWaterBytes).toBeGreaterThan(0.99 * plan.arenaBytes);
  expect(plan.peakBytes).toBe(stateBytes + plan.arenaBytes + plan.scratchBytes);
});

test('classes are told apart, and a 4-bit weight counts its parts', () => {
  const tiny = tinyLlama(OPTIONS);
  const program = tiny.program('none');
  const { byClass, liveAtPeak } = memoryPlan([...program.states], [program], device);
  const linear = (n: number): number => n / 2;
  const [hidden, wide, kv] = [64, 128, 32];
  const perLayer = linear(2 * hidden * hidden + 2 * hidden * kv + 3 * hidden * wide) + 2 * 2 * hidden;
  expect(byClass.weights).toBe(2 * perLayer + 2 * 2 * 100 * hidden + 2 * hidden);
  expect(byClass.adapter).toBe(byClass.gradients);
  expect(byClass.adapter).toBe(2 * 4 * 2 * (hidden + hidden + hidden + kv));
  expect(byClass.optimizer + byClass.kv_cache).toBe(0);
  expect(byClass.logits).toBeGreaterThan(4 * 64 * 100);
  // The list is sorted, and sums to no more than the arena.
  const sizes = liveAtPeak.map((t) => t.bytes);
  expect(sizes).toEqual([...sizes].sort((a, b) => b - a));
  expect(sizes.reduce((a, b) => a + b, 0)).toBeLessThanOrEqual(program.arenaBytes);
  for (const t of liveAtPeak) expect(t.bytes).toBe(typeBytes(t.type));
});

test('FLOPs of a forward pass are those of its products', () => {
  const tiny = tinyLlama({ layers: 3, hidden: 64, vocab: 100, shape: { tokens: 32, documents: 1 } });
  const { flops } = tiny.program('none');
  const weights = 3 * (2 * 64 * 64 + 2 * 64 * 32 + 3 * 64 * 128);
  // Forward and dX of frozen weights, twice the head, and little else.
  const expected = 2 * 32 * (2 * weights + 2 * 64 * 100);
  expect(flops).toBeGreaterThan(expected * 0.98);
  expect(flops).toBeLessThan(expected * 1.25);
  expect(elementCount([32])).toBe(32);
});

test('a plan that does not fit says what is largest and what helps most', () => {
  const tiny = tinyLlama(OPTIONS);
  const program = tiny.program('none');
  const limit = 100_000;
  const plan = memoryPlan([...program.states], [program], device, limit);
  expect(plan.fits).toBe(false);
  const remedies: Remedy[] = [
    { change: 'per_device_train_batch_size: 1', peakBytes: limit + 5, savesBytes: plan.peakBytes - limit - 5 },
    { change: 'gradient_checkpointing: true', peakBytes: limit - 5, savesBytes: plan.peakBytes - limit + 5 },
  ];
  expect(() => assertFits(plan, plan.peakBytes, remedies)).not.toThrow();
  const refusal = (list: Remedy[]): string => {
    try {
      assertFits(plan, limit, list);
    } catch (error) {
      expect((error as { code: string }).code).toBe('ERR_PLAN_MEMORY');
      return (error as Error).message;
    }
    return 'it fits';
  };
  const [largest] = plan.liveAtPeak;
  expect(refusal(remedies)).toContain(`largest live tensors: ${largest.op} of ${largest.where}`);
  expect(refusal(remedies)).toContain('gradient_checkpointing: true');
  expect(refusal(remedies)).not.toContain('batch_size');
  expect(refusal([])).toContain('use a smaller model, batch or max_length');
  expect(printPlan(plan, remedies)).toMatch(/^memory plan for cpu: peak .*\n {2}weights +/);
});
