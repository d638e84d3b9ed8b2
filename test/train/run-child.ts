/**
 * One training run of the golden model in a process of its own, for tests that kill it. Usage:
 *   run-child.ts OUTPUT_DIR STEPS THREADS [kill-at STEP] [resume]
 */
import { createLoader } from '../../src/data';
import { configFromObject } from '../../src/train/arguments';
import { sftLoss } from '../../src/train/losses/sft';
import { Trainer } from '../../src/train/trainer';
import { goldenExamples, goldenModel } from './golden';

async function main(outputDir: string, steps: number, threads: number, killAt: number, resume: boolean): Promise<void> {
  const args = configFromObject({
    outputDir,
    maxSteps: steps,
    perDeviceTrainBatchSize: 2,
    gradientAccumulationSteps: 2,
    learningRate: 1e-2,
    lrSchedulerType: 'cosine',
    loggingSteps: 3,
    saveStrategy: 'steps',
    saveSteps: 4,
    optim: 'adamw_8bit',
    threads,
    bf16: true,
    gradientCheckpointing: false,
    resumeFromCheckpoint: resume ? true : null,
    reportTo: 'none',
    evalStrategy: 'no',
  });
  const model = await goldenModel('bf16', threads, 0.1);
  // Five steps an epoch with these rows: step 6 is in the middle of the second.
  const examples = [...goldenExamples(), ...goldenExamples().slice(0, 4)];
  const trainer = new Trainer({
    model,
    args,
    loss: sftLoss,
    trainLoader: createLoader(examples, { batchSize: 2, gradientAccumulationSteps: 2, seed: 7 }),
  });
  for await (const event of trainer.run())
    if (event.type === 'step' && event.step === killAt) process.kill(process.pid, 'SIGKILL');
  await model.close();
}

const [outputDir, steps, threads, killAt, resume] = process.argv.slice(2);
main(outputDir, Number(steps), Number(threads), Number(killAt ?? 0), resume === 'resume').catch((error: unknown) => {
  console.error(error);
  process.exitCode = 1;
});
