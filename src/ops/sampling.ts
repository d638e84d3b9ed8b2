/**
 * Next-token sampling in the order of transformers' logits processors: repetition penalty, temperature, top-k,
 * top-p (arXiv 1904.09751), min-p (arXiv 2407.01082). Deterministic for a seed: the uniform of row b at step s is Philox.
 */
import { apply } from '../graph/trace';
import type { OpDef } from '../graph/op-def';
import { elementCount, type Tensor } from '../graph/tensor';
import { expectCount, expectDtype, expectRank, expectType, ndArray } from './expect';
import { philox } from './random';

const sampleDef: OpDef = {
  name: 'sample',
  infer(x) {
    expectCount('sample', x, 4);
    const [logits, history, params, rng] = x;
    expectRank('sample', 'logits', logits, 2);
    expectDtype('sample', 'logits', logits, 'f32');
    expectRank('sample', 'history', history, 2);
    expectType('sample', 'history', history, 'i32', [logits.shape[0], history.shape[1]]);
    expectType('sample', 'params', params, 'f32', [8]);
    expectType('sample', 'rng', rng, 'i32', [4]);
    return [
      { shape: [logits.shape[0]], dtype: 'i32' },
      { shape: [logits.shape[0]], dtype: 'f32' },
    ];
  },
  reference([logits, history, params, rng]) {
    const [b, v] = logits.shape;
    const tokens = ndArray([b]);
    const logprobs = ndArray([b]);
    const [temperature, topK, topP, minP, penalty] = params.data;
    // Temperature 0 is greedy, as is not sampling.
    const doSample = temperature > 0 ? params.data[5] : 0;
    for (let r = 0; r < b; r++) {
      const z = Float64Array.from(logits.data.subarray(r * v, (r + 1) * v));
      const seen = new Set(history.data.subarray(r * history.shape[1], (r + 1) * history.shape[1]));
      if (penalty !== 1) for (const id of seen) if (id >= 0) z[id] = z[id] < 0 ? z[id] * penalty : z[id] / penalty;
      let order = Array.from(z.keys()).sort((i, j) => z[j] - z[i] || i - j);
      let probabilities = softmaxOf(order.map((i) => z[i]));
      if (doSample !== 0) {
        if (topK > 0) order = order.slice(0, Math.max(1, topK));
        probabilities = softmaxOf(order.map((i) => z[i] / temperature));
        if (topP < 1) {
          let mass = 0;
          const n = probabilities.findIndex((p) => (mass += p) >= topP);
          order = order.slice(0, n < 0 ? order.length : n + 1);
          probabilities = softmaxOf(order.map((i) => z[i] / temperature));
        }
        if (minP > 0) {
          order = order.filter((_, i) => i === 0 || probabilities[i] >= minP * probabilities[0]);
          probabilities = softmaxOf(order.map((i) => z[i] / temperature));
        }
      }
      const words = philox(r, 0, rng.data[2] >>> 0, rng.data[3] >>> 0, rng.data[0] >>> 0, rng.data[1] >>> 0);
      const u = (words[0] + 0.5) * 2 ** -32;
      let mass = 0;
      const chosen = doSample === 0 ? 0 : probabilities.findIndex((p) => (mass += p) > u);
      const pick = chosen < 0 ? probabilities.length - 1 : chosen;
      tokens.data[r] = order[pick];
      logprobs.data[r] = Math.log(probabilities[pick]);
    }
    return [tokens, logprobs];
  },
  cost: (x) => ({ flops: 20 * x[0].shape[0] * x[0].shape[1], bytes: 8 * x[0].shape[0] * x[0].shape[1] }),
  scratchBytes: (x, _a, d) => (d.kind === 'cuda' ? 4 : 8) * elementCount(x[0].shape),
};

function softmaxOf(z: number[]): number[] {
  const max = z.reduce((m, x) => Math.max(m, x), -Infinity);
  const e = z.map((x) => Math.exp(x - max));
  const total = e.reduce((a, b) => a + b, 0);
  return e.map((x) => x / total);
}

export const samplingOps = { sample: sampleDef };

/** token i32 `[B]` and its log-probability f32 `[B]`; params f32 `[8]`: temperature, top_k, top_p, min_p, repetition_penalty, do_sample, 0, 0. */
export function sample(
  logits: Tensor,
  history: Tensor,
  params: Tensor,
  rng: Tensor,
): { token: Tensor; logprob: Tensor } {
  const [token, logprob] = apply(sampleDef, [logits, history, params, rng]);
  return { token, logprob };
}
