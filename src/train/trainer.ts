/**
 * Trainer: the loop. It owns order, bookkeeping and checkpoints; the mathematics is in programs, the data in loaders.
 *
 * `run()` is an async generator of events, so a caller sees every step and may stop between any two; `train()` drains
 * it. The step math happens on the engine's thread: the event loop stays free. Semantics of intervals, epochs, logged
 * values and best-model tracking are transformers' Trainer; the loss is the sum over the labels of the whole step
 * divided by their number, so it does not depend on how a step is split.
 */
import { mkdirSync } from 'node:fs';
import { join } from 'node:path';
import { LatheError, hasCode } from '../errors';
import type { CheckpointPolicy } from '../autodiff/checkpoint';
import { defaultThreads, deviceSpec } from '../compile/devices';
import { assertFits, memoryPlan, type MemoryPlan, type Remedy } from '../compile/plan';
import type { Loader, StepBatches } from '../data/loader';
import type { Batch } from '../data/types';
import type { DeviceSpec } from '../graph/device';
import { acquireOutputLock } from '../io/output-lock';
import { createSchedule, warmupStepCount, type Schedule, type ScheduleName } from '../optim/schedules';
import type { Parameter } from '../nn/module';
import { saveAdapter } from '../peft/save';
import { saveModel } from '../pretrained/save';
import type { PreTrainedModel } from '../pretrained/model';
import { hasNative, loadNative } from '../runtime/binding';
import { configToJson, optimizerKind, type ResolvedConfig } from './arguments';
import { findCheckpoint, keepOnly, listCheckpoints, rotateCheckpoints, saveCheckpoint, type LoadedCheckpoint } from './checkpoint';
import type { CallbackContext, HookName, TrainerCallback, TrainerControl, TrainEvent } from './events';
import { dueAfterEpoch, dueAfterStep, trackBest, type Due } from './flow';
import type { Loss } from './losses/loss';
import { StepRunner, type BatchSums } from './runner';
import { emptyWindow, initialState, ownStateToJson, stateToJson, type LogEntry, type TrainerState } from './state';

export interface TrainerOptions {
  readonly model: PreTrainedModel;
  readonly args: ResolvedConfig;
  readonly loss: Loss;
  readonly trainLoader: Loader;
  readonly evalLoader?: Loader | null;
  readonly callbacks?: readonly TrainerCallback[];
  /** Saved beside the model. */
  readonly tokenizer?: { savePretrained(dir: string): void | Promise<void> } | null;
  readonly warn?: (message: string) => void;
}

export interface TrainerPlan {
  readonly plan: MemoryPlan;
  readonly policy: CheckpointPolicy;
  /** What would lower the peak; empty when the plan fits. */
  readonly remedies: readonly Remedy[];
}

type EvaluateEvent = Extract<TrainEvent, { type: 'evaluate' }>;

export interface RunOptions {
  /** Aborting saves a checkpoint after the current step and ends the run. */
  signal?: AbortSignal;
}

/** transformers' rule: no decay on biases and normalisation weights. */
export function hasWeightDecay(name: string): boolean {
  return !/bias|layernorm|rmsnorm|(^|\.)norm($|\.)|_norm|(^|\.)ln_\w+/i.test(name);
}

export class Trainer {
  readonly args: ResolvedConfig;
  readonly device: DeviceSpec;
  readonly maxSteps: number;
  state: TrainerState;
  private readonly control: TrainerControl = { shouldTrainingStop: false, shouldEvaluate: false, shouldSave: false, shouldLog: false };
  private readonly callbacks: TrainerCallback[];
  private planned: (TrainerPlan & { runner: StepRunner; limitBytes: number }) | null = null;
  private session: Promise<unknown> | null = null;
  /** Step of the newest checkpoint of this run. */
  private savedStep = -1;

  constructor(protected readonly options: TrainerOptions) {
    const { args, trainLoader } = options;
    this.args = args;
    this.device = deviceSpec(args.device === 'auto' ? 'cpu' : args.device, args.threads ?? defaultThreads());
    this.maxSteps = args.maxSteps > 0 ? args.maxSteps : Math.ceil(args.numTrainEpochs * trainLoader.stepsPerEpoch);
    this.state = initialState(this.maxSteps, Math.ceil(this.maxSteps / trainLoader.stepsPerEpoch));
    this.callbacks = [...(options.callbacks ?? [])];
  }

