/**
 * GPT2LMHeadModel (Radford et al. 2019): learned positions, pre-norm, fused q/k/v, GELU, head tied to the embedding.
 *
 * Legend: T tokens, D n_embd, H heads, K head_dim, F inner width, P n_positions, V vocabulary. Config keys, defaults and
 * weight names: transformers' GPT2Config. Linear weights are Conv1D's, `[in, out]`.
 *
 * Dropout: embd_pdrop and resid_pdrop act where transformers has them. attn_pdrop does not act: it drops attention
 * probabilities, which the tiled attention never holds, and a config's default of 0.1 must not make training impossible.
 * A model that is trained here says so in `notes`; for a comparison with torch set it to 0 there.
 *
 * reorder_and_upcast_attn asks for scaled scores and a softmax in fp32, which is how attention always works here.
 */
import { LatheError } from '../errors';
import type { DType } from '../graph/dtype';
import type { Tensor } from '../graph/tensor';
import { checkpointBlock, scope } from '../graph/trace';
import { attend, type KvCacheShape } from '../nn/kv-cache';
import { Embedding, LayerNorm, Linear, type ForwardContext } from '../nn/layers';
import { Module, type Init, type Parameter } from '../nn/module';
import { activation, add, type ActivationKind } from '../ops/elementwise';
import { splitCols } from '../ops/movement';
import { dropout } from '../ops/random';
import { activationKind } from './activations';
import type { BuildOptions, CausalInputs, CausalLm, ModelConfig, ModelFamily } from './causal-lm';
import { ConfigReader, type RawConfig } from './config-reader';

export interface Gpt2Config extends ModelConfig {
  readonly heads: number;
  readonly innerSize: number;
  readonly activation: ActivationKind;
  readonly layerNormEps: number;
  readonly initializerRange: number;
  readonly embdPdrop: number;
  readonly residPdrop: number;
  readonly attnPdrop: number;
  readonly scaleAttnWeights: boolean;
  readonly scaleAttnByInverseLayerIdx: boolean;
}

export function parseGpt2Config(raw: RawConfig): Gpt2Config {
  const c = new ConfigReader(raw);
  const hiddenSize = c.size('n_embd', 768);
  const heads = c.size('n_head', 12);
  if (hiddenSize % heads !== 0)
    throw new LatheError('ERR_FORMAT', `n_embd ${hiddenSize} is not a multiple of n_head ${heads}`, {
      at: 'config.json',
    });
  if (c.boolean('add_cross_attention', false))
    throw new LatheError('ERR_UNSUPPORTED', 'add_cross_attention is not supported', {
      at: 'config.json',
      remedy: 'use a decoder-only GPT-2',
    });
  return {
    modelType: 'gpt2',
    vocabSize: c.size('vocab_size', 50257),
    hiddenSize,
    layers: c.size('n_layer', 12),
    maxPositions: c.size('n_positions', 1024),
    tieWordEmbeddings: c.boolean('tie_word_embeddings', true),
    heads,
    innerSize: c.size('n_inner', 4 * hiddenSize),
    activation: activationKind(c.string('activation_function', 'gelu_new'), 'activation_function'),
    layerNormEps: c.number('layer_norm_epsilon', 1e-5),
    initializerRange: c.number('initializer_range', 0.02),
    embdPdrop: c.probability('embd_pdrop', 0.1),
    residPdrop: c.probability('resid_pdrop', 0.1),
    attnPdrop: c.probability('attn_pdrop', 0.1),
    scaleAttnWeights: c.boolean('scale_attn_weights', true),
    scaleAttnByInverseLayerIdx: c.boolean('scale_attn_by_inverse_layer_idx', false),
    raw,
  };
}

/** Projections that end a residual branch start smaller, by the number of branches that are added up (GPT-2, 2.3). */
function residualInit(config: Gpt2Config): Init {
  return { kind: 'normal', std: config.initializerRange / Math.sqrt(2 * config.layers) };
}

