/**
 * What the CUDA runtime does around kernels: a program's later runs are one recorded graph with the same bits, several
 * programs share the device, an error names its node, weights wider than the staging memory arrive whole. Needs a device, or
 * the host shim (`npm run test:cuda-host`).
 */
import { spawnSync } from 'node:child_process';
import path from 'node:path';
import { compile } from '../../src/compile/compile';
import { deviceSpec } from '../../src/compile/devices';
import type { StateSlot } from '../../src/graph/tensor';
import { input, output, readState, scope, trace, updateState } from '../../src/graph/trace';
import { activation, add, scale } from '../../src/ops/elementwise';
import { matmul } from '../../src/ops/matmul';
import { rmsNorm } from '../../src/ops/norm';
import { sum } from '../../src/ops/reduce';
import { loadNative } from '../../src/runtime/binding';
import { Session, type ProgramHandle } from '../../src/runtime/session';
import { runRecipe, recipeRunner, goldenModel, sftGolden } from '../train/golden';

const cuda = loadNative().cuda();
const available = loadNative()
  .devices()
  .some((d) => d.device === 'cuda:0');
const shim = cuda.built.includes('shim');
if (shim) jest.setTimeout(600_000);
if (!available)
  process.stdout.write(
    'the CUDA runtime: not tested, there is neither a GPU nor the host shim (npm run test:cuda-host)\n',
  );
else if (!shim)
  process.stdout.write(
    'late errors of the CUDA runtime: not tested, they need the host shim (npm run test:cuda-host)\n',
  );

const [M, K, N] = [40, 24, 16];
const weight: StateSlot = { name: 'w', shape: [K, N], dtype: 'f32', role: 'weights' };
const total: StateSlot = { name: 'total', shape: [1], dtype: 'f32', role: 'weights' };

/** y = rms_norm(silu(x w)); total += sum(y): five nodes, state that every run changes. */
function loadStep(session: Session, factor: number): ProgramHandle {
  const graph = trace(`step ${factor}`, () => {
    const x = input('x', [M, K], 'f32');
    const norm = input('norm', [N], 'f32');
    const y = scope('block', () =>
      rmsNorm(activation(matmul(x, readState(weight), { compute: 'f32', dtype: 'f32' }), 'silu'), norm, 1e-5),
    );
    updateState(total, add(readState(total), scale(sum(y), factor)));
    output('y', y);
  });
  return session.loadProgram(compile(graph, { device: deviceSpec('cuda') }).bytes);
}

const numbers = (n: number, seed: number): Float32Array =>
  Float32Array.from({ length: n }, (_, i) => Math.sin(seed * 7.3 + i * 1.7));

