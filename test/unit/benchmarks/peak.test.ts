/** The machine's register loop as a contender: its slices, shares of peak pair by pair, what a target says to them. */
import { mkdtempSync, rmSync } from 'node:fs';
import { availableParallelism, tmpdir } from 'node:os';
import { join } from 'node:path';
import { Interleaved, type Contender, type Slice } from '../../../benchmarks/harness/interleave';
import { MachinePeak, peakRatio, REGISTER_LOOP, shareOfPeak } from '../../../benchmarks/harness/peak';
import { pairRow, peakVerdict, type PeerRow } from '../../../benchmarks/peers/row';

const slice = (wallMs: number, cpuPerWall: number, work = 1000): Slice => ({
  wallMs,
  cpuMs: wallMs * cpuPerWall,
  work,
});

/** A contender that gives these slices in turn. */
function scripted(name: string, slices: readonly Slice[]): Contender {
  let next = 0;
  return { name, threads: 2, busy: true, slice: () => Promise.resolve(slices[next++ % slices.length]) };
}

/** A row of one shape whose pairs with the loop have this share; disturbed when the loop got half of its threads. */
async function shapeRow(share: number, disturbed = false): Promise<PeerRow> {
  const run = await new Interleaved([
    scripted('lathe', [slice(10, 2, 1000 * share)]),
    scripted('torch', [slice(10, 2)]),
    scripted(REGISTER_LOOP, [slice(10, disturbed ? 1 : 2)]),
  ]).run(2);
  const ratio = peakRatio(run, 'lathe');
  return pairRow(run, {
    group: 'gemm',
    name: 'a shape',
    ours: 'lathe',
    peer: 'torch',
    unit: 'GFLOP/s',
    targetRatio: 1,
    shareOfPeak: shareOfPeak(ratio),
    peakRatio: ratio,
  });
}

test('a share of peak is the median of undisturbed pairs with the loop, whatever the machine did meanwhile', async () => {
  // Half the speed in the second round for both; in the third somebody disturbs the loop, in the fourth us.
  const run = await new Interleaved([
    scripted('lathe', [slice(10, 2), slice(20, 2), slice(10, 2), slice(50, 1)]),
    scripted(REGISTER_LOOP, [slice(9, 2), slice(18, 2), slice(90, 1), slice(9, 2)]),
  ]).run(4, 4);
  const ratio = peakRatio(run, 'lathe');
  expect(ratio).toMatchObject({ pairs: 2, dropped: 2, disturbed: false });
  expect(shareOfPeak(ratio)).toBeCloseTo(0.9, 12);
  expect(run.rate('lathe').quiet).toBe(3);
});

test('a machine at half speed in most rounds lowers no share of peak', async () => {
  const run = await new Interleaved([
    scripted('lathe', [slice(10, 2), slice(20, 2), slice(20, 2)]),
    scripted(REGISTER_LOOP, [slice(9, 2), slice(18, 2), slice(18, 2)]),
  ]).run(3);
  expect(shareOfPeak(peakRatio(run, 'lathe'))).toBeCloseTo(0.9, 12);
  expect(run.rate('lathe').median / run.rate(REGISTER_LOOP).best).toBeCloseTo(0.45, 12);
});

test('a share above one is shown, a disturbed or missing one is no number', async () => {
  expect((await shapeRow(1.02)).shareOfPeak).toBeCloseTo(1.02, 12);
  const disturbed = await shapeRow(0.95, true);
  expect(disturbed.shareOfPeak).toBeNaN();
  expect(disturbed.peakRatio).toMatchObject({ pairs: 0, disturbed: true });
  const without = await new Interleaved([scripted('lathe', [slice(10, 2)])]).run(1);
  expect(peakRatio(without, 'lathe')).toBeNull();
  expect(shareOfPeak(null)).toBeNaN();
});

test('a target for shares of peak counts judged shapes and says how many were disturbed', async () => {
  const [high, low, disturbed] = [await shapeRow(0.95), await shapeRow(0.85), await shapeRow(0.99, true)];
  expect(peakVerdict([high, high], 0.9)).toEqual({
    target: '>= 90.0 % of peak on every shape',
    measured: '2 of 2, lowest 95.0 %',
    met: true,
  });
  expect(peakVerdict([high, low], 0.9)).toMatchObject({ measured: '1 of 2, lowest 85.0 %', met: false });
  // All judged shapes meet it, and the disturbed one might not have: no verdict.
  expect(peakVerdict([high, disturbed], 0.9)).toMatchObject({
    measured: '1 of 2, lowest 95.0 %, 1 disturbed',
    met: null,
  });
  // One judged shape misses it, whatever the disturbed one would have said.
  expect(peakVerdict([low, disturbed], 0.9)).toMatchObject({
    measured: '0 of 2, lowest 85.0 %, 1 disturbed',
    met: false,
  });
  expect(peakVerdict([disturbed], 0.9)).toMatchObject({ measured: '0 of 1, 1 disturbed', met: null });
  expect(peakVerdict([{ ...high, peakRatio: null }], 0.9)).toMatchObject({ measured: '0 of 1', met: null });
});

