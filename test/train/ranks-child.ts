/**
 * One training run of the golden model, as one process or as one rank of several, for tests that compare them. Usage:
 *   ranks-child.ts JSON, see `RanksRun`. Each rank writes what it saw to OUTPUT_DIR/rank-R.json.
 */
import { mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { createLoader } from '../../src/data';
import { currentWorld } from '../../src/runtime/world';
import { configFromObject } from '../../src/train/arguments';
import { sftLoss } from '../../src/train/losses/sft';
import { Trainer } from '../../src/train/trainer';
import { goldenExamples, goldenModel } from './golden';
import { trainedBytes } from './trained-bytes';

export interface RanksRun {
  readonly outputDir: string;
  /** Micro-batches of a step on each rank. */
  readonly accumulation: number;
  readonly steps: number;
  readonly zero?: 0 | 1;
  readonly optim?: 'adamw_torch' | 'adamw_8bit';
  readonly saveSteps?: number;
  readonly resume?: boolean;
  /** Rank and step at which this process kills itself. */
  readonly kill?: { rank: number; step: number };
  /** Rank and step at which this process is told to stop. */
  readonly stop?: { rank: number; step: number };
}

export interface RankResult {
  readonly losses: number[];
  readonly gradNorms: number[];
  readonly evalLosses: number[];
  readonly numTokens: number;
  readonly totalFlos: number;
  /** Of the parameters' bytes. */
  readonly crc: number;
  readonly parameters: number[];
  readonly optimizerBytes: number;
  readonly interrupted: boolean;
  /** Steps of the first epoch in which this rank has no micro-batch. */
  readonly withoutBatch: number;
  readonly library: string;
}

async function main(run: RanksRun): Promise<void> {
  const { rank, size, library } = currentWorld();
  const args = configFromObject({
    outputDir: run.outputDir,
    maxSteps: run.steps,
    perDeviceTrainBatchSize: 2,
    perDeviceEvalBatchSize: 2,
    gradientAccumulationSteps: run.accumulation,
    learningRate: 1e-3,
    lrSchedulerType: 'cosine',
    loggingSteps: 2,
    saveStrategy: run.saveSteps ? 'steps' : 'no',
    saveSteps: run.saveSteps ?? 500,
    optim: run.optim ?? 'adamw_torch',
    zero: run.zero ?? 0,
    // With the usual epsilon an element whose gradient is all rounding moves by the learning rate in either direction.
    adamEpsilon: 1e-5,
    threads: 1,
    bf16: false,
    gradientCheckpointing: false,
    resumeFromCheckpoint: run.resume ? true : null,
    reportTo: 'none',
    evalStrategy: 'steps',
    evalSteps: 3,
    maxGradNorm: 0.5,
  });
  const model = await goldenModel('f32', 1, 0.1);
  const loader = { batchSize: 2, rank, worldSize: size };
  const trainLoader = createLoader([...goldenExamples(), ...goldenExamples().slice(0, 3)], {
    ...loader,
    gradientAccumulationSteps: run.accumulation,
    seed: 7,
    maxBuckets: 2,
  });
  const steps = Math.min(run.steps, trainLoader.stepsPerEpoch);
  const withoutBatch = Array.from({ length: steps }, (_, s) => trainLoader.step(0, s)).filter(
    (s) => s.microBatches.length === 0,
  ).length;
  const stop = new AbortController();
  const trainer = new Trainer({
    model,
    args,
    loss: sftLoss,
    trainLoader,
    evalLoader: createLoader(goldenExamples().slice(0, 5), { ...loader, samplingStrategy: 'sequential' }),
  });
  const losses: number[] = [];
  const gradNorms: number[] = [];
  const evalLosses: number[] = [];
  let interrupted = false;
  for await (const event of trainer.run({ signal: stop.signal })) {
    if (event.type === 'evaluate') evalLosses.push(event.metrics.eval_loss);
    if (event.type === 'end') ({ interrupted } = event);
    if (event.type !== 'step') continue;
    losses.push(event.loss);
    gradNorms.push(event.gradNorm);
    if (run.kill?.rank === rank && run.kill.step === event.step) process.kill(process.pid, 'SIGKILL');
    if (run.stop?.rank === rank && run.stop.step === event.step) stop.abort();
  }
  const { parameters, crc } = await trainedBytes(model);
  const { numTokens, totalFlos } = trainer.state;
  const result: RankResult = {
    losses,
    gradNorms,
    evalLosses,
    numTokens,
    totalFlos,
    crc,
    parameters,
    interrupted,
    withoutBatch,
    library,
    optimizerBytes: trainer.plan().plan.byClass.optimizer,
  };
  mkdirSync(run.outputDir, { recursive: true });
  writeFileSync(join(run.outputDir, `rank-${rank}.json`), JSON.stringify(result));
  await model.close();
}

main(JSON.parse(process.argv[2]) as RanksRun).catch((error: unknown) => {
  console.error(error instanceof Error ? error.message : error);
  process.exitCode = 1;
});