  addCallback(callback: TrainerCallback): void {
    this.callbacks.push(callback);
  }

  // ---- plan

  /** Bytes the run may use: what is free, and what this process's sessions hold already (weights loaded before the run). */
  get limitBytes(): number {
    if (this.args.memoryLimit !== null) return this.args.memoryLimit;
    if (this.device.kind !== 'cpu') return this.device.memoryBytes;
    const held = hasNative() ? loadNative().memory().usedBytes : 0;
    return Math.min(process.availableMemory() + held, this.device.memoryBytes);
  }

  private policies(): CheckpointPolicy[] {
    if (!this.args.gradientCheckpointing) return ['none'];
    return this.args.planPolicy === 'auto' ? ['none', 'smart', 'block'] : [this.args.planPolicy];
  }

  /** Compiles the programs under the fastest recomputation policy that fits; the first answer stands. */
  plan(): TrainerPlan & { runner: StepRunner; limitBytes: number } {
    if (this.planned) return this.planned;
    const limitBytes = this.limitBytes;
    for (const policy of this.policies()) {
      const runner = this.makeRunner(policy);
      const plan = memoryPlan(runner.allSlots(), runner.programs(), this.device, limitBytes);
      this.planned = { plan, policy, runner, limitBytes, remedies: plan.fits ? [] : this.remedies(plan, limitBytes) };
      if (plan.fits) break;
    }
    return this.planned!;
  }

  private remedies(plan: MemoryPlan, limitBytes: number): Remedy[] {
    if (this.args.gradientCheckpointing) return [];
    const runner = this.makeRunner('block');
    const other = memoryPlan(runner.allSlots(), runner.programs(), this.device, limitBytes);
    return [{ change: 'gradient_checkpointing: true', peakBytes: other.peakBytes, savesBytes: plan.peakBytes - other.peakBytes }];
  }

  private makeRunner(checkpoint: CheckpointPolicy): StepRunner {
    const { args, options } = this;
    return new StepRunner(options.model, {
      loss: options.loss,
      optimizer: {
        kind: optimizerKind(args.optim),
        beta1: args.adamBeta1,
        beta2: args.adamBeta2,
        eps: args.adamEpsilon,
        maxGradNorm: args.maxGradNorm ?? 0,
      },
      weightDecayOf: (p: Parameter) => (hasWeightDecay(p.name) ? args.weightDecay : 0),
      trainShapes: options.trainLoader.summary.shapes,
      evalShapes: options.evalLoader?.summary.shapes ?? [],
      checkpoint,
      device: this.device,
      seed: args.seed,
      checkFinite: args.debug.includes('underflow_overflow'),
    });
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
   * @throws LatheError ERR_PLAN_MEMORY before anything is allocated; ERR_CHECKPOINT (nothing to resume, another run in the folder, the
   *   disk); ERR_NONFINITE naming step, rows and node
   */
  async *run(o: RunOptions = {}): AsyncGenerator<TrainEvent, void, void> {
    mkdirSync(this.args.outputDir, { recursive: true });
    const lock = await acquireOutputLock(this.args.outputDir);
    for (const note of this.options.model.module.notes ?? []) this.warn(note);
    try {
      yield* this.locked(o.signal ?? null);
    } finally {
      await lock.release();
    }
  }

  private async *locked(signal: AbortSignal | null): AsyncGenerator<TrainEvent, void, void> {
    await this.hook('onInitEnd');
    const resume = await this.findResume();
    const { plan, policy, remedies, limitBytes } = this.plan();
    yield await this.emit({ type: 'plan', plan, remedies, policy });
    assertFits(plan, limitBytes, remedies);
    await this.start();
    if (resume) await this.resume(resume);
    this.control.shouldTrainingStop = false;
    await this.hook('onTrainBegin');
    yield await this.emit({ type: 'begin', state: this.state, resumedFrom: resume?.path ?? null });
    const started = performance.now();
    const stepsBefore = this.state.globalStep;
    if (this.args.evalOnStart && this.options.evalLoader && stepsBefore === 0) yield await this.evaluateEvent();
    yield* this.loop(signal, plan.peakBytes);
    const interrupted = (signal?.aborted ?? false) && this.state.globalStep < this.maxSteps && !this.control.shouldTrainingStop;
    const metrics = this.finalMetrics(started, stepsBefore);
    if (!interrupted) await this.finish(metrics);
    await this.hook('onTrainEnd');
    yield await this.emit({ type: 'end', state: this.state, metrics, interrupted });
  }

  /** Steps until the last one, a callback's stop or an abort; an abort leaves a checkpoint of where it stopped. */
  private async *loop(signal: AbortSignal | null, peakBytes: number): AsyncGenerator<TrainEvent, void, void> {
    const { trainLoader } = this.options;
    const { state, control } = this;
    const schedule = this.schedule();
    const stopsNow = (): boolean => (signal?.aborted ?? false) && state.globalStep < this.maxSteps && !control.shouldTrainingStop;
    const first = state.globalStep;
    let epochIsOpen = false;
    while (state.globalStep < this.maxSteps && !control.shouldTrainingStop && !signal?.aborted) {
      const step = trainLoader.next();
      Object.assign(control, { shouldLog: false, shouldEvaluate: false, shouldSave: false });
      if (!epochIsOpen) await this.hook('onEpochBegin');
      epochIsOpen = true;
      yield await this.emit(await this.step(step, schedule, peakBytes));
      yield* this.act('onStepEnd', dueAfterStep(this.args, state), schedule);
      const epochEnds = step.stepInEpoch === trainLoader.stepsPerEpoch - 1 || state.globalStep >= this.maxSteps || control.shouldTrainingStop;
      if (!epochEnds) continue;
      epochIsOpen = false;
      Object.assign(control, { shouldLog: false, shouldEvaluate: false, shouldSave: false });
      yield* this.act('onEpochEnd', dueAfterEpoch(this.args, state), schedule);
    }
    if (stopsNow() && state.globalStep > first && this.savedStep !== state.globalStep) yield await this.save(schedule);
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
      await checkpoint!.restore(await this.options.model.ready(), runner.parameters.map((p) => p.slot));
    }
    // While the run went on, the newest was kept beside the best, to resume from.
    if (best && args.saveTotalLimit === 1) keepOnly(args.outputDir, best);
  }

