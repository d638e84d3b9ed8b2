/** Runs in a worker thread: begins a step of many micro-batches and ends the thread while it runs. Exits with 3. */
import { workerData } from 'node:worker_threads';
import { tinyTrainer } from './tiny-run';

async function main(outputDir: string): Promise<void> {
  let substeps = 0;
  const { trainer } = await tinyTrainer(outputDir, {
    // One step is 800 micro-batches: it cannot be over when the timer fires.
    args: { maxSteps: 1, perDeviceTrainBatchSize: 1, gradientAccumulationSteps: 800, numTrainEpochs: 1 },
    loader: { samplingStrategy: 'sequential' },
    train: Array.from({ length: 800 }, (_, row) => ({
      inputIds: Int32Array.of(1, 2, 3, 4),
      labels: Int32Array.of(-100, 2, 3, 4),
      row,
    })),
    callbacks: [{ onSubstepEnd: () => void (substeps++ === 3 && setTimeout(() => process.exit(3), 1)) }],
  });
  await trainer.train();
  process.exit(4);
}

main((workerData as { outputDir: string }).outputDir).catch((error: unknown) => {
  console.error(error);
  process.exit(5);
});
