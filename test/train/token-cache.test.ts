/** token_cache: the same run as from memory; the file is built once, used again, and built anew when something it depends on changes. */
import { readdirSync, statSync, truncateSync } from 'node:fs';
import { join } from 'node:path';
import { configFromObject, type ConfigInput } from '../../src/train/arguments';
import { setupSft } from '../../src/train/setup';
import { ALPACA_ROWS, writeModel, writeRows } from './tiny-folder';
import { temporaryFolder } from './tiny-run';

jest.setTimeout(120_000);
const base = temporaryFolder('token-cache');
const cache = join(base, 'cache');
const data = join(base, 'rows');
const model = join(base, 'model');
let runs = 0;

beforeAll(async () => {
  await writeModel(model);
  writeRows(data);
});

async function losses(extra: ConfigInput = {}): Promise<number[]> {
  const config = configFromObject({
    modelNameOrPath: model,
    datasetName: data,
    datasetFormat: 'alpaca',
    outputDir: join(base, `run-${runs++}`),
    maxSteps: 6,
    perDeviceTrainBatchSize: 2,
    learningRate: 1e-3,
    evalStrategy: 'steps',
    evalSteps: 3,
    loggingSteps: 1,
    saveStrategy: 'no',
    threads: 1,
    bf16: false,
    reportTo: 'none',
    ...extra,
  });
  const { trainer, model: opened } = await setupSft(config, { warn: () => undefined });
  const values: number[] = [];
  for await (const event of trainer.run()) {
    if (event.type === 'step') values.push(event.loss);
    if (event.type === 'evaluate') values.push(event.metrics.eval_loss);
  }
  await opened.close();
  return values;
}

const files = (): Map<string, number> =>
  new Map(readdirSync(cache).map((name) => [name, statSync(join(cache, name)).mtimeMs]));

test('the same losses as from memory, from a file that is built once', async () => {
  const memory = await losses();
  expect(memory.length).toBe(8);
  expect(await losses({ tokenCache: cache })).toEqual(memory);
  const built = files();
  expect([...built.keys()]).toEqual([
    expect.stringMatching(/^[0-9a-f]{32}\.tokens$/),
    expect.stringMatching(/\.tokens$/),
  ]);
  expect(await losses({ tokenCache: cache })).toEqual(memory);
  expect(files()).toEqual(built);
});

test('a split by test_split_size is the one that rows in memory have', async () => {
  const settings: ConfigInput = {
    datasetName: join(data, 'train.jsonl'),
    testSplitSize: 0.3,
    packing: true,
    packingStrategy: 'wrapped',
    maxLength: 64,
    completionOnlyLoss: false,
  };
  expect(await losses({ ...settings, tokenCache: cache })).toEqual(await losses(settings));
});

test.each<[string, ConfigInput]>([
  ['the file', {}],
  ['a split', { datasetName: join(data, 'train.jsonl'), testSplitSize: 3, maxEvalSamples: 3 }],
])('max_train_samples counts rows, dropped ones too, of %s', async (_, of) => {
  const settings: ConfigInput = { ...of, maxTrainSamples: 4, maxLength: 90, truncationMode: 'drop' };
  expect(await losses({ ...settings, tokenCache: cache })).toEqual(await losses(settings));
});

test('rows to evaluate on are cut as eval_packing says', async () => {
  const settings: ConfigInput = {
    datasetName: join(data, 'train.jsonl'),
    testSplitSize: 3,
    packing: true,
    packingStrategy: 'wrapped',
    maxLength: 64,
    evalPacking: false,
    completionOnlyLoss: false,
    doctorAllow: ['answer_cut'],
  };
  expect(await losses({ ...settings, tokenCache: cache })).toEqual(await losses(settings));
});

test('other data, settings or tokens make another file; a damaged one is named', async () => {
  const before = files();
  await losses({ tokenCache: cache, maxLength: 200, evalStrategy: 'no' });
  expect(files().size).toBe(before.size + 1);
  writeRows(data, ALPACA_ROWS.slice(0, 8));
  await losses({ tokenCache: cache, evalStrategy: 'no' });
  const all = files();
  expect(all.size).toBe(before.size + 2);
  for (const name of all.keys()) truncateSync(join(cache, name), 30);
  await expect(losses({ tokenCache: cache, evalStrategy: 'no' })).rejects.toMatchObject({
    code: 'ERR_FORMAT',
    message: expect.stringMatching(/delete it/) as string,
  });
});

test('what does not go together is refused', () => {
  expect(() => configFromObject({ tokenCache: cache, datasetStreaming: true, maxSteps: 1 })).toThrow(
    /token_cache and dataset_streaming/,
  );
  expect(() => configFromObject({ tokenCache: cache, shuffleDataset: true })).toThrow(/shuffle_dataset/);
});
