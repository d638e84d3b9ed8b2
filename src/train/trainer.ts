/**
 * Trainer: the loop. It owns order, bookkeeping and checkpoints; the mathematics is in programs, the data in loaders.
 *
 * `run()` is an async generator of events, so a caller sees every step and may stop between any two; `train()` drains
 * it. The step math happens on the engine's thread: the event loop stays free. Semantics of intervals, epochs, logged
 * values and best-model tracking are transformers' Trainer; the loss is the sum over the labels of the whole step
 * divided by their number, so it does not depend on how a step is split.
 */
import { crc32 } from 'node:zlib';
import { LatheError } from '../errors';
import { assertFits } from '../compile/plan';
import type { Loader } from '../data/loader';
import type { StepBatches, StepSource, StepSourceState } from '../data/step-source';
import type { DeviceSpec } from '../graph/device';
import { replaceFileSets } from '../io/file-set';
import { makeFolder } from '../io/io-error';
import { ADAPTER_FILES, MODEL_FILES } from '../io/model-files';
import { acquireOutputLock } from '../io/output-lock';
import { createSchedule, warmupStepCount, type Schedule, type ScheduleName } from '../optim/schedules';
import { currentWorld, type World } from '../runtime/world';
import type { PreTrainedModel } from '../pretrained/model';
import { TOKENIZER_FILES } from '../tokenizers/tokenizer-files';
import { configToJson, type ResolvedConfig } from './arguments';
import { closeWindow, finalMetrics } from './bookkeeping';
import { checkpointPath, findCheckpoint, keepOnly, rotateCheckpoints, type LoadedCheckpoint } from './checkpoint';
import type { CallbackContext, HookName, TrainerCallback, TrainerControl, TrainEvent } from './events';
import { evaluateLoader } from './evaluation';
import { finiteSums, requireLabels } from './finite';
import { dueAfterEpoch, dueAfterStep, requireMeasured, runLength, trackBest, type Due } from './flow';
import type { Loss } from './losses/loss';
import { Ranks } from './ranks';
import { bestCheckpoint, checkpointToResume, leaveBehind, noteChangedSettings, saveRun } from './run-checkpoint';
import { initialState, type LogEntry, type TrainerState } from './state';
import { planTraining, trainingDevice, type PlannedRun } from './training-plan';
import { trainStep } from './training-step';

export interface TrainerOptions {
  readonly model: PreTrainedModel;
  readonly args: ResolvedConfig;
  readonly loss: Loss;
  readonly trainLoader: StepSource;
  readonly evalLoader?: Loader | null;
  readonly callbacks?: readonly TrainerCallback[];
  /** Saved beside the model. */
  readonly tokenizer?: { savePretrained(dir: string): void | Promise<void> } | null;
  readonly warn?: (message: string) => void;
  /** The ranks that train together; the loaders must be made for them. Default: the job this process was started in. */
  readonly world?: World;
}

type EvaluateEvent = Extract<TrainEvent, { type: 'evaluate' }>;

export interface RunOptions {
  /** Aborting saves a checkpoint after the current step and ends the run. */
  signal?: AbortSignal;
}

export class Trainer {
  readonly args: ResolvedConfig;
  readonly device: DeviceSpec;
  readonly maxSteps: number;
  state: TrainerState;
  private readonly control: TrainerControl = {
    shouldTrainingStop: false,
    shouldEvaluate: false,
    shouldSave: false,
    shouldLog: false,
  };
  private readonly callbacks: TrainerCallback[];
  private planned: PlannedRun | null = null;
  private session: Promise<unknown> | null = null;
  /** Step of the newest checkpoint of this run. */
  private savedStep = -1;
  private readonly ranks: Ranks;
  private signal: AbortSignal | null = null;
  /** Set by the step after which all ranks stop, because one of them was told to. */
  private stopAgreed = false;

