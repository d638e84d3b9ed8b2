/**
 * Asking for a GPU where there is none: one clear error, an exit status, no crash at exit. In processes of their own, with no
 * CUDA module, with a file that is none, with the real one where it was built (it must load without a driver), and with the host
 * shim where that was built, which stands in for a driver that lists devices or none.
 */
import { spawnSync } from 'node:child_process';
import { existsSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { loadNative } from '../../src/runtime/binding';

const root = path.resolve(__dirname, '../..');
const folder = mkdtempSync(path.join(tmpdir(), 'lathe-cuda-device-'));
afterAll(() => rmSync(folder, { recursive: true }));

interface Outcome {
  out: string;
  err: string;
  status: number | null;
}

function run(args: readonly string[], env: Record<string, string>): Outcome {
  const { stdout, stderr, status, signal } = spawnSync(
    process.execPath,
    ['-r', 'ts-node/register/transpile-only', ...args],
    { cwd: root, encoding: 'utf8', env: { ...process.env, ...env } },
  );
  expect(signal).toBeNull();
  return { out: stdout, err: stderr, status };
}
const doctor = (env: Record<string, string>): Outcome => run(['src/cli/main.ts', 'doctor'], env);
/** Opens a session on a device and says what came of it. */
const open = (device: string, env: Record<string, string>): Outcome =>
  run(
    [
      '-e',
      `const { Session } = require('./src/runtime/session');
    try { const s = Session.create({ device: '${device}' }); s.close().then(() => console.log('opened')); } catch (e) { console.log(e.code + ': ' + e.message); }`,
    ],
    env,
  );
const generate = (device: string, env: Record<string, string>): Outcome =>
  run(
    [
      'src/cli/main.ts',
      'generate',
      '--model',
      'data/base-model',
      '--device',
      device,
      '--prompt',
      'a',
      '--max-new-tokens',
      '1',
    ],
    env,
  );

const missing = { LATHE_CUDA_MODULE: path.join(folder, 'none.so') };

test('no module: doctor says so, a session is one error', () => {
  const d = doctor(missing);
  expect(d).toMatchObject({ err: '', status: 0 });
  expect(d.out).toMatch(/^CUDA +not built: programs run on the CPU/m);
  const s = open('cuda', missing);
  expect(s).toMatchObject({ err: '', status: 0 });
  expect(s.out).toMatch(/^ERR_DEVICE: the CUDA backend could not be opened: .*none\.so.*npm run build:cuda/);
  expect(s.out.trim().split('\n')).toHaveLength(1);
});

test('a command that asks for a GPU ends with one message and a status', () => {
  const g = generate('cuda:1', missing);
  expect(g.status).not.toBe(0);
  expect(g.err).toMatch(/CUDA backend could not be opened/);
  expect(g.err).not.toMatch(/\n\s+at /);
});

test('a file that is no module', () => {
  const text = path.join(folder, 'text.so');
  writeFileSync(text, 'not a shared object');
  expect(open('cuda', { LATHE_CUDA_MODULE: text }).out).toMatch(/^ERR_DEVICE: the CUDA backend could not be opened/);
  // A shared object of something else.
  const addon = process.env.LATHE_ADDON_PATH ?? path.join(root, 'build/Release/lathe.node');
  expect(existsSync(addon)).toBe(true);
  expect(open('cuda', { LATHE_CUDA_MODULE: addon }).out).toMatch(/^ERR_DEVICE: /);
});

const real = path.join(root, 'build/Release/lathe_cuda.so');
const driver = loadNative()
  .devices()
  .some((d) => d.device.startsWith('cuda'));
if (!existsSync(real) || driver)
  process.stdout.write(
    `the real module without a driver: not tested, ${driver ? 'this machine has a GPU' : 'lathe_cuda.so was not built (npm run build:cuda)'}\n`,
  );
(existsSync(real) && !driver ? test : test.skip)('the real module loads without a driver', () => {
  const env = { LATHE_CUDA_MODULE: real };
  const d = doctor(env);
  expect(d).toMatchObject({ err: '', status: 0 });
  expect(d.out).toMatch(/^CUDA +\d+ kernels for /m);
  expect(d.out).toMatch(/^CUDA +no device: /m);
  for (const device of ['cuda', 'cuda:1']) {
    const s = open(device, env);
    expect(s).toMatchObject({ err: '', status: 0 });
    expect(s.out).toMatch(/^ERR_DEVICE: no CUDA device: .*: use --device cpu\n$/);
  }
  const g = generate('cuda', env);
  expect(g.status).not.toBe(0);
  expect(g.err).toMatch(/no CUDA device/);
});

const shim =
  process.env.LATHE_CUDA_MODULE && loadNative().cuda().built.includes('shim')
    ? process.env.LATHE_CUDA_MODULE
    : undefined;
if (!shim)
  process.stdout.write(
    'devices of the host shim: not tested, LATHE_CUDA_MODULE does not name it (npm run test:cuda-host builds it)\n',
  );
(shim ? test : test.skip)('CUDA_VISIBLE_DEVICES and device numbers', () => {
  expect(open('cuda', {}).out).toBe('opened\n');
  expect(open('cuda:1', {}).out).toMatch(
    /^ERR_DEVICE: cuda:1 does not exist: this process sees 1 \(CUDA_VISIBLE_DEVICES counts\)/,
  );
  expect(open('cuda:1', { CUDA_VISIBLE_DEVICES: '0,3' }).out).toBe('opened\n');
  expect(open('cuda', { CUDA_VISIBLE_DEVICES: '' }).out).toMatch(/^ERR_DEVICE: no CUDA device: .*CUDA_VISIBLE_DEVICES/);
  expect(doctor({ CUDA_VISIBLE_DEVICES: '' }).out).toMatch(/^CUDA +no device: /m);
  expect(doctor({}).out).toMatch(/^cuda:0 +host shim/m);
});

/** What `auto` becomes: for a model that is opened, for a plan, for a run (planned only). */
function auto(env: Record<string, string>): string[] {
  const all = run(
    [
      '-e',
      `const { AutoModelForCausalLM } = require('./src/pretrained/auto');
    const { planCommand } = require('./src/cli/plan');
    const { trainCommand } = require('./src/cli/train');
    void (async () => {
      console.log('memory plan for ' + (await AutoModelForCausalLM.fromPretrained('data/base-model', { device: 'auto' })).device + ': peak');
      await planCommand('configs/quickstart.yaml', [], {});
      await trainCommand('configs/quickstart.yaml', ['plan_only=true', 'output_dir=${folder}']);
    })();`,
    ],
    env,
  );
  expect(all).toMatchObject({ status: 0, err: '' });
  return [...all.out.matchAll(/^memory plan for ([^ ]+): peak/gm)].map((m) => m[1]);
}

test('device: auto is the CPU where there is no GPU, and nothing is said', () => {
  expect(auto(missing)).toEqual(['cpu', 'cpu', 'cpu']);
  expect(generate('auto', missing)).toMatchObject({ status: 0, err: '' });
});

(shim ? test : test.skip)('CUDA runtime: device: auto is the first GPU, for one process that sees one', () => {
  expect(auto({ LATHE_SHIM_MEMORY: String(64 * 2 ** 30) })).toEqual(['cuda:0', 'cuda:0', 'cuda:0']);
  expect(auto({ CUDA_VISIBLE_DEVICES: '' })).toEqual(['cpu', 'cpu', 'cpu']);
  const ranks = run(
    [
      '-e',
      `require('./src/runtime/world').currentWorld = () => ({ size: 2 });
    console.log(require('./src/runtime/device').resolveDevice('auto'));`,
    ],
    {},
  );
  expect(ranks).toMatchObject({ out: 'cpu\n', err: '', status: 0 });
});

test('a configuration that names another device than the model', () => {
  const { out } = run(
    [
      '-e',
      `const { AutoModelForCausalLM } = require('./src/pretrained/auto');
    const { Trainer } = require('./src/train/trainer');
    const { configFromObject } = require('./src/train/arguments');
    AutoModelForCausalLM.fromPretrained('data/base-model').then((model) => new Trainer({ model, args: configFromObject({ device: 'cuda:1' }) })).catch((e) => console.log(e.code + ': ' + e.message));`,
    ],
    missing,
  );
  expect(out).toMatch(/^ERR_CONFIG: device: expected that of the model, cpu, received cuda:1/);
});

(shim ? test : test.skip)('CUDA runtime: a plan knows the memory of a GPU that is here', () => {
  const plan = (bytes: number): Outcome =>
    run(['src/cli/main.ts', 'plan', 'configs/smollm2-135m-qlora.yaml', '--device', 'cuda'], {
      LATHE_SHIM_MEMORY: String(bytes),
    });
  expect(plan(16 * 2 ** 30)).toMatchObject({ status: 0, err: '' });
  const small = plan(400 * 2 ** 20);
  expect(small.status).toBe(2);
  // 256 MiB stay with the driver.
  expect(small.out).toMatch(/does not fit cuda \(144 MiB\)/);
});
