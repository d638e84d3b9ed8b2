/**
 * The decoder that Llama and its descendants share: pre-norm RMSNorm, RoPE, grouped-query attention, gated MLP
 * (arXiv 2302.13971, 2305.13245, 2002.05202). What differs between them is data: `DecoderConfig`. A family's file parses its
 * config.json into one; nothing here asks which family it is.
 *
 * Legend: T tokens, D hidden_size, H query heads, G key/value heads, K head_dim, F intermediate_size, V vocabulary.
 */
import { LatheError } from '../errors';
import type { DType } from '../graph/dtype';
import type { Tensor } from '../graph/tensor';
import { checkpointBlock, scope } from '../graph/trace';
import { attend, type KvCacheShape } from '../nn/kv-cache';
import { Embedding, Linear, RmsNorm } from '../nn/layers';
import { Module, type Init, type Parameter } from '../nn/module';
import { glu, type ActivationKind } from '../ops/elementwise';
import { reshape } from '../ops/movement';
import { rope, ropeTable } from '../ops/rope';
import { activationKind } from './activations';
import type { BuildOptions, CausalInputs, CausalLm, ModelConfig } from './causal-lm';
import type { ConfigReader } from './config-reader';
import { ropeFrequencies, type RopeFrequencies } from './rope-scaling';

export interface DecoderConfig extends ModelConfig {
  readonly intermediateSize: number;
  readonly heads: number;
  readonly kvHeads: number;
  readonly headDim: number;
  readonly rmsNormEps: number;
  /** Biases of q, k and v; of the output projection; of the MLP. */
  readonly qkvBias: boolean;
  readonly outputBias: boolean;
  readonly mlpBias: boolean;
  /** RMSNorm over each head of q and k, before RoPE (Qwen3). */
  readonly qkNorm: boolean;
  /** Norms multiply by 1 + weight (Gemma). */
  readonly unitOffsetNorm: boolean;
  /** Factor on the token embeddings (Gemma). */
  readonly embeddingScale: number;
  /** By layer: how many keys a query sees, itself included; 0 = all before it. */
  readonly windows: readonly number[];
  readonly activation: ActivationKind;
  readonly rope: RopeFrequencies;
  readonly initializerRange: number;
}

/** The keys that every family of this kind reads alike; `defaults` are those of its transformers config class. */
export interface DecoderDefaults {
  readonly vocabSize: number;
  readonly hiddenSize: number;
  readonly intermediateSize: number;
  readonly layers: number;
  readonly heads: number;
  /** null: as many as query heads. */
  readonly kvHeads: number | null;
  /** null: hidden_size / heads. */
  readonly headDim: number | null;
  readonly maxPositions: number;
  readonly activation: string;
  readonly tieWordEmbeddings: boolean;
}

/** Everything a config.json says that families agree on; the caller adds or overrides what its own does. */
export function parseDecoderConfig(c: ConfigReader, modelType: string, d: DecoderDefaults): DecoderConfig {
  const hiddenSize = c.size('hidden_size', d.hiddenSize);
  const heads = c.size('num_attention_heads', d.heads);
  const kvHeads = c.size('num_key_value_heads', d.kvHeads ?? heads);
  const headDim = c.size('head_dim', d.headDim ?? Math.floor(hiddenSize / heads));
  const maxPositions = c.size('max_position_embeddings', d.maxPositions);
  const layers = c.size('num_hidden_layers', d.layers);
  if (heads % kvHeads !== 0)
    throw new LatheError(
      'ERR_FORMAT',
      `num_attention_heads ${heads} is not a multiple of num_key_value_heads ${kvHeads}`,
      { at: 'config.json' },
    );
  return {
    modelType,
    vocabSize: c.size('vocab_size', d.vocabSize),
    hiddenSize,
    layers,
    maxPositions,
    tieWordEmbeddings: c.boolean('tie_word_embeddings', d.tieWordEmbeddings),
    intermediateSize: c.size('intermediate_size', d.intermediateSize),
    heads,
    kvHeads,
    headDim,
    rmsNormEps: c.number('rms_norm_eps', 1e-6),
    qkvBias: false,
    outputBias: false,
    mlpBias: false,
    qkNorm: false,
    unitOffsetNorm: false,
    embeddingScale: 1,
    windows: new Array<number>(layers).fill(0),
    activation: activationKind(c.string('hidden_act', d.activation), 'hidden_act'),
    rope: ropeFrequencies(c, headDim, maxPositions),
    initializerRange: c.number('initializer_range', 0.02),
    raw: c.raw,
  };
}

