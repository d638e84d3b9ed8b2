/** When a run logs, evaluates, saves and stops, and what it leaves behind: transformers' Trainer is the reference. */
import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { createLoader } from '../../src/data';
import { openSafetensors } from '../../src/io/safetensors';
import { createSchedule } from '../../src/optim/schedules';
import { LoraConfig } from '../../src/peft/lora-config';
import { AutoModelForCausalLM } from '../../src/pretrained/auto';
import { EarlyStoppingCallback, type TrainerCallback, type TrainEvent } from '../../src/train/events';
import { JsonlReporter } from '../../src/train/reporters';
import { GOLDEN, goldenExamples } from './golden';
import { eventsOf, fullModel, runTiny, temporaryFolder, tinyTrainer } from './tiny-run';

const base = temporaryFolder('trainer');
const out = (name: string): string => join(base, name);

const steps = (events: readonly TrainEvent[], type: 'log' | 'evaluate' | 'save'): number[] =>
  eventsOf(events, type).map((e) => e.step);
const checkpoints = (dir: string): string[] =>
  readdirSync(dir)
    .filter((n) => n.startsWith('checkpoint-'))
    .sort();
const trainerState = (dir: string, step: number): Record<string, unknown> =>
  JSON.parse(readFileSync(join(dir, `checkpoint-${step}`, 'trainer_state.json'), 'utf8')) as Record<string, unknown>;

// ---- how long a run is

test.each([
  // 16 rows in micro-batches of 2, two a step: four steps an epoch.
  ['epochs', { numTrainEpochs: 2 }, 16, 8, 2],
  ['part of an epoch', { numTrainEpochs: 0.5 }, 16, 2, 0.5],
  ['one and a half', { numTrainEpochs: 1.5 }, 16, 6, 1.5],
  ['max_steps wins over epochs', { numTrainEpochs: 1, maxSteps: 6 }, 16, 6, 1.5],
  // 14 rows: 7 micro-batches, so the fourth step has only one of them.
  ['a last step of fewer micro-batches', { numTrainEpochs: 1 }, 14, 4, 1],
  // 13 rows: 7 micro-batches, the last of one row.
  ['a last micro-batch of fewer rows', { numTrainEpochs: 2 }, 13, 8, 2],
] as const)('%s', async (name, args, rows, wantSteps, wantEpoch) => {
  const events = await runTiny(out(name), { args, train: goldenExamples().slice(0, rows), test: null });
  const trained = eventsOf(events, 'step');
  expect(trained.map((e) => e.step)).toEqual(Array.from({ length: wantSteps }, (_, i) => i + 1));
  expect(trained[trained.length - 1].epoch).toBeCloseTo(wantEpoch, 12);
  const end = eventsOf(events, 'end')[0];
  expect(end.state).toMatchObject({ globalStep: wantSteps, maxSteps: wantSteps, numTrainEpochs: Math.ceil(wantEpoch) });
  expect(end.interrupted).toBe(false);
});

test('the loss of a short last step is divided by its own labels', async () => {
  // A rate of zero keeps the weights, so every epoch has the same losses and the mean over labels is the loss of all rows.
  const rows = goldenExamples().slice(0, 13);
  const events = await runTiny(out('short'), {
    args: { numTrainEpochs: 1, learningRate: 0 },
    train: rows,
    test: rows,
    loader: { samplingStrategy: 'sequential' },
  });
  const whole = createLoader(rows, { batchSize: 2, gradientAccumulationSteps: 2, samplingStrategy: 'sequential' });
  const labels = Array.from({ length: 4 }, (_, i) => whole.step(0, i).numLabels);
  const mean =
    eventsOf(events, 'step').reduce((sum, e, i) => sum + e.loss * labels[i], 0) / labels.reduce((a, b) => a + b, 0);
  const { trainer, model } = await tinyTrainer(out('short-eval'), { train: rows, test: rows });
  expect(mean).toBeCloseTo((await trainer.evaluate()).eval_loss, 5);
  await model.close();
});

