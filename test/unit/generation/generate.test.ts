/** Generation against transformers on the tiny checkpoints: greedy, penalty, end tokens, adapters, ragged batches. */
import { generate, generateAll, type GenerateOptions } from '../../../src/generation/generate';
import { releaseGeneration } from '../../../src/generation/lane';
import { mergeAndUnload } from '../../../src/pretrained/merge';
import type { PreTrainedModel } from '../../../src/pretrained/model';
import { BitsAndBytesConfig } from '../../../src/quantization/bitsandbytes';
import { MODELS, golden, goldenLogits, openTiny, openWithAdapter } from './goldens';

const NEW = 12;
/** fp32 against fp32: rounding in another order. */
const LOGIT_TOLERANCE = 1e-4;

const tokensOf = async (
  model: PreTrainedModel,
  prompts: number[][],
  options: GenerateOptions = {},
): Promise<number[][]> =>
  (await generateAll(model, prompts, { maxNewTokens: NEW, eosTokenId: [], ...options })).map((s) => [...s.tokens]);

function largestDifference(a: Float32Array, b: Float32Array): number {
  expect(a.length).toBe(b.length);
  return a.reduce((most, x, i) => Math.max(most, Math.abs(x - b[i])), 0);
}

describe.each(MODELS)('%s against transformers', (name) => {
  const { prompts, greedy, penalty, eos, suppressed, adapter, margin } = golden(name);
  let model: PreTrainedModel;
  beforeAll(async () => {
    model = await openTiny(name);
  });
  afterAll(() => model.close());

  it('greedy tokens of a ragged batch, and of each prompt alone', async () => {
    expect(margin).toBeGreaterThan(10 * LOGIT_TOLERANCE);
    expect(await tokensOf(model, prompts)).toEqual(greedy);
    for (const [i, prompt] of prompts.entries()) expect(await tokensOf(model, [prompt])).toEqual([greedy[i]]);
  });

  it('logits of prefill and of every decode step', async () => {
    const steps: Float32Array[][] = prompts.map(() => []);
    for await (const e of generate(model, prompts, { maxNewTokens: NEW, eosTokenId: [], outputLogits: true }))
      steps[e.sequence].push(e.logits!);
    for (const i of prompts.keys()) {
      const want = await goldenLogits(name, i);
      const got = Float32Array.from(steps[i].flatMap((row) => [...row]));
      expect(largestDifference(got, want)).toBeLessThan(LOGIT_TOLERANCE);
    }
  });

  it('repetition penalty', async () => {
    expect(await tokensOf(model, prompts, { repetitionPenalty: 1.3 })).toEqual(penalty);
  });

  it('ends with an end token, which is part of the tokens', async () => {
    const [ended, other] = await generateAll(model, [prompts[0], prompts[1]], {
      maxNewTokens: NEW,
      eosTokenId: eos.eos_token_id,
    });
    expect(ended).toMatchObject({ tokens: eos.tokens, finishReason: 'eos', stopString: null });
    const alone = await generateAll(model, [prompts[1]], { maxNewTokens: NEW, eosTokenId: eos.eos_token_id });
    expect(other.tokens).toEqual(alone[0].tokens);
  });

  it('suppressed tokens, and no end token before minNewTokens', async () => {
    const { suppress_tokens: suppressTokens, eos_token_id: eosTokenId, min_new_tokens: minNewTokens } = suppressed;
    expect(await tokensOf(model, prompts, { suppressTokens, eosTokenId, minNewTokens })).toEqual(suppressed.tokens);
  });

  it('with the adapter, and with it switched off', async () => {
    const adapted = await openWithAdapter(name);
    try {
      expect(await tokensOf(adapted, prompts)).toEqual(adapter);
      expect(await tokensOf(adapted, prompts, { adapter: false })).toEqual(greedy);
      expect(await tokensOf(adapted, prompts)).toEqual(adapter);
    } finally {
      await adapted.close();
    }
  });
});

describe('decode is the same computation as a forward pass', () => {
  const { prompts, greedy } = golden('tied');

  it.each([
    ['fp32', undefined],
    ['nf4', new BitsAndBytesConfig({ loadIn4bit: true, bnb4bitQuantType: 'nf4', bnb4bitUseDoubleQuant: true })],
  ])('%s', async (_, quantizationConfig) => {
    const model = await openTiny('tied', { quantizationConfig });
    try {
      // Its own tokens, so that quantised weights are measured along their own path.
      const prompt = prompts[1];
      const stepped: { token: number; logits: Float32Array }[] = [];
      for await (const e of generate(model, [prompt], { maxNewTokens: NEW, eosTokenId: [], outputLogits: true }))
        stepped.push({ token: e.token, logits: e.logits! });
      const tokens = stepped.map((s) => s.token);
      if (!quantizationConfig) expect(tokens).toEqual(greedy[1]);
      // One prompt per step: the whole text so far, read at once.
      const whole = stepped.map((_s, i) => [...prompt, ...tokens.slice(0, i)]);
      for await (const e of generate(model, whole, { maxNewTokens: 1, eosTokenId: [], outputLogits: true })) {
        expect(largestDifference(e.logits!, stepped[e.sequence].logits)).toBeLessThan(LOGIT_TOLERANCE);
        expect(e.token).toBe(tokens[e.sequence]);
      }
    } finally {
      await model.close();
    }
  });
});

