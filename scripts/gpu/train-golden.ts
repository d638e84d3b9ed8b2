/** Twenty training steps on a device against the golden runs, without a test framework: `node train-golden.js cuda > training.json`. */
import { goldenModel, recipeRunner, runRecipe, sftGolden, type RecipeOptions } from '../../test/train/golden';

interface Check {
  name: string;
  dtype: 'f32' | 'bf16';
  options: RecipeOptions;
  golden: string;
  base?: string;
  /** Largest difference of a loss, absolute. */
  bound: number;
}

const CHECKS: readonly Check[] = [
  { name: 'fp32', dtype: 'f32', options: {}, golden: 'fp32', bound: 1e-3 },
  { name: 'fp32, recomputing blocks', dtype: 'f32', options: { checkpoint: 'block' }, golden: 'fp32', bound: 1e-3 },
  {
    name: 'fp32, a plainly initialised model',
    dtype: 'f32',
    options: {},
    golden: 'fp32-plain',
    base: 'sft/base',
    bound: 1e-3,
  },
  {
    name: 'bf16, a plainly initialised model',
    dtype: 'bf16',
    options: {},
    golden: 'bf16-plain',
    base: 'sft/base',
    bound: 1e-2,
  },
];

async function main(): Promise<void> {
  const device = process.argv[2] ?? 'cuda';
  const steps = Number(process.argv[3] ?? 20);
  const results: object[] = [];
  for (const check of CHECKS) {
    const model = await goldenModel(check.dtype, 1, 0, device, check.base);
    const got = await runRecipe(recipeRunner(model, { ...check.options, device }), { ...check.options, steps });
    await model.close();
    const want = sftGolden.runs[check.golden].losses;
    const worst = Math.max(...got.losses.map((loss, i) => Math.abs(loss - want[i])));
    const passed = worst < check.bound;
    results.push({ name: check.name, steps, worst, bound: check.bound, passed });
    if (!passed) {
      process.stderr.write(`FAILED ${check.name}: a loss differs by ${worst}, allowed ${check.bound}\n`);
      process.exitCode = 1;
    }
  }
  process.stdout.write(`${JSON.stringify(results, null, 1)}\n`);
}

void main();
