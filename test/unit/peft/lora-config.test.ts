/** LoraConfig: PEFT's defaults and its JSON, and which modules a configuration means. */
import { hasCode } from '../../../src/errors';
import { buildModel } from '../../../src/models/registry';
import { getPeftModel } from '../../../src/peft/inject';
import { LoraConfig } from '../../../src/peft/lora-config';
import { GOLDEN, readJson } from '../../models/logits';

const raw = readJson<Record<string, unknown>>(GOLDEN, 'llama-tiny/tied/config.json');
const adapterJson = readJson<Record<string, unknown>>(GOLDEN, 'llama-tiny/tied/adapter/adapter_config.json');

const paths = (options: ConstructorParameters<typeof LoraConfig>[0]): string[] => [
  ...getPeftModel(buildModel(raw, { dtype: 'f32' }), new LoraConfig(options)).pairs.keys(),
];

function failure(body: () => unknown): { code: string; message: string } {
  try {
    body();
  } catch (error) {
    return error as { code: string; message: string };
  }
  throw new Error('expected it to throw');
}

describe('which modules get a pair', () => {
  test('the architecture decides when nothing is said', () => {
    expect(paths({})).toEqual([
      'model.layers.0.self_attn.q_proj',
      'model.layers.0.self_attn.v_proj',
      'model.layers.1.self_attn.q_proj',
      'model.layers.1.self_attn.v_proj',
    ]);
  });

  test("a list of the one word 'all-linear', as command lines give it, means the word", () => {
    expect(paths({ targetModules: ['all-linear'] })).toHaveLength(14);
    expect(paths({ targetModules: ['all-linear'] })).toEqual(paths({ targetModules: 'all-linear' }));
  });

  test("'all-linear' leaves the output head alone", () => {
    const untied = getPeftModel(
      buildModel({ ...raw, tie_word_embeddings: false }, { dtype: 'f32' }),
      new LoraConfig({ targetModules: 'all-linear' }),
    );
    expect([...untied.pairs.keys()].filter((path) => path.includes('lm_head'))).toEqual([]);
  });

  test('names end at a dot, patterns cover the whole path', () => {
    expect(failure(() => paths({ targetModules: ['proj'] })).message).toContain("'proj' match no linear module");
    expect(failure(() => paths({ targetModules: ['q_proj', 'k_prj'] })).message).toContain("did you mean 'k_proj'");
    expect(paths({ targetModules: '.*\\.1\\.mlp\\..*' })).toEqual(
      ['gate_proj', 'up_proj', 'down_proj'].map((n) => `model.layers.1.mlp.${n}`),
    );
    expect(failure(() => paths({ targetModules: 'q_proj' })).code).toBe('ERR_CONFIG');
  });

  test('layer filters, exclusions and modules trained in full', () => {
    expect(
      paths({
        targetModules: ['q_proj', 'o_proj'],
        layersToTransform: 1,
        layersPattern: 'layers',
        excludeModules: ['o_proj'],
      }),
    ).toEqual(['model.layers.1.self_attn.q_proj']);
    expect(paths({ targetModules: ['model.layers.0.self_attn.q_proj', 'k_proj'], layersToTransform: [1] })).toEqual([
      'model.layers.0.self_attn.q_proj',
      'model.layers.1.self_attn.k_proj',
    ]);
    expect(paths({ targetModules: 'all-linear', modulesToSave: ['mlp'] }).some((path) => path.includes('mlp'))).toBe(
      false,
    );
  });

  test('an embedding or the head is refused with the way out', () => {
    for (const name of ['embed_tokens', 'lm_head']) {
      const { code, message } = failure(() => paths({ targetModules: ['q_proj', name] }));
      expect(code).toBe('ERR_UNSUPPORTED');
      expect(message).toContain(`modules_to_save: [${name}]`);
    }
  });

  test('per-module rank and alpha, rank-stabilised', () => {
    const config = new LoraConfig({
      r: 4,
      loraAlpha: 8,
      useRslora: true,
      rankPattern: { 'layers.1.*q_proj': 16 },
      alphaPattern: { v_proj: 2 },
    });
    expect(config.scalingOf('model.layers.1.self_attn.q_proj')).toEqual({ r: 16, alpha: 8, scaling: 2 });
    expect(config.scalingOf('model.layers.0.self_attn.v_proj')).toEqual({ r: 4, alpha: 2, scaling: 1 });
  });

  test('bad values name their key', () => {
    expect(failure(() => new LoraConfig({ r: 0 })).message).toContain('r expected a positive integer, received 0');
    expect(failure(() => new LoraConfig({ targetModules: '(' })).message).toContain("'(' is not a regular expression");
    expect(failure(() => new LoraConfig({ rankPattern: { q_proj: 1.5 } })).message).toContain("rank_pattern 'q_proj'");
  });
});