  constructor(protected readonly options: TrainerOptions) {
    const { args, trainLoader } = options;
    this.args = args;
    this.ranks = new Ranks(options.world ?? currentWorld(), () => options.model.ready());
    this.device = trainingDevice(options.model, args, this.ranks.size);
    const { maxSteps, epochs } = runLength(args, trainLoader.stepsPerEpoch);
    this.maxSteps = maxSteps;
    this.state = initialState(maxSteps, epochs);
    this.callbacks = [...(options.callbacks ?? [])];
  }

  addCallback(callback: TrainerCallback): void {
    this.callbacks.push(callback);
  }

  /** Compiles the programs under the fastest recomputation policy that fits; the first answer stands. */
  plan(): PlannedRun {
    this.planned ??= planTraining(this.options, this.device);
    return this.planned;
  }

  // ---- run

  /** Trains to the end; resolves to the final metrics (`train_runtime` in seconds). @throws LatheError as `run` */
  async train(o: RunOptions = {}): Promise<LogEntry> {
    let metrics: LogEntry = {};
    for await (const event of this.run(o)) if (event.type === 'end') metrics = event.metrics;
    return metrics;
  }

  /**
   * The run as events. Breaking out of the loop stops it without a checkpoint.
   * @throws LatheError ERR_PLAN_MEMORY before anything is allocated; ERR_CHECKPOINT (nothing to resume, another run in the folder, a folder for something else, the
   *   disk); ERR_NONFINITE naming step, rows and node
   */
  async *run(o: RunOptions = {}): AsyncGenerator<TrainEvent, void, void> {
    makeFolder(this.args.outputDir);
    const lock = this.ranks.isFirst ? await acquireOutputLock(this.args.outputDir) : null;
    this.signal = o.signal ?? null;
    for (const note of this.options.model.module.notes ?? []) this.warn(note);
    try {
      yield* this.locked();
    } finally {
      await this.options.trainLoader.close?.();
      await lock?.release();
    }
  }

  private async *locked(): AsyncGenerator<TrainEvent, void, void> {
    // Now rather than after hours of training.
    this.savedFiles().check(this.args.outputDir);
    await this.hook('onInitEnd');
    const resume = await checkpointToResume(this.args, this.warn);
    const { plan, policy, remedies, limitBytes, runner } = this.plan();
    // Now rather than at the first evaluation, with steps behind it that nobody has saved.
    if (this.options.evalLoader && this.args.metricForBestModel !== null)
      requireMeasured(this.args, runner.metricNames());
    yield await this.emit({ type: 'plan', plan, remedies, policy });
    assertFits(plan, limitBytes, remedies);
    await this.start();
    await this.ranks.expectSame({
      'the checkpoint to resume from': resume?.state.globalStep ?? 0,
      max_steps: this.maxSteps,
      'the configuration (its checksum)': checksum(configToJson(this.args)),
      'the data (its checksum)': checksum(await this.loaderState()),
    });
    await runner.takeOver();
    if (resume) await this.resume(resume);
    // This trainer's own checkpoints, when it goes on after an interruption, are not another run's.
    if (this.ranks.isFirst && (resume || this.state.globalStep === 0)) leaveBehind(this.args, resume, this.warn);
    this.stopAgreed = false;
    this.control.shouldTrainingStop = false;
    await this.hook('onTrainBegin');
    yield await this.emit({ type: 'begin', state: this.state, resumedFrom: resume?.path ?? null });
    const started = performance.now();
    const stepsBefore = this.state.globalStep;
    if (stepsBefore >= this.maxSteps)
      this.warn(
        `nothing is trained: the run is at step ${stepsBefore} of ${this.maxSteps}; raise max_steps or num_train_epochs to go on, or make a new trainer`,
      );
    if (this.args.evalOnStart && this.options.evalLoader && stepsBefore === 0) yield await this.evaluateEvent();
    yield* this.loop(plan.peakBytes);
    const interrupted = this.aborted && this.state.globalStep < this.maxSteps && !this.control.shouldTrainingStop;
    const rowsPerStep = this.args.perDeviceTrainBatchSize * this.args.gradientAccumulationSteps * this.ranks.size;
    const metrics = finalMetrics(this.state, stepsBefore, rowsPerStep, (performance.now() - started) / 1000);
    if (!interrupted) await this.finish(metrics);
    await this.hook('onTrainEnd');
    yield await this.emit({ type: 'end', state: this.state, metrics, interrupted });
  }

