/** Twenty steps with loss_type dft against torch. */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { createLoader } from '../../src/data';
import { configFromObject } from '../../src/train/arguments';
import { lossOf } from '../../src/train/losses';
import { Trainer } from '../../src/train/trainer';
import { GOLDEN, goldenExamples, goldenModel, recipeRunner, runRecipe, type SftRun } from './golden';
import { temporaryFolder } from './tiny-run';

const base = temporaryFolder('dft');

const golden = JSON.parse(readFileSync(join(GOLDEN, 'dft/losses.json'), 'utf8')) as SftRun;
const worst = (a: readonly number[], b: readonly number[]): number => Math.max(...a.map((v, i) => Math.abs(v - b[i])));

test('losses and gradient norms follow the reference within 1e-3', async () => {
  const model = await goldenModel('f32');
  try {
    const options = { loss: lossOf({ lossType: 'dft' }) };
    const got = await runRecipe(recipeRunner(model, options), options);
    expect(got.losses).toHaveLength(20);
    expect(worst(got.losses, golden.losses)).toBeLessThan(1e-3);
    expect(worst(got.grad_norms, golden.grad_norms)).toBeLessThan(1e-3);
  } finally {
    await model.close();
  }
});

test('perplexity is that of the plain likelihood, whatever the loss', async () => {
  const evaluated = async (lossType: 'nll' | 'dft'): Promise<Record<string, number>> => {
    const args = configFromObject({
      outputDir: join(base, lossType),
      lossType,
      threads: 1,
      bf16: false,
      gradientCheckpointing: false,
      reportTo: 'none',
      perDeviceTrainBatchSize: 2,
      perDeviceEvalBatchSize: 2,
    });
    const model = await goldenModel('f32', 1);
    const loader = createLoader(goldenExamples().slice(0, 6), { batchSize: 2, samplingStrategy: 'sequential' });
    try {
      return await new Trainer({ model, args, loss: lossOf(args), trainLoader: loader, evalLoader: loader }).evaluate();
    } finally {
      await model.close();
    }
  };
  const [nll, dft] = [await evaluated('nll'), await evaluated('dft')];
  expect(nll.eval_perplexity).toBeCloseTo(Math.exp(nll.eval_loss), 6);
  expect(dft.eval_nll).toBeCloseTo(nll.eval_loss, 5);
  expect(dft.eval_perplexity / nll.eval_perplexity).toBeCloseTo(1, 5);
  // The loss itself is another number: a probability times a nll is less than the nll.
  expect(dft.eval_loss).toBeLessThan(0.9 * nll.eval_loss);
});
