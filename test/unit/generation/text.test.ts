/** Text: streaming, stop strings and the pipeline, with a tiny tokenizer and a model of random weights. */
import { cpSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { generate, generateAll, type GenerateOptions } from '../../../src/generation/generate';
import { pipeline, type TextGenerator } from '../../../src/pipelines/pipeline';
import { AutoModelForCausalLM } from '../../../src/pretrained/auto';
import type { PreTrainedModel } from '../../../src/pretrained/model';
import { AutoTokenizer } from '../../../src/tokenizers/auto-tokenizer';

const tokenizer = AutoTokenizer.fromPretrained(join(__dirname, '../../golden/tokenizers/tiny-bpe'));
const CONFIG = {
  model_type: 'llama',
  vocab_size: 423,
  hidden_size: 32,
  intermediate_size: 48,
  num_hidden_layers: 2,
  num_attention_heads: 2,
  max_position_embeddings: 512,
  tie_word_embeddings: true,
  initializer_range: 0.5,
  eos_token_id: 421,
  bos_token_id: 0,
  torch_dtype: 'float32',
};
const DRAW: GenerateOptions = { doSample: true, topK: 0, maxNewTokens: 60, tokenizer };

let model: PreTrainedModel;
let prompt: number[];
beforeAll(async () => {
  model = AutoModelForCausalLM.fromConfig(CONFIG, { threads: 2 });
  prompt = await tokenizer.encode('hello there');
});
afterAll(() => model.close());

async function streamed(options: GenerateOptions): Promise<{
  pieces: string[];
  text: string;
  tokens: readonly number[];
  finishReason: string;
  stopString: string | null;
}> {
  const pieces: string[] = [];
  const stream = generate(model, [prompt], options);
  for (;;) {
    const next = await stream.next();
    if (next.done) return { pieces, ...next.value[0] };
    pieces.push(next.value.text);
  }
}

it('streams pieces that add up to the decoded tokens', async () => {
  for (let seed = 0; seed < 8; seed++) {
    const { pieces, text, tokens } = await streamed({ ...DRAW, seed });
    expect(pieces.length).toBe(tokens.length);
    expect(pieces.join('')).toBe(text);
    expect(text).toBe(tokenizer.decode(tokens, { skipSpecialTokens: true }));
  }
});

it('keeps special tokens in the text when asked to', async () => {
  const { text, tokens } = await streamed({ ...DRAW, skipSpecialTokens: false });
  expect(text).toBe(tokenizer.decode(tokens));
});

it('ends at a stop string, without it, and streams nothing of it', async () => {
  const whole = await streamed({ ...DRAW, eosTokenId: [] });
  const at = Math.floor(whole.text.length / 2);
  const stop = whole.text.slice(at, at + 3);
  const { pieces, text, tokens, finishReason, stopString } = await streamed({
    ...DRAW,
    eosTokenId: [],
    stopStrings: ['never seen', stop],
  });
  expect({ finishReason, stopString }).toEqual({ finishReason: 'stop', stopString: stop });
  expect(text).toBe(whole.text.slice(0, whole.text.indexOf(stop)));
  expect(pieces.join('')).toBe(text);
  expect(tokens.length).toBeLessThan(whole.tokens.length);
  expect(whole.tokens.slice(0, tokens.length)).toEqual(tokens);
});

it('takes a special token as a stop string', async () => {
  // Hot enough that every token comes up.
  const hot: GenerateOptions = {
    ...DRAW,
    maxNewTokens: 450,
    temperature: 50,
    eosTokenId: [],
    suppressTokens: [0, 421],
  };
  const whole = await streamed(hot);
  const index = whole.tokens.indexOf(420);
  expect(index).toBeGreaterThan(0);
  const { tokens, finishReason, text } = await streamed({ ...hot, stopStrings: '<|im_start|>' });
  expect({ finishReason, length: tokens.length }).toEqual({ finishReason: 'stop', length: index + 1 });
  expect(text).toBe(tokenizer.decode(tokens, { skipSpecialTokens: true }));
});

it('goes on with the others when one sequence ends', async () => {
  const prompts = await Promise.all(['hello there', 'the quick brown', 'a'].map((t) => tokenizer.encode(t)));
  const whole = await generateAll(model, prompts, { ...DRAW, eosTokenId: [] });
  const at = Math.floor(whole[1].text.length / 3);
  const cut = await generateAll(model, prompts, {
    ...DRAW,
    eosTokenId: [],
    stopStrings: [whole[1].text.slice(at, at + 6)],
  });
  expect(cut[1].finishReason).toBe('stop');
  expect(cut[0]).toEqual(whole[0]);
  expect(cut[2]).toEqual(whole[2]);
});

describe('pipeline', () => {
  let generator: TextGenerator;
  beforeAll(async () => {
    generator = await pipeline('text-generation', { model, tokenizer });
  });

  it('continues a text', async () => {
    const [full] = await generator('hello there', { maxNewTokens: 8, seed: 3 });
    const [part] = await generator('hello there', { maxNewTokens: 8, seed: 3, returnFullText: false });
    expect(full.generatedText).toBe(`hello there${part.generatedText as string}`);
    const direct = await generateAll(model, [prompt], {
      maxNewTokens: 8,
      seed: 3,
      doSample: true,
      temperature: 0.7,
      tokenizer,
    });
    expect(part).toEqual({
      generatedText: direct[0].text,
      tokens: direct[0].tokens,
      finishReason: direct[0].finishReason,
    });
  });

  it('answers a conversation with a message', async () => {
    const chat = [{ role: 'user', content: 'hi' }];
    const [answer] = await generator(chat, { maxNewTokens: 6, doSample: false });
    const ids = await tokenizer.applyChatTemplate(chat, { addGenerationPrompt: true, tokenize: true });
    const [direct] = await generateAll(model, [ids], { maxNewTokens: 6, tokenizer });
    expect(answer.generatedText).toEqual([...chat, { role: 'assistant', content: direct.text }]);
  });

  it("continues the assistant's last message", async () => {
    const chat = [
      { role: 'user', content: 'hi' },
      { role: 'assistant', content: 'Well,' },
    ];
    const [answer] = await generator(chat, { maxNewTokens: 6, doSample: false });
    const ids = await tokenizer.encode('<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\nWell,', {
      addSpecialTokens: false,
    });
    const [direct] = await generateAll(model, [ids], { maxNewTokens: 6, tokenizer });
    expect(answer.generatedText).toEqual([chat[0], { role: 'assistant', content: `Well,${direct.text}` }]);
  });

  it('takes lists of texts and conversations, in batches', async () => {
    const inputs = ['hello', [{ role: 'user', content: 'hi' }], 'a longer text than the others'];
    const options = { maxNewTokens: 5, doSample: false };
    const many = await generator(inputs, { ...options, batchSize: 2 });
    for (const [i, input] of inputs.entries()) expect(many[i]).toEqual(await generator(input as string, options));
    const twice = await generator(['hello', 'a'], { maxNewTokens: 5, numReturnSequences: 2 });
    expect(twice.map((o) => o.length)).toEqual([2, 2]);
  });

  it('streams text', async () => {
    const options = { maxNewTokens: 20, seed: 5, returnFullText: false };
    const pieces: string[] = [];
    for await (const piece of generator.stream('hello there', options)) pieces.push(piece);
    expect(pieces.length).toBeGreaterThan(3);
    expect(pieces.join('')).toBe((await generator('hello there', options))[0].generatedText);
  });

  it('refuses unknown tasks, models without tokenizers and settings it does not know', async () => {
    await expect(pipeline('text-generatoin' as 'text-generation', '.')).rejects.toThrow(
      /unknown pipeline task.*did you mean 'text-generation'/,
    );
    await expect(pipeline('text-generation', { model })).rejects.toThrow(/without a tokenizer/);
    await expect(generator('x', { temprature: 1 } as object)).rejects.toThrow(/did you mean 'temperature'/);
  });

  it('opens a folder, and a model that the caller opened stays open', async () => {
    await generator.close();
    expect(await generator('hello', { maxNewTokens: 1 })).toHaveLength(1);
    const folder = join(__dirname, '../../golden/llama-tiny/tied');
    const own = await pipeline(
      'text-generation',
      { model: folder, tokenizer },
      { generation: { maxNewTokens: 3, doSample: false } },
    );
    const [{ tokens }] = await own('!', { eosTokenId: [] });
    expect(tokens).toHaveLength(3);
    await own.close();
  });

  it('opens an adapter folder, whose base has the tokenizer', async () => {
    const folder = mkdtempSync(join(tmpdir(), 'lathe-test-'));
    const base = join(folder, 'base');
    const tiny = join(__dirname, '../../golden/llama-tiny/tied');
    cpSync(tiny, base, { recursive: true });
    cpSync(join(__dirname, '../../golden/tokenizers/tiny-bpe'), base, { recursive: true });
    cpSync(join(tiny, 'adapter'), folder, { recursive: true });
    const config = join(folder, 'adapter_config.json');
    writeFileSync(config, readFileSync(config, 'utf8').replace(/("base_model_name_or_path": )"[^"]*"/, '$1"base"'));
    const adapted = await pipeline('text-generation', folder, { dtype: 'f32' });
    const settings = { maxNewTokens: 12, doSample: false, eosTokenId: [] };
    const [on] = await adapted('!!', settings);
    const [off] = await adapted('!!', { ...settings, adapter: false });
    const plain = await pipeline('text-generation', base, { dtype: 'f32' });
    expect(off).toEqual((await plain('!!', settings))[0]);
    expect(on.tokens).not.toEqual(off.tokens);
    await Promise.all([adapted.close(), plain.close()]);
    rmSync(folder, { recursive: true });
  });
});
