/**
 * LlamaForCausalLM (arXiv 2302.13971, 2407.21783): pre-norm, RoPE, grouped-query attention, SwiGLU.
 *
 * Legend: T tokens, D hidden_size, H query heads, G key/value heads, K head_dim, F intermediate_size, V vocabulary.
 * Config keys and defaults: transformers' LlamaConfig.
 */
import { LatheError } from '../errors';
import type { DType } from '../graph/dtype';
import type { Tensor } from '../graph/tensor';
import { checkpointBlock, scope } from '../graph/trace';
import { attend, type KvCacheShape } from '../nn/kv-cache';
import { Embedding, Linear, RmsNorm } from '../nn/layers';
import { Module, type Init, type Parameter } from '../nn/module';
import { glu, type ActivationKind } from '../ops/elementwise';
import { rope, ropeTable } from '../ops/rope';
import type { BuildOptions, CausalInputs, CausalLm, ModelConfig, ModelFamily } from './causal-lm';
import { ConfigReader, type RawConfig } from './config-reader';
import { ropeFrequencies, type RopeFrequencies } from './rope-scaling';

export interface LlamaConfig extends ModelConfig {
  readonly intermediateSize: number;
  readonly heads: number;
  readonly kvHeads: number;
  readonly headDim: number;
  readonly rmsNormEps: number;
  readonly attentionBias: boolean;
  readonly mlpBias: boolean;
  readonly activation: ActivationKind;
  readonly rope: RopeFrequencies;
  readonly initializerRange: number;
}

const ACTIVATIONS: Record<string, ActivationKind> = { silu: 'silu', swish: 'silu', gelu: 'gelu', gelu_pytorch_tanh: 'gelu_tanh', gelu_new: 'gelu_tanh' };

export function parseLlamaConfig(raw: RawConfig): LlamaConfig {
  const c = new ConfigReader(raw);
  const hiddenSize = c.size('hidden_size', 4096);
  const heads = c.size('num_attention_heads', 32);
  const kvHeads = c.size('num_key_value_heads', heads);
  const headDim = c.size('head_dim', Math.floor(hiddenSize / heads));
  const maxPositions = c.size('max_position_embeddings', 2048);
  const activation = ACTIVATIONS[c.string('hidden_act', 'silu')];
  if (!activation) throw new LatheError('ERR_UNSUPPORTED', `hidden_act '${c.string('hidden_act')}' is not supported`, { at: 'config.json', remedy: `use one of ${Object.keys(ACTIVATIONS).join(', ')}` });
  if (heads % kvHeads !== 0) throw new LatheError('ERR_FORMAT', `num_attention_heads ${heads} is not a multiple of num_key_value_heads ${kvHeads}`, { at: 'config.json' });
  return {
    modelType: 'llama',
    vocabSize: c.size('vocab_size', 32000),
    hiddenSize,
    layers: c.size('num_hidden_layers', 32),
    maxPositions,
    tieWordEmbeddings: c.boolean('tie_word_embeddings', false),
    intermediateSize: c.size('intermediate_size', 11008),
    heads,
    kvHeads,
    headDim,
    rmsNormEps: c.number('rms_norm_eps', 1e-6),
    attentionBias: c.boolean('attention_bias', false),
    mlpBias: c.boolean('mlp_bias', false),
    activation,
    rope: ropeFrequencies(c, headDim, maxPositions),
    initializerRange: c.number('initializer_range', 0.02),
    raw,
  };
}

interface LayerInputs extends CausalInputs {
  readonly table: { cos: Tensor; sin: Tensor };
}

class LlamaAttention extends Module {
  q_proj: Linear;
  k_proj: Linear;
  v_proj: Linear;
  o_proj: Linear;

  constructor(
    private readonly config: LlamaConfig,
    private readonly layer: number,
    dtype: DType,
    init: Init,
  ) {
    super();
    const { hiddenSize, heads, kvHeads, headDim, attentionBias: bias } = config;
    this.q_proj = new Linear(hiddenSize, heads * headDim, { bias, dtype, init });
    this.k_proj = new Linear(hiddenSize, kvHeads * headDim, { bias, dtype, init });
    this.v_proj = new Linear(hiddenSize, kvHeads * headDim, { bias, dtype, init });
    this.o_proj = new Linear(heads * headDim, hiddenSize, { bias, dtype, init });
  }

