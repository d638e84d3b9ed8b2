/**
 * The scripts that scripts/gpu-check.sh runs where there is a GPU, here on the CPU with small shapes: that they run to their end and
 * print what report.ts reads. Their numbers mean nothing here.
 */
import { spawnSync } from 'node:child_process';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';

const root = path.resolve(__dirname, '../..');
const folder = mkdtempSync(path.join(tmpdir(), 'lathe-gpu-scripts-'));
afterAll(() => rmSync(folder, { recursive: true }));

function script(name: string, ...args: string[]): unknown {
  const { stdout, stderr, status } = spawnSync(
    process.execPath,
    ['-r', 'ts-node/register/transpile-only', `scripts/gpu/${name}.ts`, ...args],
    { cwd: root, encoding: 'utf8' },
  );
  expect(stderr).toBe('');
  expect(status).toBe(0);
  return JSON.parse(stdout);
}

test('every part prints numbers, and the report reads them', () => {
  const parts: Record<string, unknown> = {
    rows: script('op-rows', 'cpu', '--family', 'quant'),
    training: script('train-golden', 'cpu', '2'),
    ops: script('bench-ops', 'cpu', '--tiny'),
    speed: script('bench-train', 'cpu', '--tiny'),
    decode: script('bench-decode', 'cpu', '--tiny'),
    torch: { copyGigabytesPerSecond: 1e-6, gemmTeraflops: 1e-9 },
  };
  expect(parts.rows).toMatchObject({ device: 'cpu', failed: [] });
  for (const part of ['training', 'ops', 'speed', 'decode']) {
    for (const row of parts[part] as { name: string }[]) expect(row).not.toHaveProperty('failed');
  }
  // Times this short are noise, differences of them more so: the report gets others under the same names.
  for (const part of ['ops', 'decode'])
    parts[part] = (parts[part] as { name: string }[]).map(({ name }) => ({
      name,
      microseconds: 10,
      teraflops: 1,
      gigabytesPerSecond: 1,
    }));
  for (const row of parts.speed as { plannedBytes: number; heldBytes: number }[])
    expect(row.heldBytes).toBe(row.plannedBytes);
  for (const [name, numbers] of Object.entries(parts))
    writeFileSync(path.join(folder, `${name}.json`), JSON.stringify(numbers));
  writeFileSync(path.join(folder, 'ops.status'), '0 12\n');
  writeFileSync(path.join(folder, 'facts.tsv'), 'gpu\tNVIDIA H200, 1, 2\nexit\t0\nreason\t\nrehearsal\t\n');
  const report = script('report', folder) as {
    steps: object;
    targets: { what: string; value: number | null; met: boolean | string }[];
    results: object;
  };
  expect(report.steps).toEqual({ ops: { status: 0, seconds: 12 } });
  expect(report.results).toEqual(parts);
  expect(report.targets).toHaveLength(8);
  for (const t of report.targets)
    expect({ what: t.what, known: t.value !== null }).toEqual({ what: t.what, known: true });
  expect(report.targets.find((t) => t.what.includes('decode'))!.met).toBe(true);
}, 120_000);
