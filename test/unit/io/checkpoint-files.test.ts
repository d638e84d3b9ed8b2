/** Checkpoint folders: single file, shards with an index, and every way they can disagree. */
import { readFileSync, writeFileSync, rmSync, truncateSync } from 'node:fs';
import { join } from 'node:path';
import { openCheckpoint, writeShardedCheckpoint } from '../../../src/io/checkpoint-files';
import { writeSafetensors, type TensorToWrite } from '../../../src/io/safetensors';
import { readTensorBytes } from '../../../src/io/tensor-source';
import { errorOf, useTemporaryFolder } from './fixtures';

const folder = useTemporaryFolder();
const INDEX = 'model.safetensors.index.json';

function tensor(name: string, bytes: number): TensorToWrite {
  return { name, dtype: 'U8', shape: [bytes], data: () => new Uint8Array(bytes).fill(bytes) };
}

const LIST = [tensor('c', 60), tensor('a', 20), tensor('big', 200), tensor('b', 20), tensor('é', 40)];

async function writeShards(): Promise<void> {
  await writeShardedCheckpoint(folder(), LIST, { maxShardBytes: 100 });
}

function editIndex(edit: (map: Record<string, string>) => void): void {
  const index = JSON.parse(readFileSync(join(folder(), INDEX), 'utf8')) as { weight_map: Record<string, string> };
  edit(index.weight_map);
  writeFileSync(join(folder(), INDEX), JSON.stringify(index));
}

test('one file when it fits, and no index', async () => {
  const written = await writeShardedCheckpoint(folder(), LIST);
  expect(written).toEqual({ files: ['model.safetensors'], totalBytes: 340, totalParameters: 340 });
  expect([...(await openCheckpoint(folder())).keys()].sort()).toEqual(['a', 'b', 'big', 'c', 'é']);
});

test('splits greedily in the given order, as huggingface_hub does, with its index', async () => {
  await writeShards();
  // [c + a + b = 100], big alone and before it (it is emitted when met), then é.
  expect(readFileSync(join(folder(), INDEX), 'utf8')).toBe(`{
  "metadata": {
    "total_parameters": 340,
    "total_size": 340
  },
  "weight_map": {
    "a": "model-00002-of-00003.safetensors",
    "b": "model-00002-of-00003.safetensors",
    "big": "model-00001-of-00003.safetensors",
    "c": "model-00002-of-00003.safetensors",
    "\\u00e9": "model-00003-of-00003.safetensors"
  }
}
`);
  const tensors = await openCheckpoint(folder());
  expect(tensors.size).toBe(5);
  expect([...(await readTensorBytes(tensors.get('é')!))]).toEqual(new Array(40).fill(40));
});

test('adapters by their stem, and a file by its path', async () => {
  await writeShardedCheckpoint(folder(), LIST, { stem: 'adapter_model' });
  expect((await openCheckpoint(folder(), { stem: 'adapter_model' })).size).toBe(5);
  expect((await openCheckpoint(join(folder(), 'adapter_model.safetensors'))).size).toBe(5);
  expect((await errorOf(() => openCheckpoint(folder()))).message).toMatch(
    /found neither.*adapter_model.safetensors itself/,
  );
});

describe('folders that must be refused', () => {
  test('an empty one, an empty archive, a gguf, none at all', async () => {
    expect((await errorOf(() => openCheckpoint(folder()))).message).toMatch(/check that the folder holds a model/);
    writeFileSync(join(folder(), 'm.gguf'), '');
    expect((await errorOf(() => openCheckpoint(folder()))).message).toMatch(/give the path of m.gguf itself/);
    writeFileSync(join(folder(), 'pytorch_model.bin'), '');
    expect((await errorOf(() => openCheckpoint(folder()))).message).toMatch(/empty file.*pytorch_model\.bin/);
    expect((await errorOf(() => openCheckpoint(join(folder(), 'no')))).code).toBe('ERR_CHECKPOINT');
  });

  const cases: [string, () => void | Promise<unknown>, RegExp][] = [
    [
      'a missing shard',
      () => rmSync(join(folder(), 'model-00002-of-00003.safetensors')),
      /expected 3 shards, 1 missing: model-00002-of-00003/,
    ],
    [
      'a tensor that no shard has',
      () => editIndex((map) => (map.ghost = map.a)),
      /expected 'ghost' in model-00002-of-00003.safetensors.*no such tensor/,
    ],
    ['a tensor that the index does not list', () => editIndex((map) => delete map.a), /not listed: a /],
    [
      'a tensor in another shard than the index says',
      () => editIndex((map) => (map.a = map.big)),
      /expected 'a' in model-00001.*found it in model-00002/,
    ],
    [
      'a tensor in two shards',
      () => writeSafetensors(join(folder(), 'model-00003-of-00003.safetensors'), [tensor('é', 4), tensor('a', 1)]),
      /'a' in model-00002-of-00003.safetensors and model-00003/,
    ],
    [
      'a path outside the folder',
      () => editIndex((map) => (map.a = '../x.safetensors')),
      /plain name of a file beside the index, received "..\/x.safetensors"/,
    ],
    ['an index without a map', () => writeFileSync(join(folder(), INDEX), '{"weight_map": 3}'), /no weight_map/],
    ['an index that is cut', () => writeFileSync(join(folder(), INDEX), '{"weight_map": {'), /expected JSON/],
    [
      'an index with a tensor twice',
      () => writeFileSync(join(folder(), INDEX), '{"weight_map": {"a": "x", "a": "y"}}'),
      /'a' twice/,
    ],
    [
      'a damaged shard',
      () => truncateSync(join(folder(), 'model-00001-of-00003.safetensors'), 150),
      /file of 304 bytes.*received 150.*cut short/,
    ],
  ];
  test.each(cases)('%s', async (_name, damage, message) => {
    await writeShards();
    await damage();
    expect((await errorOf(() => openCheckpoint(folder()))).message).toMatch(message);
  });

  test('a shard size of zero', async () => {
    expect((await errorOf(() => writeShardedCheckpoint(folder(), LIST, { maxShardBytes: 0 }))).code).toBe('ERR_CONFIG');
  });
});
