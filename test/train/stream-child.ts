/**
 * One streamed training run in a process of its own, for tests that kill it. Usage:
 *   stream-child.ts MODEL DATA OUTPUT_DIR KILL_AT [resume]
 */
import { configFromObject } from '../../src/train/arguments';
import { setupSft } from '../../src/train/setup';

async function main(model: string, data: string, outputDir: string, killAt: number, resume: boolean): Promise<void> {
  const args = configFromObject({
    modelNameOrPath: model,
    datasetName: data,
    outputDir,
    datasetStreaming: true,
    shuffleDataset: true,
    shuffleBufferSize: 16,
    packing: true,
    packingStrategy: 'wrapped',
    maxLength: 64,
    maxSteps: 360,
    perDeviceTrainBatchSize: 2,
    gradientAccumulationSteps: 2,
    learningRate: 1e-2,
    lrSchedulerType: 'cosine',
    loggingSteps: 50,
    saveSteps: 60,
    threads: 1,
    bf16: false,
    reportTo: 'none',
    onBadRow: 'skip',
    resumeFromCheckpoint: resume ? true : null,
  });
  const { trainer, model: opened } = await setupSft(args);
  for await (const event of trainer.run())
    if (event.type === 'step' && event.step === killAt) process.kill(process.pid, 'SIGKILL');
  await opened.close();
}

const [model, data, outputDir, killAt, resume] = process.argv.slice(2);
main(model, data, outputDir, Number(killAt), resume === 'resume').catch((error: unknown) => {
  console.error(error);
  process.exitCode = 1;
});
