/** What turns samples into the benchmarks' claims: disturbed samples, interleaved ratios, the worker protocol, verdicts. */
import { parseFlags } from '../../../benchmarks/harness/arguments';
import { Interleaved, type Contender, type Slice } from '../../../benchmarks/harness/interleave';
import { median, quantile, summarize } from '../../../benchmarks/harness/statistics';
import { Worker } from '../../../benchmarks/harness/worker';
import { drawable, peersScene } from '../../../benchmarks/peers/chart';
import { pairRow, ratioVerdict } from '../../../benchmarks/peers/row';

const slice = (wallMs: number, cpuPerWall: number, work = 1000): Slice => ({
  wallMs,
  cpuMs: wallMs * cpuPerWall,
  work,
});

/** A contender that gives these slices in turn. */
function scripted(name: string, slices: readonly Slice[], busy = true): Contender {
  let next = 0;
  return { name, threads: 2, busy, slice: () => Promise.resolve(slices[next++ % slices.length]) };
}

test('quantiles interpolate, and the median of nothing is NaN', () => {
  expect(median([3, 1, 2])).toBe(2);
  expect(median([4, 1, 2, 3])).toBe(2.5);
  expect(quantile([0, 10], 0.25)).toBe(2.5);
  expect(median([])).toBeNaN();
});

test('a sample that got less than 1.8 of 2 threads is left out of the median', () => {
  const s = summarize([slice(10, 2), slice(30, 1.0), slice(12, 1.85), slice(40, 1.79)], 2);
  expect(s).toMatchObject({ quiet: 2, total: 4, medianMs: 11, bestMs: 10 });
});

test('without an undisturbed sample the figure is of all, and says so', () => {
  expect(summarize([slice(10, 1), slice(20, 1)], 2)).toMatchObject({ quiet: 0, medianMs: 15 });
});

test('a program that waits by itself is compared with its own best share', () => {
  const samples = [slice(10, 1.2), slice(10, 1.2), slice(10, 1.2), slice(20, 0.6)];
  expect(summarize(samples, 2, false).quiet).toBe(3);
  expect(summarize(samples, 2, true).quiet).toBe(0);
});

test('ratios are taken pair by pair and disturbed pairs are dropped', async () => {
  // The machine halves its speed in the second round: the ratio stays. The third is disturbed on one side.
  const run = new Interleaved([
    scripted('ours', [slice(10, 2), slice(20, 2), slice(10, 2)]),
    scripted('peer', [slice(15, 2), slice(30, 2), slice(90, 1)]),
  ]);
  await run.run(3, 3);
  expect(run.ratio('ours', 'peer')).toEqual({
    median: 1.5,
    low: 1.5,
    high: 1.5,
    pairs: 2,
    dropped: 1,
    disturbed: false,
  });
  expect(run.rate('peer')).toMatchObject({ quiet: 2, total: 3, best: 1000 / 0.015 });
});

test('rounds go on until enough pairs are undisturbed', async () => {
  const run = new Interleaved([scripted('ours', [slice(10, 1), slice(10, 2)]), scripted('peer', [slice(10, 2)])]);
  await run.run(3, 10);
  expect(run.rounds).toHaveLength(6);
});

test('the probe drops rounds that a waiting program cannot judge by itself', async () => {
  const probes = [2, 2, 0.9, 2, 2, 2];
  const run = new Interleaved(
    [scripted('ours', [slice(10, 0.5)], false), scripted('peer', [slice(20, 0.5)], false)],
    () => probes.shift()!,
  );
  await run.run(3, 3);
  expect(run.ratio('ours', 'peer')).toMatchObject({ pairs: 2, dropped: 1, median: 2 });
});

test('a target is not judged by disturbed pairs', async () => {
  const run = await new Interleaved([scripted('ours', [slice(10, 1)]), scripted('peer', [slice(40, 1)])]).run(2);
  const row = pairRow(run, {
    group: 'lora',
    name: 'a',
    ours: 'ours',
    peer: 'peer',
    unit: 'tokens/s',
    targetRatio: 1.5,
  });
  expect(row.verdicts).toEqual([{ target: '>= 1.5x', measured: '4.00x', met: null }]);
  expect(ratioVerdict({ ...row.ratio, disturbed: false }, 5).met).toBe(false);
});

test('the chart shows every comparison with a peer, and bars stay inside of it', async () => {
  const run = await new Interleaved([scripted('ours', [slice(1, 2)]), scripted('peer', [slice(50, 2)])]).run(2);
  const row = pairRow(run, {
    group: 'lora',
    name: 'far ahead',
    ours: 'ours',
    peer: 'peer',
    unit: 'tokens/s',
    targetRatio: 1.5,
  });
  const alone = { ...row, peer: '' };
  expect(drawable([row, alone])).toEqual([row]);
  const scene = peersScene([row, alone], 'somewhere');
  const right = Math.max(...scene.shapes.map((s) => (s.kind === 'rect' ? s.x + s.width : 0)));
  expect(right).toBeLessThanOrEqual(scene.width);
  expect(scene.shapes.some((s) => s.kind === 'text' && s.text.includes('50.00x'))).toBe(true);
});

test('an unknown flag is an error that suggests the nearest', () => {
  const known = { threads: { value: 'N', help: '' }, quick: { help: '' } } as const;
  expect(parseFlags('bench', '', known, ['--threads=2', '--quick'])).toEqual({ threads: '2', quick: 'true' });
  expect(() => parseFlags('bench', '', known, ['--thread', '2'])).toThrow('did you mean --threads?');
  expect(() => parseFlags('bench', '', known, ['--threads'])).toThrow('expected N');
});

describe('workers', () => {
  const start = (program: string): Worker =>
    new Worker({ name: 'child', command: process.execPath, args: ['-e', program] });
  const echo = `console.log('@@ {"up": true}'); require('readline').createInterface(process.stdin).on('line', (l) => console.log('noise\\n@@ ' + (l.includes('bad') ? '{"error": "no such thing"}' : l)))`;

  test('answers requests in order, errors included', async () => {
    const worker = start(echo);
    await expect(worker.ready).resolves.toEqual({ up: true });
    await expect(worker.request({ n: 1 })).resolves.toEqual({ n: 1 });
    await expect(worker.request({ bad: 1 })).rejects.toThrow('[child] no such thing');
    await expect(worker.request({ n: 2 })).resolves.toEqual({ n: 2 });
    await worker.close();
  });

  test('a child that dies says what it printed', async () => {
    const worker = start(`console.error('cannot open the thing'); process.exit(3)`);
    await expect(worker.ready).rejects.toThrow(/ended with status 3; it said:\n {2}cannot open the thing/);
    await worker.close();
  });
});
