/** Runs the op rows on a device without a test framework: `node op-rows.js cuda [--family quant] > rows.json`. Exit status 1 when any fails. */
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { Session } from '../../src/runtime/session';
import { DEVICE_ROWS, problemsOfRow } from '../../test/ops/device-rows';

async function main(): Promise<void> {
  const device = process.argv[2] ?? 'cuda';
  const family = process.argv[3] === '--family' ? process.argv[4] : undefined;
  const folder = mkdtempSync(path.join(tmpdir(), 'lathe-rows-'));
  const session = Session.create({ device });
  const failed: { name: string; problems: string[] }[] = [];
  let passed = 0;
  for (const row of DEVICE_ROWS) {
    if (family && row.family !== family) continue;
    const problems = await problemsOfRow(row, session, device, folder).catch((error: unknown) => [String(error)]);
    if (problems.length === 0) passed++;
    else failed.push({ name: row.name, problems });
    if (problems.length > 0) process.stderr.write(`FAILED ${row.name}: ${problems[0]}\n`);
  }
  await session.close();
  rmSync(folder, { recursive: true });
  process.stdout.write(`${JSON.stringify({ device, passed, failed }, null, 1)}\n`);
  if (failed.length > 0) process.exitCode = 1;
}

void main();
