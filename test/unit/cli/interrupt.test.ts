/** What needs a process of its own: exit codes, Ctrl-C once and twice, SIGTERM. */
import { spawn, spawnSync, type ChildProcess } from 'node:child_process';
import { existsSync, readdirSync } from 'node:fs';
import { join } from 'node:path';
import { listCheckpoints } from '../../../src/train/checkpoint';
import { writeConfig, writeModel, writeRows } from '../../train/tiny-folder';
import { temporaryFolder } from '../../train/tiny-run';

// Each child loads TypeScript; on a busy machine that takes a while.
jest.setTimeout(300_000);

const base = temporaryFolder('interrupt');
const model = join(base, 'model');
const data = join(base, 'data');
const MAIN = ['-r', 'ts-node/register/transpile-only', join(__dirname, '../../../src/cli/main.ts')];

beforeAll(async () => {
  await writeModel(model);
  writeRows(data);
});

interface Running {
  child: ChildProcess;
  text: () => string;
  /** Resolves when `pattern` has been printed. */
  printed: (pattern: RegExp) => Promise<void>;
  ended: Promise<{ code: number | null; signal: NodeJS.Signals | null }>;
}

function train(config: string, ...overrides: string[]): Running {
  const child = spawn(process.execPath, [...MAIN, 'train', config, ...overrides]);
  let text = '';
  const waiting = new Set<() => void>();
  for (const stream of [child.stdout, child.stderr]) {
    stream.on('data', (chunk: Buffer) => {
      text += chunk.toString();
      waiting.forEach((check) => check());
    });
  }
  const ended = new Promise<{ code: number | null; signal: NodeJS.Signals | null }>((done) =>
    child.on('close', (code, signal) => done({ code, signal })),
  );
  const printed = (pattern: RegExp): Promise<void> =>
    new Promise((done, fail) => {
      const check = (): void => {
        if (!pattern.test(text)) return;
        waiting.delete(check);
        done();
      };
      waiting.add(check);
      check();
      void ended.then(() => fail(new Error(`the process ended before it printed ${pattern}:\n${text}`)));
    });
  return { child, text: () => text, printed, ended };
}

test('Ctrl-C finishes the step, saves and stops; the run goes on from there', async () => {
  const out = join(base, 'once');
  const config = writeConfig(
    join(base, 'once.yaml'),
    { model, data, out },
    'logging_first_step: true\nlr_scheduler_type: constant\n',
  );
  const run = train(config, 'max_steps=100000');
  await run.printed(/^step 1\//m);
  run.child.kill('SIGINT');
  expect(await run.ended).toEqual({ code: 0, signal: null });
  expect(run.text()).toContain('stopping after this step and saving a checkpoint; press Ctrl-C again to stop now');
  const [{ step }] = listCheckpoints(out);
  expect(run.text()).toContain(
    `stopped at step ${step}; continue with: lathe train ${config} max_steps=100000 resume_from_checkpoint=true`,
  );
  expect(readdirSync(out).filter((name) => name.startsWith('.'))).toEqual([]);

  const resumed = train(config, `max_steps=${step + 2}`, 'resume_from_checkpoint=true');
  expect(await resumed.ended).toEqual({ code: 0, signal: null });
  expect(resumed.text()).toContain(`resumed from ${join(out, `checkpoint-${step}`)} at step ${step}`);
  expect(existsSync(join(out, 'adapter_model.safetensors'))).toBe(true);
});

test('SIGTERM, as schedulers send it, saves too; a second one asks for nothing more, and the exit code says that the run is not finished', async () => {
  const out = join(base, 'terminated');
  const config = writeConfig(
    join(base, 'terminated.yaml'),
    { model, data, out },
    'logging_first_step: true\nlr_scheduler_type: constant\n',
  );
  const run = train(config, 'max_steps=100000');
  await run.printed(/^step 1\//m);
  run.child.kill('SIGTERM');
  run.child.kill('SIGTERM');
  expect(await run.ended).toEqual({ code: 143, signal: null });
  expect(run.text()).toMatch(/stopping after this step and saving a checkpoint\n/);
  const [{ step }] = listCheckpoints(out);
  expect(run.text()).toContain(`stopped at step ${step}; continue with`);
  const resumed = train(config, `max_steps=${step + 1}`, 'resume_from_checkpoint=true');
  expect(await resumed.ended).toEqual({ code: 0, signal: null });
});

test('a second Ctrl-C stops now', async () => {
  const out = join(base, 'twice');
  // One step of 20,000 micro-batches: the first Ctrl-C would wait for all of them.
  const config = writeConfig(join(base, 'twice.yaml'), { model, data, out }, 'gradient_accumulation_steps: 20000\n');
  const many = join(base, 'many');
  writeRows(
    many,
    Array.from({ length: 40_000 }, (_, i) => ({ instruction: `Say ${i % 10}.`, input: '', output: 'So.' })),
  );
  const run = train(config, `dataset_name=${many}`);
  await run.printed(/recomputation/);
  await new Promise((done) => setTimeout(done, 1000));
  run.child.kill('SIGINT');
  await run.printed(/press Ctrl-C again/);
  const asked = performance.now();
  run.child.kill('SIGINT');
  expect(await run.ended).toEqual({ code: 130, signal: null });
  expect(performance.now() - asked).toBeLessThan(5000);
  // Nothing was saved, nothing is half-written, and the folder is free.
  expect(readdirSync(out)).toEqual(['events.jsonl']);
});

test('bad input is one line on standard error and exit code 1', () => {
  const config = writeConfig(join(base, 'bad.yaml'), { model, data, out: join(base, 'bad') });
  const child = spawnSync(process.execPath, [...MAIN, 'train', config, 'lora_ranc=4'], { encoding: 'utf8' });
  expect(child).toMatchObject({ status: 1, stdout: '' });
  expect(child.stderr).toMatch(
    /^error\[ERR_CONFIG\]: expected a configuration key, received unknown "lora_ranc" \(at lora_ranc\): did you mean \w+\?\n$/,
  );
  expect(existsSync(join(base, 'bad'))).toBe(false);
});
