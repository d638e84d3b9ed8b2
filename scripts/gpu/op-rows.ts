/**
 * Runs the op rows on a device without a test framework: `node op-rows.js cuda [--family quant] [--part 0/2] [--quiet] > rows.json`;
 * --part takes every second row, from the first. Exit status 1 when any fails.
 */
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { Session } from '../../src/runtime/session';
import { DEVICE_ROWS, problemsOfRow } from '../../test/ops/device-rows';

async function main(): Promise<void> {
  const device = process.argv[2] ?? 'cuda';
  const family = process.argv[3] === '--family' ? process.argv[4] : undefined;
  const folder = mkdtempSync(path.join(tmpdir(), 'lathe-rows-'));
  const session = Session.create({ device, threads: 1 });
  const failed: { name: string; problems: string[] }[] = [];
  let passed = 0;
  const part = /^(\d+)\/(\d+)$/.exec(process.argv[process.argv.indexOf('--part') + 1] ?? '');
  for (const [i, row] of DEVICE_ROWS.entries()) {
    if (family && row.family !== family) continue;
    if (part && i % Number(part[2]) !== Number(part[1])) continue;
    const problems = await problemsOfRow(row, session, device, folder).catch((error: unknown) => [String(error)]);
    if (problems.length === 0) passed++;
    else failed.push({ name: row.name, problems });
    if (problems.length > 0) process.stderr.write(`FAILED ${row.name}: ${problems[0]}\n`);
  }
  await session.close();
  rmSync(folder, { recursive: true });
  if (process.argv.includes('--quiet')) process.stdout.write(`${passed} rows passed, ${failed.length} failed\n`);
  else process.stdout.write(`${JSON.stringify({ device, passed, failed }, null, 1)}\n`);
  if (passed === 0) process.exitCode = 1;
  if (failed.length > 0) process.exitCode = 1;
}

void main();
