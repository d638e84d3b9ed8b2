/** A step is a function of its rows: not of how they are split, packed or padded. */
import { deviceSpec } from '../../src/compile/devices';
import { collate } from '../../src/data/collate';
import { createLoader } from '../../src/data';
import type { Batch } from '../../src/data/types';
import type { PreTrainedModel } from '../../src/pretrained/model';
import { sftLoss } from '../../src/train/losses/sft';
import { StepRunner } from '../../src/train/runner';
import { goldenExamples, goldenModel } from './golden';
import { fullModel } from './tiny-run';

const rows = goldenExamples().slice(0, 8);
const total = rows.reduce((n, r) => n + r.inputIds.length, 0);

interface Step {
  loss: number;
  lossSums: number[];
  gradients: Map<string, Float32Array>;
}

/** Loss and accumulated gradients of one step made of `batches`. */
async function step(
  batches: readonly Batch[],
  makeModel: () => Promise<PreTrainedModel> = () => goldenModel('f32'),
): Promise<Step> {
  const model = await makeModel();
  try {
    const shapes = [
      ...new Map(batches.map((b) => [b.tokens, { tokens: b.tokens, documents: b.cuSeqlens.length - 1 }])).values(),
    ];
    const runner = new StepRunner(model, {
      loss: sftLoss,
      optimizer: { kind: 'adamw', beta1: 0.9, beta2: 0.999, eps: 1e-8, maxGradNorm: 1 },
      weightDecayOf: () => 0,
      trainShapes: shapes,
      gradientAccumulationSteps: batches.length,
      evalShapes: [],
      checkpoint: 'none',
      device: deviceSpec('cpu', 2),
      seed: 1,
    });
    const session = await runner.start();
    const labels = batches.reduce((n, b) => n + b.numLabels, 0);
    const lossSums: number[] = [];
    for (const [i, batch] of batches.entries()) lossSums.push((await runner.micro(batch, labels, 1, i)).lossSum);
    const gradients = new Map<string, Float32Array>();
    for (const p of runner.parameters) {
      const bytes = await session.readState(p.gradient.name);
      gradients.set(p.slot.name, new Float32Array(bytes.buffer, bytes.byteOffset, bytes.byteLength / 4));
    }
    return { loss: lossSums.reduce((a, b) => a + b, 0) / labels, lossSums, gradients };
  } finally {
    await model.close();
  }
}

/** Largest difference of loss and of any gradient element. */
function distance(a: Step, b: Step): number {
  expect([...a.gradients.keys()]).toEqual([...b.gradients.keys()]);
  let worst = Math.abs(a.loss - b.loss);
  for (const [name, g] of a.gradients) {
    const other = b.gradients.get(name)!;
    g.forEach((x, i) => (worst = Math.max(worst, Math.abs(x - other[i]))));
  }
  return worst;
}

const largest = (s: Step): number =>
  Math.max(...[...s.gradients.values()].map((g) => g.reduce((m, x) => Math.max(m, Math.abs(x)), 0)));

test.each([
  ['LoRA', () => goldenModel('f32')],
  ['full training', () => fullModel()],
] as const)('%s: packed = padded, within 1e-5 in loss and every gradient', async (_name, makeModel) => {
  const options = { maxLength: 64, samplingStrategy: 'sequential' } as const;
  const packed = createLoader(rows, { ...options, batchSize: 8, packing: true }).step(0, 0);
  const padded = createLoader(rows, { ...options, batchSize: 2, gradientAccumulationSteps: 4 }).step(0, 0);
  // Several rows share a packed one, and the padded batches have padding: otherwise this shows nothing.
  expect(packed.microBatches).toHaveLength(1);
  expect(packed.microBatches[0].rows).toHaveLength(8);
  expect(padded.microBatches.some((b) => b.tokens > b.numTokens)).toBe(true);
  expect(packed.numLabels).toBe(padded.numLabels);
  const a = await step(packed.microBatches, makeModel);
  expect(largest(a)).toBeGreaterThan(1e-2);
  expect(distance(a, await step(padded.microBatches, makeModel))).toBeLessThan(1e-5);
});

test('accumulation 1 x 8 = 8 x 1, within 1e-5', async () => {
  const whole = await step([collate(rows, { tokens: total, documents: 8 })]);
  const split = await step(rows.map((row) => collate([row], { tokens: 64, documents: 8 })));
  expect(split.lossSums).toHaveLength(8);
  expect(distance(whole, split)).toBeLessThan(1e-5);
});

test('the padding bucket changes no bit of the loss', async () => {
  const sizes = [total, Math.ceil(total / 32) * 32, 256, 320];
  const runs = [];
  for (const tokens of sizes) runs.push(await step([collate(rows, { tokens, documents: 8 })]));
  for (const run of runs.slice(1)) {
    expect(run.lossSums).toEqual(runs[0].lossSums);
    expect(distance(run, runs[0])).toBe(0);
  }
});

test('a row has the same loss wherever it lies in a batch', async () => {
  const masked = { ...rows[1], labels: new Int32Array(rows[1].labels.length).fill(-100) };
  const alone = await step([collate([rows[0]], { tokens: 128, documents: 3 })]);
  const behind = await step([collate([masked, rows[0]], { tokens: 128, documents: 3 })]);
  expect(distance(alone, behind)).toBeLessThan(1e-6);
});