// ---- what is logged

test('a log entry is the mean of its window; the last entry sums the run up', async () => {
  const events = await runTiny(out('logs'), {
    args: { maxSteps: 7, loggingSteps: 3, loggingFirstStep: true, lrSchedulerType: 'linear', warmupSteps: 2 },
    test: null,
  });
  expect(steps(events, 'log')).toEqual([1, 3, 6]);
  const trained = eventsOf(events, 'step');
  const logs = eventsOf(events, 'log');
  const mean = (from: number, to: number): number =>
    trained.slice(from, to).reduce((sum, e) => sum + e.loss, 0) / (to - from);
  [
    [0, 1],
    [1, 3],
    [3, 6],
  ].forEach(([from, to], i) => {
    const last = trained[to - 1];
    expect(logs[i].entry.loss).toBeCloseTo(mean(from, to), 12);
    expect(logs[i].entry).toMatchObject({
      step: to,
      epoch: to / 4,
      grad_norm: last.gradNorm,
      learning_rate: last.learningRate,
      num_tokens: last.numTokens,
    });
  });
  expect(Object.keys(logs[0].entry).sort()).toEqual([
    'entropy',
    'epoch',
    'grad_norm',
    'learning_rate',
    'loss',
    'mean_token_accuracy',
    'num_tokens',
    'step',
  ]);
  const { state, metrics } = eventsOf(events, 'end')[0];
  const final = state.logHistory[state.logHistory.length - 1];
  expect(Object.keys(final).sort()).toEqual([
    'epoch',
    'step',
    'total_flos',
    'train_loss',
    'train_runtime',
    'train_samples_per_second',
    'train_steps_per_second',
  ]);
  expect(final.train_loss).toBeCloseTo(mean(0, 7), 12);
  expect(metrics).toMatchObject({ train_loss: final.train_loss, epoch: 7 / 4 });
});

test('warm-up and decay are those of the schedule, as used in each step', async () => {
  const events = await runTiny(out('schedule'), {
    args: { maxSteps: 6, lrSchedulerType: 'cosine', warmupSteps: 2, learningRate: 3e-3 },
    test: null,
  });
  const schedule = createSchedule({ name: 'cosine', learningRate: 3e-3, warmupSteps: 2, totalSteps: 6 });
  expect(eventsOf(events, 'step').map((e) => e.learningRate)).toEqual([0, 1, 2, 3, 4, 5].map(schedule));
  expect(eventsOf(events, 'step')[0].learningRate).toBe(0);
  expect(eventsOf(events, 'step')[2].learningRate).toBe(3e-3);
});

// ---- when it evaluates and saves

test.each([
  [
    'every two steps, and the last',
    { maxSteps: 5, evalStrategy: 'steps', evalSteps: 2, saveStrategy: 'steps', saveSteps: 4 },
    [2, 4, 5],
    [4, 5],
  ],
  [
    'a fraction of the run',
    { maxSteps: 10, evalStrategy: 'steps', evalSteps: 0.25, saveStrategy: 'no' },
    [3, 6, 9, 10],
    [],
  ],
  ['before the first step too', { maxSteps: 2, evalStrategy: 'steps', evalSteps: 2, evalOnStart: true }, [0, 2], []],
  ['after a delay, which is inclusive', { maxSteps: 6, evalStrategy: 'steps', evalSteps: 2, evalDelay: 4 }, [4, 6], []],
  [
    'at the end of epochs',
    { numTrainEpochs: 2, evalStrategy: 'epoch', saveStrategy: 'epoch', loggingStrategy: 'epoch' },
    [4, 8],
    [4, 8],
  ],
  ['a delay in epochs', { numTrainEpochs: 3, evalStrategy: 'epoch', evalDelay: 2 }, [8, 12], []],
  [
    'at the end of an epoch that max_steps cuts short',
    { maxSteps: 6, evalStrategy: 'epoch', saveStrategy: 'epoch' },
    [4, 6],
    [4, 6],
  ],
  ['never', { maxSteps: 2 }, [], []],
] as const)('evaluates and saves %s', async (name, args, evaluated, saved) => {
  const events = await runTiny(out(`due ${name}`), { args });
  expect(steps(events, 'evaluate')).toEqual(evaluated);
  expect(steps(events, 'save')).toEqual(saved);
});

