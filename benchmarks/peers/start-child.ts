/**
 * From the start of the process to the end of the first optimizer step, with weights from a folder. The public entry is
 * imported whole, as a user's program would.
 */
import '../../src';
import { givenConfig, peakResidentBytes, serve } from '../harness/serve';
import type { TrainingRun } from '../step/shapes';
import { prepareTraining } from '../step/training';

async function main(): Promise<void> {
  const imported = Date.now();
  const training = await prepareTraining(givenConfig<TrainingRun>());
  const begunAt = Date.now();
  await training.step();
  const doneAt = Date.now();
  const { user, system } = process.cpuUsage();
  const { describeMs, compileMs, loadMs } = training;
  await serve(
    {
      importedAt: imported,
      begunAt,
      doneAt,
      describeMs,
      compileMs,
      loadMs,
      cpuMs: (user + system) / 1e3,
      peakBytes: peakResidentBytes(),
    },
    () => Promise.resolve({}),
  );
  await training.model.close();
}

void main();
