/** Reading configurations: YAML with positions, cross-key checks, freezing and round trips. Overrides and retired spellings: spellings.test.ts. */

import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import {
  configFromObject,
  configToJson,
  loadConfig,
  SFTConfig,
  stepInterval,
  TrainingArguments,
} from '../../../src/train/arguments';
import type { ConfigInput } from '../../../src/train/arguments';
import { configJsonSchema, configReference } from '../../../src/train/arguments/json-schema';
import { failure, fromYaml } from './from-yaml';

const ROOT = join(__dirname, '../../..');

describe('a file for trl sft', () => {
  // The example of TRL's own documentation, with the optional extras people add.
  const yaml = [
    'model_name_or_path: Qwen/Qwen2.5-0.5B',
    'dataset_name: trl-lib/Capybara',
    'dataset_train_split: train',
    'learning_rate: 2.0e-4',
    'num_train_epochs: 1',
    'packing: true',
    'per_device_train_batch_size: 2',
    'gradient_accumulation_steps: 8',
    'eval_strategy: steps',
    'eval_steps: 100',
    'use_peft: true',
    'lora_r: 32',
    'lora_alpha: 16',
    'lora_target_modules: all-linear',
    'attn_implementation: flash_attention_2',
    'gradient_checkpointing_kwargs: {use_reentrant: false}',
    'report_to: wandb',
    'env:',
    '  WANDB_PROJECT: demo',
  ].join('\n');

  test('is read with its meaning, and says what has no effect', () => {
    const config = fromYaml(yaml);
    expect(config).toMatchObject({
      modelNameOrPath: 'Qwen/Qwen2.5-0.5B',
      learningRate: 2e-4,
      packing: true,
      evalPacking: true,
      evalSteps: 100,
      doEval: true,
      loraTargetModules: ['all-linear'],
      loraDropout: 0.05,
      reportTo: [],
      env: { WANDB_PROJECT: 'demo' },
    });
    for (const key of ['attn_implementation', 'gradient_checkpointing_kwargs', 'report_to wandb']) {
      expect(config.notes.filter((note) => note.startsWith(key))).toHaveLength(1);
    }
    expect(config.notes).toHaveLength(3);
  });

  test("has TRL's defaults", () => {
    expect(fromYaml('')).toMatchObject({
      learningRate: 2e-5,
      loggingSteps: 10,
      gradientCheckpointing: true,
      activationCheckpointing: true,
      bf16: true,
      fp16: false,
      dtype: 'float32',
      maxLength: 1024,
      optim: 'adamw_torch_fused',
      outputDir: 'trainer_output',
      loggingDir: 'trainer_output/runs',
      reportTo: [],
      notes: [],
    });
  });

  test("and TrainingArguments has transformers' defaults", () => {
    expect(new TrainingArguments()).toMatchObject({
      learningRate: 5e-5,
      loggingSteps: 500,
      gradientCheckpointing: false,
      bf16: false,
    });
  });

  test('spellings that PyYAML and argparse take are taken', () => {
    const config = fromYaml(
      'learning_rate: "1e-4"\npacking: yes\neval_strategy: no\nlora_target_modules: q_proj\nmax_steps: 1_000\nrun_name: 42\ndata_seed: ~\npad_to_multiple_of: 8',
    );
    expect(config).toMatchObject({
      learningRate: 1e-4,
      packing: true,
      evalStrategy: 'no',
      loraTargetModules: ['q_proj'],
      maxSteps: 1000,
      runName: '42',
    });
  });

  test('dict keys may be JSON text', () => {
    expect(fromYaml('lr_scheduler_kwargs: \'{"num_cycles": 2}\'').lrSchedulerKwargs).toEqual({ num_cycles: 2 });
  });

  test('dataset mixtures are filled in', () => {
    const config = fromYaml(
      'datasets:\n  - path: a.jsonl\n    fraction: 0.3\n  - path: b\n    split: test\n    fraction: 0.7',
    );
    expect(config.datasets).toEqual([
      { path: 'a.jsonl', name: null, data_dir: null, data_files: null, split: 'train', columns: null, fraction: 0.3 },
      { path: 'b', name: null, data_dir: null, data_files: null, split: 'test', columns: null, fraction: 0.7 },
    ]);
  });
});

