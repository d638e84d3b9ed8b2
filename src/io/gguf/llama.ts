/**
 * GGUF files of llama-like models as a Hugging Face config and Hugging Face tensor names.
 *
 * The idea: llama.cpp renames tensors and, for some architectures, changes their values on the way: rotary rows
 * of llama's q and k are interleaved, gemma's norm weights have one added. The mapping returns sources in HF's
 * names with a note of what the loader must undo; it moves no data itself.
 *
 * Source: llama.cpp convert_hf_to_gguf.py (LlamaModel.permute, set_gguf_parameters), gguf-py tensor_mapping.py.
 */
import { LatheError } from '../../errors';
import { readTensorFloats } from '../float-codec';
import type { TensorSource } from '../tensor-source';
import { Metadata } from './metadata';
import type { GgufFile } from './reader';

export interface GgufTensor {
  source: TensorSource;
  /** Rows are in llama.cpp's order for this many heads; see `unpermuteHeads`. */
  permuteHeads?: number;
  /** The stored values are one larger than HF's (gemma's norms). */
  subtractOne?: true;
}

export interface GgufModel {
  /** A config.json object; `architectures` and `model_type` included. */
  config: Record<string, unknown>;
  /** By HF name. */
  tensors: Map<string, GgufTensor>;
}

interface Architecture {
  modelType: string;
  className: string;
  hiddenAct: string;
  permutesHeads: boolean;
  shiftsNorms: boolean;
  alwaysTied?: true;
  /** HF names of the norms before and after the MLP, where they differ from llama's. */
  names?: Record<string, string>;
}

const SANDWICH_NORMS = {
  post_attention_norm: 'post_attention_layernorm',
  ffn_norm: 'pre_feedforward_layernorm',
  post_ffw_norm: 'post_feedforward_layernorm',
};

const ARCHITECTURES: Record<string, Architecture> = {
  // Mistral and SmolLM files say `llama` too, and compute the same.
  llama: {
    modelType: 'llama',
    className: 'LlamaForCausalLM',
    hiddenAct: 'silu',
    permutesHeads: true,
    shiftsNorms: false,
  },
  qwen2: {
    modelType: 'qwen2',
    className: 'Qwen2ForCausalLM',
    hiddenAct: 'silu',
    permutesHeads: false,
    shiftsNorms: false,
  },
  qwen3: {
    modelType: 'qwen3',
    className: 'Qwen3ForCausalLM',
    hiddenAct: 'silu',
    permutesHeads: false,
    shiftsNorms: false,
  },
  gemma: {
    modelType: 'gemma',
    className: 'GemmaForCausalLM',
    hiddenAct: 'gelu_pytorch_tanh',
    permutesHeads: false,
    shiftsNorms: true,
    alwaysTied: true,
  },
  gemma2: {
    modelType: 'gemma2',
    className: 'Gemma2ForCausalLM',
    hiddenAct: 'gelu_pytorch_tanh',
    permutesHeads: false,
    shiftsNorms: true,
    alwaysTied: true,
    names: SANDWICH_NORMS,
  },
};

const LAYER_NAMES: Record<string, string> = {
  attn_norm: 'input_layernorm',
  attn_q: 'self_attn.q_proj',
  attn_k: 'self_attn.k_proj',
  attn_v: 'self_attn.v_proj',
  attn_output: 'self_attn.o_proj',
  attn_q_norm: 'self_attn.q_norm',
  attn_k_norm: 'self_attn.k_norm',
  ffn_norm: 'post_attention_layernorm',
  ffn_gate: 'mlp.gate_proj',
  ffn_up: 'mlp.up_proj',
  ffn_down: 'mlp.down_proj',
};

const TOP_NAMES: Record<string, string> = {
  'token_embd.weight': 'model.embed_tokens.weight',
  'output_norm.weight': 'model.norm.weight',
  'output.weight': 'lm_head.weight',
};

// rope_freqs is a table derived from the config, not a weight; it becomes `rope_scaling`.
const ROPE_FACTORS = 'rope_freqs.weight';

/** The decimal a converter started from: the shortest that rounds to this float32 (1e-5, not 9.99999974e-6). */
function shortestDecimal(value: number): number {
  for (let digits = 1; digits < 9; digits++) {
    const candidate = Number(value.toPrecision(digits));
    if (Math.fround(candidate) === Math.fround(value)) return candidate;
  }
  return value;
}