test('an evaluation measures the whole set, and says so under the names people know', async () => {
  const test = goldenExamples().slice(5, 12);
  const { trainer, model } = await tinyTrainer(out('evaluate'), { test, args: { perDeviceEvalBatchSize: 3 } });
  const before = await trainer.evaluate();
  expect(Object.keys(before).sort()).toEqual([
    'eval_entropy',
    'eval_loss',
    'eval_mean_token_accuracy',
    'eval_perplexity',
    'eval_runtime',
    'eval_samples_per_second',
    'eval_steps_per_second',
  ]);
  expect(before.eval_perplexity).toBeCloseTo(Math.exp(before.eval_loss), 6);
  expect(before.eval_samples_per_second * before.eval_runtime).toBeCloseTo(7, 6);
  expect(before.eval_steps_per_second * before.eval_runtime).toBeCloseTo(3, 6);
  // Before the run, in it and after it: the same trainer.
  const inside: number[] = [];
  for await (const event of trainer.run())
    if (event.type === 'step' && event.step === 1) inside.push((await trainer.evaluate()).eval_loss);
  expect(inside[0]).not.toBe(before.eval_loss);
  expect(Number.isFinite((await trainer.evaluate()).eval_loss)).toBe(true);
  await model.close();
});

test('without an evaluation set, evaluate says what to give', async () => {
  const { trainer, model } = await tinyTrainer(out('no-eval'), { test: null });
  await expect(trainer.evaluate()).rejects.toMatchObject({
    code: 'ERR_CONFIG',
    message: expect.stringContaining('test_split_size'),
  });
  await model.close();
});

// ---- best model, rotation, early stopping

/** Makes the n-th evaluation come out as given, by what a callback may do: look at metrics before the loop does. */
class ScriptedLoss implements TrainerCallback {
  private turn = 0;
  constructor(private readonly losses: readonly number[]) {}
  onEvaluate(_context: unknown, metrics: Record<string, number>): void {
    metrics.eval_loss = this.losses[this.turn++];
  }
}

test('save_total_limit keeps the newest and the best; the best is loaded at the end', async () => {
  const dir = out('best');
  const events = await runTiny(dir, {
    args: {
      maxSteps: 5,
      evalStrategy: 'steps',
      evalSteps: 1,
      saveStrategy: 'steps',
      saveSteps: 1,
      saveTotalLimit: 2,
      loadBestModelAtEnd: true,
    },
    callbacks: [new ScriptedLoss([5, 3, 4, 4, 4])],
  });
  expect(checkpoints(dir)).toEqual(['checkpoint-2', 'checkpoint-5']);
  expect(eventsOf(events, 'end')[0].state).toMatchObject({
    bestMetric: 3,
    bestGlobalStep: 2,
    bestModelCheckpoint: join(dir, 'checkpoint-2'),
  });
  expect(trainerState(dir, 5)).toMatchObject({
    best_metric: 3,
    best_global_step: 2,
    best_model_checkpoint: join(dir, 'checkpoint-2'),
  });
});

test('load_best_model_at_end puts back exactly the best checkpoint', async () => {
  const dir = out('best-weights');
  const { trainer, model } = await tinyTrainer(dir, {
    args: {
      maxSteps: 4,
      evalStrategy: 'steps',
      evalSteps: 1,
      saveStrategy: 'steps',
      saveSteps: 1,
      loadBestModelAtEnd: true,
    },
    callbacks: [new ScriptedLoss([5, 3, 4, 4])],
  });
  await trainer.train();
  await trainer.saveModel(join(dir, 'final'));
  const file = (name: string): Buffer => readFileSync(join(dir, name, 'adapter_model.safetensors'));
  expect(file('final').equals(file('checkpoint-2'))).toBe(true);
  expect(file('final').equals(file('checkpoint-4'))).toBe(false);
  await model.close();
});

