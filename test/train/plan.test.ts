/** The plan is the truth: what it announces is what the session holds and uses, and what the process grows by. */
import { spawnSync } from 'node:child_process';
import { join } from 'node:path';
import type { CheckpointPolicy } from '../../src/autodiff/checkpoint';
import { ALIGNMENT } from '../../src/compile/offsets';
import { LoraConfig } from '../../src/peft/lora-config';
import { AutoModelForCausalLM } from '../../src/pretrained/auto';
import type { PreTrainedModel } from '../../src/pretrained/model';
import { BitsAndBytesConfig } from '../../src/quantization/bitsandbytes';
import type { ConfigInput } from '../../src/train/arguments';
import { ALL_LINEAR, GOLDEN } from './golden';
import { fullModel, runTiny, temporaryFolder, tinyTrainer } from './tiny-run';

const base = temporaryFolder('plan');

async function adapted(bnb?: { bnb4bitUseDoubleQuant: boolean }): Promise<PreTrainedModel> {
  const quantizationConfig = bnb && new BitsAndBytesConfig({ loadIn4bit: true, bnb4bitQuantType: 'nf4', ...bnb });
  const model = await AutoModelForCausalLM.fromPretrained(join(GOLDEN, 'llama-tiny/tied'), {
    dtype: 'bf16',
    threads: 2,
    quantizationConfig,
  });
  model.addAdapter(new LoraConfig({ r: 4, loraAlpha: 8, loraDropout: 0.1, targetModules: ALL_LINEAR }));
  return model;
}

const MODELS = {
  'bf16 LoRA': () => adapted(),
  'NF4 LoRA': () => adapted({ bnb4bitUseDoubleQuant: false }),
  'NF4 with double quantisation': () => adapted({ bnb4bitUseDoubleQuant: true }),
  'full training': () => fullModel(),
};
const POLICIES: CheckpointPolicy[] = ['none', 'smart', 'block'];

const policyArgs = (planPolicy: CheckpointPolicy): ConfigInput => ({
  gradientCheckpointing: planPolicy !== 'none',
  planPolicy,
});

describe.each(Object.entries(MODELS))('%s', (name, makeModel) => {
  test.each(POLICIES)(
    'recomputing %s: the arena is used to the planned end, the state is the planned classes',
    async (policy) => {
      const model = await makeModel();
      try {
        const { trainer } = await tinyTrainer(join(base, `${name} ${policy}`), {
          model,
          args: {
            ...policyArgs(policy),
            maxSteps: 3,
            evalStrategy: 'steps',
            evalSteps: 1,
            optim: policy === 'smart' ? 'adamw_torch' : 'adamw_8bit',
          },
          loader: { maxBuckets: 8 },
        });
        const { plan } = trainer.plan();
        await trainer.train();
        const stats = (await model.ready()).stats();
        expect(stats.arenaBytes).toBe(plan.arenaBytes);
        expect(stats.arenaHighWaterBytes).toBeLessThanOrEqual(plan.arenaBytes);
        // Offsets are aligned; the end of the last tensor is not.
        expect(plan.arenaBytes - stats.arenaHighWaterBytes).toBeLessThan(ALIGNMENT);
        expect(stats.scratchBytes).toBe(plan.scratchBytes);
        const { activations, logits, scratch, ...state } = plan.byClass;
        expect(stats.stateBytes).toBe(Object.values(state).reduce((a, b) => a + b, 0));
        expect(activations + logits + scratch).toBe(plan.arenaBytes + plan.scratchBytes);
        expect(plan.peakBytes).toBe(stats.stateBytes + stats.arenaBytes + stats.scratchBytes);
      } finally {
        await model.close();
      }
    },
  );
});

test('what loading needed is given back before the first step', async () => {
  const model = await adapted();
  // New rows are computed from the old ones: an arena of the whole table, far larger than the step's.
  model.resizeTokenEmbeddings(20_000);
  const { trainer } = await tinyTrainer(join(base, 'resized'), {
    model,
    args: { maxSteps: 1, perDeviceTrainBatchSize: 1 },
  });
  const { plan } = trainer.plan();
  await trainer.train();
  const stats = (await model.ready()).stats();
  expect(stats.arenaBytes).toBe(plan.arenaBytes);
  expect(stats.scratchBytes).toBe(plan.scratchBytes);
  expect(stats.arenaHighWaterBytes).toBeGreaterThan(plan.arenaBytes);
  await model.close();
});

test('each class counts what it names', async () => {
  const model = await adapted({ bnb4bitUseDoubleQuant: false });
  const { trainer } = await tinyTrainer(join(base, 'classes'), { model, args: { optim: 'adamw_torch' } });
  const { byClass } = trainer.plan().plan;
  const trained = model.trainableParameters().reduce((n, p) => n + p.shape.reduce((a, b) => a * b, 1), 0);
  expect(byClass.adapter).toBe(4 * trained);
  expect(byClass.gradients).toBe(4 * trained);
  expect(byClass.optimizer).toBe(8 * trained);
  // Two layers of q 64x64, k and v 32x64, o 64x64, gate, up and down 96x64: half a byte each, and a scale per 64.
  const quantised = 2 * (2 * 64 * 64 + 2 * 32 * 64 + 3 * 96 * 64);
  expect(byClass.quantization + byClass.weights).toBe(quantised / 2 + (4 * quantised) / 64 + 2 * (160 * 64 + 5 * 64));
  expect(byClass.kv_cache).toBe(0);
  await model.close();
});

test('recomputation lowers the peak', async () => {
  const peak = async (policy: CheckpointPolicy): Promise<number> => {
    const { trainer, model } = await tinyTrainer(join(base, 'peaks'), { args: policyArgs(policy) });
    await model.close();
    return trainer.plan().plan.peakBytes;
  };
  const none = await peak('none');
  expect(await peak('block')).toBeLessThan(none);
  expect(await peak('smart')).toBeLessThan(none);
});

test('a run that cannot fit is refused before anything is allocated, with what would help', async () => {
  const model = await adapted();
  const run = runTiny(join(base, 'refused'), { model, args: { maxSteps: 1, memoryLimit: 9_000_000 } });
  await expect(run).rejects.toMatchObject({
    code: 'ERR_PLAN_MEMORY',
    message: expect.stringMatching(
      /needs .* MiB on cpu, which has 8\.58 MiB; largest live tensors: .*gradient_checkpointing: true \(saves /,
    ),
  });
});

test('a process grows by what the plan says, within 10 % and 150 MB', () => {
  const child = spawnSync(
    process.execPath,
    ['-r', 'ts-node/register/transpile-only', join(__dirname, 'rss-child.ts'), join(base, 'rss')],
    { encoding: 'utf8' },
  );
  expect(child.stderr).toBe('');
  const { planned, grown, arenaHighWater, arenaPlanned } = JSON.parse(child.stdout) as Record<string, number>;
  // Large enough for the ten percent to mean something.
  expect(planned).toBeGreaterThan(300e6);
  expect(grown).toBeLessThan(1.1 * planned + 150e6);
  expect(grown).toBeGreaterThan(0.9 * planned - 150e6);
  expect(arenaPlanned - arenaHighWater).toBeLessThan(ALIGNMENT);
  expect(arenaHighWater).toBeLessThanOrEqual(arenaPlanned);
}, 300_000);
