/**
 * What bad input gets: one LatheError that names the file, row or key and what to do, and nothing lost or half-written.
 * What goes wrong while a run trains: failing-run.test.ts. Damage inside single files (safetensors, GGUF, Parquet, tokenizers) has
 * its tests beside their readers.
 */
import { cpSync, existsSync, readdirSync, readFileSync, truncateSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import type { LatheError } from '../../src/errors';
import { evaluateRun } from '../../src/eval/perplexity';
import { loadConfig } from '../../src/train/arguments';
import { setupSft } from '../../src/train/setup';
import { failure } from './failure';
import { ALPACA_ROWS, TINY_CONFIG, writeConfig, writeModel, writeRows } from './tiny-folder';
import { temporaryFolder } from './tiny-run';

const base = temporaryFolder('bad');
const model = join(base, 'model');
const data = join(base, 'data');
beforeAll(async () => {
  await writeModel(model);
  writeRows(data);
});

let serial = 0;
const fresh = (): string => join(base, `case-${serial++}`);

/** Sets a run up from a configuration file and trains it; resolves to the error and what the output folder holds. */
async function failedRun(
  extra: string,
  paths: { model?: string; data?: string; format?: string } = {},
): Promise<{ error: LatheError; left: string[] }> {
  const out = fresh();
  const file = writeConfig(`${out}.yaml`, { model, data, out, ...paths }, extra);
  const error = await failure(async () => {
    const parts = await setupSft(loadConfig(file), { warn: () => undefined });
    try {
      await parts.trainer.train();
    } finally {
      await parts.model.close();
    }
  });
  return { error, left: existsSync(out) ? readdirSync(out) : [] };
}

test('an output folder that is a file', async () => {
  const out = fresh();
  writeFileSync(out, 'kept');
  const parts = await setupSft(loadConfig(writeConfig(`${out}.yaml`, { model, data, out }, '')), {
    warn: () => undefined,
  });
  const error = await failure(() => parts.trainer.train());
  await parts.model.close();
  expect(error).toMatchObject({
    code: 'ERR_CHECKPOINT',
    at: out,
    message: expect.stringContaining('a file stands where a folder should'),
  });
  expect(readFileSync(out, 'utf8')).toBe('kept');
});

test('the run that the others break is sound', async () => {
  const out = fresh();
  const { trainer, model: m } = await setupSft(
    loadConfig(writeConfig(`${out}.yaml`, { model, data, out }, 'eval_strategy: steps\n')),
  );
  const metrics = await trainer.train();
  await m.close();
  expect(metrics.train_loss).toBeGreaterThan(0);
});

describe('configuration', () => {
  test('an unknown key: the nearest one, file, line and column', async () => {
    const { error } = await failedRun('learing_rate: 0.1\n');
    expect(error.code).toBe('ERR_CONFIG');
    expect(error.message).toMatch(/learing_rate.*case-\d+\.yaml:15:1\).*did you mean learning_rate\?/s);
  });

  test('a wrong type: what was expected and where', async () => {
    const { error } = await failedRun('save_steps: often\n');
    expect(error.code).toBe('ERR_CONFIG');
    expect(error.message).toMatch(/save_steps.*number.*often.*case-\d+\.yaml:15:13/s);
  });

  test('YAML that does not parse', async () => {
    const { error } = await failedRun('save_steps: [1\nlora_r: 8\n');
    expect(error.code).toBe('ERR_CONFIG');
    expect(error.message).toMatch(/case-\d+\.yaml:1[56]/);
  });

  test('a missing configuration file', async () => {
    const error = await failure(() => loadConfig(join(base, 'none.yaml')));
    expect(error.code).toBe('ERR_CONFIG');
    expect(error.message).toContain('none.yaml');
  });

  test('an override that no key has', async () => {
    const error = await failure(() => loadConfig(null, ['--lora_dropouts', '8']));
    expect(error.message).toMatch(/lora_dropouts.*did you mean lora_dropout\?/s);
  });

  test('a row filter on a column that is not there', async () => {
    const { error, left } = await failedRun('row_filter: {inputs: ""}\n');
    expect(error.code).toBe('ERR_CONFIG');
    expect(error.message).toMatch(/row_filter.*'inputs'.*use one of instruction, input, output/s);
    expect(left).toEqual([]);
  });

  test('evaluation without test rows', async () => {
    const rows = writeRows(fresh(), ALPACA_ROWS, null);
    const { error, left } = await failedRun('eval_strategy: steps\n', { data: rows });
    expect(error.code).toBe('ERR_CONFIG');
    expect(error.message).toMatch(/eval_strategy is steps.*no split 'test'.*test_split_size/s);
    expect(left).toEqual([]);
  });
});

