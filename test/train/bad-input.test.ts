/**
 * What bad input gets: one LatheError that names the file, row or key and what to do, and nothing lost or half-written.
 * Damage inside single files (safetensors, GGUF, Parquet, tokenizers) has its tests beside their readers.
 */
import { execFileSync, spawnSync } from 'node:child_process';
import { cpSync, existsSync, mkdirSync, readdirSync, readFileSync, rmSync, truncateSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { Worker } from 'node:worker_threads';
import type { LatheError } from '../../src/errors';
import { loadConfig } from '../../src/train/arguments';
import { JsonlReporter } from '../../src/train/reporters';
import { setupSft } from '../../src/train/setup';
import { ALPACA_ROWS, TINY_CONFIG, writeConfig, writeModel, writeRows } from './tiny-folder';
import { eventsOf, fullModel, runTiny, temporaryFolder, tinyTrainer } from './tiny-run';

const base = temporaryFolder('bad');
const model = join(base, 'model');
const data = join(base, 'data');
beforeAll(async () => {
  await writeModel(model);
  writeRows(data);
});

let serial = 0;
const fresh = (): string => join(base, `case-${serial++}`);

async function failure(action: () => unknown): Promise<LatheError> {
  try {
    await action();
  } catch (error) {
    expect((error as Error).name).toBe('LatheError');
    return error as LatheError;
  }
  throw new Error('expected an error');
}

/** Sets a run up from a configuration file and trains it; resolves to the error and what the output folder holds. */
async function failedRun(extra: string, paths: { model?: string; data?: string } = {}): Promise<{ error: LatheError; left: string[] }> {
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
  const parts = await setupSft(loadConfig(writeConfig(`${out}.yaml`, { model, data, out }, '')), { warn: () => undefined });
  const error = await failure(() => parts.trainer.train());
  await parts.model.close();
  expect(error).toMatchObject({ code: 'ERR_CHECKPOINT', at: out, message: expect.stringContaining('a file stands where a folder should') });
  expect(readFileSync(out, 'utf8')).toBe('kept');
});

