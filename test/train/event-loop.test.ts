/**
 * The event loop is free while a step runs: a 5 ms timer is never late by more than 50 ms.
 *
 * On a busy machine a timer is late whatever we do, so the same timer first runs without training and its worst lateness is
 * added to the bound, and it has three attempts. LATHE_STRICT_TIMER=1 takes the 50 ms as they are, for a quiet machine.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import { join } from 'node:path';
import { createLoader, type TokenizedExample } from '../../src/data';
import { AutoModelForCausalLM } from '../../src/pretrained/auto';
import { configFromObject } from '../../src/train/arguments';
import { sftLoss } from '../../src/train/losses/sft';
import { Trainer } from '../../src/train/trainer';
import { temporaryFolder } from './tiny-run';

const base = temporaryFolder('loop');
const PERIOD_MS = 5;

/** How late each tick of a 5 ms timer came while `body` ran. */
async function lateness(body: () => Promise<unknown>): Promise<number[]> {
  const late: number[] = [];
  let due = performance.now() + PERIOD_MS;
  const timer = setInterval(() => {
    const now = performance.now();
    late.push(now - due);
    due = now + PERIOD_MS;
  }, PERIOD_MS);
  await body();
  clearInterval(timer);
  return late;
}

const worst = (late: readonly number[]): number => Math.max(...late);

/** Four layers of 256, some hundred milliseconds a step: rows of four lengths, so that several shapes are met. */
function makeTrainer(): { trainer: Trainer; close: () => Promise<void> } {
  const vocab = 2048;
  const model = AutoModelForCausalLM.fromConfig(
    {
      model_type: 'llama',
      hidden_size: 256,
      intermediate_size: 640,
      num_hidden_layers: 4,
      num_attention_heads: 4,
      vocab_size: vocab,
      max_position_embeddings: 512,
      dtype: 'float32',
    },
    { threads: 2 },
  );
  model.trainAll();
  const examples: TokenizedExample[] = Array.from({ length: 16 }, (_, row) => {
    const inputIds = Int32Array.from({ length: 128 * (1 + (row % 4)) }, (_v, i) => (i * 7919 + row * 104729) % vocab);
    return { inputIds, labels: inputIds, row };
  });
  const args = configFromObject({
    outputDir: join(base, 'run'),
    maxSteps: 6,
    bf16: false,
    gradientCheckpointing: false,
    saveStrategy: 'no',
    threads: 2,
    loggingSteps: 2,
    evalStrategy: 'steps',
    evalSteps: 3,
  });
  const trainer = new Trainer({
    model,
    args,
    loss: sftLoss,
    trainLoader: createLoader(examples, { batchSize: 1, gradientAccumulationSteps: 2, seed: 1 }),
    evalLoader: createLoader(examples.slice(0, 2), { batchSize: 1, samplingStrategy: 'sequential' }),
  });
  return { trainer, close: () => model.close() };
}

async function attempt(): Promise<{ within: boolean; line: string }> {
  const { trainer, close } = makeTrainer();
  const run = trainer.run();
  // Weights are loaded and programs compiled before the run begins.
  for (let begun = false; !begun;) begun = (await run.next()).value?.type === 'begin';
  const baseline = await lateness(() => sleep(1500));
  let stepMs = 0;
  const late = await lateness(async () => {
    for await (const event of run) if (event.type === 'step') stepMs += event.stepMs;
  });
  await close();
  const bound = process.env.LATHE_STRICT_TIMER === '1' ? 50 : 50 + Math.max(0, worst(baseline));
  expect(stepMs).toBeGreaterThan(200); // long enough to mean something
  return {
    within: worst(late) < bound && late.length > stepMs / PERIOD_MS / 8,
    line: `late by at most ${worst(late).toFixed(1)} ms in ${late.length} ticks while ${stepMs.toFixed(0)} ms of steps ran, ${worst(baseline).toFixed(1)} ms without; bound ${bound.toFixed(1)} ms`,
  };
}

test('a 5 ms timer keeps its time while steps and evaluations run', async () => {
  // Another program may take the core from one attempt; a loop that we block is late in all of them.
  const attempts = [await attempt()];
  while (!attempts.at(-1)!.within && attempts.length < 3) attempts.push(await attempt());
  console.log(attempts.map((a) => a.line).join('\n'));
  expect(attempts.at(-1)!.within).toBe(true);
}, 120_000);