describe('model', () => {
  test('a folder that is not there', async () => {
    const { error, left } = await failedRun('', { model: join(base, 'no-model') });
    expect(error.message).toContain(join(base, 'no-model'));
    expect(error.remedy).toBeTruthy();
    expect(left).toEqual([]);
  });

  test('a folder without a config.json', async () => {
    const { error } = await failedRun('', { model: data });
    expect(error.message).toContain(data);
  });

  const damaged = async (damage: (file: string) => void): Promise<LatheError> => {
    const dir = fresh();
    cpSync(model, dir, { recursive: true });
    damage(join(dir, 'model.safetensors'));
    const { error, left } = await failedRun('', { model: dir });
    expect(error.message).toContain(join(dir, 'model.safetensors'));
    expect(left).toEqual([]);
    return error;
  };

  /** Rewrites the JSON header in place, padded to its old length. */
  const editHeader = (file: string, edit: (header: Record<string, { data_offsets: number[] }>) => void): void => {
    const bytes = readFileSync(file);
    const length = Number(bytes.readBigUInt64LE(0));
    const header = JSON.parse(bytes.toString('utf8', 8, 8 + length)) as Record<string, { data_offsets: number[] }>;
    edit(header);
    const text = Buffer.from(JSON.stringify(header).padEnd(length));
    expect(text.length).toBe(length);
    text.copy(bytes, 8);
    writeFileSync(file, bytes);
  };

  test('weights that are cut short', async () => {
    const error = await damaged((file) => truncateSync(file, readFileSync(file).length - 100));
    expect(error.code).toBe('ERR_FORMAT');
  });

  test('weights with bytes behind their end', async () => {
    const error = await damaged((file) => writeFileSync(file, Buffer.concat([readFileSync(file), Buffer.alloc(8)])));
    expect(error.code).toBe('ERR_FORMAT');
  });

  test('a header whose tensors overlap', async () => {
    const error = await damaged((file) =>
      editHeader(file, (header) => {
        const [a, b] = Object.keys(header).filter((k) => k.includes('input_layernorm'));
        header[a].data_offsets = header[b].data_offsets;
      }),
    );
    expect(error.code).toBe('ERR_FORMAT');
    expect(error.message).toMatch(/tensor 'model\.layers\.0\./);
  });

  test('a tensor of another shape than config.json says', async () => {
    const dir = fresh();
    cpSync(model, dir, { recursive: true });
    writeFileSync(join(dir, 'config.json'), JSON.stringify({ ...TINY_CONFIG, intermediate_size: 96 }));
    const { error } = await failedRun('', { model: dir });
    expect(error.code).toBe('ERR_CHECKPOINT');
    expect(error.message).toMatch(/mlp\.\w+_proj\.weight.*96/s);
  });

  test('an adapter of another base', async () => {
    const other = await writeModel(fresh(), { ...TINY_CONFIG, hidden_size: 64 });
    const made = fresh();
    const { trainer, model: m } = await setupSft(
      loadConfig(writeConfig(`${made}.yaml`, { model: other, data, out: made }), ['max_steps=1']),
    );
    await trainer.train();
    await trainer.saveModel();
    await m.close();
    const { error, left } = await failedRun(`adapter_name_or_path: ${made}\n`);
    expect(error.code).toBe('ERR_CHECKPOINT');
    expect(error.message).toMatch(/lora_A.*\[4, 32\].*\[4, 64\]/s);
    expect(error.message).toContain(made);
    expect(left).toEqual([]);
  });

  test('a tokenizer with more tokens than the embedding has rows', async () => {
    const small = await writeModel(fresh(), { ...TINY_CONFIG, vocab_size: 512 });
    const { error, left } = await failedRun('', { model: small });
    expect(error.code).toBe('ERR_DATA');
    expect(error.message).toMatch(/512 rows.*4096 tokens/s);
    expect(left).toEqual([]);
  });
});

describe('rows', () => {
  test('a file that is not there', async () => {
    const { error, left } = await failedRun('', { data: join(base, 'rows.jsonl') });
    expect(error.code).toBe('ERR_CONFIG');
    expect(error.message).toContain(join(base, 'rows.jsonl'));
    expect(left).toEqual([]);
  });

  test('no rows', async () => {
    const empty = writeRows(fresh(), [], null);
    const { error, left } = await failedRun('', { data: empty });
    expect(error.code).toBe('ERR_DATA');
    expect(error.message).toContain(empty);
    expect(left).toEqual([]);
  });

  test('a filter that leaves none', async () => {
    const { error } = await failedRun('row_filter: {input: "nothing has this"}\n');
    expect(error.code).toBe('ERR_DATA');
    expect(error.message).toMatch(/no rows|received none/);
    expect(error.message).toMatch(/row_filter|filter/);
  });

  test.each<[string, object[], object[] | null, string, RegExp]>([
    [
      'fewer rows than a micro-batch, and the last one is dropped',
      ALPACA_ROWS.slice(0, 1),
      null,
      'dataloader_drop_last: true\n',
      /^training data: expected at least one whole micro-batch of 2 .*received 1 rows: set dataloader_drop_last: false/,
    ],
    [
      'all tokens masked, which the doctor was told to allow',
      [{ input_ids: [5, 6, 7], labels: [-100, -100, -100] }],
      null,
      'doctor_allow: [no_trained_tokens]\n',
      /^training data: expected at least one token that is not masked, received 1 rows without any/,
    ],
    [
      'an evaluation set with all tokens masked',
      [{ input_ids: [5, 6, 0], labels: [5, 6, 0] }],
      [{ input_ids: [5, 6, 7], labels: [-100, -100, -100] }],
      'eval_strategy: steps\n',
      /^evaluation data: no token of the row is trained/,
    ],
    [
      'the same, allowed',
      [{ input_ids: [5, 6, 0], labels: [5, 6, 0] }],
      [{ input_ids: [5, 6, 7], labels: [-100, -100, -100] }],
      'eval_strategy: steps\ndoctor_allow: [no_trained_tokens]\n',
      /^evaluation data: expected at least one token that is not masked/,
    ],
    [
      'a completion of which nothing is left, in every row',
      [{ prompt: 'long '.repeat(40), completion: 'x' }],
      null,
      'max_length: 16\n',
      /expected rows to train on, received none \(1 read\).*raise max_length/,
    ],
    [
      'a stream of which the filter leaves nothing',
      ALPACA_ROWS,
      null,
      'dataset_streaming: true\nmax_length: 64\nrow_filter: {input: nothing}\n',
      /expected rows to train on, received none/,
    ],
    [
      'a stream with all tokens masked',
      [{ input_ids: [5, 6, 7], labels: [-100, -100, -100] }],
      null,
      'dataset_streaming: true\nmax_length: 64\ndoctor_allow: [no_trained_tokens]\n',
      /^step 1 has no token to train on: all labels of its rows are masked \(at dataset row 0\)/,
    ],
  ])('%s: an error that says so, before anything is trained', async (_what, train, test, extra, message) => {
    const format = 'input_ids' in train[0] ? 'tokens' : 'prompt' in train[0] ? 'prompt_completion' : 'alpaca';
    const { error, left } = await failedRun(extra, { data: writeRows(fresh(), train, test), format });
    expect(error).toMatchObject({ code: 'ERR_DATA', message: expect.stringMatching(message) as string });
    expect(error.remedy).toBeTruthy();
    // Of a stream only the beginning is seen before the run: the first step it gives is refused.
    expect(left).toEqual(error.message.startsWith('step 1') ? ['events.jsonl'] : []);
  });

  test('an evaluation of rows with all tokens masked', async () => {
    const rows = writeRows(fresh(), [{ input_ids: [5, 6, 7], labels: [-100, -100, -100] }], null);
    const file = writeConfig(`${fresh()}.yaml`, { model, data: rows, out: fresh(), format: 'tokens' });
    const error = await failure(() => evaluateRun(loadConfig(file), () => undefined));
    expect(error).toMatchObject({
      code: 'ERR_DATA',
      message: expect.stringMatching(/^evaluation data: expected at least one token that is not masked/) as string,
    });
  });

  test('a line that is no JSON: its file and line', async () => {
    const dir = writeRows(fresh());
    writeFileSync(join(dir, 'train.jsonl'), `${JSON.stringify(ALPACA_ROWS[0])}\n{"instruction": \n`);
    const { error } = await failedRun('', { data: dir });
    expect(error.code).toBe('ERR_DATA');
    expect(error.message).toMatch(/train\.jsonl:2/);
  });

  test('rows without the columns that the format needs', async () => {
    const { error } = await failedRun('', { data: writeRows(fresh(), [{ question: 'a', answer: 'b' }], null) });
    expect(error.message).toMatch(/instruction/);
    expect(error.message).toMatch(/question/);
  });

  test('a split that is not there', async () => {
    const { error } = await failedRun('dataset_train_split: training\n');
    expect(error.code).toBe('ERR_DATA');
    expect(error.message).toMatch(/'training'.*dataset_train_split.*train, test/s);
  });
});