  private readonly warn = (message: string): void => (this.options.warn ?? ((m: string) => process.emitWarning(m)))(message);

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

  /** One optimizer step: its micro-batches, then the update. */
  private async step(batches: StepBatches, schedule: Schedule, peakBytes: number): Promise<TrainEvent> {
    const { state } = this;
    const { runner } = this.plan();
    const number = state.globalStep + 1;
    await this.hook('onStepBegin');
    const begun = performance.now();
    const cpu = process.cpuUsage();
    let lossSum = 0;
    let tokens = 0;
    const { window } = state;
    for (const [i, batch] of batches.microBatches.entries()) {
      const sums = await this.micro(runner, batches, number, i);
      lossSum += sums.lossSum;
      tokens += batch.numTokens;
      addMetrics(window.metricSums, sums);
      state.totalFlos += runner.microFlops(batch.tokens);
      if (i < batches.microBatches.length - 1) await this.hook('onSubstepEnd');
    }
    const learningRate = schedule(state.globalStep);
    await this.hook('onPreOptimizerStep');
    const { gradNorm } = await runner.update(learningRate, number);
    if (!Number.isFinite(gradNorm)) {
      throw new LatheError('ERR_NONFINITE', `the gradient norm is ${gradNorm} at step ${number}, though the loss is finite`, {
        at: `dataset ${formatRows(batches.microBatches.flatMap((b) => b.rows))}`,
        remedy: `${this.keptCheckpoint()}; lower learning_rate, or set debug: underflow_overflow to name the first value that is not finite`,
      });
    }
    await this.hook('onOptimizerStep');
    const loss = lossSum / batches.numLabels;
    state.globalStep = number;
    state.epoch = batches.epoch + (batches.stepInEpoch + 1) / this.options.trainLoader.stepsPerEpoch;
    state.numTokens += tokens;
    state.totalLoss += loss;
    window.steps++;
    window.lossSum += loss;
    window.labels += batches.numLabels;
    this.lastStep = { gradNorm, learningRate };
    const stepMs = performance.now() - begun;
    const used = process.cpuUsage(cpu);
    return {
      type: 'step', step: number, epoch: state.epoch, loss, gradNorm, learningRate, numTokens: state.numTokens,
      tokensPerSecond: (1000 * tokens) / stepMs, stepMs, cpuPerWall: (used.user + used.system) / 1000 / stepMs, peakBytes,
    };
  }

