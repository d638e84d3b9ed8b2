/**
 * Trainer: the loop. It owns order, bookkeeping and checkpoints; the mathematics is in programs, the data in loaders.
 *
 * `run()` is an async generator of events, so a caller sees every step and may stop between any two; `train()` drains
 * it. The step math happens on the engine's thread: the event loop stays free. Semantics of intervals, epochs, logged
 * values and best-model tracking are transformers' Trainer; the loss is the sum over the labels of the whole step
 * divided by their number, so it does not depend on how a step is split.
 */
import { freemem } from 'node:os';
import { mkdirSync } from 'node:fs';
import { LatheError } from '../errors';
import type { CheckpointPolicy } from '../autodiff/checkpoint';
import { defaultThreads, deviceSpec } from '../compile/devices';
import { assertFits, memoryPlan, type MemoryPlan, type Remedy } from '../compile/plan';
import type { Loader, StepBatches } from '../data/loader';
import type { DeviceSpec } from '../graph/device';
import { acquireOutputLock } from '../io/output-lock';
import { createSchedule, warmupStepCount, type Schedule, type ScheduleName } from '../optim/schedules';
import type { Parameter } from '../nn/module';
import { saveAdapter } from '../peft/save';
import { saveModel } from '../pretrained/save';
import type { PreTrainedModel } from '../pretrained/model';
import { configToJson, optimizerKind, stepInterval, type ResolvedConfig } from './arguments';
import { findCheckpoint, rotateCheckpoints, saveCheckpoint, type LoadedCheckpoint } from './checkpoint';
import type { CallbackContext, HookName, TrainerCallback, TrainerControl, TrainEvent } from './events';
import type { Loss } from './losses/loss';
import { StepRunner, type BatchSums } from './runner';
import { emptyWindow, initialState, stateToJson, type LogEntry, type TrainerState } from './state';

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
  private runner: StepRunner | null = null;

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

  /** Bytes the run may use. */
  get limitBytes(): number {
    return this.args.memoryLimit ?? (this.device.kind === 'cpu' ? Math.min(freemem(), this.device.memoryBytes) : this.device.memoryBytes);
  }

  private policies(): CheckpointPolicy[] {
    if (!this.args.gradientCheckpointing) return ['none'];
    return this.args.planPolicy === 'auto' ? ['none', 'smart', 'block'] : [this.args.planPolicy];
  }

  /** Compiles the programs under the fastest recomputation policy that fits. */
  plan(): { plan: MemoryPlan; policy: CheckpointPolicy; remedies: Remedy[] } {
    const tried: { policy: CheckpointPolicy; runner: StepRunner; plan: MemoryPlan }[] = [];
    for (const policy of this.policies()) {
      const runner = this.makeRunner(policy);
      const plan = memoryPlan(runner.allSlots(), runner.programs(), this.device, this.limitBytes);
      tried.push({ policy, runner, plan });
      if (plan.fits) break;
    }
    const chosen = tried[tried.length - 1];
    this.runner = chosen.runner;
    return { plan: chosen.plan, policy: chosen.policy, remedies: chosen.plan.fits ? [] : this.remedies(chosen.plan) };
  }

  private remedies(plan: MemoryPlan): Remedy[] {
    if (this.args.gradientCheckpointing) return [];
    const runner = this.makeRunner('block');
    const other = memoryPlan(runner.allSlots(), runner.programs(), this.device, this.limitBytes);
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
    });
  }

  // ---- run

  /** Trains to the end; resolves to the final metrics. */
  async train(o: RunOptions = {}): Promise<LogEntry> {
    let metrics: LogEntry = {};
    for await (const event of this.run(o)) if (event.type === 'end') metrics = event.metrics;
    return metrics;
  }

  /** The run as events. Breaking out of the loop stops it without a checkpoint. */
  async *run(o: RunOptions = {}): AsyncGenerator<TrainEvent, void, void> {
    mkdirSync(this.args.outputDir, { recursive: true });
    const lock = await acquireOutputLock(this.args.outputDir);
    try {
      yield* this.locked(o);
    } finally {
      lock.release();
    }
  }

  private async *locked(o: RunOptions): AsyncGenerator<TrainEvent, void, void> {
    await this.hook('onInitEnd');
    const resume = await this.findResume();
    const { plan, policy, remedies } = this.plan();
    yield await this.emit({ type: 'plan', plan, remedies, policy });
    assertFits(plan, this.limitBytes, remedies);
    const runner = this.runner!;
    const session = await runner.start();
    if (resume) await this.resume(resume, runner);
    await this.hook('onTrainBegin');
    yield await this.emit({ type: 'begin', state: this.state, resumedFrom: resume?.path ?? null });
    const started = performance.now();
    const stepsBefore = this.state.globalStep;
    if (this.args.evalOnStart && this.options.evalLoader && stepsBefore === 0) yield await this.evaluateEvent();
    const schedule = this.schedule();
    let interrupted = false;
    while (this.state.globalStep < this.maxSteps && !this.control.shouldTrainingStop) {
      const step = this.options.trainLoader.next();
      if (step.stepInEpoch === 0) await this.hook('onEpochBegin');
      yield await this.emit(await this.step(step, schedule, plan.peakBytes));
      interrupted = o.signal?.aborted ?? false;
      yield* this.afterStep(step, schedule, interrupted);
      if (step.stepInEpoch === this.options.trainLoader.stepsPerEpoch - 1) await this.hook('onEpochEnd');
      if (interrupted) break;
    }
    if (this.args.loadBestModelAtEnd && this.state.bestModelCheckpoint && !interrupted) {
      const best = await findCheckpoint(this.state.bestModelCheckpoint, this.args.outputDir, this.warn);
      await best!.restore(session, runner.parameters.map((p) => p.slot));
    }
    const metrics = this.finalMetrics(started, stepsBefore);
    if (!interrupted) this.state.logHistory.push({ ...metrics, step: this.state.globalStep });
    await this.hook('onTrainEnd');
    yield await this.emit({ type: 'end', state: this.state, metrics, interrupted });
  }

  private readonly warn = (message: string): void => (this.options.warn ?? ((m: string) => process.emitWarning(m)))(message);

  private schedule(): Schedule {
    const { args } = this;
    return createSchedule({
      name: args.lrSchedulerType as ScheduleName,
      learningRate: args.learningRate,
      warmupSteps: warmupStepCount(args.warmupSteps, this.maxSteps),
      totalSteps: this.maxSteps,
      kwargs: args.lrSchedulerKwargs as Record<string, unknown> | null,
    });
  }

  /** One optimizer step: its micro-batches, then the update. */
  private async step(batches: StepBatches, schedule: Schedule, peakBytes: number): Promise<TrainEvent> {
    const { state } = this;
    const runner = this.runner!;
    const number = state.globalStep + 1;
    await this.hook('onStepBegin');
    const begun = performance.now();
    const cpu = process.cpuUsage();
    let lossSum = 0;
    let tokens = 0;
    const { window } = state;
    for (const [i, batch] of batches.microBatches.entries()) {
      const sums = await runner.micro(batch, batches.numLabels, number, i);
      if (!Number.isFinite(sums.lossSum)) await this.reportNonFinite(batch.rows, number, i, batches);
      lossSum += sums.lossSum;
      tokens += batch.numTokens;
      addMetrics(window.metricSums, sums);
      state.totalFlos += runner.microFlops(batch.tokens);
      await this.hook('onSubstepEnd');
    }
    const learningRate = schedule(state.globalStep);
    await this.hook('onPreOptimizerStep');
    const { gradNorm } = await runner.update(learningRate, number);
    if (!Number.isFinite(gradNorm)) {
      throw new LatheError('ERR_NONFINITE', `the gradient norm is ${gradNorm} at step ${number}`, { remedy: 'lower learning_rate; the last checkpoint is intact' });
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

  private async reportNonFinite(rows: readonly number[], step: number, microIndex: number, batches: StepBatches): Promise<never> {
    let where = '';
    try {
      await this.runner!.diagnose(batches.microBatches[microIndex], step, microIndex);
    } catch (error) {
      where = `: ${(error as Error).message}`;
    }
    throw new LatheError('ERR_NONFINITE', `the loss is not finite at step ${step}, micro-batch ${microIndex}${where}`, {
      at: `dataset rows ${rows.slice(0, 8).join(', ')}`,
      remedy: 'lower learning_rate or look at these rows; the last checkpoint is intact',
    });
  }

  private async *afterStep(step: StepBatches, schedule: Schedule, interrupted: boolean): AsyncGenerator<TrainEvent, void, void> {
    const { args, state, control } = this;
    const endOfEpoch = step.stepInEpoch === this.options.trainLoader.stepsPerEpoch - 1;
    const last = state.globalStep >= this.maxSteps;
    control.shouldLog = this.isDue(args.loggingStrategy, args.loggingSteps, endOfEpoch) || (args.loggingFirstStep && state.globalStep === 1);
    control.shouldEvaluate = this.options.evalLoader != null && this.isDue(args.evalStrategy, args.evalSteps ?? args.loggingSteps, endOfEpoch) && state.globalStep > (args.evalDelay ?? 0);
    control.shouldSave = this.isDue(args.saveStrategy, args.saveSteps, endOfEpoch) || (last && args.saveStrategy !== 'no') || interrupted;
    await this.hook('onStepEnd');
    if (control.shouldTrainingStop && args.saveStrategy !== 'no') control.shouldSave = true;
    if (control.shouldLog) yield await this.log();
    let improved = false;
    if (control.shouldEvaluate) {
      const event = await this.evaluateEvent();
      yield event;
      improved = event.type === 'evaluate' && this.trackBest(event.metrics);
    }
    if (control.shouldSave || (args.saveStrategy === 'best' && improved)) yield await this.save(schedule, improved);
  }

  private isDue(strategy: string, interval: number, endOfEpoch: boolean): boolean {
    if (strategy === 'epoch') return endOfEpoch;
    return strategy === 'steps' && this.state.globalStep % stepInterval(interval, this.maxSteps) === 0;
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

  private async evaluateEvent(): Promise<TrainEvent> {
    const metrics = await this.evaluate();
    this.state.logHistory.push({ ...metrics, epoch: this.state.epoch, step: this.state.globalStep });
    await this.each((c, context) => c.onLog?.(context, metrics));
    await this.each((c, context) => c.onEvaluate?.(context, metrics));
    return this.emit({ type: 'evaluate', step: this.state.globalStep, metrics });
  }

  /** Loss, perplexity and metrics over the evaluation set. The run must have started. */
  async evaluate(): Promise<LogEntry> {
    const loader = this.options.evalLoader;
    if (!loader) throw new LatheError('ERR_CONFIG', 'no evaluation set', { remedy: 'give an eval dataset or test_split_size' });
    const begun = performance.now();
    const sums: BatchSums & { metricSums: Record<string, number> } = { lossSum: 0, metricSums: {} };
    let lossSum = 0;
    let labels = 0;
    let samples = 0;
    for (let i = 0; i < loader.stepsPerEpoch; i++) {
      const step = loader.step(0, i);
      for (const batch of step.microBatches) {
        const result = await this.runner!.evaluate(batch);
        lossSum += result.lossSum;
        addMetrics(sums.metricSums, result);
        samples += batch.rows.length;
      }
      labels += step.numLabels;
    }
    const seconds = (performance.now() - begun) / 1000;
    const loss = lossSum / labels;
    const metrics: LogEntry = { eval_loss: loss, eval_perplexity: Math.exp(Math.min(loss, 700)) };
    for (const [name, sum] of Object.entries(sums.metricSums)) metrics[`eval_${name}`] = sum / labels;
    metrics.eval_runtime = seconds;
    metrics.eval_samples_per_second = samples / seconds;
    metrics.eval_steps_per_second = loader.stepsPerEpoch / seconds;
    return metrics;
  }

  private trackBest(metrics: LogEntry): boolean {
    const { args, state } = this;
    const name = args.metricForBestModel ?? 'loss';
    const key = name.startsWith('eval_') ? name : `eval_${name}`;
    const value = metrics[key];
    if (value === undefined) return false;
    const greater = args.greaterIsBetter ?? !name.endsWith('loss');
    if (state.bestMetric !== null && (greater ? value <= state.bestMetric : value >= state.bestMetric)) return false;
    state.bestMetric = value;
    state.bestGlobalStep = state.globalStep;
    return true;
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

  private async save(schedule: Schedule, improved: boolean): Promise<TrainEvent> {
    const { args, state, options } = this;
    const runner = this.runner!;
    const session = await options.model.ready();
    const path = `${args.outputDir}/checkpoint-${state.globalStep}`;
    if (improved || state.bestGlobalStep === state.globalStep) state.bestModelCheckpoint = path;
    state.loader = options.trainLoader.state();
    await saveCheckpoint(args.outputDir, state.globalStep, {
      session,
      parameters: runner.parameters.map((p) => p.slot),
      optimizer: args.saveOnlyModel ? [] : runner.optimizerSlots(),
      stateJson: stateToJson(state, { loggingSteps: args.loggingSteps, evalSteps: args.evalSteps ?? args.loggingSteps, saveSteps: args.saveSteps, trainBatchSize: args.perDeviceTrainBatchSize }),
      schedulerJson: { lr_scheduler_type: args.lrSchedulerType, last_epoch: state.globalStep, base_lrs: [args.learningRate], _last_lr: [schedule(state.globalStep)] },
      rngJson: { generator: 'philox4x32-10', seed: args.seed, step: state.globalStep },
      argsJson: configToJson(args),
      saveModel: (dir) => this.saveModel(dir),
    });
    rotateCheckpoints(args.outputDir, args.saveTotalLimit, args.loadBestModelAtEnd ? state.bestModelCheckpoint : null);
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

  private async resume(checkpoint: LoadedCheckpoint, runner: StepRunner): Promise<void> {
    const session = await this.options.model.ready();
    await checkpoint.restore(session, [...runner.parameters.map((p) => p.slot), ...runner.optimizerSlots()]);
    const { maxSteps, numTrainEpochs } = this.state;
    this.state = { ...checkpoint.state, maxSteps, numTrainEpochs };
    if (this.state.loader) this.options.trainLoader.seek(this.state.loader);
  }

  // ---- callbacks

  private context(): CallbackContext {
    return { state: this.state, control: this.control, outputDir: this.args.outputDir };
  }

  private async each(call: (callback: TrainerCallback, context: CallbackContext) => void | Promise<void> | undefined): Promise<void> {
    for (const callback of this.callbacks) await call(callback, this.context());
  }

  private async hook(name: HookName): Promise<void> {
    await this.each((callback, context) => callback[name]?.(context));
  }

  private async emit(event: TrainEvent): Promise<TrainEvent> {
    await this.each((callback, context) => callback.onEvent?.(context, event));
    return event;
  }
}

function addMetrics(into: Record<string, number>, sums: BatchSums): void {
  for (const [name, value] of Object.entries(sums.metricSums)) into[name] = (into[name] ?? 0) + value;
}