/**
 * Maps an opened file to HF's config and names. Reads at most the small rotary table.
 * @throws LatheError ERR_UNSUPPORTED for other architectures, split files, mixtures of experts and unknown tensors;
 *   ERR_FORMAT when metadata or tensors are missing or of wrong shape
 */
export async function mapGgufModel(file: GgufFile): Promise<GgufModel> {
  const architecture = file.metadata.get('general.architecture');
  const known =
    typeof architecture === 'string' && Object.hasOwn(ARCHITECTURES, architecture)
      ? ARCHITECTURES[architecture]
      : undefined;
  if (!known) {
    throw new LatheError(
      'ERR_UNSUPPORTED',
      `expected general.architecture to be one of ${Object.keys(ARCHITECTURES).join(', ')}, received ${String(architecture)}`,
      {
        at: file.path,
        remedy: 'load the original Hugging Face checkpoint',
      },
    );
  }
  const metadata = new Metadata(file, `${architecture as string}.`);
  rejectVariants(file, metadata);
  const config = await buildConfig(file, metadata, known);
  const tensors = mapTensors(file, config, known);
  checkShapes(tensors, config, metadata);
  return { config, tensors };
}

function rejectVariants(file: GgufFile, metadata: Metadata): void {
  const splits = metadata.number('split.count') ?? 1;
  if (splits > 1)
    throw new LatheError('ERR_UNSUPPORTED', `expected one file, received part of a set of ${splits}`, {
      at: file.path,
      remedy: 'join the parts with llama-gguf-split --merge',
    });
  if ((metadata.number(`${metadata.prefix}expert_count`) ?? 0) > 0) {
    throw new LatheError('ERR_UNSUPPORTED', 'expected a dense model, received a mixture of experts', {
      at: file.path,
      remedy: 'choose a dense model',
    });
  }
  if (metadata.text('general.type') === 'adapter') {
    throw new LatheError('ERR_UNSUPPORTED', 'expected a model, received an adapter', {
      at: file.path,
      remedy: 'load the base model first',
    });
  }
}

async function buildConfig(file: GgufFile, m: Metadata, known: Architecture): Promise<Record<string, unknown>> {
  const { prefix } = m;
  const hidden = m.required(`${prefix}embedding_length`);
  const heads = m.required(`${prefix}attention.head_count`);
  const epsilon = m.number(`${prefix}attention.layer_norm_rms_epsilon`);
  if (epsilon === undefined)
    throw m.error(`expected the metadata key '${prefix}attention.layer_norm_rms_epsilon', found none`);
  const headDim =
    m.count(`${prefix}attention.key_length`) ?? m.count(`${prefix}rope.dimension_count`) ?? hidden / heads;
  const embedding = file.tensors.get('token_embd.weight');
  if (embedding?.shape.length !== 2) throw m.error("expected a two-dimensional tensor 'token_embd.weight', found none");
  const ropeTheta = shortestDecimal(m.number(`${prefix}rope.freq_base`) ?? 10000);
  const config: Record<string, unknown> = {
    architectures: [known.className],
    model_type: known.modelType,
    vocab_size: embedding.shape[0],
    hidden_size: hidden,
    intermediate_size: m.required(`${prefix}feed_forward_length`),
    num_hidden_layers: m.required(`${prefix}block_count`),
    num_attention_heads: heads,
    num_key_value_heads: m.count(`${prefix}attention.head_count_kv`) ?? heads,
    head_dim: headDim,
    hidden_act: known.hiddenAct,
    max_position_embeddings: m.required(`${prefix}context_length`),
    rms_norm_eps: shortestDecimal(epsilon),
    rope_theta: ropeTheta,
    rope_scaling: await ropeScaling(file, m, headDim, ropeTheta),
    tie_word_embeddings: known.alwaysTied === true || !file.tensors.has('output.weight'),
    bos_token_id: m.number('tokenizer.ggml.bos_token_id') ?? null,
    eos_token_id: m.number('tokenizer.ggml.eos_token_id') ?? null,
    pad_token_id: m.number('tokenizer.ggml.padding_token_id') ?? null,
  };
  if (known.modelType === 'llama') {
    config.attention_bias = file.tensors.has('blk.0.attn_q.bias');
    config.mlp_bias = file.tensors.has('blk.0.ffn_up.bias');
  }
  if (known.modelType === 'qwen3') config.attention_bias = file.tensors.has('blk.0.attn_q.bias');
  if (known.modelType.startsWith('gemma')) config.hidden_activation = known.hiddenAct;
  if (known.modelType === 'gemma2') Object.assign(config, gemma2Fields(m, headDim, hidden / heads));
  return config;
}