  private lastStep = { gradNorm: 0, learningRate: 0 };

  private micro(runner: StepRunner, batches: StepBatches, step: number, index: number): Promise<BatchSums> {
    const batch = batches.microBatches[index];
    const what = `the loss is not finite at step ${step}, micro-batch ${index + 1} of ${batches.microBatches.length}`;
    return this.finite(what, batch, (check) => runner.micro(batch, batches.numLabels, step, index, check));
  }

  private evaluateBatch(runner: StepRunner, batch: Batch): Promise<BatchSums> {
    return this.finite(`the evaluation loss is not finite after step ${this.state.globalStep}`, batch, (check) => runner.evaluate(batch, check));
  }

  /** Runs a batch; one whose loss is not finite runs again with every value checked, so that the first bad one is named. */
  private async finite(what: string, batch: Batch, run: (checkFinite: boolean) => Promise<BatchSums>): Promise<BatchSums> {
    let node = '';
    try {
      const sums = await run(false);
      if (Number.isFinite(sums.lossSum)) return sums;
      await run(true);
    } catch (error) {
      if (!hasCode(error, 'ERR_NONFINITE')) throw error;
      node = (error as Error).message;
    }
    throw this.nonFinite(what, batch, node);
  }

  private nonFinite(what: string, batch: Batch, node: string): LatheError {
    return new LatheError('ERR_NONFINITE', `${what}${node ? `: ${node}` : ''}`, {
      at: `dataset ${formatRows(batch.rows)}`,
      remedy: `${this.keptCheckpoint()}; look at these rows, or lower learning_rate`,
    });
  }

  private keptCheckpoint(): string {
    const last = listCheckpoints(this.args.outputDir)[0];
    return last ? `nothing was saved since ${last.path}, which is intact` : 'no checkpoint had been written yet';
  }

  /** The hook, then what is due or what callbacks asked for: log, evaluate, save. */
  private async *act(hook: 'onStepEnd' | 'onEpochEnd', due: Due, schedule: Schedule): AsyncGenerator<TrainEvent, void, void> {
    const { args, control } = this;
    control.shouldLog ||= due.log;
    control.shouldEvaluate ||= due.evaluate;
    control.shouldSave ||= due.save;
    await this.hook(hook);
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
    const { window } = state;
    const entry: LogEntry = {
      loss: window.lossSum / window.steps,
      grad_norm: this.lastStep.gradNorm,
      learning_rate: this.lastStep.learningRate,
      num_tokens: state.numTokens,
    };
    for (const [name, sum] of Object.entries(window.metricSums)) entry[name] = sum / window.labels;
    entry.epoch = state.epoch;
    entry.step = state.globalStep;
    state.window = emptyWindow();
    state.logHistory.push(entry);
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
    if (!loader) throw new LatheError('ERR_CONFIG', 'no evaluation set', { remedy: 'give an eval dataset or test_split_size' });
    await this.start();
    const { runner } = this.plan();
    const begun = performance.now();
    const metricSums: Record<string, number> = {};
    let lossSum = 0;
    let labels = 0;
    let samples = 0;
    for (let i = 0; i < loader.stepsPerEpoch; i++) {
      const step = loader.step(0, i);
      for (const batch of step.microBatches) {
        const result = await this.evaluateBatch(runner, batch);
        lossSum += result.lossSum;
        addMetrics(metricSums, result);
        samples += batch.rows.length;
      }
      labels += step.numLabels;
    }
    const seconds = (performance.now() - begun) / 1000;
    const loss = lossSum / labels;
    const metrics: LogEntry = { eval_loss: loss, eval_perplexity: Math.exp(Math.min(loss, 700)) };
    for (const [name, sum] of Object.entries(metricSums)) metrics[`eval_${name}`] = sum / labels;
    metrics.eval_runtime = seconds;
    metrics.eval_samples_per_second = samples / seconds;
    metrics.eval_steps_per_second = loader.stepsPerEpoch / seconds;
    return metrics;
  }