describe('sampling', () => {
  const { prompts, greedy } = golden('tied');
  const draw: GenerateOptions = { doSample: true, temperature: 1.2, topK: 0, seed: 7 };
  let model: PreTrainedModel;
  beforeAll(async () => {
    model = await openTiny('tied');
  });
  afterAll(() => model.close());

  it('is the same for the same seed and another for another', async () => {
    const first = await tokensOf(model, prompts, draw);
    expect(await tokensOf(model, prompts, draw)).toEqual(first);
    expect(await tokensOf(model, prompts, { ...draw, seed: 8 })).not.toEqual(first);
    expect(await tokensOf(model, prompts, { ...draw, seed: 7 + 2 ** 32 })).not.toEqual(first);
    expect(first).not.toEqual(greedy);
  });

  it('draws the first row of a batch like a batch of one, however prompts are grouped', async () => {
    const batch = await tokensOf(model, prompts, draw);
    expect(await tokensOf(model, [prompts[0]], draw)).toEqual([batch[0]]);
    expect(await tokensOf(model, prompts, { ...draw, maxPrefillTokens: 4 })).toEqual(batch);
  });

  it('with top_k 1, with a tiny top_p and with min_p 1 is greedy', async () => {
    for (const settings of [{ topK: 1 }, { topP: 1e-6 }, { minP: 1 }])
      expect(await tokensOf(model, prompts, { ...draw, ...settings })).toEqual(greedy);
  });

  it('gives several sequences per prompt, each like the repeated prompt', async () => {
    const several = await tokensOf(model, prompts, { ...draw, numReturnSequences: 3 });
    expect(several.length).toBe(9);
    expect(new Set(several.slice(0, 3).map((t) => t.join())).size).toBe(3);
    expect(several).toEqual(
      await tokensOf(
        model,
        prompts.flatMap((p) => [p, p, p]),
        draw,
      ),
    );
    const results = await generateAll(model, prompts, { ...draw, numReturnSequences: 3, maxNewTokens: 2 });
    expect(results.map((s) => s.prompt)).toEqual([0, 0, 0, 1, 1, 1, 2, 2, 2]);
  });

  it('follows the distribution it reports', async () => {
    // The first token's law from its logits; 600 draws of it by seed would be slow, 600 rows of one batch are not.
    const rows = 600;
    const settings: GenerateOptions = { doSample: true, temperature: 0.8, topK: 5, eosTokenId: [], maxNewTokens: 1 };
    const stream = generate(model, [prompts[0]], { ...settings, outputLogits: true });
    const { logits } = (await stream.next()).value as { logits: Float32Array };
    const best = [...logits.keys()].sort((a, b) => logits[b] - logits[a]).slice(0, 5);
    const weights = best.map((id) => Math.exp(logits[id] / 0.8));
    const total = weights.reduce((a, b) => a + b);
    const results = await generateAll(model, [prompts[0]], { ...settings, numReturnSequences: rows });
    let chi2 = 0;
    best.forEach((id, k) => {
      const wanted = (rows * weights[k]) / total;
      chi2 += (results.filter((s) => s.tokens[0] === id).length - wanted) ** 2 / wanted;
    });
    // 4 degrees of freedom: 0.999 quantile 18.5; the seed is fixed, so this holds or it does not.
    expect(chi2).toBeLessThan(18.5);
    expect(results.every((s) => best.includes(s.tokens[0]))).toBe(true);
    for (const s of results.slice(0, 10))
      expect(s.logprobs[0]).toBeCloseTo(Math.log(weights[best.indexOf(s.tokens[0])] / total), 4);
  });
});

