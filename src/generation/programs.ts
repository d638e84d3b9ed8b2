/**
 * The programs of generation: prefill reads whole prompts, decode one token per sequence, fork copies cache rows.
 *
 * Prompts are ragged and lie end to end, so there is nothing to pad and no padding side. Only the last position of each
 * prompt reaches the output head. The token is chosen inside the program, so logits stay where they were computed unless
 * somebody asks for them. Everything that changes from step to step is an input; shapes come from few buckets, so few
 * programs exist. Legend: T tokens, B sequences, L cache rows per sequence, H history length, V vocabulary, D width.
 */
import { input, output, readState, scope, trace, updateState, type Graph } from '../graph/trace';
import type { Tensor } from '../graph/tensor';
import type { CausalLm } from '../models/causal-lm';
import { cacheSlots, type KvCacheShape } from '../nn/kv-cache';
import { Linear } from '../nn/layers';
import { activation, add, scale } from '../ops/elementwise';
import { computeOf, matmul } from '../ops/matmul';
import { cacheWrite, gatherRows } from '../ops/movement';
import { sample } from '../ops/sampling';

/** What a step's program is compiled for. */
export interface StepShape {
  readonly cache: KvCacheShape;
  /** Columns of the token history, H; 1 when there is no repetition penalty. */
  readonly history: number;
  /** Whether a mask f32 `[B, V]` is added to the logits. */
  readonly mask: boolean;
  /** Whether the logits are an output. */
  readonly logits: boolean;
}

/**
 * Prompts of T tokens in at most B documents, written to the cache; the next token of each sequence.
 * Inputs: input_ids, position_ids, cache_rows i32 `[T]` (-1 = padding), cu_seqlens i32 `[B+1]`, last_rows i32 `[B]` (-1 = no
 * prompt in this run), and those of `choose`.
 */
export function prefillProgram(module: CausalLm, tokens: number, shape: StepShape): Graph {
  const { batch } = shape.cache;
  return trace(`prefill ${tokens} tokens, ${batch} sequences`, () => {
    const hidden_TD = module.forward({
      inputIds: input('input_ids', [tokens], 'i32'),
      positionIds: input('position_ids', [tokens], 'i32'),
      cuSeqlens: input('cu_seqlens', [batch + 1], 'i32'),
      cache: { shape: shape.cache, rows: input('cache_rows', [tokens], 'i32') },
      rng: null,
    });
    choose(module, gatherRows(hidden_TD, input('last_rows', [batch], 'i32')), shape);
  });
}

/**
 * One token per sequence. Inputs: input_ids, position_ids, cache_rows, lengths i32 `[B]` (visible cache rows, this token's
 * included), and those of `choose`.
 */
export function decodeProgram(module: CausalLm, shape: StepShape): Graph {
  const { batch } = shape.cache;
  return trace(`decode ${batch} sequences`, () => {
    const hidden_BD = module.forward({
      inputIds: input('input_ids', [batch], 'i32'),
      positionIds: input('position_ids', [batch], 'i32'),
      cuSeqlens: null,
      cache: {
        shape: shape.cache,
        rows: input('cache_rows', [batch], 'i32'),
        lengths: input('lengths', [batch], 'i32'),
      },
      rng: null,
    });
    choose(module, hidden_BD, shape);
  });
}

/** Copies cache rows `from` to rows `to`, i32 `[rows]` each, in every layer; `to` = -1 copies nothing. */
export function forkProgram(cache: KvCacheShape, rows: number): Graph {
  return trace(`fork ${rows} cache rows`, () => {
    const from = input('from', [rows], 'i32');
    const to = input('to', [rows], 'i32');
    for (let layer = 0; layer < cache.layers; layer++) {
      for (const slot of Object.values(cacheSlots(cache, layer))) {
        const old = readState(slot);
        updateState(slot, cacheWrite(old, gatherRows(old, from), to));
      }
    }
  });
}

/**
 * Next tokens from hidden states `[B, D]`. Inputs: history i32 `[B, H]`, params f32 `[8]`, rng i32 `[4]`, mask f32 `[B, V]` if
 * any. Outputs: token i32 `[B]`, logprob f32 `[B]`, logits f32 `[B, V]` if asked for (before mask and penalty).
 */
function choose(module: CausalLm, hidden_BD: Tensor, { cache, history, mask, logits: wanted }: StepShape): void {
  const raw_BV = headLogits(module, hidden_BD);
  if (wanted) output('logits', raw_BV);
  const logits_BV = mask ? add(raw_BV, input('mask', raw_BV.shape, 'f32')) : raw_BV;
  const chosen = sample(
    logits_BV,
    input('history', [cache.batch, history], 'i32'),
    input('params', [8], 'f32'),
    input('rng', [4], 'i32'),
  );
  output('token', chosen.token);
  output('logprob', chosen.logprob);
}

/** f32 logits `[B, V]`, with the head's bias, low-rank pairs, scale and soft cap where it has them. */
function headLogits(module: CausalLm, hidden_BD: Tensor): Tensor {
  const head = [...module.modules()].find((m): m is Linear => m instanceof Linear && m.weight === module.head);
  return scope(head?.path ?? 'lm_head', () => {
    const compute = computeOf(hidden_BD);
    const extra = (head?.lowRank ?? [])
      .filter((pair) => pair.active)
      .map((pair) => ({
        a: matmul(hidden_BD, readState(pair.a.slot()), {
          transB: true,
          alpha: pair.scaling,
          compute,
          dtype: hidden_BD.dtype,
        }),
        b: readState(pair.b.slot()),
        transB: true,
      }));
    const bias = head?.bias?.read(hidden_BD.dtype);
    let logits_BV = matmul(hidden_BD, module.head.read(hidden_BD.dtype), {
      transB: head?.layout !== 'in_out',
      bias,
      extra,
      compute,
      dtype: 'f32',
    });
    if (module.logitScale !== 1) logits_BV = scale(logits_BV, module.logitScale);
    const cap = module.logitSoftcap;
    return cap > 0 ? scale(activation(scale(logits_BV, 1 / cap), 'tanh'), cap) : logits_BV;
  });
}

/** Runs `fn` with every low-rank pair on or off; null leaves them as they are. */
export function withAdapters<T>(module: CausalLm, active: boolean | null, fn: () => T): T {
  if (active === null) return fn();
  const pairs = lowRankPairs(module);
  const before = pairs.map((pair) => pair.active);
  for (const pair of pairs) pair.active = active;
  try {
    return fn();
  } finally {
    pairs.forEach((pair, i) => (pair.active = before[i]));
  }
}

/** Which pairs take part, as a key: programs traced with different pairs are different programs. */
export function adapterKey(module: CausalLm): string {
  return lowRankPairs(module)
    .map((pair) => (pair.active ? `${pair.name}+` : '-'))
    .join('');
}

function lowRankPairs(module: CausalLm): Linear['lowRank'] {
  return [...module.modules()].flatMap((m) => (m instanceof Linear ? m.lowRank : []));
}

/** The size a program or a cache is made for: four per octave from 16 on, so at most a quarter is wasted. */
export function bucketOf(n: number): number {
  const step = Math.max(16, 2 ** (Math.floor(Math.log2(Math.max(2, n - 1))) - 2));
  return step * Math.ceil(n / step);
}