test('save_total_limit 1 with load_best_model_at_end ends with the best alone', async () => {
  const dir = out('best-alone');
  await runTiny(dir, {
    args: {
      maxSteps: 4,
      evalStrategy: 'steps',
      evalSteps: 1,
      saveStrategy: 'steps',
      saveSteps: 1,
      saveTotalLimit: 1,
      loadBestModelAtEnd: true,
    },
    callbacks: [new ScriptedLoss([5, 3, 4, 4])],
  });
  expect(checkpoints(dir)).toEqual(['checkpoint-2']);
});

test('without a metric to go by, rotation keeps the newest', async () => {
  const dir = out('rotate');
  await runTiny(dir, { args: { maxSteps: 6, saveStrategy: 'steps', saveSteps: 2, saveTotalLimit: 2 } });
  expect(checkpoints(dir)).toEqual(['checkpoint-4', 'checkpoint-6']);
  expect(trainerState(dir, 6)).toMatchObject({ best_metric: null, best_model_checkpoint: null });
});

test('save_strategy best saves improvements only', async () => {
  const dir = out('save-best');
  const events = await runTiny(dir, {
    args: { maxSteps: 5, evalStrategy: 'steps', evalSteps: 1, saveStrategy: 'best' },
    callbacks: [new ScriptedLoss([5, 6, 3, NaN, 4])],
  });
  expect(steps(events, 'save')).toEqual([1, 3]);
});

test('another metric can say what is best, and a wrong name is refused', async () => {
  const accuracy = await runTiny(out('accuracy'), {
    args: {
      maxSteps: 3,
      evalStrategy: 'steps',
      evalSteps: 1,
      saveStrategy: 'steps',
      saveSteps: 1,
      loadBestModelAtEnd: true,
      metricForBestModel: 'mean_token_accuracy',
    },
  });
  const values = eventsOf(accuracy, 'evaluate').map((e) => e.metrics.eval_mean_token_accuracy);
  expect(eventsOf(accuracy, 'end')[0].state.bestMetric).toBe(Math.max(...values));
  await expect(
    runTiny(out('bleu'), { args: { maxSteps: 1, evalStrategy: 'steps', evalSteps: 1, metricForBestModel: 'bleu' } }),
  ).rejects.toMatchObject({
    code: 'ERR_CONFIG',
    message: expect.stringMatching(/'bleu'.*use one of loss, perplexity, mean_token_accuracy/),
  });
});

test('early stopping waits for its patience', async () => {
  const args = {
    maxSteps: 9,
    evalStrategy: 'steps',
    evalSteps: 1,
    saveStrategy: 'steps',
    saveSteps: 1,
    loadBestModelAtEnd: true,
  } as const;
  const run = async (name: string, losses: number[], callback: EarlyStoppingCallback): Promise<number> => {
    const events = await runTiny(out(name), { args, callbacks: [new ScriptedLoss(losses), callback] });
    expect(eventsOf(events, 'end')[0].interrupted).toBe(false);
    return eventsOf(events, 'step').length;
  };
  expect(await run('patience 1', [5, 4, 4.5, 1, 1, 1, 1, 1, 1], new EarlyStoppingCallback())).toBe(3);
  expect(await run('patience 2', [5, 4, 4.5, 3, 3, 3.5, 1, 1, 1], new EarlyStoppingCallback(2))).toBe(6);
  expect(await run('threshold', [5, 4, 3.95, 3.9, 1, 1, 1, 1, 1], new EarlyStoppingCallback(2, 0.2))).toBe(4);
});

// ---- callbacks

