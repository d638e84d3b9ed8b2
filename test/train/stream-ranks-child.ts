/**
 * One run on a stream, as one process or as one rank of several, for tests that compare them. Usage:
 *   stream-ranks-child.ts JSON, see `StreamRun`. Each rank writes what it saw to OUTPUT_DIR/rank-R.json.
 */
import { mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { currentWorld } from '../../src/runtime/world';
import { configFromObject } from '../../src/train/arguments';
import { setupSft } from '../../src/train/setup';
import { trainedBytes } from './trained-bytes';

export interface StreamRun {
  readonly model: string;
  readonly data: string;
  readonly outputDir: string;
  /** Micro-batches of a step on each rank. */
  readonly accumulation: number;
  readonly steps: number;
  readonly lanes?: number;
  readonly resume?: boolean;
  /** Rank and step at which this process kills itself. */
  readonly kill?: { rank: number; step: number };
}

export interface StreamRunResult {
  readonly losses: number[];
  readonly epochs: number[];
  readonly numTokens: number;
  readonly parameters: number[];
  /** Of the parameters' bytes. */
  readonly crc: number;
  readonly warnings: string[];
  /** Files that this process has read since training began, in order of their first opening. */
  readonly opened: string[];
}

async function main(run: StreamRun): Promise<void> {
  const { rank } = currentWorld();
  const warnings: string[] = [];
  const args = configFromObject({
    modelNameOrPath: run.model,
    datasetName: run.data,
    outputDir: run.outputDir,
    datasetStreaming: true,
    shuffleDataset: true,
    shuffleBufferSize: 16,
    streamLanes: run.lanes ?? null,
    packing: true,
    packingStrategy: 'wrapped',
    maxLength: 32,
    maxSteps: run.steps,
    perDeviceTrainBatchSize: 2,
    gradientAccumulationSteps: run.accumulation,
    adamEpsilon: 1e-5,
    learningRate: 1e-3,
    lrSchedulerType: 'cosine',
    loggingSteps: 5,
    saveSteps: 20,
    threads: 1,
    bf16: false,
    gradientCheckpointing: false,
    reportTo: 'none',
    onBadRow: 'skip',
    resumeFromCheckpoint: run.resume ? true : null,
  });
  const { trainer, model } = await setupSft(args, { warn: (message) => warnings.push(message) });
  const losses: number[] = [];
  const epochs: number[] = [];
  let numTokens = 0;
  for await (const event of trainer.run()) {
    // Before it the doctor has looked at rows of all files.
    if (event.type === 'begin') opened.clear();
    if (event.type === 'end') numTokens = event.state.numTokens;
    if (event.type !== 'step') continue;
    losses.push(event.loss);
    epochs.push(event.epoch);
    if (run.kill?.rank === rank && run.kill.step === event.step) process.kill(process.pid, 'SIGKILL');
  }
  const { parameters, crc } = await trainedBytes(model);
  const result: StreamRunResult = { losses, epochs, numTokens, parameters, crc, warnings, opened: [...opened] };
  mkdirSync(run.outputDir, { recursive: true });
  writeFileSync(join(run.outputDir, `rank-${rank}.json`), JSON.stringify(result));
  await model.close();
}

// What is read goes through createReadStream: a probe under the loader, so that the test sees files and not our word for it.
const opened = new Set<string>();
// eslint-disable-next-line @typescript-eslint/no-require-imports -- the module object itself, to put the probe into
const fs = require('node:fs') as { createReadStream: (path: string, ...rest: unknown[]) => unknown };
const { createReadStream } = fs;
fs.createReadStream = (path, ...rest) => {
  const name = /train-\d+/.exec(path)?.[0];
  if (name) opened.add(name);
  return createReadStream(path, ...rest);
};

main(JSON.parse(process.argv[2]) as StreamRun).catch((error: unknown) => {
  console.error(error instanceof Error ? error.message : error);
  process.exitCode = 1;
});
