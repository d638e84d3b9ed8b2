/**
 * StepRunner: the programs of a run, loaded into the model's session, as three calls: micro, update, evaluate.
 *
 * Everything is compiled before anything is allocated, so `plans` can be shown and refused first. Kernels never
 * allocate: after `start` a step touches only the arena that the plan announced.
 */
import { setImmediate as nextTurn } from 'node:timers/promises';
import { LatheError } from '../errors';
import type { CheckpointPolicy } from '../autodiff/checkpoint';
import { compile } from '../compile/compile';
import type { Program } from '../compile/program';
import type { Batch } from '../data/types';
import type { DeviceSpec } from '../graph/device';
import { elementCount, type StateSlot } from '../graph/tensor';
import type { Parameter } from '../nn/module';
import { gradientSlot, optimizerSlots, type OptimizedParameter } from '../optim/optimizer';
import type { PreTrainedModel } from '../pretrained/model';
import type { ProgramHandle, Session } from '../runtime/session';
import type { Loss } from './losses/loss';
import type { OwnedSlot } from './ranks';
import { partition } from '../optim/partition';
import {
  applyProgram,
  clearGraph,
  evalProgram,
  microProgram,
  reduceGraph,
  shareGraph,
  type BatchShape,
  type OptimizerSettings,
} from './programs';

export interface RunnerOptions {
  readonly loss: Loss;
  readonly optimizer: OptimizerSettings;
  /** Decay of a parameter; 0 for biases and norms. */
  readonly weightDecayOf: (p: Parameter) => number;
  readonly trainShapes: readonly BatchShape[];
  readonly evalShapes: readonly BatchShape[];
  /** The most micro-batches of a step on this rank; default: 1. With more, each shape has a second program, which adds. */
  readonly gradientAccumulationSteps?: number;
  readonly checkpoint: CheckpointPolicy;
  readonly device: DeviceSpec;
  /** Seed of dropout masks. */
  readonly seed: number;
  /** Check every value of every run: slow; the first one that is not finite is named. */
  readonly checkFinite?: boolean;
  /** The ranks that train together; default: one. */
  readonly world?: { readonly rank: number; readonly size: number };
  /** Each rank keeps the optimizer state of a part of the parameters (ZeRO stage 1). */
  readonly shardOptimizer?: boolean;
}

/** Sums over the trained labels of one micro-batch or evaluation batch; `lossSum` in nats. */
export interface BatchSums {
  readonly lossSum: number;
  readonly metricSums: Readonly<Record<string, number>>;
}

/** Zeros written at a time. */
const kZeroBytes = 1 << 24;

/** `micro` begins a step's gradients, `adding` goes on with them. */
const SHAPE_KINDS = ['micro', 'adding', 'eval'] as const;
type ShapeKind = (typeof SHAPE_KINDS)[number];

export class StepRunner {
  readonly parameters: readonly OptimizedParameter[];
  readonly apply: Program;
  /** Programs over all ranks: gradients summed before `apply`, parameters shared after it. */
  private readonly reduce: Program | null;
  private readonly share: Program | null;
  /** Zero gradients, for a step in which this rank has no micro-batch. */
  private readonly clear: Program | null;
  /** The rank that keeps the optimizer state of each parameter. */
  private readonly owners: readonly number[];
  private readonly world: { readonly rank: number; readonly size: number };
  private readonly compiled: Record<ShapeKind, Map<number, Program>> = {
    micro: new Map(),
    adding: new Map(),
    eval: new Map(),
  };
  /** Whether the gradients of the step to come are begun. */
  private begun = false;
  private hasRun = false;
  private session: Session | null = null;
  private readonly loaded = new Map<Program, ProgramHandle>();

  constructor(
    readonly model: PreTrainedModel,
    private readonly options: RunnerOptions,
  ) {
    const trainable = model.trainableParameters();
    if (trainable.length === 0)
      throw new LatheError('ERR_CONFIG', 'nothing to train: the model has no trainable parameter', {
        remedy: 'set use_peft: true or train all weights',
      });
    this.parameters = trainable.map((p) => ({
      slot: p.slot(),
      gradient: gradientSlot(p.slot()),
      weightDecay: options.weightDecayOf(p),
      isEmbedding: p === model.module.embedding,
    }));
    const { rank, size } = (this.world = options.world ?? { rank: 0, size: 1 });
    const shards = options.shardOptimizer === true && size > 1;
    this.owners = shards
      ? partition(
          this.parameters.map((p) => elementCount(p.slot.shape)),
          size,
        )
      : this.parameters.map(() => rank);
    this.apply = applyProgram(this.parameters, options.optimizer, options.device, this.owned());
    this.reduce = size > 1 ? compile(reduceGraph(this.parameters, size), { device: options.device }) : null;
    this.share = shards ? compile(shareGraph(this.parameters, this.owners, size), { device: options.device }) : null;
    this.clear = size > 1 ? compile(clearGraph(this.parameters), { device: options.device }) : null;
    // The largest shapes decide the plan; the others are compiled at the start of the run.
    for (const kind of SHAPE_KINDS) {
      const shapes = this.shapesOf(kind);
      if (shapes.length) this.program(kind, Math.max(...shapes.map((s) => s.tokens)));
    }
  }

