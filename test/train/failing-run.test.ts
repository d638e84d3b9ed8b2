/**
 * What a run that fails while it trains leaves: one LatheError that names step, node and rows or the folder, and checkpoints that
 * are whole. Input that is refused before the first step: bad-input.test.ts.
 */
import { execFileSync, spawnSync } from 'node:child_process';
import { mkdirSync, readdirSync, readFileSync, rmSync, truncateSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { Worker } from 'node:worker_threads';
import type { LatheError } from '../../src/errors';
import type { TrainEvent } from '../../src/train/events';
import { JsonlReporter } from '../../src/train/reporters';
import { Trainer, type TrainerOptions } from '../../src/train/trainer';
import { failure } from './failure';
import { goldenExamples } from './golden';
import { eventsOf, fullModel, runTiny, temporaryFolder, tinyTrainer } from './tiny-run';

const base = temporaryFolder('failing');
let serial = 0;
const fresh = (): string => join(base, `case-${serial++}`);

describe('while it trains', () => {
  const saving = { maxSteps: 6, saveStrategy: 'steps', saveSteps: 2 } as const;

  test('a step with every token masked: its rows are named, and what was trained before it is saved', async () => {
    const out = fresh();
    const train = goldenExamples()
      .slice(0, 3)
      .map((e, i) => (i === 2 ? { ...e, labels: e.labels.slice().fill(-100) } : e));
    const { trainer, model: m } = await tinyTrainer(out, {
      train,
      test: null,
      args: { ...saving, saveSteps: 100, perDeviceTrainBatchSize: 1, gradientAccumulationSteps: 1 },
      loader: { batchSize: 1, gradientAccumulationSteps: 1, samplingStrategy: 'sequential' },
    });
    const error = await failure(() => trainer.train());
    await m.close();
    expect(error).toMatchObject({
      code: 'ERR_DATA',
      at: `dataset row ${train[2].row}`,
      message: expect.stringMatching(/^step 3 has no token to train on.*filter these rows out/) as string,
    });
    expect(readdirSync(out)).toEqual(['checkpoint-2']);
  });

  test('data of which the first step has no micro-batch, or an epoch no step', async () => {
    const { trainer, model: m } = await tinyTrainer(fresh(), { test: null });
    const { options } = trainer as unknown as { options: TrainerOptions };
    const nothing = { epoch: 0, stepInEpoch: 0, endsEpoch: true, microBatches: [], numLabels: 0 };
    const trainLoader = {
      stepsPerEpoch: 1,
      shapes: options.trainLoader.shapes,
      gradientAccumulationSteps: 2,
      next: () => nothing,
      state: () => ({ epoch: 0, stepInEpoch: 0 }),
      seek: () => undefined,
    };
    const steps: TrainEvent[] = [];
    const error = await failure(async () => {
      for await (const event of new Trainer({ ...options, trainLoader }).run()) steps.push(event);
    });
    expect(error).toMatchObject({
      code: 'ERR_DATA',
      message: expect.stringMatching(
        /^step 1 has no rows: the training data gave no micro-batch: check the files/,
      ) as string,
    });
    expect(eventsOf(steps, 'step')).toEqual([]);
    expect(
      await failure(() => new Trainer({ ...options, trainLoader: { ...trainLoader, stepsPerEpoch: 0 } })),
    ).toMatchObject({ code: 'ERR_DATA' });
    await m.close();
  });

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
    await session.writeState(
      'base_model.model.model.layers.0.self_attn.q_proj.lora_B.weight',
      Float32Array.of(Infinity),
      { offset: 0 },
    );
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
    const events = await runTiny(out, {
      args: { ...saving, maxSteps: 5, resumeFromCheckpoint: true },
      warn: (w) => warnings.push(w),
    });
    expect(eventsOf(events, 'begin')[0].resumedFrom).toBe(join(out, 'checkpoint-2'));
    expect(warnings).toEqual([expect.stringMatching(/checkpoint-4 is damaged .*trying the checkpoint before it/)]);
    const named = await failure(() =>
      runTiny(out, { args: { ...saving, resumeFromCheckpoint: join(out, 'checkpoint-3') } }),
    );
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
    const worker = new Worker(
      "require('ts-node/register/transpile-only'); require(require('node:worker_threads').workerData.script)",
      { eval: true, workerData: { script, outputDir: out } },
    );
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
    mounted =
      process.platform === 'linux' &&
      process.getuid?.() === 0 &&
      spawnSync('mount', ['-t', 'tmpfs', '-o', 'size=256k', 'tmpfs', mount]).status === 0;
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
    const filled = spawnSync('dd', ['if=/dev/zero', `of=${join(mount, 'filler')}`, 'bs=1k', 'count=246'], {
      encoding: 'utf8',
    });
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