interface LayerInputs extends CausalInputs {
  readonly table: { cos: Tensor; sin: Tensor };
}

class DecoderAttention extends Module {
  q_proj: Linear;
  k_proj: Linear;
  v_proj: Linear;
  o_proj: Linear;
  /** Over head_dim; null in families without them. */
  q_norm: RmsNorm | null;
  k_norm: RmsNorm | null;

  constructor(
    private readonly config: DecoderConfig,
    private readonly layer: number,
    dtype: DType,
    init: Init,
  ) {
    super();
    const { hiddenSize, heads, kvHeads, headDim, qkvBias, outputBias, rmsNormEps, unitOffsetNorm } = config;
    const norm = (): RmsNorm | null => (config.qkNorm ? new RmsNorm(headDim, rmsNormEps, dtype, unitOffsetNorm) : null);
    this.q_proj = new Linear(hiddenSize, heads * headDim, { bias: qkvBias, dtype, init });
    this.k_proj = new Linear(hiddenSize, kvHeads * headDim, { bias: qkvBias, dtype, init });
    this.v_proj = new Linear(hiddenSize, kvHeads * headDim, { bias: qkvBias, dtype, init });
    this.o_proj = new Linear(heads * headDim, hiddenSize, { bias: outputBias, dtype, init });
    this.q_norm = norm();
    this.k_norm = norm();
  }

  /** Attention of the normed x, plus the residual. */
  forward(x_TD: Tensor, residual_TD: Tensor, inputs: LayerInputs): Tensor {
    const { heads, kvHeads, headDim, windows } = this.config;
    const q_THK = perHead(this.q_norm, this.q_proj.forward(x_TD, inputs));
    const k_TGK = perHead(this.k_norm, this.k_proj.forward(x_TD, inputs));
    const v_TGK = this.v_proj.forward(x_TD, inputs);
    const o_THK = scope(this.path, () => {
      const q = rope(q_THK, inputs.table, headDim);
      const k = rope(k_TGK, inputs.table, headDim);
      const shape = {
        heads,
        kvHeads,
        headDim,
        scale: 1 / Math.sqrt(headDim),
        causal: true,
        window: windows[this.layer],
      };
      return attend(q, k, v_TGK, shape, this.layer, inputs);
    });
    return this.o_proj.forward(o_THK, inputs, residual_TD);
  }
}

/** The norm over each head of `[T, H*K]`. */
function perHead(norm: RmsNorm | null, x: Tensor): Tensor {
  if (!norm) return x;
  const [t, width] = x.shape;
  const [k] = norm.weight.shape;
  const rows = scope(norm.path, () => reshape(x, [(t * width) / k, k]));
  const normed = norm.forward(rows);
  return scope(norm.path, () => reshape(normed, [t, width]));
}

class DecoderMlp extends Module {
  gate_proj: Linear;
  up_proj: Linear;
  down_proj: Linear;

  constructor(
    private readonly config: DecoderConfig,
    dtype: DType,
    init: Init,
  ) {
    super();
    const { hiddenSize, intermediateSize, mlpBias: bias } = config;
    this.gate_proj = new Linear(hiddenSize, intermediateSize, { bias, dtype, init });
    this.up_proj = new Linear(hiddenSize, intermediateSize, { bias, dtype, init });
    this.down_proj = new Linear(intermediateSize, hiddenSize, { bias, dtype, init });
  }

  forward(x_TD: Tensor, residual_TD: Tensor, inputs: LayerInputs): Tensor {
    const gate_TF = this.gate_proj.forward(x_TD, inputs);
    const up_TF = this.up_proj.forward(x_TD, inputs);
    const h_TF = scope(this.path, () => glu(gate_TF, up_TF, this.config.activation));
    return this.down_proj.forward(h_TF, inputs, residual_TD);
  }
}