  private finalMetrics(started: number, stepsBefore: number): LogEntry {
    const { state, args } = this;
    const seconds = (performance.now() - started) / 1000;
    const steps = state.globalStep - stepsBefore;
    const samples = steps * args.perDeviceTrainBatchSize * args.gradientAccumulationSteps;
    return {
      train_runtime: seconds,
      train_samples_per_second: samples / seconds,
      train_steps_per_second: steps / seconds,
      total_flos: state.totalFlos,
      train_loss: state.globalStep ? state.totalLoss / state.globalStep : 0,
      epoch: state.epoch,
    };
  }

  // ---- checkpoints

  private async save(schedule: Schedule): Promise<TrainEvent> {
    const { args, state, options } = this;
    const { runner } = this.plan();
    const session = await options.model.ready();
    const path = join(args.outputDir, `checkpoint-${state.globalStep}`);
    if (state.bestGlobalStep === state.globalStep) state.bestModelCheckpoint = path;
    state.loader = options.trainLoader.state();
    await saveCheckpoint(args.outputDir, state.globalStep, {
      session,
      parameters: runner.parameters.map((p) => p.slot),
      optimizer: args.saveOnlyModel ? [] : runner.optimizerSlots(),
      stateJson: stateToJson(state, { loggingSteps: args.loggingSteps, evalSteps: args.evalSteps ?? args.loggingSteps, saveSteps: args.saveSteps, trainBatchSize: args.perDeviceTrainBatchSize }),
      ownStateJson: ownStateToJson(state),
      schedulerJson: { lr_scheduler_type: args.lrSchedulerType, last_epoch: state.globalStep, base_lrs: [args.learningRate], _last_lr: [schedule(state.globalStep)] },
      rngJson: { generator: 'philox4x32-10', seed: args.seed, step: state.globalStep },
      argsJson: configToJson(args),
      saveModel: (dir) => this.saveModel(dir),
    });
    this.savedStep = state.globalStep;
    rotateCheckpoints(args.outputDir, args.saveTotalLimit, state.bestModelCheckpoint);
    await this.each((c, context) => c.onSave?.(context, path));
    return this.emit({ type: 'save', step: state.globalStep, path });
  }

  /** Writes the trained model (adapter or weights) and the tokenizer into a folder. */
  async saveModel(dir = this.args.outputDir): Promise<void> {
    const { model, tokenizer } = this.options;
    await (model.peft ? saveAdapter(model, dir) : saveModel(model, dir));
    await tokenizer?.savePretrained(dir);
  }

  private async findResume(): Promise<LoadedCheckpoint | null> {
    const which = this.args.resumeFromCheckpoint;
    if (!which) return null;
    const found = await findCheckpoint(which, this.args.outputDir, this.warn);
    if (!found) throw new LatheError('ERR_CHECKPOINT', 'there is no checkpoint to resume from', { at: this.args.outputDir, remedy: 'leave out resume_from_checkpoint to start anew' });
    return found;
  }

  private async resume(checkpoint: LoadedCheckpoint): Promise<void> {
    const { runner } = this.plan();
    const session = await this.options.model.ready();
    await checkpoint.restore(session, [...runner.parameters.map((p) => p.slot), ...runner.optimizerSlots()]);
    const { maxSteps, numTrainEpochs } = this.state;
    this.state = { ...checkpoint.state, maxSteps, numTrainEpochs };
    this.savedStep = this.state.globalStep;
    const { loader, epoch } = this.state;
    if (this.args.ignoreDataSkip) this.options.trainLoader.seek({ epoch: Math.floor(epoch), stepInEpoch: 0 });
    else if (loader) this.options.trainLoader.seek(loader);
  }

  // ---- callbacks

  private context(): CallbackContext {
    return { state: this.state, control: this.control, outputDir: this.args.outputDir, args: this.args };
  }

  private async each(call: (callback: TrainerCallback, context: CallbackContext) => void | Promise<void> | undefined): Promise<void> {
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

function addMetrics(into: Record<string, number>, sums: BatchSums): void {
  for (const [name, value] of Object.entries(sums.metricSums)) into[name] = (into[name] ?? 0) + value;
}

function formatRows(rows: readonly number[]): string {
  const shown = rows.slice(0, 8).join(', ');
  return `row${rows.length > 1 ? 's' : ''} ${shown}${rows.length > 8 ? ` and ${rows.length - 8} more` : ''}`;
}