describe('errors point at the place', () => {
  test.each([
    ['learning_rate: 1\nlearning_rat: 2', 'train.yaml:2:1', /unknown "learning_rat"/, /learning_rate/],
    [
      'seed: 1\n\nlearning_rate:   fast',
      'train.yaml:3:18',
      /learning_rate: expected a number >= 0, received text "fast"/,
      /number/,
    ],
    ['packing: maybe', 'train.yaml:1:10', /packing: expected true or false, received text "maybe"/, /true or false/],
    ['optim: adamw_8bits', 'train.yaml:1:8', /optim: expected one of/, /adamw_8bit/],
    ['max_steps: 1.5', 'train.yaml:1:12', /max_steps: expected an integer >= -1, received number 1.5/, /integer/],
    ['lora_r: null', 'train.yaml:1:9', /lora_r: expected an integer >= 1, received null/, /integer/],
    ['lora_dropout: 1', 'train.yaml:1:15', /lora_dropout: expected a number >= 0 and < 1/, /number/],
    ['datasets:\n  - path: a\n    splitt: b', 'train.yaml:2:5', /datasets\.0.*splitt/, /path/],
    ['datasets:\n  - path: 3', 'train.yaml:2:11', /datasets\.0\.path/, /path/],
    ['row_filter: {input: {nott: 1}}', 'train.yaml:1:21', /row_filter\.input/, /mapping/],
    ['stream_lanes: 2', 'train.yaml:1:15', /stream_lanes: expected dataset_streaming: true/, /remove it/],
    [
      'warmup_ratio: 2',
      'train.yaml:1:15',
      /warmup_ratio \(now warmup_steps\): expected a number >= 0 and < 1/,
      /warmup_steps/,
    ],
  ])('%j', (yaml, at, message, remedy) => {
    const error = failure(() => fromYaml(yaml));
    expect(error).toMatchObject({ code: 'ERR_CONFIG', at });
    expect(error.message).toMatch(message);
    expect(error.remedy).toMatch(remedy);
  });

  test('syntax errors and duplicate keys', () => {
    expect(failure(() => fromYaml('a: [1\nb: 2'))).toMatchObject({
      code: 'ERR_CONFIG',
      at: expect.stringMatching(/^train\.yaml:\d+:\d+$/) as string,
    });
    expect(failure(() => fromYaml('seed: 1\nseed: 2'))).toMatchObject({ code: 'ERR_CONFIG', at: 'train.yaml:2:1' });
    expect(failure(() => fromYaml('- a'))).toMatchObject({ code: 'ERR_CONFIG', at: 'train.yaml:1:1' });
  });

  test('a missing file', () => {
    expect(failure(() => loadConfig('no-such-file.yaml'))).toMatchObject({
      code: 'ERR_CONFIG',
      message: expect.stringContaining('no-such-file.yaml') as string,
    });
  });

  test('a word of a list that is none of its choices', () => {
    expect(failure(() => fromYaml('doctor_allow: [eos_missing, answer_cutt]\n'))).toMatchObject({
      code: 'ERR_CONFIG',
      message: expect.stringMatching(/^doctor_allow\.1: expected one of .*, received text "answer_cutt"/) as string,
      remedy: 'did you mean answer_cut?',
    });
    expect(fromYaml('doctor_allow: eos_missing, answer_cut\n').doctorAllow).toEqual(['eos_missing', 'answer_cut']);
  });

  test('the API names the option, in its own spelling', () => {
    const error = failure(() => configFromObject({ learningRat: 1 } as ConfigInput));
    expect(error).toMatchObject({
      code: 'ERR_CONFIG',
      at: 'options.learningRat',
      remedy: 'did you mean learningRate?',
    });
  });
});

describe('what this engine does not do', () => {
  test.each([
    ['fsdp: full_shard auto_wrap', 'fsdp'],
    ['deepspeed: ds.json', 'deepspeed'],
    ['use_dora: true', 'use_dora'],
    ['load_in_8bit: true', 'load_in_8bit'],
    ['optim: sgd', 'optim'],
    ['lr_scheduler_type: reduce_lr_on_plateau', 'lr_scheduler_type'],
    ['adafactor: true', 'optim'],
    ['label_smoothing_factor: 0.1', 'label_smoothing_factor'],
    ['num_processes: 8', 'num_processes'],
    ['model_init_kwargs: {max_memory: 1}', 'max_memory'],
    ['dataset_kwargs: {foo: 1}', 'foo'],
  ])('%s is refused', (yaml, name) => {
    const error = failure(() => fromYaml(yaml));
    expect(error.code).toBe('ERR_UNSUPPORTED');
    expect(error.message).toContain(name);
    expect(error.at).toMatch(/^train\.yaml:1:/);
    expect(error.remedy).toBeTruthy();
  });

  test('the empty ways to leave such a key out are fine', () => {
    expect(
      fromYaml('fsdp: ""\nfsdp_config: {}\ndeepspeed: null\nuse_dora: false\nlabel_smoothing_factor: 0.0').notes,
    ).toEqual([]);
  });
});

