/** A tiny Llama with an adapter as graphs and programs, with values for its state; used by the graph tests. */
import type { CheckpointPolicy } from '../../../src/autodiff/checkpoint';
import { deviceSpec } from '../../../src/compile/devices';
import type { Program } from '../../../src/compile/program';
import type { NdArray } from '../../../src/graph/op-def';
import { elementCount, type StateSlot } from '../../../src/graph/tensor';
import type { Graph } from '../../../src/graph/trace';
import type { CausalLm } from '../../../src/models/causal-lm';
import { buildModel } from '../../../src/models/registry';
import { gradientSlot, type OptimizedParameter } from '../../../src/optim/optimizer';
import { getPeftModel } from '../../../src/peft/inject';
import { LoraConfig } from '../../../src/peft/lora-config';
import { BitsAndBytesConfig, quantizeModel } from '../../../src/quantization/bitsandbytes';
import { Session, type TensorArray } from '../../../src/runtime/session';
import { sftLoss } from '../../../src/train/losses/sft';
import { microGraph, microProgram, type BatchShape } from '../../../src/train/programs';
import { drawFor, fromBytes, ROUND, toArray } from '../../ops/case';

export interface TinyOptions {
  layers?: number;
  hidden?: number;
  vocab?: number;
  dtype?: 'f32' | 'bf16';
  dropout?: number;
  quantised?: boolean;
  targets?: readonly string[];
  tied?: boolean;
  shape?: BatchShape;
  /** Train everything instead of an adapter. */
  full?: boolean;
}

export interface Tiny {
  readonly model: CausalLm;
  readonly parameters: readonly OptimizedParameter[];
  readonly shape: BatchShape;
  /** `accumulate`, here and below: add to the gradients that are there; default: write over them. */
  graph(accumulate?: boolean): Graph;
  program(policy: CheckpointPolicy, threads?: number, accumulate?: boolean): Program;
}

export function tinyLlama(o: TinyOptions = {}): Tiny {
  const hidden = o.hidden ?? 16;
  const raw = {
    model_type: 'llama',
    vocab_size: o.vocab ?? 24,
    hidden_size: hidden,
    intermediate_size: 2 * hidden,
    num_hidden_layers: o.layers ?? 1,
    num_attention_heads: 4,
    num_key_value_heads: 2,
    max_position_embeddings: 64,
    rms_norm_eps: 1e-5,
    rope_theta: 10000,
    tie_word_embeddings: o.tied ?? false,
  };
  const model = buildModel(raw, { dtype: o.dtype ?? 'f32' });
  if (o.quantised)
    quantizeModel(
      model,
      new BitsAndBytesConfig({ loadIn4bit: true, bnb4bitQuantType: 'nf4', bnb4bitUseDoubleQuant: true }),
    );
  if (o.full) for (const p of model.parameters().values()) p.trainable = true;
  else
    getPeftModel(
      model,
      new LoraConfig({
        r: 2,
        loraAlpha: 4,
        loraDropout: o.dropout ?? 0,
        targetModules: o.targets ?? ['q_proj', 'v_proj'],
      }),
    );
  const trainable = [...model.modules()].flatMap((m) =>
    'lowRank' in m
      ? (m.lowRank as { a: { slot(): StateSlot }; b: { slot(): StateSlot } }[]).flatMap((pair) => [
          pair.a.slot(),
          pair.b.slot(),
        ])
      : [],
  );
  if (o.full) trainable.push(...[...model.parameters().values()].map((p) => p.slot()));
  const parameters = trainable.map((slot): OptimizedParameter => ({
    slot,
    gradient: gradientSlot(slot),
    weightDecay: 0,
    isEmbedding: false,
  }));
  const shape = o.shape ?? { tokens: 12, documents: 3 };
  return {
    model,
    parameters,
    shape,
    graph: (accumulate = false) => microGraph(model, sftLoss, parameters, shape, accumulate),
    program: (policy, threads = 2, accumulate = false) =>
      microProgram(model, sftLoss, parameters, shape, accumulate, deviceSpec('cpu', threads), policy),
  };
}

/** Reproducible contents of a slot: small weights, norms near 1, random codes. */
function slotValues(slot: StateSlot): Float64Array {
  const draw = drawFor(slot.name);
  const n = elementCount(slot.shape);
  const value = (): number => {
    if (slot.role === 'gradients') return 0;
    if (slot.dtype === 'u8') return Math.floor(256 * draw());
    if (slot.name.includes('norm')) return 0.8 + 0.4 * draw();
    if (slot.role === 'quantization') return 0.02 + 0.02 * draw();
    return (draw() - 0.5) * 0.8;
  };
  return Float64Array.from({ length: n }, () => ROUND[slot.dtype](value()));
}

/** A batch with padding rows, masked labels and dropout keys. */
export function batchOf({ tokens, documents }: BatchShape, vocab: number): Record<string, TensorArray> {
  const draw = drawFor('batch');
  const bounds = Array.from({ length: documents + 1 }, (_, d) => Math.floor((d * (tokens - 1)) / documents));
  const position = (t: number): number => t - Math.max(...bounds.filter((b) => b <= t));
  return {
    input_ids: Int32Array.from({ length: tokens }, () => Math.floor(vocab * draw())),
    position_ids: Int32Array.from({ length: tokens }, (_, t) => position(t)),
    labels: Int32Array.from({ length: tokens }, (_, t) =>
      t % 4 === 0 || t >= tokens - 1 ? -100 : Math.floor(vocab * draw()),
    ),
    cu_seqlens: Int32Array.from(bounds),
    rng: Int32Array.of(1, 2, 3, 4),
    loss_scale: Float32Array.of(0.125),
  };
}

/** Leaves for the reference interpreter. */
export function leavesOf(graph: Graph, batch: Record<string, TensorArray>): Map<string, NdArray> {
  const leaves = new Map<string, NdArray>();
  for (const node of graph.nodes) {
    const { shape } = node.outputs[0];
    if (node.kind === 'input')
      leaves.set(node.input!.name, { shape, data: Float64Array.from(batch[node.input!.name]) });
    else if (node.kind === 'state') leaves.set(node.slot!.name, { shape, data: slotValues(node.slot!) });
  }
  return leaves;
}

export interface StepResult {
  readonly outputs: Record<string, TensorArray>;
  /** Slots after the run. */
  readonly slots: Record<string, TensorArray>;
}

/** Runs a micro program once in a session of its own. */
export async function runStep(program: Program, batch: Record<string, TensorArray>, threads = 2): Promise<StepResult> {
  await using session = Session.create({ threads });
  session.defineState(program.states);
  for (const slot of program.states) await session.writeState(slot.name, toArray(slot.dtype, slotValues(slot)));
  const handle = session.loadProgram(program.bytes);
  const outputs = await session.run(handle, Object.fromEntries(program.inputs.map(({ name }) => [name, batch[name]])));
  const slots: Record<string, TensorArray> = {};
  for (const slot of program.states) slots[slot.name] = fromBytes(slot.dtype, await session.readState(slot.name));
  return { outputs, slots };
}
