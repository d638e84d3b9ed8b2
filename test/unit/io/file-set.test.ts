/** Saving over an earlier save: all of it or nothing, whatever fails or kills it, and never a mixture. */
import { execFileSync } from 'node:child_process';
import { mkdirSync, readdirSync, readFileSync, renameSync, statSync, symlinkSync, writeFileSync } from 'node:fs';
import fsPromises from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { replaceFileSets, type FileSet } from '../../../src/io/file-set';
import { ADAPTER_FILES, MODEL_FILES } from '../../../src/io/model-files';
import { TOKENIZER_FILES } from '../../../src/tokenizers/tokenizer-files';
import { errorOf, useTemporaryFolder } from './fixtures';

const folder = useTemporaryFolder();
afterEach(() => jest.restoreAllMocks());

type Files = Record<string, string>;
const SHARDS: Files = {
  'model-00001-of-00002.safetensors': 'a',
  'model-00002-of-00002.safetensors': 'b',
  'model.safetensors.index.json': 'ab',
  'config.json': 'sharded',
};
const SINGLE: Files = { 'model.safetensors': 'c', 'generation_config.json': 'stops', 'config.json': 'single' };
const TOKENIZER: Files = { 'tokenizer.json': 't', 'tokenizer_config.json': 'tc' };
const TEMPLATES: Files = {
  'chat_template.jinja': 'old template',
  'additional_chat_templates/tools.jinja': 'old tools',
};
const SETS = [TOKENIZER_FILES, MODEL_FILES];

function put(dir: string, files: Files): void {
  for (const [name, content] of Object.entries(files)) {
    mkdirSync(dirname(join(dir, name)), { recursive: true });
    writeFileSync(join(dir, name), content);
  }
}

/** Every file with its content, hidden ones too. */
function read(dir: string, inner = ''): Files {
  return Object.fromEntries(
    readdirSync(join(dir, inner)).flatMap((name): [string, string][] => {
      const path = inner ? `${inner}/${name}` : name;
      return statSync(join(dir, path)).isDirectory()
        ? Object.entries(read(dir, path))
        : [[path, readFileSync(join(dir, path), 'utf8')]];
    }),
  );
}

const save = (files: Files, sets: readonly FileSet[] = SETS): Promise<void> =>
  replaceFileSets(folder(), sets, async (staging) => put(staging, files));

describe('what an earlier save has left', () => {
  test.each([
    ['shards beside a single file', SHARDS, SINGLE],
    ['a single file and what only it had beside shards', SINGLE, SHARDS],
    ['three shards beside two', { 'model-00003-of-00003.safetensors': 'x', ...SHARDS }, SHARDS],
    ['a chat template beside a tokenizer without one', { ...TOKENIZER, ...TEMPLATES }, TOKENIZER],
    [
      'legacy files that would be read',
      { ...TOKENIZER, 'special_tokens_map.json': 'old', 'added_tokens.json': 'old' },
      TOKENIZER,
    ],
  ])('%s goes', async (_what, earlier, later) => {
    await save(earlier);
    expect(read(folder())).toEqual(earlier);
    await save(later);
    expect(read(folder())).toEqual(later);
  });

  test('everything else stays', async () => {
    const others = {
      'pytorch_model.bin': 'p',
      'model.fp16.safetensors': 'h',
      'model_x.safetensors': 'x',
      'm.gguf': 'g',
      'notes.txt': 'n',
      'runs/model.safetensors': 'r',
      'adapter_model.safetensors': 'a',
    };
    put(folder(), { ...others, ...SHARDS, ...TOKENIZER, ...TEMPLATES });
    await save(SINGLE);
    expect(read(folder())).toEqual({ ...others, ...SINGLE, ...TOKENIZER, ...TEMPLATES });
  });

  test('without its lead a set is not replaced, only files of the same names', async () => {
    await save({ ...SHARDS, ...TOKENIZER });
    await save({ 'model.safetensors.index.json': 'mended' });
    expect(read(folder())).toEqual({ ...SHARDS, ...TOKENIZER, 'model.safetensors.index.json': 'mended' });
  });

  test('a card that somebody wrote stays, and one is written where there is none', async () => {
    const adapter = { 'adapter_model.safetensors': 'a', 'adapter_config.json': '{}', 'README.md': 'generated' };
    await save(adapter, [ADAPTER_FILES]);
    expect(read(folder())).toEqual(adapter);
    put(folder(), { 'README.md': 'mine' });
    await save(adapter, [ADAPTER_FILES]);
    expect(read(folder())).toEqual({ ...adapter, 'README.md': 'mine' });
  });

  test('a link is replaced, what it points to is not', async () => {
    put(folder(), { blob: 'weights of the cache' });
    symlinkSync('blob', join(folder(), 'model.safetensors'));
    await save(SINGLE);
    expect(read(folder())).toEqual({ ...SINGLE, blob: 'weights of the cache' });
  });
});