(available ? describe : describe.skip)('the CUDA runtime', () => {
  async function outcome(device: string): Promise<number[][]> {
    const session = Session.create({ device });
    session.defineState([weight, total]);
    await session.writeState('w', numbers(K * N, 3));
    const all: number[][] = [];
    const programs = [loadStep(session, 1), loadStep(session, 2)];
    // The first run issues nodes, the second records them, later ones launch the recording.
    for (let run = 0; run < 5; run++) {
      for (const program of programs) {
        const { y } = await session.run(program, { x: numbers(M * K, run), norm: numbers(N, run + 9) });
        all.push([...y, ...(await session.readState('total'))]);
      }
    }
    await session.close();
    return all;
  }

  test('runs of recorded programs have the bits of runs that were not', async () => {
    const recorded = await outcome('cuda');
    const session = Session.create({ device: 'cuda' });
    session.defineState([weight, total]);
    await session.writeState('w', numbers(K * N, 3));
    // A profile looks at single nodes, so nothing is recorded.
    session.setProfiling(true);
    const programs = [loadStep(session, 1), loadStep(session, 2)];
    const plain: number[][] = [];
    for (let run = 0; run < 5; run++) {
      for (const program of programs) {
        const { y } = await session.run(program, { x: numbers(M * K, run), norm: numbers(N, run + 9) });
        plain.push([...y, ...(await session.readState('total'))]);
      }
    }
    await session.close();
    expect(recorded).toEqual(plain);
    const distinct = new Set(recorded.map((r) => r.join()));
    expect(distinct.size).toBe(recorded.length);
  });

  test('a state larger than the staging memory arrives whole, and comes back', async () => {
    const session = Session.create({ device: 'cuda' });
    const n = 5 * 2 ** 20 + 17;
    session.defineState([{ name: 'large', shape: [n], dtype: 'f32' }]);
    const data = Float32Array.from({ length: n }, (_, i) => i % 100_003);
    await session.writeState('large', data);
    const back = await session.readState('large');
    expect(Buffer.compare(Buffer.from(back.buffer, back.byteOffset, back.byteLength), Buffer.from(data.buffer))).toBe(
      0,
    );
    await session.close();
  });

  test('training steps follow the golden run', async () => {
    const model = await goldenModel('f32', 1, 0, 'cuda');
    const steps = shim ? 2 : 20;
    const got = await runRecipe(recipeRunner(model, { device: 'cuda' }), { steps });
    await model.close();
    const want = sftGolden.runs.fp32;
    got.losses.forEach((loss, i) => expect(Math.abs(loss - want.losses[i])).toBeLessThan(1e-3));
    got.grad_norms.forEach((norm, i) => expect(Math.abs(norm - want.grad_norms[i])).toBeLessThan(5e-3));
    expect(got.losses).toHaveLength(steps);
  });

  test('prompts are read and continued, as on the CPU', async () => {
    const answers: (readonly number[])[] = [];
    for (const device of ['cpu', 'cuda']) {
      const model = await goldenModel('f32', 1, 0, device);
      expect((await model.ready()).stats().device).toBe(device === 'cpu' ? 'cpu' : 'cuda:0');
      answers.push((await model.generate([[1, 2, 3, 4]], { maxNewTokens: 3, eosTokenId: [] }))[0].tokens);
      await model.close();
    }
    expect(answers[1]).toEqual(answers[0]);
  });

  const child = (env: Record<string, string>, ...args: string[]): unknown => {
    const result = spawnSync(
      process.execPath,
      ['-r', 'ts-node/register/transpile-only', path.join(__dirname, 'cuda-child.ts'), ...args],
      { encoding: 'utf8', env: { ...process.env, ...env } },
    );
    expect(result.stderr).toBe('');
    expect(result.status).toBe(0);
    return JSON.parse(result.stdout);
  };

  test('tensors that stream in without being waited for one by one arrive', () => {
    expect(child({}, 'load')).toEqual({ last: [14, 30, 46] });
  });

  // Only the shim can be told to fail.
  (shim ? test : test.skip)(
    'an error that shows up when the next tensor is under way names the one that caused it',
    () => {
      for (const [launch, program, where] of [
        [1, 'load a', 'twice'],
        [4, 'load b', 'once'],
        [5, 'load c', 'twice'],
      ] as const) {
        const { messages } = child({ LATHE_SHIM_FAIL: String(launch) }, 'load') as { messages: string[] };
        // Only the last one waits.
        expect(messages).toHaveLength(1);
        expect(messages[0]).toMatch(new RegExp(`^program '${program}', .*${where}.*cudaErrorLaunchFailure`));
      }
    },
  );

  (shim ? test : test.skip)('an error that shows up later names the node that caused it', () => {
    expect(child({})).toEqual({ y: expect.any(Array) });
    expect(child({ LATHE_SHIM_FAIL: '2' })).toEqual({
      code: 'ERR_DEVICE',
      message: expect.stringMatching(/'three steps', .*activation.*second.*cudaErrorLaunchFailure/),
    });
    expect(child({ LATHE_SHIM_FAIL: '3' })).toEqual({
      code: 'ERR_DEVICE',
      message: expect.stringMatching(/'three steps', .*activation.*third.*cudaErrorLaunchFailure/),
    });
    expect(child({ LATHE_SHIM_FAIL: '8' }, '3')).toEqual({
      code: 'ERR_DEVICE',
      message: expect.stringMatching(
        /^program 'three steps', run as one recorded graph: .*cudaErrorLaunchFailure.*LATHE_CUDA_GRAPHS=0/,
      ),
    });
    expect(child({ LATHE_SHIM_FAIL: '8', LATHE_CUDA_GRAPHS: '0' }, '3')).toEqual({
      code: 'ERR_DEVICE',
      message: expect.stringMatching(/'three steps', .*activation.*second.*cudaErrorLaunchFailure/),
    });
  });
});

if (!available) test('there is no device to test on', () => expect(cuda.problem).not.toBe(''));
