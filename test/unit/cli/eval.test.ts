/** `lathe eval`: the same numbers as an evaluation while training, and no number where there is none. */
import { copyFileSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { ALPACA_ROWS, TINY_CONFIG, writeConfig, writeModel, writeRows } from '../../train/tiny-folder';
import { temporaryFolder } from '../../train/tiny-run';
import { lathe, output } from './lathe';

jest.setTimeout(120_000);

const base = temporaryFolder('eval');
const paths = { model: join(base, 'model'), data: join(base, 'data'), out: join(base, 'out') };
const config = join(base, 'run.yaml');

interface Result {
  eval_loss: number;
  eval_samples: number;
  eval_tokens: number;
}

beforeAll(async () => {
  await writeModel(paths.model);
  writeRows(paths.data, ALPACA_ROWS);
  writeConfig(config, paths);
});

const evaluated = async (...args: string[]): Promise<Result> =>
  JSON.parse(await output('eval', config, '--json', ...args)) as Result;
const trained = async (out: string, ...args: string[]): Promise<Result> => {
  await output(
    'train',
    config,
    `output_dir=${out}`,
    'eval_on_start=true',
    'max_steps=1',
    'save_strategy=no',
    'learning_rate=0',
    ...args,
  );
  const lines = readFileSync(join(out, 'events.jsonl'), 'utf8')
    .trim()
    .split('\n')
    .map((line) => JSON.parse(line) as { event: string } & Result);
  return lines.find((line) => line.event === 'evaluate')!;
};

test.each([
  ['packed in one stream', ['packing=true', 'packing_strategy=wrapped', 'max_length=16']],
  [
    'long rows in pieces',
    ['packing=true', 'packing_strategy=bfd_split', 'max_length=16', 'completion_only_loss=false'],
  ],
  [
    'only the training rows packed',
    ['packing=true', 'packing_strategy=wrapped', 'eval_packing=false', 'max_length=100', 'doctor_allow=answer_cut'],
  ],
])('as while training: %s', async (name, args) => {
  const want = await trained(join(base, name), ...args);
  expect((await evaluated(...args)).eval_loss).toBeCloseTo(want.eval_loss, 5);
});

test('without packing of the test split its rows are cut at max_length', async () => {
  const args = ['packing=true', 'packing_strategy=wrapped', 'max_length=76', 'doctor_allow=answer_cut'];
  const whole = await evaluated(...args);
  const cut = await evaluated(...args, 'eval_packing=false');
  expect(whole.eval_tokens).toBeGreaterThan(76 * whole.eval_samples);
  expect(cut.eval_tokens).toBeLessThanOrEqual(76 * cut.eval_samples);
});

test('max_eval_samples counts where the training rows are judged', async () => {
  writeRows(join(base, 'rows'), ALPACA_ROWS, null);
  expect((await evaluated(`dataset_name=${join(base, 'rows')}`, 'max_eval_samples=2')).eval_samples).toBe(2);
});

test('rows that were cut are told of', async () => {
  const { err } = await lathe('eval', config, 'max_length=85');
  expect(err).toMatch(/answer_cut .*raise max_length/);
});

test('a loss that is no number is an error', async () => {
  const broken = join(base, 'broken');
  await writeModel(broken);
  const file = join(broken, 'model.safetensors');
  const bytes = readFileSync(file);
  bytes.fill(0xff, bytes.length - 64);
  writeFileSync(file, bytes);
  const { error, out } = await lathe('eval', config, `model_name_or_path=${broken}`);
  expect(error).toMatchObject({ code: 'ERR_NONFINITE' });
  expect(out).toBe('');
});

test('ids that the model has no row for, and rows longer than its positions, are errors', async () => {
  writeFileSync(join(base, 'ids.jsonl'), '{"input_ids":[5,6,9999,0]}\n');
  expect(
    (await lathe('eval', config, `dataset_name=${join(base, 'ids.jsonl')}`, 'dataset_format=auto')).error,
  ).toMatchObject({ code: 'ERR_DATA', at: expect.stringMatching(/ids\.jsonl:1/) as string });
  const gpt2 = join(base, 'gpt2');
  await writeModel(gpt2, {
    model_type: 'gpt2',
    n_embd: 16,
    n_head: 2,
    n_layer: 1,
    n_positions: 32,
    vocab_size: TINY_CONFIG.vocab_size,
    dtype: 'float32',
    attn_pdrop: 0,
  });
  for (const command of ['eval', 'train']) {
    const { error } = await lathe(
      command,
      config,
      `model_name_or_path=${gpt2}`,
      'use_peft=false',
      `output_dir=${join(base, command)}`,
    );
    expect(error).toMatchObject({
      code: 'ERR_CONFIG',
      message: expect.stringMatching(/at most 32 tokens, as many as the model has positions/) as string,
    });
  }
});

test('a saved model and its tokenizer agree on where a text ends', async () => {
  const out = join(base, 'aligned');
  copyFileSync(join(paths.model, 'config.json'), join(base, 'config-before.json'));
  writeFileSync(join(paths.model, 'generation_config.json'), '{"eos_token_id": 0, "max_new_tokens": 7}');
  await output(
    'train',
    config,
    `output_dir=${out}`,
    'use_peft=false',
    'max_steps=1',
    'save_strategy=no',
    'eos_token=<|im_end|>',
  );
  const read = (file: string): Record<string, unknown> =>
    JSON.parse(readFileSync(join(out, file), 'utf8')) as Record<string, unknown>;
  expect(read('config.json').eos_token_id).toBe(3);
  expect(read('generation_config.json')).toMatchObject({ eos_token_id: [3, 0], max_new_tokens: 7 });
  expect(read('tokenizer_config.json').eos_token).toBe('<|im_end|>');
});
