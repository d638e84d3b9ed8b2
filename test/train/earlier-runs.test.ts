/** A folder that holds checkpoints or results of an earlier run. */
import { readdirSync, renameSync } from 'node:fs';
import { join } from 'node:path';
import { eventsOf, fullModel, runTiny, temporaryFolder, type TinyRun } from './tiny-run';

const base = temporaryFolder('earlier');
const checkpoints = (dir: string): string[] =>
  readdirSync(dir)
    .filter((name) => name.startsWith('checkpoint-'))
    .sort();

async function run(dir: string, args: TinyRun['args'], warn?: (message: string) => void): ReturnType<typeof runTiny> {
  return runTiny(dir, {
    model: await fullModel(),
    args: { saveStrategy: 'steps', ...args },
    warn: warn ?? (() => undefined),
  });
}

test('a new run keeps its own checkpoints and resumes from them, though others have higher numbers', async () => {
  const dir = join(base, 'again');
  await run(dir, { maxSteps: 6, saveSteps: 3 });
  const warnings: string[] = [];
  await run(dir, { maxSteps: 4, saveSteps: 1, saveTotalLimit: 2 }, (w) => warnings.push(w));
  expect(warnings).toEqual([
    expect.stringMatching(/checkpoint-6, checkpoint-3 in .*left out by resume_from_checkpoint/),
  ]);
  expect(checkpoints(dir)).toEqual(['checkpoint-3', 'checkpoint-4']);
  const resumed = await run(dir, { maxSteps: 5, saveSteps: 1, resumeFromCheckpoint: true });
  expect(eventsOf(resumed, 'begin')[0].resumedFrom).toBe(join(dir, 'checkpoint-4'));
  expect(eventsOf(resumed, 'step').map((e) => e.step)).toEqual([5]);
});

test('a run that goes back to an earlier checkpoint leaves the later ones behind', async () => {
  const dir = join(base, 'back');
  await run(dir, { maxSteps: 4, saveSteps: 1 });
  await run(dir, { maxSteps: 3, saveSteps: 1, resumeFromCheckpoint: join(dir, 'checkpoint-2') });
  expect(checkpoints(dir)).toEqual(['checkpoint-1', 'checkpoint-2', 'checkpoint-3', 'checkpoint-4']);
  const resumed = await run(dir, { maxSteps: 4, saveSteps: 1, resumeFromCheckpoint: true });
  expect(eventsOf(resumed, 'begin')[0].resumedFrom).toBe(join(dir, 'checkpoint-3'));
});

test('a resumed run says which settings are others', async () => {
  const dir = join(base, 'settings');
  await run(dir, { maxSteps: 2, saveSteps: 2 });
  const warnings: string[] = [];
  await run(dir, { maxSteps: 4, saveSteps: 1, resumeFromCheckpoint: true }, (w) => warnings.push(w));
  expect(warnings).toEqual([]);
  await run(dir, { maxSteps: 5, saveSteps: 1, resumeFromCheckpoint: true, learningRate: 1e-3, weightDecay: 0.1 }, (w) =>
    warnings.push(w),
  );
  expect(warnings).toEqual([
    expect.stringMatching(
      /other settings than .*checkpoint-4 was made with: learning_rate 0.01 -> 0.001, weight_decay 0 -> 0.1$/,
    ),
  ]);
});

test('the best checkpoint is found where the folder went', async () => {
  const dir = join(base, 'best');
  const args = {
    evalStrategy: 'steps',
    evalSteps: 1,
    saveSteps: 1,
    loadBestModelAtEnd: true,
    learningRate: 0,
  } as const;
  // With a rate of zero the first evaluation stays the best.
  await run(dir, { ...args, maxSteps: 2 });
  const moved = join(base, 'moved');
  renameSync(dir, moved);
  const end = eventsOf(await run(moved, { ...args, maxSteps: 3, resumeFromCheckpoint: true }), 'end')[0];
  expect(end.state).toMatchObject({ bestGlobalStep: 1, bestModelCheckpoint: join(moved, 'checkpoint-1') });
});

test('a metric that no evaluation measures is refused before the first step', async () => {
  const events: string[] = [];
  const dir = join(base, 'metric');
  await expect(
    runTiny(dir, {
      model: await fullModel(),
      args: { maxSteps: 2, evalStrategy: 'steps', metricForBestModel: 'bleu' },
      callbacks: [{ onStepEnd: () => void events.push('step') }],
    }),
  ).rejects.toMatchObject({
    code: 'ERR_CONFIG',
    message: expect.stringMatching(
      /'bleu', which an evaluation does not measure: use one of loss, .*mean_token_accuracy/,
    ) as string,
  });
  expect(events).toEqual([]);
});