function gemma2Fields(m: Metadata, headDim: number, hiddenPerHead: number): Record<string, unknown> {
  const window = m.count(`${m.prefix}attention.sliding_window`);
  return {
    attn_logit_softcapping: m.number(`${m.prefix}attn_logit_softcapping`) ?? 50,
    final_logit_softcapping: m.number(`${m.prefix}final_logit_softcapping`) ?? 30,
    // Not stored in the file; llama.cpp knows it from the model's size: 27B (46 layers) scales by hidden / heads.
    query_pre_attn_scalar: m.required(`${m.prefix}block_count`) === 46 ? hiddenPerHead : headDim,
    ...(window === undefined ? {} : { sliding_window: window }),
  };
}

async function ropeScaling(
  file: GgufFile,
  m: Metadata,
  headDim: number,
  theta: number,
): Promise<Record<string, unknown> | null> {
  const factors = file.tensors.get(ROPE_FACTORS);
  if (factors) return llama3Scaling(await readTensorFloats(factors), headDim, theta, m);
  const type = m.text(`${m.prefix}rope.scaling.type`) ?? 'none';
  // Before version 3, only a linear scale was written, under its own key.
  const legacy = m.number(`${m.prefix}rope.scale_linear`);
  const factor = m.number(`${m.prefix}rope.scaling.factor`) ?? legacy;
  if (type === 'linear' || (type === 'none' && legacy !== undefined && legacy !== 1))
    return { rope_type: 'linear', factor: shortestDecimal(factor ?? 1) };
  if (type === 'none') return null;
  const original = m.count(`${m.prefix}rope.scaling.original_context_length`);
  if (type === 'yarn' && factor !== undefined && original !== undefined) {
    return { rope_type: 'yarn', factor: shortestDecimal(factor), original_max_position_embeddings: original };
  }
  throw new LatheError('ERR_UNSUPPORTED', `expected rope scaling none, linear, yarn or llama3, received ${type}`, {
    at: file.path,
    remedy: 'load the original Hugging Face checkpoint',
  });
}

/** llama3's parameters are stored only as the table they give: recover the factor and check all of the table. */
function llama3Scaling(table: Float32Array, headDim: number, theta: number, m: Metadata): Record<string, unknown> {
  const factor = table.reduce((max, value) => Math.max(max, value), 1);
  const [low, high, original] = [1, 4, 8192];
  const matches =
    table.length === headDim / 2 &&
    table.every((stored, i) => {
      const wavelength = 2 * Math.PI * theta ** ((2 * i) / headDim);
      const smooth = (original / wavelength - low) / (high - low);
      const between = 1 / ((1 - smooth) / factor + smooth);
      const expected = wavelength < original / high ? 1 : wavelength > original / low ? factor : between;
      return Math.abs(stored - expected) <= 1e-4 * expected;
    });
  if (!matches) {
    throw new LatheError(
      'ERR_UNSUPPORTED',
      `expected ${ROPE_FACTORS} to be llama3's table (low 1, high 4, original context ${original}), received another one`,
      {
        at: `${m.prefix}rope`,
        remedy: 'load the original Hugging Face checkpoint',
      },
    );
  }
  return {
    rope_type: 'llama3',
    factor: shortestDecimal(factor),
    low_freq_factor: low,
    high_freq_factor: high,
    original_max_position_embeddings: original,
  };
}

function mapTensors(file: GgufFile, config: Record<string, unknown>, known: Architecture): Map<string, GgufTensor> {
  const tensors = new Map<string, GgufTensor>();
  const unknown: string[] = [];
  for (const [name, source] of file.tensors) {
    if (name === ROPE_FACTORS) continue;
    const hfName = toHfName(name, config.num_hidden_layers as number, known);
    if (hfName === undefined) {
      unknown.push(name);
      continue;
    }
    const tensor: GgufTensor = { source };
    if (known.permutesHeads && hfName.includes('.q_proj.')) tensor.permuteHeads = config.num_attention_heads as number;
    if (known.permutesHeads && hfName.includes('.k_proj.')) tensor.permuteHeads = config.num_key_value_heads as number;
    if (known.shiftsNorms && hfName.endsWith('norm.weight')) tensor.subtractOne = true;
    tensors.set(hfName, tensor);
  }
  if (unknown.length > 0) {
    throw new LatheError(
      'ERR_UNSUPPORTED',
      `expected the tensors of a ${known.modelType} model, received ${unknown.length} others: ${unknown.slice(0, 3).join(', ')}`,
      {
        at: file.path,
        remedy: 'load the original Hugging Face checkpoint',
      },
    );
  }
  return tensors;
}

