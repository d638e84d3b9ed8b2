/**
 * Where a step's gradients begin: its first micro-batch writes them, later ones add, the optimizer only reads them. So what
 * is in the gradient slots before a step has no part in it, and a rank without a micro-batch has to bring zeros.
 */
import { compile } from '../../src/compile/compile';
import { deviceSpec } from '../../src/compile/devices';
import { elementCount } from '../../src/graph/tensor';
import type { PreTrainedModel } from '../../src/pretrained/model';
import { clearGraph } from '../../src/train/programs';
import { goldenExamples, goldenModel, recipeRunner, stepBatches, type RecipeOptions } from './golden';
import { fullModel } from './tiny-run';
import { trainedBytes } from './trained-bytes';

const MODELS: [string, () => Promise<PreTrainedModel>, RecipeOptions][] = [
  ['LoRA with dropout', () => goldenModel('bf16', 2, 0.1), {}],
  ['full training of a tied model', () => fullModel(), {}],
  ['8-bit optimizer', () => fullModel('bf16'), { optimizer: { kind: 'adamw_8bit' } }],
];

/** Three steps; `spoil`: every gradient slot is filled with NaN before each. Returns every number that comes out. */
async function train(makeModel: () => Promise<PreTrainedModel>, o: RecipeOptions, spoil: boolean): Promise<object> {
  const model = await makeModel();
  try {
    const runner = recipeRunner(model, o);
    const session = await runner.start();
    const seen: number[] = [];
    for (let step = 1; step <= 3; step++) {
      if (spoil)
        for (const { gradient } of runner.parameters)
          await session.writeState(gradient.name, new Float32Array(elementCount(gradient.shape)).fill(NaN));
      for (const [i, batch] of stepBatches(goldenExamples(), step, 2, o.accumulation ?? 2).entries())
        seen.push((await runner.micro(batch, 50, step, i)).lossSum);
      seen.push((await runner.update(1e-2, step)).gradNorm);
    }
    expect(seen.every((v) => Number.isFinite(v) && v > 0)).toBe(true);
    return { seen, ...(await trainedBytes(model)) };
  } finally {
    await model.close();
  }
}

test.each(MODELS)('what the slots held before a step changes no bit of it: %s', async (_name, makeModel, options) => {
  for (const accumulation of [1, 3]) {
    const o = { ...options, accumulation };
    expect(await train(makeModel, o, true)).toEqual(await train(makeModel, o, false));
  }
});

test('the programs that add are made for runs that accumulate, and the plan knows both', async () => {
  const model = await fullModel();
  try {
    const names = (accumulation: number): string[] =>
      recipeRunner(model, { accumulation })
        .programs()
        .map((p) => p.name);
    expect(names(1)).toEqual(['micro', 'apply', 'eval']);
    expect(names(2)).toEqual(['micro', 'micro, adding', 'apply', 'eval']);
    // The head's part of a tied embedding's gradient is made in its slot by the program that writes, in the arena by the one that adds.
    const [micro, adding] = recipeRunner(model, { accumulation: 2 }).programs();
    expect(micro.arenaBytes).toBeLessThan(adding.arenaBytes);
    // Nothing of the old gradients is read: neither as an addend nor to be copied.
    const reads = (p: typeof micro): number =>
      p.nodes.reduce((n, node) => n + node.inputs.filter((t) => t.node.slot?.role === 'gradients').length, 0);
    expect([reads(micro), reads(adding)]).toEqual([0, model.trainableParameters().length]);
    expect(micro.nodes.filter((n) => n.op?.name === 'copy')).toEqual([]);
  } finally {
    await model.close();
  }
});

test('gradients that were not begun are refused', async () => {
  const model = await goldenModel('f32');
  try {
    const runner = recipeRunner(model, { accumulation: 2 });
    await runner.start();
    const [batch] = stepBatches(goldenExamples(), 0, 2, 1);
    const refused = (message: string): unknown =>
      expect.objectContaining({ code: 'ERR_PROGRAM', message: expect.stringContaining(message) as string });
    await expect(runner.update(1e-2, 1)).rejects.toEqual(refused('step 1 has no micro-batch'));
    await expect(runner.micro(batch, 50, 1, 1)).rejects.toEqual(refused('micro-batch 1 of a step'));
    await runner.micro(batch, 50, 1, 0);
    await runner.micro(batch, 50, 1, 1);
    await expect(runner.micro(batch, 50, 1, 2)).rejects.toEqual(refused('expected one below 2'));
    await runner.update(1e-2, 1);
    // The gradients are still there; a second step must not take them again.
    await expect(runner.update(1e-2, 2)).rejects.toEqual(refused('step 2 has no micro-batch'));
  } finally {
    await model.close();
  }
});

test('a rank without a micro-batch brings zeros', async () => {
  const model = await goldenModel('f32');
  try {
    const { parameters } = recipeRunner(model);
    const session = await model.ready();
    session.defineState(parameters.map((p) => p.gradient));
    for (const { gradient } of parameters)
      await session.writeState(gradient.name, new Float32Array(elementCount(gradient.shape)).fill(NaN));
    const clear = compile(clearGraph(parameters), { device: deviceSpec('cpu', 2) });
    expect([clear.arenaBytes, clear.nodes.length]).toEqual([0, parameters.length]);
    await session.run(session.loadProgram(clear.bytes), {});
    for (const { gradient } of parameters)
      expect((await session.readState(gradient.name)).every((byte) => byte === 0)).toBe(true);
  } finally {
    await model.close();
  }
});