describe('sessions', () => {
  const { prompts, greedy } = golden('tied');
  let model: PreTrainedModel;
  beforeEach(async () => {
    model = await openTiny('tied');
  });
  afterEach(() => model.close());

  it('generations at once do not disturb each other', async () => {
    const outer = generate(model, [prompts[0]], { maxNewTokens: NEW, eosTokenId: [] });
    const tokens = [(await outer.next()).value as { token: number }];
    // The outer stream stands still while two others run.
    const [a, b] = await Promise.all([tokensOf(model, [prompts[1]]), tokensOf(model, [prompts[2]])]);
    expect([a, b]).toEqual([[greedy[1]], [greedy[2]]]);
    for await (const e of outer) tokens.push(e);
    expect(tokens.map((e) => e.token)).toEqual(greedy[0]);
  });

  it('reuses programs and caches, and gives everything back on request', async () => {
    const session = await model.ready();
    const { states, programs } = session.stats();
    await tokensOf(model, prompts);
    const after = session.stats();
    expect(after.states).toBe(states + 4);
    await tokensOf(model, prompts);
    expect(session.stats()).toMatchObject({ states: after.states, programs: after.programs });
    releaseGeneration(session);
    expect(session.stats()).toMatchObject({ states, programs });
    expect(await tokensOf(model, prompts)).toEqual(greedy);
  });

  it('a stream that is left early, or aborted, leaves a working model', async () => {
    for await (const e of generate(model, prompts, { maxNewTokens: NEW, eosTokenId: [] })) if (e.sequence === 1) break;
    // Another batch size: the lane is emptied while the step that was left may still be running.
    expect(await tokensOf(model, [prompts[1]])).toEqual([greedy[1]]);
    const controller = new AbortController();
    const seen: number[] = [];
    const aborted = (async (): Promise<void> => {
      for await (const e of generate(model, [prompts[0]], {
        maxNewTokens: NEW,
        eosTokenId: [],
        signal: controller.signal,
      })) {
        seen.push(e.token);
        if (seen.length === 3) controller.abort(new Error('enough'));
      }
    })();
    await expect(aborted).rejects.toThrow('enough');
    // The step that was under way when the signal came may still be reported.
    expect(greedy[0].slice(0, seen.length)).toEqual(seen);
    expect(seen.length).toBeLessThan(6);
    expect(await tokensOf(model, prompts)).toEqual(greedy);
  });
});

it('generates the same after the adapter was merged in between', async () => {
  const { prompts, adapter } = golden('tied');
  const model = await openWithAdapter('tied');
  try {
    expect(await tokensOf(model, prompts)).toEqual(adapter);
    await mergeAndUnload(model);
    expect(await tokensOf(model, prompts)).toEqual(adapter);
  } finally {
    await model.close();
  }
});

describe('limits', () => {
  let model: PreTrainedModel;
  beforeAll(async () => {
    model = await openTiny('tied');
  });
  afterAll(() => model.close());

  it('counts new tokens, whole length, or 20 by default', async () => {
    const run = async (options: GenerateOptions): Promise<[number, string][]> =>
      (await generateAll(model, [[5, 6, 7], [8]], { eosTokenId: [], ...options })).map((s) => [
        s.tokens.length,
        s.finishReason,
      ]);
    expect(await run({})).toEqual([
      [20, 'length'],
      [20, 'length'],
    ]);
    expect(await run({ maxNewTokens: 4 })).toEqual([
      [4, 'length'],
      [4, 'length'],
    ]);
    expect(await run({ maxLength: 8 })).toEqual([
      [5, 'length'],
      [7, 'length'],
    ]);
  });

  it('stops at the end of the context', async () => {
    const prompt = Array.from({ length: 250 }, (_, i) => 3 + (i % 150));
    const [s] = await generateAll(model, [prompt], { maxNewTokens: 50, eosTokenId: [] });
    expect(s.tokens.length).toBe(6);
    await expect(generateAll(model, [[...prompt, ...prompt]], { maxNewTokens: 5 })).rejects.toThrow(
      /prompt has 500 tokens, the model's context 256.*prompt 0/,
    );
  });

  it('starts an empty prompt from the begin token', async () => {
    expect(await tokensOf(model, [[]])).toEqual(await tokensOf(model, [[1]]));
    expect(await generateAll(model, [])).toEqual([]);
  });

  it.each([
    [[[1, 160]], {}, /expected token ids from 0 to 159, received 160 \(at prompt 0\)/],
    [[[5, 6]], { maxLength: 2 }, /maxLength 2 leaves no room/],
    [[[5]], { stopStrings: 'x' }, /stopStrings need a tokenizer/],
    [[[5]], { numReturnSequences: 2 }, /doSample: true/],
  ])('refuses %j with %j', async (prompts, options, message) => {
    await expect(generateAll(model, prompts, options)).rejects.toThrow(message);
  });
});

test.each<[string, unknown]>([
  ['a text', 'abc'],
  ['texts', ['abc']],
  ['ids without a list around them', [5, 6]],
  ['nothing', undefined],
])('prompts that are %s are refused with what to do', async (_, prompts) => {
  const model = await openTiny(MODELS[0]);
  await expect(generateAll(model, prompts as number[][], { maxNewTokens: 1 })).rejects.toMatchObject({
    code: 'ERR_DATA',
    message: expect.stringContaining('await tokenizer.encode(text)') as string,
  });
  await model.close();
});
