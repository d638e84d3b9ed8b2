/**
 * One training configuration as a process of its own, so that its peak memory is its own. Requests:
 * `{run: n}` does n steps and answers their times; `{profile: n}` answers the engine's time per op over n steps.
 */
import { givenConfig, peakResidentBytes, serve, timed } from '../harness/serve';
import type { TrainingRun } from './shapes';
import { profileEntries } from './profile';
import { parameterCounts, prepareTraining } from './training';

async function main(): Promise<void> {
  const run = givenConfig<TrainingRun>();
  const training = await prepareTraining(run);
  const { session, plan, describeMs, compileMs, loadMs, flopsPerStep, runner } = training;
  const ready = {
    describeMs,
    compileMs,
    loadMs,
    flopsPerStep,
    plannedPeakBytes: plan.peakBytes,
    byClass: plan.byClass,
    parameters: parameterCounts(training.model),
    nodes: runner.programs().reduce((n, p) => n + p.nodes.length, 0),
  };
  await serve(ready, async (request) => {
    if (typeof request.profile === 'number') {
      session.resetProfile();
      session.setProfiling(true);
      for (let i = 0; i < request.profile; i++) await training.step();
      session.setProfiling(false);
      return { profile: profileEntries(session.profile(), runner.programs(), request.profile) };
    }
    const samples = [];
    let loss = NaN;
    for (let i = 0; i < (request.run as number); i++)
      samples.push(await timed(async () => void (loss = await training.step())));
    const stats = session.stats();
    return {
      samples,
      loss,
      peakBytes: peakResidentBytes(),
      arenaHighWaterBytes: stats.arenaHighWaterBytes,
      arenaBytes: stats.arenaBytes,
    };
  });
  await training.model.close();
}

void main();