function toHfName(name: string, layers: number, known: Architecture): string | undefined {
  if (Object.hasOwn(TOP_NAMES, name)) return TOP_NAMES[name];
  const match = /^blk\.(\d+)\.([a-z_]+)\.(weight|bias)$/.exec(name);
  if (!match || Number(match[1]) >= layers) return undefined;
  const [, layer, part, kind] = match;
  const names = { ...LAYER_NAMES, ...known.names };
  return Object.hasOwn(names, part) ? `model.layers.${Number(layer)}.${names[part]}.${kind}` : undefined;
}

/** All weights a dense decoder needs are there, and the attention projections have the shapes the config says. */
function checkShapes(tensors: ReadonlyMap<string, GgufTensor>, config: Record<string, unknown>, m: Metadata): void {
  const [hidden, inter, heads, kv, dim] = [
    'hidden_size',
    'intermediate_size',
    'num_attention_heads',
    'num_key_value_heads',
    'head_dim',
  ].map((key) => config[key] as number);
  const expect = (name: string, shape: number[]): void => {
    const source = tensors.get(name)?.source;
    if (!source) throw m.error(`expected a tensor for '${name}', found none`);
    if (source.shape.join() !== shape.join())
      throw m.error(`expected '${source.name}' of shape [${shape.join(', ')}], received [${source.shape.join(', ')}]`);
  };
  expect('model.embed_tokens.weight', [config.vocab_size as number, hidden]);
  expect('model.norm.weight', [hidden]);
  for (let i = 0; i < (config.num_hidden_layers as number); i++) {
    const layer = `model.layers.${i}.`;
    expect(`${layer}input_layernorm.weight`, [hidden]);
    expect(`${layer}self_attn.q_proj.weight`, [heads * dim, hidden]);
    expect(`${layer}self_attn.k_proj.weight`, [kv * dim, hidden]);
    expect(`${layer}self_attn.v_proj.weight`, [kv * dim, hidden]);
    expect(`${layer}self_attn.o_proj.weight`, [hidden, heads * dim]);
    expect(`${layer}post_attention_layernorm.weight`, [hidden]);
    expect(`${layer}mlp.gate_proj.weight`, [inter, hidden]);
    expect(`${layer}mlp.up_proj.weight`, [inter, hidden]);
    expect(`${layer}mlp.down_proj.weight`, [hidden, inter]);
  }
}

/**
 * HF row order from llama.cpp's: (heads, headDim / 2, 2, columns) to (heads, 2, headDim / 2, columns).
 * Row `h*D + 2i + j` of the file is row `h*D + j*D/2 + i` of HF. Works on rows of anything: floats or packed blocks.
 * @param rows values or bytes of [heads * headDim, ...], row-major
 */
export function unpermuteHeads<T extends Float32Array | Uint8Array | Uint16Array>(
  rows: T,
  rowCount: number,
  heads: number,
): T {
  const headDim = rowCount / heads;
  const width = rows.length / rowCount;
  if (!Number.isInteger(headDim) || headDim % 2 !== 0 || !Number.isInteger(width)) {
    throw new LatheError(
      'ERR_SHAPE',
      `expected rows that split into ${heads} heads of even size, received ${rowCount} rows in ${rows.length} elements`,
    );
  }
  const out = rows.slice() as T;
  for (let head = 0; head < heads; head++) {
    for (let i = 0; i < headDim / 2; i++) {
      for (let j = 0; j < 2; j++) {
        const from = (head * headDim + 2 * i + j) * width;
        out.set(rows.subarray(from, from + width), (head * headDim + j * (headDim / 2) + i) * width);
      }
    }
  }
  return out;
}

/** One mapped tensor as HF would hold it: decoded, rows un-permuted, norm shift undone. For tests and small uses. */
export async function readGgufTensor(tensor: GgufTensor): Promise<Float32Array> {
  const values = await readTensorFloats(tensor.source);
  if (tensor.subtractOne) return values.map((value) => value - 1);
  return tensor.permuteHeads === undefined
    ? values
    : unpermuteHeads(values, tensor.source.shape[0], tensor.permuteHeads);
}