  /** Steps until the last one, a callback's stop or an abort; an abort leaves a checkpoint of where it stopped. */
  private async *loop(peakBytes: number): AsyncGenerator<TrainEvent, void, void> {
    const { state, control } = this;
    const schedule = this.schedule();
    const stopsNow = (): boolean => this.aborted && state.globalStep < this.maxSteps && !control.shouldTrainingStop;
    const first = state.globalStep;
    let epochIsOpen = false;
    while (state.globalStep < this.maxSteps && !control.shouldTrainingStop && !this.aborted) {
      const step = await this.nextStep(schedule);
      Object.assign(control, { shouldLog: false, shouldEvaluate: false, shouldSave: false });
      if (!epochIsOpen) await this.hook('onEpochBegin');
      epochIsOpen = true;
      yield await this.emit(await this.step(step, schedule, peakBytes));
      yield* this.act('onStepEnd', dueAfterStep(this.args, state), schedule);
      const epochEnds = step.endsEpoch || state.globalStep >= this.maxSteps || control.shouldTrainingStop;
      if (!epochEnds) continue;
      epochIsOpen = false;
      Object.assign(control, { shouldLog: false, shouldEvaluate: false, shouldSave: false });
      yield* this.act('onEpochEnd', dueAfterEpoch(this.args, state), schedule);
    }
    if (stopsNow() && state.globalStep > first && this.savedStep !== state.globalStep) yield await this.save(schedule);
  }

  /** Ranks stop together, after the step in which one of them was told to. */
  private get aborted(): boolean {
    return this.ranks.size === 1 ? (this.signal?.aborted ?? false) : this.stopAgreed;
  }

  /** The data of the next step. Where it cannot be read the run ends, but what was trained since the last checkpoint is saved first. */
  private async nextStep(schedule: Schedule): Promise<StepBatches> {
    let step: StepBatches | null = null;
    let cause: unknown = null;
    try {
      const next = await this.options.trainLoader.next();
      requireLabels(next, this.state.globalStep + 1, this.ranks.size);
      step = next;
    } catch (error) {
      cause = error;
    }
    const [failed] = await this.ranks.any([step === null]);
    if (step && !failed) return step;
    const { state, args } = this;
    if (args.saveStrategy !== 'no' && state.globalStep > 0 && this.savedStep !== state.globalStep)
      await this.save(schedule);
    if (step === null) throw cause;
    throw new LatheError('ERR_DATA', `another rank could not read the data of step ${state.globalStep + 1}`, {
      remedy: 'see its message',
    });
  }

  /** Of all ranks: a loader's own state may hold only what this one reads. */
  private async loaderState(): Promise<StepSourceState> {
    const { trainLoader } = this.options;
    return trainLoader.jobState?.() ?? trainLoader.state();
  }

  /** Loads the weights and allocates training state, once. */
  private async start(): Promise<void> {
    const planned = this.plan();
    this.session ??= planned.runner.start();
    await this.session;
  }

  /** Writes the final entry of the log and takes the best weights back. */
  private async finish(metrics: LogEntry): Promise<void> {
    const { args, state } = this;
    state.logHistory.push({ ...metrics, step: state.globalStep });
    await this.each((c, context) => c.onLog?.(context, metrics));
    const best = state.bestModelCheckpoint;
    if (args.loadBestModelAtEnd && best) {
      const { runner } = this.plan();
      const checkpoint = await findCheckpoint(best, args.outputDir, this.warn);
      await checkpoint!.restore(
        await this.options.model.ready(),
        runner.parameters.map((p) => p.slot),
      );
    }
    // While the run went on, the newest was kept beside the best, to resume from.
    if (best && args.saveTotalLimit === 1 && this.ranks.isFirst) keepOnly(args.outputDir, best);
  }