  private shapesOf(kind: ShapeKind): readonly BatchShape[] {
    const { trainShapes, evalShapes, gradientAccumulationSteps = 1 } = this.options;
    if (kind === 'adding' && gradientAccumulationSteps <= 1) return [];
    return kind === 'eval' ? evalShapes : trainShapes;
  }

  /** The program for batches of `tokens` rows, compiled once. */
  private program(kind: ShapeKind, tokens: number): Program {
    const known = this.compiled[kind].get(tokens);
    if (known) return known;
    const shape = this.shapesOf(kind).find((s) => s.tokens === tokens);
    if (!shape) {
      throw new LatheError(
        'ERR_PROGRAM',
        `no program for a batch of ${tokens} tokens; shapes are ${this.shapesOf(kind)
          .map((s) => s.tokens)
          .join(', ')}`,
        {
          remedy: 'give every shape of the loader to the runner',
        },
      );
    }
    const { loss, device, checkpoint } = this.options;
    const { module } = this.model;
    const program =
      kind === 'eval'
        ? evalProgram(module, loss, shape, device)
        : microProgram(module, loss, this.parameters, shape, kind === 'adding', device, checkpoint);
    this.compiled[kind].set(tokens, program);
    return program;
  }

  /** Programs compiled so far: before `start` the largest of each kind. */
  programs(): Program[] {
    const { micro, adding, eval: evaluation } = this.compiled;
    const update = [this.clear, this.reduce, this.apply, this.share].filter((p) => p !== null);
    return [...micro.values(), ...adding.values(), ...update, ...evaluation.values()];
  }

  /** Forward and backward of a step's first micro-batch of this shape. */
  microProgram(tokens: number): Program {
    return this.program('micro', tokens);
  }

  /** Floating-point operations of one micro-batch with the documents it really has. */
  microFlops(batch: Batch): number {
    const { flops, attentionFlops } = this.program('micro', batch.tokens);
    const { documents } = this.options.trainShapes.find((s) => s.tokens === batch.tokens)!;
    let pairs = 0;
    for (let d = 1; d < batch.cuSeqlens.length; d++) pairs += triangle(batch.cuSeqlens[d] - batch.cuSeqlens[d - 1]);
    return flops + attentionFlops * (pairs / (documents * triangle(batch.tokens / documents)) - 1);
  }

  /** Slots of weights and training state, for the plan. */
  allSlots(): StateSlot[] {
    return [...this.model.slots(), ...this.trainingSlots()];
  }

  /** Gradient and optimizer slots. */
  trainingSlots(): StateSlot[] {
    return [...this.parameters.map((p) => p.gradient), ...this.optimizerSlots()];
  }

  /** Those that this rank keeps. */
  optimizerSlots(): StateSlot[] {
    return this.owned().flatMap((p) => optimizerSlots(this.options.optimizer.kind, p));
  }

  /** Those of all ranks, each with the rank that keeps it. */
  allOptimizerSlots(): OwnedSlot[] {
    return this.parameters.flatMap((p, i) =>
      optimizerSlots(this.options.optimizer.kind, p).map((slot) => ({ slot, owner: this.owners[i] })),
    );
  }

  private owned(): OptimizedParameter[] {
    return this.parameters.filter((_, i) => this.owners[i] === this.world.rank);
  }

  /** Names of the loss's metrics, the same on every rank. */
  metricNames(): string[] {
    const { tokens } = this.options.trainShapes[0];
    return this.program('micro', tokens)
      .outputs.map((o) => o.name)
      .filter((name) => name !== 'loss_sum');
  }

  /** Loads weights, allocates training state, compiles what is left and loads the programs. */
  async start(): Promise<Session> {
    const session = await this.model.ready();
    session.defineState(this.trainingSlots());
    // Now rather than when the first batch of a shape comes: compiling in the middle of a step would hold up the event loop.
    for (const kind of SHAPE_KINDS) {
      for (const { tokens } of this.shapesOf(kind)) {
        this.program(kind, tokens);
        await nextTurn();
      }
    }
    for (const program of this.programs()) this.loaded.set(program, session.loadProgram(program.bytes, program.name));
    this.session = session;
    return session;
  }

  /**
   * Begins a run on the model: from here on it is this runner's to train. Optimizer state that another trainer has left is set
   * back to zero; a runner that goes on keeps its own.
   */
  async takeOver(): Promise<void> {
    const { session } = this;
    if (!session) throw new LatheError('ERR_PROGRAM', 'the runner was not started');
    // Its own moments are gone then: it cannot go on as if they were not.
    if (this.hasRun) this.requireOwnModel();
    this.hasRun = true;
    if (!this.model.takeOver(this)) return;
    this.begun = false;
    for (const slot of this.optimizerSlots()) {
      const bytes = elementCount(slot.shape) * (slot.dtype === 'u8' ? 1 : 4);
      const zeros = new Uint8Array(Math.min(bytes, kZeroBytes));
      for (let offset = 0; offset < bytes; offset += zeros.length)
        await session.writeState(slot.name, zeros.subarray(0, Math.min(zeros.length, bytes - offset)), { offset });
    }
  }

