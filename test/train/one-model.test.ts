/** Several runs on one model: whose optimizer state is in its session, and what is left of what was trained. */
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { LoraConfig } from '../../src/peft/lora-config';
import { generateAll } from '../../src/generation/generate';
import { AutoModelForCausalLM } from '../../src/pretrained/auto';
import { GOLDEN, goldenModel } from './golden';
import { eventsOf, fullModel, temporaryFolder, tinyTrainer } from './tiny-run';
import type { PreTrainedModel } from '../../src/pretrained/model';
import { SFTConfig } from '../../src/train/arguments';
import { SFTTrainer, type SFTTrainerOptions } from '../../src/train/sft-trainer';
import type { Trainer } from '../../src/train/trainer';
import type { TrainEvent } from '../../src/train/events';

const base = temporaryFolder('one-model');
const out = (name: string): string => join(base, name);

async function losses(trainer: Trainer): Promise<number[]> {
  const events: TrainEvent[] = [];
  for await (const event of trainer.run()) events.push(event);
  return eventsOf(events, 'step').map((e) => e.loss);
}

const failure = (run: Promise<unknown>): Promise<unknown> =>
  run.then(
    () => null,
    (error: unknown) => error,
  );

test.each([
  ['every weight, fp32 moments', 'adamw_torch', fullModel],
  ['every weight, 8-bit moments', 'adamw_8bit', fullModel],
  [
    'an adapter',
    'adamw_torch',
    async (): Promise<PreTrainedModel> => {
      const model = await goldenModel('f32');
      if (!model.peft) model.addAdapter(new LoraConfig({ r: 4 }));
      return model;
    },
  ],
] as const)('a second run on a model begins with no moments: %s', async (name, optim, open) => {
  const args = { maxSteps: 4, optim, learningRate: 1e-2 };
  const fresh = await open();
  const want = await losses((await tinyTrainer(out(`${name} fresh`), { model: fresh, args, test: null })).trainer);
  await fresh.close();
  const model = await open();
  // A rate of zero leaves the weights as they are and fills the moments.
  await losses(
    (await tinyTrainer(out(`${name} before`), { model, args: { ...args, learningRate: 0 }, test: null })).trainer,
  );
  const after = await losses((await tinyTrainer(out(`${name} after`), { model, args, test: null })).trainer);
  expect(after).toEqual(want);
  await model.close();
});

test('of two runs on one model the first one stops; it cannot go on without its moments', async () => {
  const model = await fullModel();
  const [one, two] = await Promise.all(
    ['one', 'two'].map(
      async (name) => (await tinyTrainer(out(name), { model, args: { maxSteps: 3 }, test: null })).trainer,
    ),
  );
  const first = one.run();
  for (let event = await first.next(); !event.done && event.value.type !== 'step';) event = await first.next();
  expect(await losses(two)).toHaveLength(3);
  await expect(
    failure(
      (async () => {
        for await (const event of first) void event;
      })(),
    ),
  ).resolves.toMatchObject({ code: 'ERR_CONFIG', message: expect.stringContaining('another trainer') as string });
  await expect(failure(one.train())).resolves.toMatchObject({ code: 'ERR_CONFIG' });
  await model.close();
});

test('what was trained and not saved is gone with close(): nothing is saved in its place', async () => {
  const { trainer, model } = await tinyTrainer(out('closed'), {
    model: await fullModel(),
    args: { maxSteps: 1 },
    test: null,
  });
  await trainer.train();
  await model.close();
  const late = out('late');
  await expect(failure(trainer.saveModel(late))).resolves.toMatchObject({
    code: 'ERR_CONFIG',
    message: expect.stringContaining('trained weights were freed') as string,
  });
  expect(existsSync(join(late, 'model.safetensors'))).toBe(false);
});

test('a bf16 model that has generated cannot be trained in full any more, and says so', async () => {
  const model = await AutoModelForCausalLM.fromPretrained(join(GOLDEN, 'llama-tiny/tied'), {
    dtype: 'bf16',
    threads: 1,
  });
  await generateAll(model, [[5]], { maxNewTokens: 1 });
  expect(() => model.trainAll()).toThrow(/before anything runs, or open the model with dtype float32/);
  await model.close();
});

test('the seed of the run is that of the adapter which the trainer makes', async () => {
  const start = async (seed: number): Promise<Uint8Array> => {
    const model = await AutoModelForCausalLM.fromPretrained(join(GOLDEN, 'llama-tiny/tied'), {
      dtype: 'f32',
      threads: 1,
    });
    const rows = [{ input_ids: [5, 6, 7, 2] }];
    const processingClass = {
      vocabSize: 160,
      bosTokenId: 1,
      eosTokenId: 2,
      padTokenId: undefined,
      eosToken: '</s>',
      decode: String,
      savePretrained: () => undefined,
    } as unknown as SFTTrainerOptions['processingClass'];
    await new SFTTrainer({
      model,
      processingClass,
      trainDataset: rows,
      peftConfig: new LoraConfig({ r: 2 }),
      args: new SFTConfig({ outputDir: out('seed'), seed, bf16: false }),
    }).prepare();
    const bytes = await (await model.ready()).readState([...model.peft!.pairs.values()][0].a.name);
    await model.close();
    return bytes;
  };
  const [one, two] = [await start(1), await start(2)];
  expect(Buffer.from(await start(1))).toEqual(Buffer.from(one));
  expect(Buffer.from(two)).not.toEqual(Buffer.from(one));
});

test('a run that is over says that it trains nothing', async () => {
  const warnings: string[] = [];
  const { trainer, model } = await tinyTrainer(out('over'), {
    model: await fullModel(),
    args: { maxSteps: 2 },
    test: null,
    warn: (w) => warnings.push(w),
  });
  await trainer.train();
  expect(warnings).toEqual([]);
  await trainer.train();
  expect(warnings).toEqual([expect.stringMatching(/nothing is trained: the run is at step 2 of 2/)]);
  await model.close();
});