test('callbacks come in the order that transformers calls them', async () => {
  const calls: string[] = [];
  const names = [
    'onInitEnd',
    'onTrainBegin',
    'onEpochBegin',
    'onStepBegin',
    'onSubstepEnd',
    'onPreOptimizerStep',
    'onOptimizerStep',
    'onStepEnd',
    'onEpochEnd',
    'onEvaluate',
    'onSave',
    'onLog',
    'onTrainEnd',
  ] as const;
  const callback: TrainerCallback = Object.fromEntries(names.map((name) => [name, () => void calls.push(name)]));
  await runTiny(out('order'), {
    // Two steps an epoch, two micro-batches a step.
    args: { maxSteps: 3, loggingSteps: 2, evalStrategy: 'epoch', saveStrategy: 'steps', saveSteps: 2 },
    train: goldenExamples().slice(0, 8),
    callbacks: [callback],
  });
  const step = ['onStepBegin', 'onSubstepEnd', 'onPreOptimizerStep', 'onOptimizerStep', 'onStepEnd'];
  expect(calls).toEqual([
    'onInitEnd',
    'onTrainBegin',
    'onEpochBegin',
    ...step,
    ...step,
    'onLog',
    'onSave',
    'onEpochEnd',
    'onLog',
    'onEvaluate',
    'onEpochBegin',
    ...step,
    'onSave',
    'onEpochEnd',
    'onLog',
    'onEvaluate',
    'onLog',
    'onTrainEnd',
  ]);
});

test('a callback can ask for a log, an evaluation, a checkpoint and the end', async () => {
  const dir = out('control');
  const asks: TrainerCallback = {
    onStepEnd: ({ state, control }) => {
      if (state.globalStep === 2) Object.assign(control, { shouldLog: true, shouldEvaluate: true, shouldSave: true });
      if (state.globalStep === 3) control.shouldTrainingStop = true;
    },
  };
  const events = await runTiny(dir, { args: { maxSteps: 9, loggingSteps: 100 }, callbacks: [asks] });
  expect([steps(events, 'log'), steps(events, 'evaluate'), steps(events, 'save')]).toEqual([[2], [2], [2]]);
  expect(eventsOf(events, 'step')).toHaveLength(3);
});

// ---- files

test('trainer_state.json has the keys of transformers and no others', async () => {
  const dir = out('state');
  await runTiny(dir, {
    args: { maxSteps: 3, saveStrategy: 'steps', saveSteps: 2, evalStrategy: 'steps', evalSteps: 2, loggingSteps: 2 },
  });
  const state = trainerState(dir, 2);
  // TrainerState.load_from_json passes every key to a constructor that knows only these.
  expect(Object.keys(state)).toEqual([
    'best_global_step',
    'best_metric',
    'best_model_checkpoint',
    'epoch',
    'eval_steps',
    'global_step',
    'is_hyper_param_search',
    'is_local_process_zero',
    'is_world_process_zero',
    'log_history',
    'logging_steps',
    'max_steps',
    'num_input_tokens_seen',
    'num_train_epochs',
    'save_steps',
    'stateful_callbacks',
    'total_flos',
    'train_batch_size',
    'trial_name',
    'trial_params',
  ]);
  expect(state).toMatchObject({
    epoch: 0.5,
    eval_steps: 2,
    global_step: 2,
    logging_steps: 2,
    max_steps: 3,
    num_train_epochs: 1,
    save_steps: 2,
    train_batch_size: 2,
    trial_name: null,
  });
  const [log, evaluation] = state.log_history as Record<string, number>[];
  expect(log).toMatchObject({ step: 2, epoch: 0.5 });
  expect(evaluation).toMatchObject({ step: 2, epoch: 0.5 });
  expect(Object.keys(evaluation)).toEqual(
    expect.arrayContaining(['eval_loss', 'eval_runtime', 'eval_samples_per_second', 'eval_steps_per_second']),
  );
  expect(state.stateful_callbacks).toMatchObject({
    TrainerControl: { args: { should_epoch_stop: false, should_training_stop: false }, attributes: {} },
  });
  expect(readFileSync(join(dir, 'checkpoint-2/trainer_state.json'), 'utf8').endsWith('}\n')).toBe(true);
  expect(readdirSync(join(dir, 'checkpoint-2')).sort()).toEqual(
    expect.arrayContaining([
      'README.md',
      'adapter_config.json',
      'adapter_model.safetensors',
      'checksums.json',
      'optimizer.safetensors',
      'rng_state.json',
      'scheduler.json',
      'trainer_state.json',
      'training_args.json',
    ]),
  );
});

