/** Training on a stream: killed in the middle of a shard it resumes byte for byte; damage on the way is told and nothing is lost. */
import { spawnSync } from 'node:child_process';
import { mkdirSync, readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { gzipSync } from 'node:zlib';
import { loadDataset, type StreamLoaderState } from '../../src/data';
import { AutoModelForCausalLM } from '../../src/pretrained/auto';
import { AutoTokenizer } from '../../src/tokenizers/auto-tokenizer';
import { configFromObject, type ConfigInput } from '../../src/train/arguments';
import type { TrainEvent } from '../../src/train/events';
import { setupSft } from '../../src/train/setup';
import { SFTTrainer } from '../../src/train/sft-trainer';
import { writeModel } from './tiny-folder';
import { eventsOf, temporaryFolder } from './tiny-run';

jest.setTimeout(300_000);
const base = temporaryFolder('stream-training');
const model = join(base, 'model');
const WORDS = 'the a small large ship sea moon rain wood king bread over under with and of'.split(' ');

/** A text that no other row has. */
const textOf = (i: number): string =>
  Array.from({ length: 12 + (i % 17) }, (_, k) => WORDS[(i * 7 + k * (1 + (i % 5))) % WORDS.length]).join(' ');

/** Four shards, one of them compressed, each with rows for a few steps and a bad line. */
function writeShards(dir: string, rowsPerShard = 800): string {
  mkdirSync(dir, { recursive: true });
  for (let shard = 0; shard < 4; shard++) {
    const lines = Array.from({ length: rowsPerShard }, (_, i) =>
      JSON.stringify({ text: textOf(shard * rowsPerShard + i) }),
    );
    lines.splice(20, 0, '{"text": "cut sh');
    const bytes = Buffer.from(`${lines.join('\n')}\n`);
    const name = join(dir, `train-0000${shard}-of-00004.jsonl`);
    if (shard === 2) writeFileSync(`${name}.gz`, gzipSync(bytes));
    else writeFileSync(name, bytes);
  }
  return dir;
}

beforeAll(() => writeModel(model));

describe('kill -9', () => {
  const data = join(base, 'rows');
  beforeAll(() => void writeShards(data));

  function run(
    name: string,
    killAt = 0,
    resume = false,
  ): { signal: string | null; status: number | null; output: string } {
    const script = join(__dirname, 'stream-child.ts');
    const child = spawnSync(
      process.execPath,
      [
        '-r',
        'ts-node/register/transpile-only',
        script,
        model,
        data,
        join(base, name),
        String(killAt),
        resume ? 'resume' : '',
      ],
      { encoding: 'utf8' },
    );
    return { signal: child.signal, status: child.status, output: child.stdout + child.stderr };
  }
  const file = (run: string, name: string): Buffer => readFileSync(join(base, run, 'checkpoint-360', name));

  test('in the middle of a shard, with a shuffle buffer and bad lines, then resume: the same run', () => {
    expect(run('whole')).toMatchObject({ status: 0 });
    const killed = run('killed', 150);
    expect(killed).toMatchObject({ signal: 'SIGKILL' });
    const { loader } = JSON.parse(readFileSync(join(base, 'killed/checkpoint-120/lathe_state.json'), 'utf8')) as {
      loader: StreamLoaderState;
    };
    const inner = (loader.stream?.cursor as { inner: { shard: number; after: number } }).inner;
    expect(inner.after).toBeGreaterThan(1);
    const resumed = run('killed', 0, true);
    expect([resumed.status, resumed.output]).toEqual([0, expect.stringContaining('row left out')]);
    for (const name of ['optimizer.safetensors', 'model.safetensors', 'trainer_state.json'])
      expect([name, file('killed', name).equals(file('whole', name))]).toEqual([name, true]);
    // The same place in the data; the cursor may tell it from another anchor.
    const place = (run: string): StreamLoaderState => {
      const { loader } = JSON.parse(file(run, 'lathe_state.json').toString()) as { loader: StreamLoaderState };
      return { ...loader, stream: { ...loader.stream!, cursor: null } };
    };
    expect(place('killed')).toEqual(place('whole'));
    // More than a pass over the rows, so that the order of a later epoch is covered too.
    expect([loader.epoch, place('whole').epoch]).toEqual([0, 1]);
  });

  test('other files than those of the checkpoint are refused', () => {
    rmSync(join(base, 'killed/checkpoint-360'), { recursive: true });
    writeFileSync(join(data, 'train-00001-of-00004.jsonl'), `${JSON.stringify({ text: 'another' })}\n`);
    const other = run('killed', 0, true);
    expect(other.status).toBe(1);
    expect(other.output).toMatch(/ERR_CHECKPOINT/);
    expect(other.output).toMatch(/not those that the checkpoint was made with/);
  });
});

describe('in this process', () => {
  async function train(
    name: string,
    extra: ConfigInput,
    onEvent: (event: TrainEvent) => void = () => undefined,
  ): Promise<{ events: TrainEvent[]; warnings: string[] }> {
    const warnings: string[] = [];
    const config = configFromObject({
      modelNameOrPath: model,
      outputDir: join(base, name),
      datasetStreaming: true,
      packing: true,
      packingStrategy: 'wrapped',
      maxLength: 64,
      maxSteps: 30,
      perDeviceTrainBatchSize: 2,
      learningRate: 1e-3,
      saveSteps: 5,
      loggingSteps: 5,
      threads: 1,
      bf16: false,
      reportTo: 'none',
      ...extra,
    });
    const { trainer, model: opened } = await setupSft(config, { warn: (message) => warnings.push(message) });
    const events: TrainEvent[] = [];
    try {
      for await (const event of trainer.run()) {
        events.push(event);
        onEvent(event);
      }
    } finally {
      await opened.close();
    }
    return { events, warnings };
  }

  test('a bad line stops with its file and line; skipped, it is named and the rest is trained', async () => {
    const data = writeShards(join(base, 'bad'));
    await expect(train('bad-stop', { datasetName: data })).rejects.toMatchObject({
      code: 'ERR_DATA',
      message: expect.stringMatching(/train-00000-of-00004\.jsonl:21/) as string,
    });
    const { events, warnings } = await train('bad-skip', { datasetName: data, onBadRow: 'skip' });
    expect(eventsOf(events, 'step').length).toBe(30);
    expect(warnings.join('\n')).toMatch(/row left out.*train-00000-of-00004\.jsonl:21/);
  });

  test('a shard that vanishes mid-run is an error that names it; what was trained is saved, and resumes once it is back', async () => {
    const data = writeShards(join(base, 'gone'));
    const shard = join(data, 'train-00003-of-00004.jsonl');
    // Windows of 64 steps are read ahead: the last shard is opened long after the third step.
    const settings = { datasetName: data, onBadRow: 'skip' as const, maxSteps: 600, saveSteps: 200 };
    const steps: number[] = [];
    await expect(
      train('gone-run', settings, (event) => {
        if (event.type !== 'step') return;
        steps.push(event.step);
        if (event.step === 3) renameSync(shard, join(base, 'aside'));
      }),
    ).rejects.toMatchObject({
      code: 'ERR_DATA',
      message: expect.stringMatching(/train-00003-of-00004\.jsonl.*resume/s) as string,
    });
    renameSync(join(base, 'aside'), shard);
    expect([steps.length > 200, steps.length < 600, steps.length % 200 > 0]).toEqual([true, true, true]);
    const { events } = await train('gone-run', { ...settings, resumeFromCheckpoint: true });
    expect(eventsOf(events, 'step')[0].step).toBe(steps.length + 1);
    const { events: whole } = await train('gone-whole', settings);
    expect(eventsOf(events, 'step').map(({ loss }) => loss)).toEqual(
      eventsOf(whole, 'step')
        .map(({ loss }) => loss)
        .slice(steps.length),
    );
  });

  test('a run without max_steps is refused, in a file and in the API', async () => {
    expect(() => configFromObject({ datasetStreaming: true, modelNameOrPath: 'x' })).toThrow(
      /max_steps.*length of a stream is unknown/,
    );
    const data = writeShards(join(base, 'api'));
    const stream = await loadDataset(data, {
      split: 'train',
      streaming: true,
      onBadRow: 'skip',
      warn: () => undefined,
    });
    const opened = await AutoModelForCausalLM.fromPretrained(model, { threads: 1 });
    const make = (maxSteps: number): SFTTrainer =>
      new SFTTrainer({
        model: opened,
        processingClass: AutoTokenizer.fromPretrained(model),
        trainDataset: stream.shuffle({ bufferSize: 8 }),
        evalDataset: stream.take(5),
        args: configFromObject({
          outputDir: join(base, 'api-run'),
          maxLength: 32,
          maxSteps,
          perDeviceTrainBatchSize: 4,
          threads: 1,
          bf16: false,
          reportTo: 'none',
          saveStrategy: 'no',
        }),
      });
    await expect(make(-1).train()).rejects.toMatchObject({
      code: 'ERR_CONFIG',
      message: expect.stringMatching(/max_steps/) as string,
    });
    const trainer = make(3);
    // Unpacked: a row is a row of the batch, in one of a few sizes.
    expect((await trainer.train()).train_loss).toBeGreaterThan(0);
    expect((await trainer.evaluate()).eval_perplexity).toBeGreaterThan(1);
    await opened.close();
  });

  test('rows set aside for the test are not trained; members of a mixture are drawn by their fractions', async () => {
    const a = writeShards(join(base, 'a'));
    const b = join(base, 'b.jsonl');
    writeFileSync(b, Array.from({ length: 400 }, () => `${JSON.stringify({ text: 'rain' })}\n`).join(''));
    const { events } = await train('mixed', {
      datasets: [
        { path: a, fraction: 1 },
        { path: b, fraction: 3 },
      ] as never,
      onBadRow: 'skip',
      testSplitSize: 10,
      evalStrategy: 'steps',
      evalSteps: 5,
      maxSteps: 10,
    });
    expect(eventsOf(events, 'evaluate').length).toBe(2);
    rmSync(b);
  });
});
