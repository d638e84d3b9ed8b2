/**
 * StepRunner: the programs of a run, loaded into the model's session, as three calls: micro, apply, evaluate.
 *
 * Everything is compiled before anything is allocated, so `plans` can be shown and refused first. Kernels never
 * allocate: after `start` a step touches only the arena that the plan announced.
 */
import { LatheError } from '../errors';
import type { CheckpointPolicy } from '../autodiff/checkpoint';
import type { Program } from '../compile/program';
import type { Batch } from '../data/types';
import type { DeviceSpec } from '../graph/device';
import type { StateSlot } from '../graph/tensor';
import type { Parameter } from '../nn/module';
import { gradientSlot, optimizerSlots, type OptimizedParameter } from '../optim/optimizer';
import type { PreTrainedModel } from '../pretrained/model';
import type { ProgramHandle, Session } from '../runtime/session';
import type { Loss } from './losses/loss';
import { applyProgram, evalProgram, microProgram, type BatchShape, type OptimizerSettings } from './programs';

export interface RunnerOptions {
  readonly loss: Loss;
  readonly optimizer: OptimizerSettings;
  /** Decay of a parameter; 0 for biases and norms. */
  readonly weightDecayOf: (p: Parameter) => number;
  readonly trainShapes: readonly BatchShape[];
  readonly evalShapes: readonly BatchShape[];
  readonly checkpoint: CheckpointPolicy;
  readonly device: DeviceSpec;
  /** Seed of dropout masks. */
  readonly seed: number;
}

/** Sums of one micro-batch or evaluation batch. */
export interface BatchSums {
  readonly lossSum: number;
  readonly metricSums: Readonly<Record<string, number>>;
}

export class StepRunner {
  readonly parameters: readonly OptimizedParameter[];
  /** Compiled programs: micro per shape, apply, eval per shape. */
  readonly programs: { readonly micro: ReadonlyMap<number, Program>; readonly apply: Program; readonly evaluate: ReadonlyMap<number, Program> };
  private session: Session | null = null;
  private readonly loaded = new Map<Program, ProgramHandle>();

  constructor(
    readonly model: PreTrainedModel,
    private readonly options: RunnerOptions,
  ) {
    const trainable = model.trainableParameters();
    if (trainable.length === 0) throw new LatheError('ERR_CONFIG', 'nothing to train: the model has no trainable parameter', { remedy: 'set use_peft: true or train all weights' });
    this.parameters = trainable.map((p) => ({
      slot: p.slot(),
      gradient: gradientSlot(p.slot()),
      weightDecay: options.weightDecayOf(p),
      isEmbedding: p === model.module.embedding,
    }));
    const { loss, device, checkpoint } = options;
    this.programs = {
      micro: new Map(options.trainShapes.map((s) => [s.tokens, microProgram(model.module, loss, this.parameters, s, device, checkpoint)])),
      apply: applyProgram(this.parameters, options.optimizer, device),
      evaluate: new Map(options.evalShapes.map((s) => [s.tokens, evalProgram(model.module, loss, s, device)])),
    };
  }

  allPrograms(): Program[] {
    return [...this.programs.micro.values(), this.programs.apply, ...this.programs.evaluate.values()];
  }

  /** Gradient and optimizer slots. */
  trainingSlots(): StateSlot[] {
    return this.parameters.flatMap((p) => [p.gradient, ...optimizerSlots(this.options.optimizer.kind, p)]);
  }

  optimizerSlots(): StateSlot[] {
    return this.parameters.flatMap((p) => optimizerSlots(this.options.optimizer.kind, p));
  }

  /** Loads weights, allocates training state and loads the programs. */
  async start(): Promise<Session> {
    const session = await this.model.ready();
    session.defineState(this.trainingSlots());
    for (const program of this.allPrograms()) this.loaded.set(program, session.loadProgram(program.bytes, program.name));
    this.session = session;
    return session;
  }

  /** Adds the gradients of `batch`, its loss divided by `labels` (those of the whole step). `step` counts from 1. */
  async micro(batch: Batch, labels: number, step: number, microIndex: number): Promise<BatchSums> {
    const { seed } = this.options;
    const rng = Int32Array.from([seed >>> 0, Math.floor(seed / 2 ** 32), step, microIndex].map((v) => v | 0));
    return this.runBatch(this.programFor(this.programs.micro, batch), batch, { rng, loss_scale: Float32Array.of(1 / labels) });
  }

  /** One optimizer step over the accumulated gradients; the norm is the one before clipping. */
  async apply(learningRate: number, step: number): Promise<{ gradNorm: number }> {
    const out = await this.run(this.programs.apply, { lr: Float32Array.of(learningRate), step: Int32Array.of(step) });
    return { gradNorm: (out.grad_norm as Float32Array)[0] };
  }

  async evaluate(batch: Batch): Promise<BatchSums> {
    return this.runBatch(this.programFor(this.programs.evaluate, batch), batch, {});
  }

  /** Runs a micro-batch again with every value checked; rejects with ERR_NONFINITE naming the first bad node. */
  async diagnose(batch: Batch, step: number, microIndex: number): Promise<void> {
    const { seed } = this.options;
    const rng = Int32Array.from([seed >>> 0, Math.floor(seed / 2 ** 32), step, microIndex].map((v) => v | 0));
    const program = this.programFor(this.programs.micro, batch);
    const known = new Set(program.inputs.map((i) => i.name));
    const bindings = Object.fromEntries(Object.entries({ ...tensorsOf(batch), rng, loss_scale: Float32Array.of(1) }).filter(([name]) => known.has(name)));
    await this.session!.run(this.loaded.get(program)!, bindings, { checkFinite: true });
  }

  private programFor(programs: ReadonlyMap<number, Program>, batch: Batch): Program {
    const program = programs.get(batch.tokens);
    if (program) return program;
    throw new LatheError('ERR_PROGRAM', `no program for a batch of ${batch.tokens} tokens; compiled for ${[...programs.keys()].join(', ')}`, { remedy: 'give the shape to the runner before it starts' });
  }

  private async runBatch(program: Program, batch: Batch, extra: Record<string, Int32Array | Float32Array>): Promise<BatchSums> {
    const out = await this.run(program, { ...tensorsOf(batch), ...extra });
    const metricSums: Record<string, number> = {};
    for (const [name, value] of Object.entries(out)) if (name !== 'loss_sum') metricSums[name] = (value as Float32Array)[0];
    return { lossSum: (out.loss_sum as Float32Array)[0], metricSums };
  }

  private run(program: Program, bindings: Record<string, Int32Array | Float32Array>): ReturnType<Session['run']> {
    if (!this.session) throw new LatheError('ERR_PROGRAM', 'the runner was not started');
    // An input that the program does not use (dropout's key without dropout) is not part of it.
    const known = new Set(program.inputs.map((i) => i.name));
    return this.session.run(this.loaded.get(program)!, Object.fromEntries(Object.entries(bindings).filter(([name]) => known.has(name))));
  }
}

function tensorsOf(batch: Batch): Record<string, Int32Array> {
  return { input_ids: batch.inputIds, position_ids: batch.positionIds, labels: batch.labels, cu_seqlens: batch.cuSeqlens };
}