describe('rounds that are run', () => {
  const [quiet, busy] = [slice(10, 2), slice(10, 1)];
  const contenders = (): Contender[] => [
    scripted('lathe', [quiet]),
    scripted('torch', [quiet, busy]),
    scripted('numpy', [busy]),
    scripted(REGISTER_LOOP, [busy, quiet]),
  ];

  test('every quoted pair gets its own undisturbed rounds; no round needs all of them', async () => {
    const run = await new Interleaved(contenders()).run(3, 20, () => [
      ['lathe', 'torch'],
      ['lathe', REGISTER_LOOP],
    ]);
    expect(run.rounds).toHaveLength(6);
    expect(run.ratio('lathe', 'torch').pairs).toBe(3);
    expect(run.ratio('lathe', REGISTER_LOOP).pairs).toBe(3);
  });

  test('a pair that is always disturbed ends at the bound', async () => {
    const run = await new Interleaved(contenders()).run(3, 9, () => [['lathe', 'numpy']]);
    expect(run.rounds).toHaveLength(9);
    expect((await new Interleaved(contenders()).run(3, 9)).rounds).toHaveLength(9);
  });

  test('which pairs are quoted may follow from the rounds so far', async () => {
    const seen: number[] = [];
    await new Interleaved(contenders()).run(2, 20, (r) => {
      seen.push(r.rounds.length);
      return [['lathe', r.rounds.length < 2 ? 'numpy' : 'torch']];
    });
    expect(seen).toEqual([0, 1, 2, 3]);
  });
});

describe('the register loop', () => {
  const folder = mkdtempSync(join(tmpdir(), 'lathe-peak-'));
  afterAll(() => rmSync(folder, { recursive: true, force: true }));

  test('without a compiler there is no contender', () => {
    const peak = new MachinePeak(null, join(folder, 'none.json'));
    expect(peak.contender('bf16', 2, 5)).toBeNull();
    expect(peak.line()).toBe('machine peak: not measured');
  });

  test('its slices last what was asked, without the start of the process, and count operations', async () => {
    const kept = join(folder, 'peak.json');
    const peak = new MachinePeak(undefined, kept);
    const loop = peak.contender('f32', 1, 40);
    if (!loop) return; // the constructor said SKIPPED and why
    expect(loop).toMatchObject({ name: REGISTER_LOOP, threads: 1, busy: true });
    const start = performance.now();
    const done = await loop.slice();
    expect(performance.now() - start).toBeGreaterThan(done.wallMs);
    expect(done.wallMs).toBeGreaterThanOrEqual(40);
    expect(done.cpuMs).toBeGreaterThan(0);
    expect(done.cpuMs).toBeLessThanOrEqual(1.1 * done.wallMs);
    // A factor leaves room for a loaded machine; a wrong unit is one of a thousand.
    const share = done.work / done.wallMs / 1e6 / peak.gflops('f32', 1);
    expect(share).toBeGreaterThan(0.05);
    expect(share).toBeLessThan(3);
    // The instruction was decided by a measurement, which is remembered.
    expect(new MachinePeak(undefined, kept).describe()).toEqual(peak.describe());
    expect(Object.keys(peak.describe())).toEqual(['f32 1']);
  }, 60_000);

  test('all threads loop in a slice', async () => {
    if (availableParallelism() < 2) {
      console.error('SKIPPED: two threads are no faster than one on a single core');
      return;
    }
    const peak = new MachinePeak(undefined, join(folder, 'two.json'));
    const [one, two] = [peak.contender('f32', 1, 40), peak.contender('f32', 2, 40)];
    if (!one || !two) return; // the constructor said SKIPPED and why
    const run = await new Interleaved([
      { ...one, name: 'one' },
      { ...two, name: 'two' },
    ]).run(3, 12);
    expect(run.ratio('two', 'one').high).toBeGreaterThan(1);
  }, 60_000);
});