/** y + residual, y dropped out while training; without dropout the addition rides in the projection. */
function addDropped(
  projection: Linear,
  x: Tensor,
  residual_TD: Tensor,
  p: number,
  path: string,
  ctx: ForwardContext,
): Tensor {
  const { rng } = ctx;
  if (!rng || p === 0) return projection.forward(x, ctx, residual_TD);
  const y_TD = projection.forward(x, ctx);
  return scope(path, () => add(dropout(y_TD, rng, p, path), residual_TD));
}

class Gpt2Attention extends Module {
  c_attn: Linear;
  c_proj: Linear;

  constructor(
    private readonly config: Gpt2Config,
    private readonly layer: number,
    dtype: DType,
    init: Init,
  ) {
    super();
    const { hiddenSize } = config;
    this.c_attn = new Linear(hiddenSize, 3 * hiddenSize, { bias: true, dtype, init, layout: 'in_out' });
    this.c_proj = new Linear(hiddenSize, hiddenSize, {
      bias: true,
      dtype,
      init: residualInit(config),
      layout: 'in_out',
    });
  }

  /** Attention of the normed x, plus the residual. */
  forward(x_TD: Tensor, residual_TD: Tensor, inputs: CausalInputs): Tensor {
    const { heads, hiddenSize, residPdrop } = this.config;
    const qkv_T3D = this.c_attn.forward(x_TD, inputs);
    const o_TD = scope(this.path, () => {
      const [q_THK, k_THK, v_THK] = splitCols(qkv_T3D, [hiddenSize, hiddenSize, hiddenSize]);
      return attend(
        q_THK,
        k_THK,
        v_THK,
        { heads, kvHeads: heads, headDim: hiddenSize / heads, scale: this.scale, causal: true },
        this.layer,
        inputs,
      );
    });
    return addDropped(this.c_proj, o_TD, residual_TD, residPdrop, `${this.path}.resid_dropout`, inputs);
  }

  private get scale(): number {
    const { heads, hiddenSize, scaleAttnWeights, scaleAttnByInverseLayerIdx } = this.config;
    const scale = scaleAttnWeights ? 1 / Math.sqrt(hiddenSize / heads) : 1;
    return scaleAttnByInverseLayerIdx ? scale / (this.layer + 1) : scale;
  }
}

class Gpt2Mlp extends Module {
  c_fc: Linear;
  c_proj: Linear;

  constructor(
    private readonly config: Gpt2Config,
    dtype: DType,
    init: Init,
  ) {
    super();
    const { hiddenSize, innerSize } = config;
    this.c_fc = new Linear(hiddenSize, innerSize, { bias: true, dtype, init, layout: 'in_out' });
    this.c_proj = new Linear(innerSize, hiddenSize, {
      bias: true,
      dtype,
      init: residualInit(config),
      layout: 'in_out',
    });
  }

  forward(x_TD: Tensor, residual_TD: Tensor, ctx: ForwardContext): Tensor {
    const h_TF = this.c_fc.forward(x_TD, ctx);
    const a_TF = scope(this.path, () => activation(h_TF, this.config.activation));
    return addDropped(this.c_proj, a_TF, residual_TD, this.config.residPdrop, `${this.path}.dropout`, ctx);
  }
}

class Gpt2Block extends Module {
  ln_1: LayerNorm;
  attn: Gpt2Attention;
  ln_2: LayerNorm;
  mlp: Gpt2Mlp;

  constructor(config: Gpt2Config, layer: number, dtype: DType, init: Init) {
    super();
    this.ln_1 = new LayerNorm(config.hiddenSize, config.layerNormEps, dtype);
    this.attn = new Gpt2Attention(config, layer, dtype, init);
    this.ln_2 = new LayerNorm(config.hiddenSize, config.layerNormEps, dtype);
    this.mlp = new Gpt2Mlp(config, dtype, init);
  }