  private readonly warn = (message: string): void =>
    (this.options.warn ?? ((m: string) => process.emitWarning(m)))(message);

  private schedule(): Schedule {
    const { args } = this;
    return createSchedule({
      name: args.lrSchedulerType as ScheduleName,
      learningRate: args.learningRate,
      warmupSteps: warmupStepCount(args.warmupSteps, this.maxSteps),
      totalSteps: this.maxSteps,
      kwargs: args.lrSchedulerKwargs,
    });
  }

  private async step(batches: StepBatches, schedule: Schedule, peakBytes: number): Promise<TrainEvent> {
    const { state, ranks, signal } = this;
    const { stopAgreed, ...step } = await trainStep(batches, schedule(state.globalStep), {
      runner: this.plan().runner,
      state,
      ranks,
      outputDir: this.args.outputDir,
      stepsPerEpoch: this.options.trainLoader.stepsPerEpoch,
      isAborted: () => signal?.aborted ?? false,
      hook: (name) => this.hook(name),
    });
    this.stopAgreed = stopAgreed;
    this.lastStep = step;
    return { type: 'step', ...step, peakBytes };
  }

  private lastStep = { gradNorm: 0, learningRate: 0 };

  /** The hook, then what is due or what callbacks asked for: log, evaluate, save. */
  private async *act(
    hook: 'onStepEnd' | 'onEpochEnd',
    due: Due,
    schedule: Schedule,
  ): AsyncGenerator<TrainEvent, void, void> {
    const { args, control } = this;
    control.shouldLog ||= due.log;
    control.shouldEvaluate ||= due.evaluate;
    control.shouldSave ||= due.save;
    await this.hook(hook);
    // A callback may decide by what only its own rank sees, a clock for instance.
    const [log, evaluate, save, stop] = await this.ranks.any([
      control.shouldLog,
      control.shouldEvaluate,
      control.shouldSave,
      control.shouldTrainingStop,
    ]);
    Object.assign(control, { shouldLog: log, shouldEvaluate: evaluate, shouldSave: save, shouldTrainingStop: stop });
    if (control.shouldLog && this.state.window.steps > 0) yield await this.log();
    let improved = false;
    if (control.shouldEvaluate && this.options.evalLoader) {
      const event = await this.evaluateEvent();
      improved = trackBest(args, this.state, event.metrics);
      yield event;
    }
    if (args.saveStrategy === 'best' && improved) control.shouldSave = true;
    // A run that a callback ends early can go on from where it ended.
    if (control.shouldTrainingStop && args.saveStrategy === 'steps') control.shouldSave = true;
    if (control.shouldSave && (improved || this.savedStep !== this.state.globalStep)) yield await this.save(schedule);
  }

  // ---- logging and evaluation

  private async log(): Promise<TrainEvent> {
    const { state } = this;
    const entry = closeWindow(state, this.lastStep);
    await this.each((c, context) => c.onLog?.(context, entry));
    return this.emit({ type: 'log', step: state.globalStep, entry });
  }

  private async evaluateEvent(): Promise<EvaluateEvent> {
    const metrics = { ...(await this.evaluate()), epoch: this.state.epoch };
    this.state.logHistory.push({ ...metrics, step: this.state.globalStep });
    await this.each((c, context) => c.onLog?.(context, metrics));
    await this.each((c, context) => c.onEvaluate?.(context, metrics));
    return this.emit({ type: 'evaluate', step: this.state.globalStep, metrics });
  }