class DecoderLayer extends Module {
  self_attn: DecoderAttention;
  mlp: DecoderMlp;
  input_layernorm: RmsNorm;
  post_attention_layernorm: RmsNorm;

  constructor(config: DecoderConfig, layer: number, dtype: DType, init: Init) {
    super();
    this.self_attn = new DecoderAttention(config, layer, dtype, init);
    this.mlp = new DecoderMlp(config, dtype, init);
    this.input_layernorm = new RmsNorm(config.hiddenSize, config.rmsNormEps, dtype, config.unitOffsetNorm);
    this.post_attention_layernorm = new RmsNorm(config.hiddenSize, config.rmsNormEps, dtype, config.unitOffsetNorm);
  }

  forward(x_TD: Tensor, inputs: LayerInputs): Tensor {
    return checkpointBlock(this.path, () => {
      const mid_TD = this.self_attn.forward(this.input_layernorm.forward(x_TD), x_TD, inputs);
      return this.mlp.forward(this.post_attention_layernorm.forward(mid_TD), mid_TD, inputs);
    });
  }
}

/** To nearest, ties to even. */
function roundedToBf16(value: number): number {
  const bits = new Uint32Array(Float32Array.of(value).buffer);
  bits[0] = (bits[0] + 0x7fff + ((bits[0] >>> 16) & 1)) & 0xffff0000;
  return new Float32Array(bits.buffer)[0];
}

class DecoderModel extends Module {
  embed_tokens: Embedding;
  layers: DecoderLayer[];
  norm: RmsNorm;

  constructor(
    private readonly config: DecoderConfig,
    private readonly computeDtype: DType,
    dtype: DType,
    init: Init,
  ) {
    super();
    this.embed_tokens = new Embedding(config.vocabSize, config.hiddenSize, dtype, init);
    this.layers = Array.from({ length: config.layers }, (_, i) => new DecoderLayer(config, i, dtype, init));
    this.norm = new RmsNorm(config.hiddenSize, config.rmsNormEps, dtype, config.unitOffsetNorm);
  }

  /** transformers rounds the factor to the type of the table. */
  private get scale(): number {
    const { embeddingScale } = this.config;
    return this.embed_tokens.weight.dtype === 'bf16' ? roundedToBf16(embeddingScale) : embeddingScale;
  }

  forward(inputs: CausalInputs): Tensor {
    const { invFreq, attentionScaling } = this.config.rope;
    const table = scope(this.path, () => ropeTable(inputs.positionIds, invFreq, attentionScaling));
    let x_TD = this.embed_tokens.forward(inputs.inputIds, this.computeDtype, this.scale);
    for (const layer of this.layers) x_TD = layer.forward(x_TD, { ...inputs, table });
    return this.norm.forward(x_TD);
  }
}

export class DecoderForCausalLM extends Module implements CausalLm {
  model: DecoderModel;
  /** Absent when the head is tied to the embedding. */
  lm_head: Linear | null;
  readonly logitScale = 1;
  readonly logitSoftcap = 0;
  readonly loraTargets = ['q_proj', 'v_proj'];
  readonly computeDtype: DType;

  constructor(
    readonly config: DecoderConfig,
    o: BuildOptions,
  ) {
    super();
    const dtype = o.weightDtype ?? o.dtype;
    const init: Init = { kind: 'normal', std: config.initializerRange };
    this.computeDtype = o.dtype;
    this.model = new DecoderModel(config, o.dtype, dtype, init);
    this.lm_head = config.tieWordEmbeddings ? null : new Linear(config.hiddenSize, config.vocabSize, { dtype, init });
    this.bind();
  }

  forward(inputs: CausalInputs): Tensor {
    return this.model.forward(inputs);
  }

  get head(): Parameter {
    return this.lm_head?.weight ?? this.model.embed_tokens.weight;
  }

  get embedding(): Parameter {
    return this.model.embed_tokens.weight;
  }

  cacheShape(batch: number, length: number): KvCacheShape {
    const { layers, kvHeads, headDim } = this.config;
    return { layers, batch, length, width: kvHeads * headDim, dtype: this.computeDtype };
  }
}