  forward(x_TD: Tensor, inputs: CausalInputs): Tensor {
    return checkpointBlock(this.path, () => {
      const mid_TD = this.attn.forward(this.ln_1.forward(x_TD), x_TD, inputs);
      return this.mlp.forward(this.ln_2.forward(mid_TD), mid_TD, inputs);
    });
  }
}

class Gpt2Model extends Module {
  wte: Embedding;
  wpe: Embedding;
  h: Gpt2Block[];
  ln_f: LayerNorm;

  constructor(
    private readonly config: Gpt2Config,
    private readonly computeDtype: DType,
    dtype: DType,
    init: Init,
  ) {
    super();
    this.wte = new Embedding(config.vocabSize, config.hiddenSize, dtype, init);
    this.wpe = new Embedding(config.maxPositions, config.hiddenSize, dtype, init);
    this.h = Array.from({ length: config.layers }, (_, i) => new Gpt2Block(config, i, dtype, init));
    this.ln_f = new LayerNorm(config.hiddenSize, config.layerNormEps, dtype);
  }

  forward(inputs: CausalInputs): Tensor {
    const { rng } = inputs;
    const token_TD = this.wte.forward(inputs.inputIds, this.computeDtype);
    const position_TD = this.wpe.forward(inputs.positionIds, this.computeDtype);
    let x_TD = scope(this.path, () => {
      const sum_TD = add(token_TD, position_TD);
      return rng ? dropout(sum_TD, rng, this.config.embdPdrop, `${this.path}.drop`) : sum_TD;
    });
    for (const block of this.h) x_TD = block.forward(x_TD, inputs);
    return this.ln_f.forward(x_TD);
  }
}

export class Gpt2LmHeadModel extends Module implements CausalLm {
  transformer: Gpt2Model;
  /** Absent when the head is tied to the embedding. */
  lm_head: Linear | null;
  readonly logitScale = 1;
  readonly logitSoftcap = 0;
  readonly loraTargets = ['c_attn'];
  readonly computeDtype: DType;
  readonly notes: readonly string[];
  readonly positionRows: number;

  constructor(
    readonly config: Gpt2Config,
    o: BuildOptions,
  ) {
    super();
    const dtype = o.weightDtype ?? o.dtype;
    const init: Init = { kind: 'normal', std: config.initializerRange };
    this.computeDtype = o.dtype;
    this.positionRows = config.maxPositions;
    this.transformer = new Gpt2Model(config, o.dtype, dtype, init);
    this.lm_head = config.tieWordEmbeddings ? null : new Linear(config.hiddenSize, config.vocabSize, { dtype, init });
    this.notes =
      config.attnPdrop > 0
        ? [
            `attn_pdrop ${config.attnPdrop} is not applied: attention probabilities are never held; embd_pdrop and resid_pdrop are`,
          ]
        : [];
    this.bind();
  }

  forward(inputs: CausalInputs): Tensor {
    return this.transformer.forward(inputs);
  }

  get head(): Parameter {
    return this.lm_head?.weight ?? this.transformer.wte.weight;
  }

  get embedding(): Parameter {
    return this.transformer.wte.weight;
  }

  cacheShape(batch: number, length: number): KvCacheShape {
    const { layers, hiddenSize } = this.config;
    return { layers, batch, length, width: hiddenSize, dtype: this.computeDtype };
  }
}

/** The Hub's gpt2 files hold the bare transformer (no prefix) and its causal masks. */
function checkpointName(key: string): string | null {
  if (/(^|\.)attn\.(masked_)?bias$/.test(key)) return null;
  return /^(wte|wpe|h|ln_f)\./.test(key) ? `transformer.${key}` : key;
}

export const gpt2: ModelFamily = {
  modelType: 'gpt2',
  architectures: ['GPT2LMHeadModel'],
  build: (raw, options) => new Gpt2LmHeadModel(parseGpt2Config(raw), options),
  checkpointName,
};
