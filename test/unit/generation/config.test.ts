/** Settings: precedence, null, refusals that name the key. */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { resolveGenerationConfig } from '../../../src/generation/config';

const DEFAULTS = {
  maxNewTokens: null,
  maxLength: null,
  minNewTokens: 0,
  minLength: 0,
  doSample: false,
  temperature: 1,
  topK: 50,
  topP: 1,
  minP: 0,
  repetitionPenalty: 1,
  numReturnSequences: 1,
  stopStrings: [],
  eosTokenIds: [],
  bosTokenId: null,
  suppressTokens: [],
  beginSuppressTokens: [],
  seed: 42,
};

it('fills in defaults, and null means not set', () => {
  expect(resolveGenerationConfig({})).toEqual(DEFAULTS);
  expect(
    resolveGenerationConfig(
      { topK: null, temperature: undefined },
      { top_k: null, do_sample: null, num_beams: null, sequence_bias: null },
    ),
  ).toEqual(DEFAULTS);
});

it('takes the call over generation_config.json over config.json', () => {
  const file = {
    eos_token_id: [2, 7],
    temperature: 0.6,
    top_p: 0.9,
    do_sample: true,
    max_length: 4096,
    transformers_version: '5.0.0',
    pad_token_id: 0,
    a_new_key: 3,
  };
  const model = { eos_token_id: 2, bos_token_id: 1, hidden_size: 64 };
  expect(resolveGenerationConfig({ temperature: 0.2 }, file, model)).toEqual({
    ...DEFAULTS,
    eosTokenIds: [2, 7],
    bosTokenId: 1,
    temperature: 0.2,
    topP: 0.9,
    doSample: true,
    maxLength: 4096,
  });
  expect(resolveGenerationConfig({}, null, model).eosTokenIds).toEqual([2]);
  expect(resolveGenerationConfig({ eosTokenId: [] }, file, model).eosTokenIds).toEqual([]);
});

it("lets a length of the call replace the file's other kind of length", () => {
  expect(resolveGenerationConfig({ maxLength: 30 }, { max_new_tokens: 5 })).toMatchObject({
    maxNewTokens: null,
    maxLength: 30,
  });
  expect(resolveGenerationConfig({ maxNewTokens: 30 }, { max_length: 5 })).toMatchObject({ maxNewTokens: 30 });
});

it('accepts the names of transformers too', () => {
  expect(resolveGenerationConfig({ max_new_tokens: 3, stop_strings: 'x', min_p: 0.1 } as object)).toMatchObject({
    maxNewTokens: 3,
    stopStrings: ['x'],
    minP: 0.1,
  });
});

it.each([
  [{ maxNewTokens: 0 }, /maxNewTokens expected an integer of at least 1, received 0/],
  [{ temperature: -1 }, /temperature expected a number of at least 0/],
  [{ temperature: Number.NaN }, /temperature expected/],
  [{ topP: 0 }, /topP expected a number above 0, at most 1/],
  [{ topK: 2.5 }, /topK expected an integer/],
  [{ repetitionPenalty: 0 }, /repetitionPenalty expected a number above 0/],
  [{ eosTokenId: ['</s>'] }, /eosTokenId expected a token id or a list/],
  [{ stopStrings: ['a', ''] }, /stopStrings expected a text/],
  [{ doSample: 1 }, /doSample expected true or false/],
  [{ seed: 1.5 }, /seed expected an integer/],
  [{ maxNewToken: 3 }, /unknown generation setting 'maxNewToken'.*did you mean 'maxNewTokens'/],
  [{ doSample: true, temperature: 0 }, /temperature 0 cannot be sampled from/],
  [{ numReturnSequences: 3 }, /numReturnSequences 3 would return the same greedy text/],
])('refuses %j', (options, message) => {
  expect(() => resolveGenerationConfig(options as object)).toThrow(
    expect.objectContaining({ code: 'ERR_CONFIG', message: expect.stringMatching(message) as unknown }),
  );
});

it.each<[Record<string, unknown>, object, string]>([
  [{ num_beams: 4 }, {}, 'num_beams = 4'],
  [{}, { numBeams: 2 }, 'numBeams = 2'],
  [{ no_repeat_ngram_size: 3 }, {}, 'no_repeat_ngram_size = 3'],
  [{ typical_p: 0.9 }, {}, 'typical_p = 0.9'],
  [{ bad_words_ids: [[4]] }, {}, 'bad_words_ids = [[4]]'],
])('names what is not supported: file %j, call %j', (file, call, name) => {
  expect(() => resolveGenerationConfig(call, file)).toThrow(
    expect.objectContaining({ code: 'ERR_UNSUPPORTED', message: expect.stringContaining(name) as unknown }),
  );
});

it('ignores unsupported settings at the value where they do nothing', () => {
  expect(
    resolveGenerationConfig(
      {},
      { num_beams: 1, typical_p: 1, no_repeat_ngram_size: 0, length_penalty: 2, early_stopping: true },
    ),
  ).toEqual(DEFAULTS);
});

it('reads the generation_config.json files that transformers wrote', () => {
  for (const name of ['llama-tiny/tied', 'llama-tiny/llama3', 'gpt2-tiny']) {
    const file = JSON.parse(
      readFileSync(join(__dirname, '../../golden', name, 'generation_config.json'), 'utf8'),
    ) as Record<string, unknown>;
    expect(resolveGenerationConfig({}, file).eosTokenIds).toEqual([file.eos_token_id].flat());
  }
});
