/** Every YAML in configs/ is read, resolved, and planned with its own model. */
import { existsSync, readFileSync } from 'node:fs';
import path from 'node:path';
import { parse } from 'yaml';
import { MEMORY_CLASSES } from '../../src/compile/plan';
import { KNOWN_MODELS } from '../../src/models/known-configs';
import { loadConfig, type ResolvedConfig } from '../../src/train/arguments';
import { planRun } from '../../src/train/plan-run';
import { projectFiles, ROOT } from './source-files';

const configs = projectFiles().filter((file) => /^configs\/.*\.ya?ml$/.test(file));

// Paths in a configuration are relative to where the command is run.
const before = process.cwd();
beforeAll(() => process.chdir(ROOT));
afterAll(() => process.chdir(before));

test('there are configurations', () => expect(configs.length).toBeGreaterThan(2));

test.each(configs)(
  '%s',
  async (file) => {
    const raw = parse(readFileSync(path.join(ROOT, file), 'utf8')) as Record<string, unknown>;
    const config = loadConfig(path.join(ROOT, file));
    expect(config.outputDir).toBeTruthy();
    const model = raw.model_name_or_path as string;
    if (!KNOWN_MODELS.includes(model) && !existsSync(path.join(ROOT, model))) {
      process.stdout.write(`${file}: not planned, ${model} is not here\n`);
      return;
    }
    await expectPlan(config, 'cpu');
  },
  120_000,
);

test('a plan needs no GPU to be there', async () => {
  const config = loadConfig(path.join(ROOT, 'configs/quickstart.yaml'));
  for (const device of ['h100', 't4']) await expectPlan(config, device);
});

async function expectPlan(config: ResolvedConfig, device: string): Promise<void> {
  const { plan, flopsPerToken, tokens } = await planRun(config, device);
  expect(plan.device.name).toBe(device);
  expect(plan.peakBytes).toBe(MEMORY_CLASSES.reduce((n, name) => n + plan.byClass[name], 0));
  expect(plan.byClass.weights).toBeGreaterThan(0);
  expect(plan.byClass.gradients).toBeGreaterThan(0);
  expect(flopsPerToken).toBeGreaterThan(1e6);
  expect(tokens).toBe(config.perDeviceTrainBatchSize * (config.maxLength ?? 1024));
}