describe('failures', () => {
  const before = { ...SHARDS, ...TOKENIZER, ...TEMPLATES, 'notes.txt': 'n' };
  const later = { ...SINGLE, ...TOKENIZER, 'tokenizer.json': 'new' };

  test('while building: the folder is as it was, and one that was not there is not there', async () => {
    put(folder(), before);
    const failing = (dir: string): Promise<unknown> =>
      replaceFileSets(dir, SETS, async (staging) => {
        put(staging, later);
        throw new Error('no more');
      });
    await expect(failing(folder())).rejects.toThrow('no more');
    expect(read(folder())).toEqual(before);
    await expect(failing(join(folder(), 'fresh'))).rejects.toThrow('no more');
    expect(read(folder())).toEqual(before);
  });

  test('a folder in the place of a file is named, and nothing moves', async () => {
    put(folder(), { ...SHARDS, 'model.safetensors/inner': 'i' });
    const error = await errorOf(() => save(later));
    expect(error).toMatchObject({
      code: 'ERR_CHECKPOINT',
      at: join(folder(), 'model.safetensors'),
      remedy: expect.stringContaining('choose another output folder') as string,
    });
    expect(read(folder())).toEqual({ ...SHARDS, 'model.safetensors/inner': 'i' });
  });

  /** The `count`-th rename fails, or with `isKilled` it and all that the process would do after it; resolves to whether it failed. */
  async function saveWithFailure(count: number, isKilled: boolean): Promise<boolean> {
    const { rename, rm } = fsPromises;
    let calls = 0;
    const ioError = (syscall: string): Error => Object.assign(new Error('EIO: i/o error'), { code: 'EIO', syscall });
    jest.spyOn(fsPromises, 'rename').mockImplementation(async (from, to) => {
      calls++;
      if (calls === count || (isKilled && calls > count)) throw ioError('rename');
      return rename(from, to);
    });
    jest.spyOn(fsPromises, 'rm').mockImplementation(async (path, options) => {
      if (isKilled && calls >= count) throw ioError('rm');
      return rm(path, options);
    });
    const failed = await save(later).then(
      () => false,
      () => true,
    );
    jest.restoreAllMocks();
    return failed;
  }

  test('any rename that fails is undone', async () => {
    put(folder(), before);
    let count = 1;
    for (; await saveWithFailure(count, false); count++) expect([count, read(folder())]).toEqual([count, before]);
    expect(read(folder())).toEqual({ ...later, 'notes.txt': 'n' });
    // Journal, old files, new files.
    expect(count - 1).toBe(1 + (Object.keys(before).length - 1) + Object.keys(later).length);
  });

  test('killed at any rename: never a mixture, and the next save, of whatever, finishes it', async () => {
    const dead = execFileSync(process.execPath, ['-p', 'process.pid'], { encoding: 'utf8' }).trim();
    const configs: (string | undefined)[] = [];
    for (let count = 2; ; count++) {
      for (const name of readdirSync(folder())) await fsPromises.rm(join(folder(), name), { recursive: true });
      put(folder(), before);
      if (!(await saveWithFailure(count, true))) break;
      const left = Object.fromEntries(Object.entries(read(folder())).filter(([name]) => !name.startsWith('.')));
      configs.push(left['config.json']);
      expect(left['config.json'] === undefined || left['config.json'] === 'sharded').toBe(true);
      if (left['config.json']) expect(left).toEqual(before);
      for (const name of readdirSync(folder()))
        if (name.startsWith('.lathe.'))
          renameSync(join(folder(), name), join(folder(), name.replace(`-${process.pid}-`, `-${dead}-`)));
      await replaceFileSets(folder(), [], async (staging) => put(staging, { 'other.txt': 'o' }));
      expect([count, read(folder())]).toEqual([count, { ...later, 'notes.txt': 'n', 'other.txt': 'o' }]);
    }
    expect(configs.length).toBeGreaterThan(8);
    expect(new Set(configs)).toEqual(new Set(['sharded', undefined]));
  });

  test('what a killed process was still building goes, and what a live one builds stays', async () => {
    const dead = execFileSync(process.execPath, ['-p', 'process.pid'], { encoding: 'utf8' }).trim();
    let name = '';
    await replaceFileSets(folder(), SETS, async (staging) => {
      name = staging.slice(folder().length + 1);
      put(staging, SINGLE);
    });
    const [gone, kept] = [dead, String(process.ppid)].map((pid) => name.replace(`-${process.pid}-`, `-${pid}-`));
    put(folder(), { [`${gone}/model.safetensors`]: 'half', [`${kept}/model.safetensors`]: 'half' });
    await save(SHARDS);
    expect(read(folder())).toEqual({ ...SHARDS, [`${kept}/model.safetensors`]: 'half' });
  });
});

describe('folders in which something else would be opened', () => {
  test.each([
    [
      'a model beside an adapter',
      MODEL_FILES,
      { 'adapter_config.json': '{}', 'adapter_model.safetensors': 'a' },
      'adapter_config.json',
    ],
    ['an adapter beside a model', ADAPTER_FILES, SINGLE, 'model.safetensors'],
    ['an adapter beside shards', ADAPTER_FILES, SHARDS, 'model.safetensors.index.json'],
    [
      "an adapter beside PyTorch's archive",
      ADAPTER_FILES,
      { 'config.json': '{}', 'pytorch_model.bin': 'p' },
      'pytorch_model.bin',
    ],
    ['a model in a checkpoint of a run', MODEL_FILES, { ...SINGLE, 'checksums.json': '{}' }, 'checksums.json'],
  ])('%s is refused before anything is built', async (_what, set, there, named) => {
    put(folder(), there);
    const build = jest.fn();
    const error = await errorOf(() => replaceFileSets(folder(), [set], build));
    expect(error).toMatchObject({
      code: 'ERR_CHECKPOINT',
      at: join(folder(), named),
      remedy: expect.stringContaining('choose another output folder') as string,
    });
    expect(build).not.toHaveBeenCalled();
    expect(read(folder())).toEqual(there);
  });

  test("an adapter beside a model's config alone is none of them", async () => {
    put(folder(), { 'config.json': '{}' });
    await save({ 'adapter_config.json': '{}' }, [ADAPTER_FILES]);
    expect(read(folder())).toEqual({ 'config.json': '{}', 'adapter_config.json': '{}' });
  });
});