  /** Loss, perplexity and metrics over the evaluation set, before, during or after a run. */
  async evaluate(): Promise<LogEntry> {
    const loader = this.options.evalLoader;
    if (!loader)
      throw new LatheError('ERR_CONFIG', 'no evaluation set', { remedy: 'give an eval dataset or test_split_size' });
    await this.start();
    const { runner } = this.plan();
    const what = `the evaluation loss is not finite after step ${this.state.globalStep}`;
    return evaluateLoader(
      loader,
      (batch) => finiteSums(what, batch, this.args.outputDir, (check) => runner.evaluate(batch, check)),
      this.ranks,
      runner.metricNames(),
    );
  }

  // ---- checkpoints

  private async save(schedule: Schedule): Promise<TrainEvent> {
    const { args, state } = this;
    const { runner } = this.plan();
    const path = checkpointPath(args.outputDir, state.globalStep);
    if (state.bestGlobalStep === state.globalStep) state.bestModelCheckpoint = path;
    state.loader = await this.loaderState();
    await saveRun({
      args,
      state,
      runner,
      ranks: this.ranks,
      learningRate: schedule(state.globalStep),
      saveModel: (dir) => this.saveModel(dir),
    });
    this.savedStep = state.globalStep;
    if (this.ranks.isFirst) rotateCheckpoints(args.outputDir, args.saveTotalLimit, state.bestModelCheckpoint);
    await this.each((c, context) => c.onSave?.(context, path));
    return this.emit({ type: 'save', step: state.globalStep, path });
  }

  private savedFiles(): typeof MODEL_FILES {
    return this.options.model.peft ? ADAPTER_FILES : MODEL_FILES;
  }

  /**
   * Writes the trained model (adapter or weights) and the tokenizer into a folder; of several ranks, the first does.
   * @throws LatheError ERR_CHECKPOINT for the disk, and for a folder in which something else would be opened instead
   */
  async saveModel(dir = this.args.outputDir): Promise<void> {
    if (!this.ranks.isFirst) return;
    const { model, tokenizer } = this.options;
    await replaceFileSets(dir, [TOKENIZER_FILES, this.savedFiles()], async (staging) => {
      await model.savePretrained(staging);
      await tokenizer?.savePretrained(staging);
    });
  }

  private async resume(checkpoint: LoadedCheckpoint): Promise<void> {
    const { runner } = this.plan();
    const session = await this.options.model.ready();
    await checkpoint.restore(session, [...runner.parameters.map((p) => p.slot), ...runner.optimizerSlots()]);
    noteChangedSettings(checkpoint, this.args, this.warn);
    const { maxSteps, numTrainEpochs } = this.state;
    this.state = {
      ...checkpoint.state,
      maxSteps,
      numTrainEpochs,
      bestModelCheckpoint: bestCheckpoint(checkpoint, this.warn),
    };
    this.savedStep = this.state.globalStep;
    const { loader, epoch } = this.state;
    if (this.args.ignoreDataSkip) this.options.trainLoader.seek({ epoch: Math.floor(epoch), stepInEpoch: 0 });
    else if (loader) this.options.trainLoader.seek(loader);
  }

  // ---- callbacks

  private context(): CallbackContext {
    return { state: this.state, control: this.control, outputDir: this.args.outputDir, args: this.args };
  }

  private async each(
    call: (callback: TrainerCallback, context: CallbackContext) => void | Promise<void> | undefined,
  ): Promise<void> {
    for (const callback of this.callbacks) await call(callback, this.context());
  }

  private async hook(name: HookName): Promise<void> {
    await this.each((callback, context) => callback[name]?.(context));
  }

  private async emit<E extends TrainEvent>(event: E): Promise<E> {
    await this.each((callback, context) => callback.onEvent?.(context, event));
    return event;
  }
}

/** Of what JSON says of a value. */
function checksum(value: unknown): number {
  return crc32(JSON.stringify(value));
}