describe('adapter_config.json', () => {
  test('what PEFT wrote comes back with the same meaning', () => {
    const config = LoraConfig.fromJson(adapterJson);
    expect(config).toMatchObject({
      r: 4,
      loraAlpha: 8,
      loraDropout: 0,
      bias: 'none',
      taskType: 'CAUSAL_LM',
      modulesToSave: null,
      useRslora: false,
    });
    const json = config.toJson();
    expect(Object.keys(json)).toEqual(Object.keys(json).sort());
    for (const [key, value] of Object.entries(json))
      expect([key, key === 'base_model_name_or_path' ? null : adapterJson[key]]).toEqual([key, value]);
  });

  test('keys that PEFT of the last years does not know are not written', () => {
    const json = new LoraConfig({ targetModules: ['v_proj', 'q_proj'] }).toJson();
    expect(Object.keys(json).filter((key) => !(key in adapterJson))).toEqual([]);
    expect(json).not.toHaveProperty('ensure_weight_tying');
    expect(json.target_modules).toEqual(['q_proj', 'v_proj']);
    expect(json.inference_mode).toBe(true);
  });

  test.each([
    ['use_dora', true],
    ['lora_bias', true],
    ['layer_replication', [[0, 1]]],
    ['trainable_token_indices', [3]],
    ['target_parameters', ['mlp.experts']],
    ['use_qalora', true],
    ['alora_invocation_tokens', [1]],
    ['some_future_option', { on: 1 }],
    ['init_lora_weights', 'pissa'],
  ])('%s that changes the mathematics is refused by name', (key, value) => {
    const { code, message } = failure(() =>
      LoraConfig.fromJson({ ...adapterJson, [key]: value }, 'there/adapter_config.json'),
    );
    expect(code).toBe('ERR_UNSUPPORTED');
    expect(message).toContain(`'${key}'`);
    expect(message).toContain('there/adapter_config.json');
  });

  test('options that are off, and initialisations that leave no trace, are accepted', () => {
    expect(
      LoraConfig.fromJson({
        ...adapterJson,
        some_future_option: null,
        another: {},
        use_dora: false,
        init_lora_weights: 'eva',
      }).r,
    ).toBe(4);
  });

  test('another method and a wrong type are refused', () => {
    expect(failure(() => LoraConfig.fromJson({ ...adapterJson, peft_type: 'IA3' })).message).toContain(
      'peft_type expected "LORA", received "IA3"',
    );
    expect(failure(() => LoraConfig.fromJson({ ...adapterJson, r: '8' })).message).toContain("'r' expected a number");
    const { target_modules: _gone, ...rest } = adapterJson;
    expect(
      hasCode(
        failure(() => LoraConfig.fromJson(rest)),
        'ERR_FORMAT',
      ),
    ).toBe(true);
  });
});

test('the golden adapter has the keys this package gives its parameters', () => {
  const peft = getPeftModel(buildModel(raw, { dtype: 'bf16' }), LoraConfig.fromJson(adapterJson));
  const pair = peft.pairs.get('model.layers.1.mlp.down_proj')!;
  expect(pair.a.name).toBe('base_model.model.model.layers.1.mlp.down_proj.lora_A.weight');
  expect([pair.a.shape, pair.b.shape, pair.a.dtype, pair.scaling]).toEqual([[4, 96], [64, 4], 'f32', 2]);
});
