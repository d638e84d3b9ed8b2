/** Trainers on the golden model, in this process, for tests of what a run does rather than of its numbers. */
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createLoader, type LoaderOptions, type TokenizedExample } from '../../src/data';
import { AutoModelForCausalLM } from '../../src/pretrained/auto';
import type { PreTrainedModel } from '../../src/pretrained/model';
import { configFromObject, type ConfigInput } from '../../src/train/arguments';
import type { TrainerCallback, TrainEvent } from '../../src/train/events';
import { sftLoss } from '../../src/train/losses/sft';
import { Trainer } from '../../src/train/trainer';
import { GOLDEN, goldenExamples, goldenModel } from './golden';

/** A folder that goes away with the test file. */
export function temporaryFolder(name: string): string {
  const dir = mkdtempSync(join(tmpdir(), `lathe-${name}-`));
  afterAll(() => rmSync(dir, { recursive: true, force: true }));
  return dir;
}

export interface TinyRun {
  /** Rows per micro-batch and micro-batches per step: 2 and 2. */
  args?: ConfigInput;
  model?: PreTrainedModel;
  train?: readonly TokenizedExample[];
  test?: readonly TokenizedExample[] | null;
  loader?: Partial<LoaderOptions>;
  callbacks?: readonly TrainerCallback[];
  warn?: (message: string) => void;
}

/** 16 golden rows in steps of 2 x 2: four steps an epoch. */
export async function tinyTrainer(
  outputDir: string,
  o: TinyRun = {},
): Promise<{ trainer: Trainer; model: PreTrainedModel }> {
  const args = configFromObject({
    outputDir,
    perDeviceTrainBatchSize: 2,
    perDeviceEvalBatchSize: 4,
    gradientAccumulationSteps: 2,
    learningRate: 1e-2,
    lrSchedulerType: 'constant',
    loggingSteps: 1,
    saveStrategy: 'no',
    evalStrategy: 'no',
    threads: 2,
    bf16: false,
    gradientCheckpointing: false,
    reportTo: 'none',
    ...o.args,
  });
  const model = o.model ?? (await goldenModel('f32'));
  const train = o.train ?? goldenExamples().slice(0, 16);
  const test = o.test === undefined ? goldenExamples().slice(0, 4) : o.test;
  const trainer = new Trainer({
    model,
    args,
    loss: sftLoss,
    trainLoader: createLoader(train, {
      batchSize: args.perDeviceTrainBatchSize,
      gradientAccumulationSteps: args.gradientAccumulationSteps,
      seed: args.seed,
      maxBuckets: 1,
      ...o.loader,
    }),
    evalLoader: test && createLoader(test, { batchSize: args.perDeviceEvalBatchSize, samplingStrategy: 'sequential' }),
    callbacks: o.callbacks,
    warn: o.warn,
  });
  return { trainer, model };
}

/** Runs to the end and closes the model; the events in order. */
export async function runTiny(outputDir: string, o: TinyRun = {}, signal?: AbortSignal): Promise<TrainEvent[]> {
  const { trainer, model } = await tinyTrainer(outputDir, o);
  const events: TrainEvent[] = [];
  try {
    for await (const event of trainer.run({ signal })) events.push(event);
  } finally {
    await model.close();
  }
  return events;
}

type Of<T extends TrainEvent['type']> = Extract<TrainEvent, { type: T }>;

export function eventsOf<T extends TrainEvent['type']>(events: readonly TrainEvent[], type: T): Of<T>[] {
  return events.filter((e): e is Of<T> => e.type === type);
}

/** The tied golden model without an adapter, every weight trained. */
export async function fullModel(dtype: 'f32' | 'bf16' = 'f32'): Promise<PreTrainedModel> {
  const model = await AutoModelForCausalLM.fromPretrained(join(GOLDEN, 'llama-tiny/tied'), { dtype, threads: 2 });
  model.trainAll();
  return model;
}