interface EventLine {
  event: string;
  step: number;
}

const eventLines = (dir: string): EventLine[] =>
  readFileSync(join(dir, 'events.jsonl'), 'utf8')
    .trimEnd()
    .split('\n')
    .map((line) => JSON.parse(line) as EventLine);

test('events.jsonl tells the run, and a new run in the same folder begins it anew', async () => {
  const dir = out('events');
  const o = {
    args: { maxSteps: 2, evalStrategy: 'steps', evalSteps: 2, evalOnStart: true, saveStrategy: 'steps', saveSteps: 2 },
  } as const;
  for (let i = 0; i < 2; i++) {
    await runTiny(dir, { ...o, callbacks: [new JsonlReporter(dir)] });
    expect(eventLines(dir).map((l) => `${l.event} ${l.step}`)).toEqual([
      'begin 0',
      'evaluate 0',
      'step 1',
      'step 2',
      'evaluate 2',
      'save 2',
      'end 2',
    ]);
  }
  const step = eventLines(dir)[2];
  expect(Object.keys(step)).toEqual([
    'event',
    'step',
    'epoch',
    'loss',
    'learning_rate',
    'grad_norm',
    'num_tokens',
    'tokens_per_second',
    'step_ms',
    'cpu_per_wall',
    'peak_bytes',
  ]);
  for (const value of Object.values(step).slice(1)) expect(Number.isFinite(value)).toBe(true);
});

// ---- stopping and going on

test('an abort saves after the step and stops; resuming ends as if nothing had happened', async () => {
  const args = { maxSteps: 6, saveStrategy: 'steps', saveSteps: 100, optim: 'adamw_8bit' } as const;
  const whole = out('uninterrupted');
  await runTiny(whole, { args, callbacks: [new JsonlReporter(whole)] });

  const dir = out('aborted');
  const controller = new AbortController();
  const { trainer, model } = await tinyTrainer(dir, { args, callbacks: [new JsonlReporter(dir)] });
  const events: TrainEvent[] = [];
  for await (const event of trainer.run({ signal: controller.signal })) {
    events.push(event);
    if (event.type === 'step' && event.step === 3) controller.abort();
  }
  await model.close();
  expect(eventsOf(events, 'step')).toHaveLength(3);
  expect(steps(events, 'save')).toEqual([3]);
  expect(eventsOf(events, 'end')[0]).toMatchObject({ interrupted: true });
  expect(readdirSync(dir).filter((n) => n.startsWith('.'))).toEqual([]);

  const resumed = await runTiny(dir, {
    args: { ...args, resumeFromCheckpoint: true },
    callbacks: [new JsonlReporter(dir)],
  });
  expect(eventsOf(resumed, 'begin')[0]).toMatchObject({ resumedFrom: join(dir, 'checkpoint-3') });
  expect(eventsOf(resumed, 'step').map((e) => e.step)).toEqual([4, 5, 6]);
  for (const name of ['optimizer.safetensors', 'adapter_model.safetensors']) {
    expect(readFileSync(join(dir, 'checkpoint-6', name)).equals(readFileSync(join(whole, 'checkpoint-6', name)))).toBe(
      true,
    );
  }
  const losses = (d: string): unknown[] =>
    eventLines(d)
      .filter((l) => l.event === 'step')
      .map((l) => (l as unknown as { loss: number }).loss);
  expect(losses(dir)).toEqual(losses(whole));
});