  /** Attention of the normed x, plus the residual. */
  forward(x_TD: Tensor, residual_TD: Tensor, inputs: LayerInputs): Tensor {
    const { heads, kvHeads, headDim } = this.config;
    const q_THK = this.q_proj.forward(x_TD, inputs);
    const k_TGK = this.k_proj.forward(x_TD, inputs);
    const v_TGK = this.v_proj.forward(x_TD, inputs);
    const o_THK = scope(this.path, () => {
      const q = rope(q_THK, inputs.table, headDim);
      const k = rope(k_TGK, inputs.table, headDim);
      return attend(q, k, v_TGK, { heads, kvHeads, headDim, scale: 1 / Math.sqrt(headDim), causal: true }, this.layer, inputs);
    });
    return this.o_proj.forward(o_THK, inputs, residual_TD);
  }
}

class LlamaMlp extends Module {
  gate_proj: Linear;
  up_proj: Linear;
  down_proj: Linear;

  constructor(
    private readonly config: LlamaConfig,
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

class LlamaDecoderLayer extends Module {
  self_attn: LlamaAttention;
  mlp: LlamaMlp;
  input_layernorm: RmsNorm;
  post_attention_layernorm: RmsNorm;

  constructor(config: LlamaConfig, layer: number, dtype: DType, init: Init) {
    super();
    this.self_attn = new LlamaAttention(config, layer, dtype, init);
    this.mlp = new LlamaMlp(config, dtype, init);
    this.input_layernorm = new RmsNorm(config.hiddenSize, config.rmsNormEps, dtype);
    this.post_attention_layernorm = new RmsNorm(config.hiddenSize, config.rmsNormEps, dtype);
  }

  forward(x_TD: Tensor, inputs: LayerInputs): Tensor {
    return checkpointBlock(this.path, () => {
      const mid_TD = this.self_attn.forward(this.input_layernorm.forward(x_TD), x_TD, inputs);
      return this.mlp.forward(this.post_attention_layernorm.forward(mid_TD), mid_TD, inputs);
    });
  }
}

class LlamaModel extends Module {
  embed_tokens: Embedding;
  layers: LlamaDecoderLayer[];
  norm: RmsNorm;

  constructor(
    private readonly config: LlamaConfig,
    private readonly computeDtype: DType,
    dtype: DType,
    init: Init,
  ) {
    super();
    this.embed_tokens = new Embedding(config.vocabSize, config.hiddenSize, dtype, init);
    this.layers = Array.from({ length: config.layers }, (_, i) => new LlamaDecoderLayer(config, i, dtype, init));
    this.norm = new RmsNorm(config.hiddenSize, config.rmsNormEps, dtype);
  }

  forward(inputs: CausalInputs): Tensor {
    const { invFreq, attentionScaling } = this.config.rope;
    const table = scope(this.path, () => ropeTable(inputs.positionIds, invFreq, attentionScaling));
    let x_TD = this.embed_tokens.forward(inputs.inputIds, this.computeDtype);
    for (const layer of this.layers) x_TD = layer.forward(x_TD, { ...inputs, table });
    return this.norm.forward(x_TD);
  }
}

export class LlamaForCausalLM extends Module implements CausalLm {
  model: LlamaModel;
  /** Absent when the head is tied to the embedding. */
  lm_head: Linear | null;
  readonly logitScale = 1;
  readonly logitSoftcap = 0;
  readonly loraTargets = ['q_proj', 'v_proj'];
  readonly computeDtype: DType;

  constructor(
    readonly config: LlamaConfig,
    o: BuildOptions,
  ) {
    super();
    const dtype = o.weightDtype ?? o.dtype;
    const init: Init = { kind: 'normal', std: config.initializerRange };
    this.computeDtype = o.dtype;
    this.model = new LlamaModel(config, o.dtype, dtype, init);
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

export const llama: ModelFamily = {
  modelType: 'llama',
  architectures: ['LlamaForCausalLM'],
  build: (raw, options) => new LlamaForCausalLM(parseLlamaConfig(raw), options),
};