describe('checks across keys', () => {
  test.each([
    ['fp16: true\nbf16: true', 'fp16'],
    ['load_in_4bit: true', 'use_peft'],
    ['adapter_name_or_path: a\nuse_peft: false', 'adapter_name_or_path'],
    ['logging_steps: 0', 'logging_steps'],
    ['save_steps: 0', 'save_steps'],
    ['save_steps: 1.5', 'save_steps'],
    ['load_best_model_at_end: true', 'eval_strategy'],
    ['load_best_model_at_end: true\neval_strategy: steps\neval_steps: 30\nsave_steps: 100', 'multiple'],
    ['save_strategy: best', 'eval_strategy'],
    ['packing: true\nmax_length: null', 'max_length'],
    ['instruction_template: a', 'response_template'],
    ['datasets: [{path: a, fraction: 0.5}, {path: b}]', 'fraction'],
    ['use_cpu: true\ndevice: cuda:1', 'cpu'],
    ['device: gpu', 'device'],
    ['memory_limit: lots', 'memory_limit'],
    ['gradient_checkpointing: false\nplan_policy: block', 'plan_policy'],
  ])('%j is refused', (yaml, message) => {
    const error = failure(() => fromYaml(yaml));
    expect(error).toMatchObject({ code: 'ERR_CONFIG', at: expect.stringMatching(/^train\.yaml:\d:/) as string });
    expect(error.message).toContain(message);
  });

  test('values that follow from others', () => {
    expect(fromYaml('fp16: true')).toMatchObject({ bf16: true, fp16: false });
    expect(fromYaml('bf16: false').bf16).toBe(false);
    expect(fromYaml('adapter_name_or_path: a').usePeft).toBe(true);
    expect(fromYaml('eval_strategy: steps\nlogging_steps: 7').evalSteps).toBe(7);
    expect(fromYaml('eval_strategy: epoch').doEval).toBe(true);
    expect(fromYaml('activation_checkpointing: false').gradientCheckpointing).toBe(false);
    expect(fromYaml('load_best_model_at_end: true\neval_strategy: epoch\nsave_strategy: epoch')).toMatchObject({
      metricForBestModel: 'loss',
      greaterIsBetter: false,
    });
    expect(fromYaml('metric_for_best_model: eval_accuracy').greaterIsBetter).toBe(true);
    expect(fromYaml('memory_limit: 1.5GiB').memoryLimit).toBe(1.5 * 2 ** 30);
    expect(fromYaml('memory_limit: 1000').memoryLimit).toBe(1000);
    expect(fromYaml('model_init_kwargs: {torch_dtype: bfloat16, revision: v2}')).toMatchObject({
      dtype: 'bfloat16',
      modelRevision: 'v2',
    });
    expect(fromYaml('report_to: [tensorboard, wandb]').reportTo).toEqual(['tensorboard']);
    expect(fromYaml('debug: underflow_overflow').debug).toEqual(['underflow_overflow']);
  });
});

describe('the result', () => {
  test('is frozen all the way down', () => {
    const config = fromYaml('row_filter: {input: ""}\nlora_target_modules: [q_proj]');
    expect(() => ((config as { seed: number }).seed = 1)).toThrow(/read only/);
    expect(Object.isFrozen(config.rowFilter)).toBe(true);
    expect(Object.isFrozen(config.loraTargetModules)).toBe(true);
    expect(Object.isFrozen(new SFTConfig())).toBe(true);
  });

  test('keeps secrets out of what is saved', () => {
    const saved = JSON.stringify(configToJson(fromYaml('hub_token: hf_secret\nenv: {API_KEY: very-secret}')));
    expect(saved).not.toMatch(/hf_secret|very-secret/);
  });

  test('shares nothing mutable with the defaults or the input', () => {
    const modules = ['q_proj'];
    const config = configFromObject({ loraTargetModules: modules });
    modules.push('v_proj');
    expect(config.loraTargetModules).toEqual(['q_proj']);
    expect(config.datasets).not.toBe(configFromObject({}).datasets);
  });

  test.each(readdirSync(join(ROOT, 'configs')).filter((name) => name.endsWith('.yaml')))(
    '%s: saved and read back, it is the same',
    (name) => {
      const config = loadConfig(join(ROOT, 'configs', name));
      expect(config.notes).toEqual([]);
      const saved = JSON.parse(JSON.stringify(configToJson(config))) as ConfigInput;
      expect(configFromObject(saved)).toEqual({ ...config, notes: expect.any(Array) as string[] });
      expect(Object.keys(saved)).not.toContain('notes');
      expect(configFromObject({ ...config, maxSteps: 3 } as unknown as ConfigInput).maxSteps).toBe(3);
    },
  );
});

test('snake_case and camelCase mean the same in the API', () => {
  expect(configFromObject({ max_steps: 3, learning_rate: 0.1 })).toEqual(
    configFromObject({ maxSteps: 3, learningRate: 0.1 }),
  );
});

test('intervals', () => {
  expect([stepInterval(10, 100), stepInterval(0.1, 95), stepInterval(0.001, 10)]).toEqual([10, 10, 1]);
});

describe('generated files', () => {
  test('configs/schema.json and docs/configuration.md are current (npx ts-node scripts/json-schema.ts)', () => {
    expect(JSON.parse(readFileSync(join(ROOT, 'configs/schema.json'), 'utf8'))).toEqual(
      JSON.parse(JSON.stringify(configJsonSchema())),
    );
    expect(readFileSync(join(ROOT, 'docs/configuration.md'), 'utf8')).toBe(configReference());
  });
});