test('a signal that was aborted before the run trains no step and writes no checkpoint', async () => {
  const dir = out('aborted-early');
  const events = await runTiny(dir, { args: { maxSteps: 3, saveStrategy: 'steps' } }, AbortSignal.abort());
  expect(events.map((e) => e.type)).toEqual(['plan', 'begin', 'end']);
  expect(readdirSync(dir)).toEqual([]);
});

test('an abort during the last step is a finished run', async () => {
  const controller = new AbortController();
  const { trainer, model } = await tinyTrainer(out('aborted-late'), { args: { maxSteps: 2 } });
  const events: TrainEvent[] = [];
  for await (const event of trainer.run({ signal: controller.signal })) {
    events.push(event);
    if (event.type === 'step' && event.step === 2) controller.abort();
  }
  await model.close();
  expect(eventsOf(events, 'end')[0].interrupted).toBe(false);
});

test('leaving the loop early gives the folder back', async () => {
  const dir = out('left');
  const { trainer, model } = await tinyTrainer(dir, { args: { maxSteps: 5 } });
  for await (const event of trainer.run()) if (event.type === 'step') break;
  expect(existsSync(join(dir, '.lathe.lock'))).toBe(false);
  await model.close();
});

test('a run with more steps than its checkpoint goes on; a finished one ends at once', async () => {
  const dir = out('longer');
  const args = { saveStrategy: 'steps', saveSteps: 2 } as const;
  await runTiny(dir, { args: { ...args, maxSteps: 2 } });
  const longer = await runTiny(dir, {
    args: { ...args, maxSteps: 4, resumeFromCheckpoint: join(dir, 'checkpoint-2') },
  });
  expect(eventsOf(longer, 'step').map((e) => e.step)).toEqual([3, 4]);
  const again = await runTiny(dir, { args: { ...args, maxSteps: 4, resumeFromCheckpoint: true } });
  expect(again.map((e) => e.type)).toEqual(['plan', 'begin', 'end']);
});

// ---- what is trained

test('modules_to_save are trained, saved whole, and gone on from', async () => {
  const dir = out('modules');
  const model = await AutoModelForCausalLM.fromPretrained(join(GOLDEN, 'llama-tiny/llama3'), {
    dtype: 'f32',
    threads: 2,
  });
  model.addAdapter(new LoraConfig({ r: 2, targetModules: ['q_proj'], modulesToSave: ['lm_head'] }));
  const rows = goldenExamples().slice(0, 4);
  const events = await runTiny(dir, {
    model,
    train: rows,
    test: null,
    args: { maxSteps: 12, saveStrategy: 'steps', saveSteps: 12 },
  });
  const losses = eventsOf(events, 'step').map((e) => e.loss);
  expect(losses[11]).toBeLessThan(losses[0] / 2);
  const saved = (await openSafetensors(join(dir, 'checkpoint-12/adapter_model.safetensors'))).tensors;
  const key = 'base_model.model.lm_head.weight';
  expect([...saved.keys()]).toContain(key);
  const original = (await openSafetensors(join(GOLDEN, 'llama-tiny/llama3/model.safetensors'))).tensors.get(
    'lm_head.weight',
  )!;
  expect(saved.get(key)!.shape).toEqual(original.shape);
  const moments = (await openSafetensors(join(dir, 'checkpoint-12/optimizer.safetensors'))).tensors;
  expect([...moments.keys()].filter((name) => name.startsWith('lm_head'))).not.toHaveLength(0);
});

test.each(['f32', 'bf16'] as const)('full fine-tuning in %s lowers the loss on what it trains', async (dtype) => {
  const rows = goldenExamples().slice(0, 4);
  const events = await runTiny(out(`full ${dtype}`), {
    model: await fullModel(dtype),
    train: rows,
    test: rows,
    args: { maxSteps: 30, learningRate: 3e-3, evalOnStart: true, evalStrategy: 'steps', evalSteps: 30 },
  });
  const [before, after] = eventsOf(events, 'evaluate').map((e) => e.metrics.eval_loss);
  // Random rows: all there is to learn is these four by heart.
  expect(after).toBeLessThan(before / 2);
});
