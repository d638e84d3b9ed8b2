/** Twenty steps with loss_type dft against torch. */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { lossOf } from '../../src/train/losses';
import { GOLDEN, goldenModel, recipeRunner, runRecipe, type SftRun } from './golden';

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
