/**
 * The CPU backend against the f64 references, row by row in f32 and bf16, and every variant of a row's program against
 * its plain one, bit by bit.
 */
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { Session } from '../../src/runtime/session';
import { DEVICE_ROWS, problemsOfRow } from './device-rows';
import { FAMILY_TABLES } from './tables';

const THREADS = 2;
const folder = mkdtempSync(path.join(tmpdir(), 'lathe-ops-'));
let session: Session;

beforeAll(() => {
  session = Session.create({ threads: THREADS });
});
afterAll(async () => {
  await session.close();
  rmSync(folder, { recursive: true });
});

describe.each(FAMILY_TABLES.map(([family]) => family))('%s', (family) => {
  test.each(DEVICE_ROWS.filter((r) => r.family === family).map((r) => [r.name, r] as const))('%s', async (_name, r) => {
    expect(await problemsOfRow(r, session, 'cpu', folder, THREADS)).toEqual([]);
  });
});
