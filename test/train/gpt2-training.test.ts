/** Training a GPT-2 from random weights, in full: dropout, gradient checkpointing, bf16 under fp32 weights, what is left on disk. */
import { join } from 'node:path';
import type { PreTrainedModel } from '../../src/pretrained/model';
import { AutoModelForCausalLM } from '../../src/pretrained/auto';
import type { RawConfig } from '../../src/models/config-reader';
import { readJson, runRows } from '../models/logits';
import { GOLDEN, goldenExamples } from './golden';
import { eventsOf, runTiny, temporaryFolder, tinyTrainer } from './tiny-run';

const base = temporaryFolder('gpt2');
const config = readJson<RawConfig>(GOLDEN, 'gpt2-tiny', 'config.json');
const rows = goldenExamples().slice(0, 16);

function fresh(change: RawConfig = {}, dtype: 'f32' | 'bf16' = 'f32'): PreTrainedModel {
  const model = AutoModelForCausalLM.fromConfig({ ...config, ...change }, { dtype, threads: 2, seed: 3 });
  model.trainAll();
  return model;
}

const lossesOf = async (name: string, model: PreTrainedModel, args: Record<string, unknown> = {}): Promise<number[]> =>
  eventsOf(
    await runTiny(join(base, name), {
      model,
      train: rows,
      test: null,
      warn: () => {},
      args: { maxSteps: 4, learningRate: 1e-3, ...args },
    }),
    'step',
  ).map((e) => e.loss);

const dropped = { embd_pdrop: 0.1, resid_pdrop: 0.2 };

test('the first loss of random weights is that of a uniform guess, and it falls', async () => {
  const losses = await lossesOf('falls', fresh(), { maxSteps: 40, learningRate: 5e-3 });
  expect(Math.abs(losses[0] - Math.log(160))).toBeLessThan(0.1);
  expect(losses[39]).toBeLessThan(0.7 * losses[0]);
});

test('recomputing the forward pass, masks included, gives the same losses bit for bit', async () => {
  const plain = await lossesOf('plain', fresh(dropped));
  expect(await lossesOf('recomputed', fresh(dropped), { gradientCheckpointing: true, planPolicy: 'block' })).toEqual(
    plain,
  );
  expect(await lossesOf('undropped', fresh())).not.toEqual(plain);
});

test('bf16 activations over fp32 weights stay near fp32', async () => {
  const [full, half] = [await lossesOf('f32', fresh()), await lossesOf('bf16', fresh({}, 'bf16'), { bf16: true })];
  half.forEach((loss, i) => expect(Math.abs(loss - full[i])).toBeLessThan(0.03));
  expect(half).not.toEqual(full);
});

test('dropout is off in evaluation, and attention dropout is declined with a note', async () => {
  const notes: string[] = [];
  const run = async (change: RawConfig, name: string) => {
    const args = { maxSteps: 1, learningRate: 0, evalStrategy: 'steps' as const, evalSteps: 1 };
    const events = await runTiny(join(base, name), {
      model: fresh(change),
      train: rows,
      test: rows,
      args,
      warn: (note) => notes.push(note),
    });
    return { train: eventsOf(events, 'step')[0].loss, evaluated: eventsOf(events, 'evaluate')[0].metrics.eval_loss };
  };
  const [without, withAll] = [
    await run({}, 'eval-0'),
    await run({ embd_pdrop: 0.5, resid_pdrop: 0.5, attn_pdrop: 0.5 }, 'eval-1'),
  ];
  expect(withAll.evaluated).toBe(without.evaluated);
  expect(withAll.train).not.toBe(without.train);
  expect(notes).toEqual([expect.stringMatching(/^attn_pdrop 0\.5 is not applied/)]);
});

test('the saved model computes what the trained one does', async () => {
  const { trainer, model } = await tinyTrainer(join(base, 'saved'), {
    model: fresh(),
    train: rows,
    test: null,
    args: { maxSteps: 2, learningRate: 1e-3 },
  });
  await trainer.train();
  const input = { input_ids: [[5, 6, 7, 8]], labels: [[5, 6, 7, 8]] };
  const { logits } = await runRows(model, input);
  await model.savePretrained(join(base, 'folder'));
  await model.close();
  const again = await AutoModelForCausalLM.fromPretrained(join(base, 'folder'), { dtype: 'f32' });
  expect((await runRows(again, input)).logits).toEqual(logits);
  await again.close();
});
