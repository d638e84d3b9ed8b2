/**
 * The CUDA backend against the f64 references, on the same rows and in the same variants as the CPU's. It runs on a GPU,
 * or without one on the host shim: `npm run test:cuda-host` builds it and sets LATHE_CUDA_MODULE to
 * build/cuda-host/lathe_cuda_host.so. With neither it says so.
 */
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { TABLES } from './tables';
import { loadNative } from '../../src/runtime/binding';
import { Session } from '../../src/runtime/session';
import { DEVICE_ROWS, problemsOfRow } from './device-rows';

const cuda = loadNative().cuda();
const available = loadNative()
  .devices()
  .some((d) => d.device === 'cuda:0');
// The shim records every access of every kernel: a row that a GPU does not notice takes it a minute.
if (cuda.built.includes('shim')) jest.setTimeout(600_000);

if (!available) {
  process.stdout.write(`CUDA op rows skipped: ${cuda.problem}\n`);
  test('a session on cuda is one clear error', () => {
    expect(() => Session.create({ device: 'cuda' })).toThrow(
      expect.objectContaining({ code: 'ERR_DEVICE', message: expect.stringMatching(/CUDA/) }),
    );
    expect(() => Session.create({ device: 'cuda:x' })).toThrow(expect.objectContaining({ code: 'ERR_CONFIG' }));
  });
} else {
  let folder: string;
  let session: Session;
  beforeAll(() => {
    folder = mkdtempSync(path.join(tmpdir(), 'lathe-cuda-'));
    session = Session.create({ device: 'cuda' });
  });
  afterAll(async () => {
    await session.close();
    rmSync(folder, { recursive: true });
  });

  test('every op has a kernel', () =>
    expect(
      loadNative()
        .kernels()
        .filter((op) => !cuda.kernels.includes(op)),
    ).toEqual([]));

  describe.each(Object.keys(TABLES))('%s', (family) => {
    test.each(DEVICE_ROWS.filter((r) => r.family === family).map((r) => [r.name, r] as const))(
      '%s',
      async (_name, r) => {
        expect(await problemsOfRow(r, session, 'cuda', folder)).toEqual([]);
      },
    );
  });
}