test('the run that the others break is sound', async () => {
  const out = fresh();
  const { trainer, model: m } = await setupSft(loadConfig(writeConfig(`${out}.yaml`, { model, data, out }, 'eval_strategy: steps\n')));
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
    const { trainer, model: m } = await setupSft(loadConfig(writeConfig(`${made}.yaml`, { model: other, data, out: made }), ['max_steps=1']));
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

describe('while it trains', () => {
  const saving = { maxSteps: 6, saveStrategy: 'steps', saveSteps: 2 } as const;

  test('a weight that is not a number: step, node and rows are named, the last checkpoint is intact', async () => {
    const out = fresh();
    const { trainer, model: m } = await tinyTrainer(out, { args: saving });
    const error = await failure(async () => {
      for await (const event of trainer.run()) {
        if (event.type !== 'step' || event.step !== 3) continue;
        const session = await m.ready();
        await session.writeState('model.layers.1.mlp.up_proj.weight', Float32Array.of(NaN), { offset: 0 });
      }
    });
    await m.close();
    expect(error.code).toBe('ERR_NONFINITE');
    expect(error.message).toMatch(/the loss is not finite at step 4, micro-batch 1 of 2/);
    expect(error.message).toMatch(/layers\.1\.mlp/);
    expect(error.at).toMatch(/^dataset rows \d+, \d+$/);
    expect(error.remedy).toContain(join(out, 'checkpoint-2'));
    // What is there resumes, and ends as if nothing had happened.
    expect(readdirSync(out)).toEqual(['checkpoint-2']);
    const resumed = eventsOf(await runTiny(out, { args: { ...saving, resumeFromCheckpoint: true } }), 'step');
    expect(resumed.map((e) => e.step)).toEqual([3, 4, 5, 6]);
    expect(resumed.every((e) => Number.isFinite(e.loss))).toBe(true);
  });

  test('debug: underflow_overflow names the node at once', async () => {
    const { trainer, model: m } = await tinyTrainer(fresh(), { args: { maxSteps: 2, debug: 'underflow_overflow' } });
    const session = await m.ready();
    await session.writeState('base_model.model.model.layers.0.self_attn.q_proj.lora_B.weight', Float32Array.of(Infinity), { offset: 0 });
    const error = await failure(() => trainer.train());
    await m.close();
    expect(error.code).toBe('ERR_NONFINITE');
    expect(error.message).toMatch(/layers\.0\.self_attn/);
    expect(error.remedy).toContain('no checkpoint had been written yet');
  });

  test('a gradient that is not finite while the loss is', async () => {
    const { trainer, model: m } = await tinyTrainer(fresh(), { args: { maxSteps: 2 } });
    let poisoned = false;
    trainer.addCallback({
      onPreOptimizerStep: async () => {
        if (poisoned) return;
        poisoned = true;
        const session = await m.ready();
        const slot = session.states().find((s) => s.name.includes('grad'))!;
        await session.writeState(slot.name, Float32Array.of(Infinity), { offset: 0 });
      },
    });
    const error = await failure(() => trainer.train());
    await m.close();
    expect(error.code).toBe('ERR_NONFINITE');
    expect(error.message).toMatch(/gradient norm.*step 1.*rows .*underflow_overflow/s);
  });

  test('evaluation of a model that is not finite', async () => {
    const { trainer, model: m } = await tinyTrainer(fresh());
    await (await m.ready()).writeState('model.norm.weight', Float32Array.of(NaN), { offset: 0 });
    const error = await failure(() => trainer.evaluate());
    await m.close();
    expect(error.code).toBe('ERR_NONFINITE');
    expect(error.message).toMatch(/evaluation loss.*model\.norm.*rows 0, 1, 2, 3/s);
  });

  test('two runs into one folder: the second is refused, the first goes on', async () => {
    const out = fresh();
    const first = await tinyTrainer(out, { args: saving, callbacks: [new JsonlReporter(out)] });
    const second = await tinyTrainer(out, { args: saving, callbacks: [new JsonlReporter(out)] });
    let error: LatheError | undefined;
    for await (const event of first.trainer.run()) {
      if (event.type === 'step' && event.step === 1) error = await failure(() => second.trainer.train());
    }
    expect(error).toMatchObject({ code: 'ERR_CHECKPOINT', at: out });
    expect(error!.message).toContain(`pid ${process.pid}`);
    expect(readFileSync(join(out, 'events.jsonl'), 'utf8').match(/"event":"begin"/g)).toHaveLength(1);
    await first.model.close();
    await second.model.close();
  });

  test.each([
    ['trainer_state.json', (file: string) => truncateSync(file, 40)],
    ['optimizer.safetensors', (file: string) => truncateSync(file, 1000)],
    ['adapter_model.safetensors', (file: string) => rmSync(file)],
  ])('a checkpoint whose %s was cut short or lost: the one before it is taken', async (name, damage) => {
    const out = fresh();
    await runTiny(out, { args: { ...saving, maxSteps: 4 } });
    damage(join(out, 'checkpoint-4', name));
    const warnings: string[] = [];
    const events = await runTiny(out, { args: { ...saving, maxSteps: 5, resumeFromCheckpoint: true }, warn: (w) => warnings.push(w) });
    expect(eventsOf(events, 'begin')[0].resumedFrom).toBe(join(out, 'checkpoint-2'));
    expect(warnings).toEqual([expect.stringMatching(/checkpoint-4 is damaged .*trying the checkpoint before it/)]);
    const named = await failure(() => runTiny(out, { args: { ...saving, resumeFromCheckpoint: join(out, 'checkpoint-3') } }));
    expect(named).toMatchObject({ code: 'ERR_CHECKPOINT', at: join(out, 'checkpoint-3') });
  });

  test('resuming with another model, other data or nothing to resume from', async () => {
    const out = fresh();
    await runTiny(out, { args: { ...saving, maxSteps: 2 } });
    const resume = { ...saving, resumeFromCheckpoint: true };
    const other = await failure(async () => runTiny(out, { args: resume, model: await fullModel() }));
    expect(other).toMatchObject({ code: 'ERR_CHECKPOINT', at: join(out, 'checkpoint-2') });
    expect(other.message).toMatch(/'model\.embed_tokens\.weight'/);
    const rows = await failure(() => runTiny(out, { args: { ...resume, seed: 7 } }));
    expect(rows.code).toBe('ERR_CHECKPOINT');
    expect(rows.message).toContain('ignore_data_skip');
    const skipped = await runTiny(out, { args: { ...resume, seed: 7, maxSteps: 3, ignoreDataSkip: true } });
    expect(eventsOf(skipped, 'step').map((e) => e.step)).toEqual([3]);
    const nothing = await failure(() => runTiny(fresh(), { args: resume }));
    expect(nothing.message).toMatch(/no checkpoint to resume from.*resume_from_checkpoint/s);
  });

  test('a worker that ends in the middle of a step leaves the process whole', async () => {
    const out = fresh();
    const script = join(__dirname, 'worker-run.ts');
    const worker = new Worker("require('ts-node/register/transpile-only'); require(require('node:worker_threads').workerData.script)", { eval: true, workerData: { script, outputDir: out } });
    const code = await new Promise<number>((done, fail) => {
      worker.on('error', fail);
      worker.on('exit', done);
    });
    expect(code).toBe(3);
    // Its folder is free again, and this thread still trains.
    const events = await runTiny(out, { args: { maxSteps: 2 } });
    expect(eventsOf(events, 'step')).toHaveLength(2);
  }, 120_000);
});

describe('a full disk', () => {
  const mount = fresh();
  let mounted = false;
  beforeAll(() => {
    mkdirSync(mount);
    mounted = process.platform === 'linux' && process.getuid?.() === 0 && spawnSync('mount', ['-t', 'tmpfs', '-o', 'size=256k', 'tmpfs', mount]).status === 0;
    if (!mounted) console.log('skipped: a small file system can only be mounted by root on Linux');
  });
  afterAll(() => {
    if (mounted) execFileSync('umount', [mount]);
  });

  test('no space for a checkpoint: the error says so, the one before is whole, nothing half-written is left', async () => {
    if (!mounted) return;
    const out = join(mount, 'run');
    const args = { maxSteps: 6, saveStrategy: 'steps', saveSteps: 2 } as const;
    const error = await failure(() => runTiny(out, { args }));
    expect(error.code).toBe('ERR_CHECKPOINT');
    expect(error.message).toMatch(/ENOSPC|no space left/);
    expect(error.message).toContain('checkpoint-');
    expect(error.remedy).toMatch(/free some space/);
    const left = readdirSync(out);
    expect(left.length).toBeGreaterThan(0);
    expect(left.every((name) => /^checkpoint-\d+$/.test(name))).toBe(true);
    const resumed = runTiny(out, { args: { ...args, resumeFromCheckpoint: true } });
    await expect(resumed).rejects.toMatchObject({ code: 'ERR_CHECKPOINT' });
  });

  test('no space for the event log', async () => {
    if (!mounted) return;
    writeFileSync(join(mount, 'filler'), Buffer.alloc(1));
    for (const name of readdirSync(mount)) rmSync(join(mount, name), { recursive: true });
    const filled = spawnSync('dd', ['if=/dev/zero', `of=${join(mount, 'filler')}`, 'bs=1k', 'count=246'], { encoding: 'utf8' });
    expect(filled.status === 0 || filled.stderr.includes('No space')).toBe(true);
    const error = await failure(async () => {
      const events = join(mount, 'log');
      mkdirSync(events);
      await runTiny(events, { args: { maxSteps: 2000 }, callbacks: [new JsonlReporter(events)] });
    });
    expect(error.code).toBe('ERR_CHECKPOINT');
    expect(error.message).toMatch(/events\.jsonl|lathe\.lock|output folder/);
  });
});