  private requireOwnModel(): void {
    if (this.model.isTrainedBy(this)) return;
    throw new LatheError('ERR_CONFIG', 'another trainer has begun a run on this model', {
      remedy: 'let one run end before the next begins, or open the model twice',
    });
  }

  /**
   * The gradients of `batch`, its loss divided by `labels` (those of the whole step): micro-batch 0 writes them over those of
   * the step before, later ones add theirs. `step` counts from 1. With `checkFinite` it rejects with ERR_NONFINITE, naming the
   * node, at the first value that is not finite.
   */
  async micro(batch: Batch, labels: number, step: number, microIndex: number, checkFinite = false): Promise<BatchSums> {
    const { gradientAccumulationSteps = 1 } = this.options;
    if (microIndex >= gradientAccumulationSteps || (microIndex > 0 && !this.begun)) {
      throw new LatheError(
        'ERR_PROGRAM',
        `micro-batch ${microIndex} of a step: expected one below ${gradientAccumulationSteps}, after micro-batch 0`,
        {
          remedy: 'give gradientAccumulationSteps to the runner, and a step its micro-batches in order',
        },
      );
    }
    this.requireOwnModel();
    this.begun = true;
    // A micro-batch's number is the one it has in the step of all ranks, so that its dropout masks are those of one rank.
    const { rank, size } = this.world;
    const program = this.program(microIndex > 0 ? 'adding' : 'micro', batch.tokens);
    return this.runBatch(
      program,
      batch,
      { rng: this.rng(step, microIndex * size + rank), loss_scale: Float32Array.of(1 / labels) },
      checkFinite,
    );
  }

  /**
   * One optimizer step over the accumulated gradients of all ranks, of which a rank that ran no micro-batch since the last
   * one gives zeros; the norm is the one before clipping.
   */
  async update(learningRate: number, step: number): Promise<{ gradNorm: number }> {
    this.requireOwnModel();
    if (!this.begun) {
      if (!this.clear)
        throw new LatheError('ERR_PROGRAM', `step ${step} has no micro-batch`, { remedy: 'run micro before update' });
      await this.run(this.clear, {});
    }
    this.begun = false;
    if (this.reduce) await this.run(this.reduce, {});
    const out = await this.run(this.apply, { lr: Float32Array.of(learningRate), step: Int32Array.of(step) });
    if (this.share) await this.run(this.share, {});
    return { gradNorm: (out.grad_norm as Float32Array)[0] };
  }

  async evaluate(batch: Batch, checkFinite = false): Promise<BatchSums> {
    return this.runBatch(this.program('eval', batch.tokens), batch, {}, checkFinite);
  }

  private rng(step: number, microIndex: number): Int32Array {
    const { seed } = this.options;
    return Int32Array.from([seed >>> 0, Math.floor(seed / 2 ** 32), step, microIndex].map((v) => v | 0));
  }

  private async runBatch(
    program: Program,
    batch: Batch,
    extra: Record<string, Int32Array | Float32Array>,
    checkFinite: boolean,
  ): Promise<BatchSums> {
    const out = await this.run(program, { ...tensorsOf(batch), ...extra }, checkFinite);
    const metricSums: Record<string, number> = {};
    for (const [name, value] of Object.entries(out))
      if (name !== 'loss_sum') metricSums[name] = (value as Float32Array)[0];
    return { lossSum: (out.loss_sum as Float32Array)[0], metricSums };
  }

  private run(
    program: Program,
    bindings: Record<string, Int32Array | Float32Array>,
    checkFinite = false,
  ): ReturnType<Session['run']> {
    const { session } = this;
    if (!session) throw new LatheError('ERR_PROGRAM', 'the runner was not started');
    let handle = this.loaded.get(program);
    if (!handle) this.loaded.set(program, (handle = session.loadProgram(program.bytes, program.name)));
    // An input that the program does not use (dropout's key without dropout) is not part of it.
    const known = new Set(program.inputs.map((i) => i.name));
    return session.run(handle, Object.fromEntries(Object.entries(bindings).filter(([name]) => known.has(name))), {
      checkFinite: checkFinite || this.options.checkFinite,
    });
  }
}

/** Scores of a causal document. */
const triangle = (length: number): number => (length * (length + 1)) / 2;

function tensorsOf(batch: Batch): Record<string, Int32Array> {
  return {
    input_ids: batch.inputIds,
    position_ids: batch.positionIds,
    labels: batch.labels,
    cu_seqlens: batch.cuSeqlens,
  };
}
