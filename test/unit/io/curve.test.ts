/** The loss curve: what is drawn, gaps, odd inputs, and a PNG that decodes to the right pixels. */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { crc32, inflateSync } from 'node:zlib';
import fc from 'fast-check';
import {
  curveFromLogHistory,
  renderCurvePng,
  renderCurveSvg,
  writeCurve,
  type CurvePoint,
} from '../../../src/io/curve';
import { extent, formatExponent, formatStep, formatValue, stepAxis, valueAxis } from '../../../src/io/curve/axis';
import { outlineText } from '../../../src/io/curve/bitmap-font';
import { useTemporaryFolder } from './fixtures';

const folder = useTemporaryFolder();

/** Chunks of a PNG, checksums verified, and its pixels with filter 2 undone. */
function decodePng(bytes: Uint8Array): { width: number; height: number; pixel: (x: number, y: number) => number[] } {
  const png = Buffer.from(bytes);
  expect(png.subarray(0, 8).toString('hex')).toBe('89504e470d0a1a0a');
  const chunks = new Map<string, Buffer>();
  for (let at = 8; at < png.length;) {
    const length = png.readUInt32BE(at);
    expect(png.readUInt32BE(at + 8 + length)).toBe(crc32(png.subarray(at + 4, at + 8 + length)));
    chunks.set(png.toString('latin1', at + 4, at + 8), png.subarray(at + 8, at + 8 + length));
    at += 12 + length;
  }
  expect([...chunks.keys()]).toEqual(['IHDR', 'IDAT', 'IEND']);
  const [width, height] = [chunks.get('IHDR')!.readUInt32BE(0), chunks.get('IHDR')!.readUInt32BE(4)];
  const lines = inflateSync(chunks.get('IDAT')!);
  const stride = width * 3 + 1;
  expect(lines.length).toBe(stride * height);
  const rgb = new Uint8Array(width * height * 3);
  for (let y = 0; y < height; y++) {
    expect(lines[y * stride]).toBe(2);
    for (let i = 0; i < width * 3; i++)
      rgb[y * width * 3 + i] = lines[y * stride + 1 + i] + (y === 0 ? 0 : rgb[(y - 1) * width * 3 + i]);
  }
  return { width, height, pixel: (x, y) => [...rgb.subarray((y * width + x) * 3, (y * width + x) * 3 + 3)] };
}

const ramp = (count: number): CurvePoint[] => Array.from({ length: count }, (_, i) => ({ step: i, value: count - i }));
const paths = (svg: string, color: string): string[] =>
  [...svg.matchAll(/<path d="([^"]+)"[^>]*stroke="(#[0-9a-f]+)"/g)].filter((m) => m[2] === color).map((m) => m[1]);
const TRAIN = '#2563eb';
/** The lines of the plot; the legend's sample is the last. */
const trainLines = (svg: string): string[] => paths(svg, TRAIN).slice(0, -1);

describe('svg', () => {
  test('a line through all points, left to right and downwards for a falling loss', () => {
    const [line] = trainLines(renderCurveSvg({ train: ramp(5) }));
    const points = line
      .slice(1)
      .split('L')
      .map((pair) => pair.split(' ').map(Number));
    expect(points).toHaveLength(5);
    const xs = points.map(([x]) => x);
    const ys = points.map(([, y]) => y);
    expect(xs).toEqual(xs.toSorted((a, b) => a - b));
    expect(ys).toEqual(ys.toSorted((a, b) => a - b));
    expect([xs[0], xs[4]]).toEqual([72, 932]);
  });

  test('NaN and infinities are gaps; a point alone between gaps is a dot', () => {
    const values = [3, 2, NaN, 2, Infinity, 1, 1.5];
    const svg = renderCurveSvg({ train: values.map((value, step) => ({ step, value })) });
    expect(trainLines(svg)).toHaveLength(2);
    expect(svg.match(/<circle/g)).toHaveLength(1);
    expect(svg).not.toMatch(/NaN|Infinity/);
  });

  test('one point, no point, only NaN', () => {
    expect(renderCurveSvg({ train: [{ step: 10, value: 2 }] }).match(/<circle/g)).toHaveLength(1);
    for (const train of [[], [{ step: 1, value: NaN }]])
      expect(renderCurveSvg({ train })).toContain('no finite values yet');
  });

  test('the legend tells the last values; eval has dots; the learning rate its own axis', () => {
    const svg = renderCurveSvg({
      train: ramp(3),
      eval: ramp(2),
      learningRate: [
        { step: 0, value: 2e-4 },
        { step: 2, value: 5e-5 },
      ],
    });
    expect(svg).toContain('>train loss 1</text>');
    expect(svg).toContain('>eval loss 1</text>');
    expect(svg).toContain('>learning rate 5e-5</text>');
    expect(svg).toContain('>2e-4</text>');
    expect(svg).toContain('stroke-dasharray');
    expect(svg.match(/<circle/g)).toHaveLength(3);
  });

  test('titles cannot break the markup', () => {
    const svg = renderCurveSvg({ train: ramp(2) }, { title: `<script>"&'\u0000 \ud800 é` });
    expect(svg).toContain(`<title>&lt;script&gt;&quot;&amp;'  é</title>`);
  });

  test('a long run is thinned, and its one spike survives', () => {
    const train = Array.from({ length: 200000 }, (_, i) => ({ step: i, value: i === 123456 ? 9 : 1 + (i % 7) / 100 }));
    const svg = renderCurveSvg({ train });
    expect(svg.length).toBeLessThan(200000);
    const ys = trainLines(svg)[0]
      .slice(1)
      .split('L')
      .map((pair) => Number(pair.split(' ')[1]));
    expect(ys.filter((y) => y < 200)).toHaveLength(1);
  });

  test('smoothing draws the raw curve faintly and the average over it', () => {
    const svg = renderCurveSvg({ train: [4, 2, 4, 2].map((value, step) => ({ step, value })) }, { smoothing: 0.5 });
    expect(trainLines(svg)).toHaveLength(2);
    expect(svg).toContain('stroke-opacity="0.3"');
    // Debiased: (0.5*2 + 0.25*4 + 0.125*2 + 0.0625*4) / 0.9375
    expect(svg).toContain('train loss 2.667 (smoothed)');
  });
});

describe('png', () => {
  test('decodes to the size asked for, with the line where it belongs', () => {
    const flat = [
      { step: 0, value: 1 },
      { step: 10, value: 1 },
    ];
    const { width, height, pixel } = decodePng(
      renderCurvePng({ train: flat }, { width: 400, height: 300, pixelRatio: 1 }),
    );
    expect([width, height]).toEqual([400, 300]);
    expect(pixel(2, 2)).toEqual([255, 255, 255]);
    expect(pixel(100, 90)).toEqual([0xf8, 0xfa, 0xfc]);
    // A flat loss lies in the middle of the plot (76 to 244): some row there is the train colour.
    const column = Array.from({ length: 300 }, (_, y) => pixel(200, y));
    const blue = column.flatMap((rgb, y) => (rgb[2] > 180 && rgb[0] < 80 ? [y] : []));
    expect(blue.length).toBeGreaterThanOrEqual(1);
    expect(Math.abs(blue[0] - 160)).toBeLessThanOrEqual(1);
  });

  test('text leaves ink; every printable character has a glyph; others fall back', () => {
    const title = (text: string): number => {
      const { pixel } = decodePng(
        renderCurvePng({ train: [] }, { title: text, width: 300, height: 200, pixelRatio: 1 }),
      );
      let ink = 0;
      for (let y = 15; y < 45; y++) for (let x = 0; x < 300; x++) if (pixel(x, y)[0] < 128) ink++;
      return ink;
    };
    expect(title('')).toBe(0);
    expect(title('Loss')).toBeGreaterThan(40);
    const outline = (text: string): string => JSON.stringify(outlineText(text));
    const ascii = Array.from({ length: 95 }, (_, i) => String.fromCharCode(32 + i));
    // All differ but the digit 0 and the letter O.
    expect(new Set(ascii.map(outline)).size).toBe(94);
    expect(outline('é“…')).toBe(outline('e"...'));
    expect(outline('漢')).toBe(outline('?'));
  });

  test('the same bytes twice, and files on disk', async () => {
    const series = { train: ramp(20), eval: ramp(3) };
    await writeCurve(join(folder(), 'plots/loss'), series);
    expect(readFileSync(join(folder(), 'plots/loss.png')).equals(renderCurvePng(series))).toBe(true);
    expect(readFileSync(join(folder(), 'plots/loss.svg'), 'utf8')).toBe(renderCurveSvg(series));
  });
});

test('any series renders without NaN in its geometry', () => {
  const value = fc.oneof(
    fc.double(),
    fc.double({ min: 0, max: 12, noNaN: true }),
    fc.constantFrom(0, -0, 1e-320, 1e308, -1e308, 5e-5),
  );
  const points = fc.array(fc.record({ step: fc.oneof(fc.nat(100), fc.double(), fc.nat(2 ** 31)), value }), {
    maxLength: 12,
  });
  fc.assert(
    fc.property(points, points, points, (train, evals, learningRate) => {
      const svg = renderCurveSvg({ train, eval: evals, learningRate });
      for (const [, attribute] of svg.matchAll(/ (?:d|x|y|cx|cy)="([^"]*)"/g))
        expect(attribute).not.toMatch(/NaN|Infinity/);
      expect(svg.length).toBeLessThan(50000);
    }),
    { numRuns: 200 },
  );
});

test('ticks are round, few and inside', () => {
  const axis = valueAxis([1.43, 3.8], 8);
  expect(axis.ticks.map(axis.format)).toEqual(['1.5', '2.0', '2.5', '3.0', '3.5']);
  expect(valueAxis([0, 2e-4], 5).ticks.map(valueAxis([0, 2e-4], 5).format)).toEqual([
    '0',
    '5e-5',
    '1e-4',
    '1.5e-4',
    '2e-4',
  ]);
  expect(valueAxis([0.01, 10], 5)).toMatchObject({ min: 0 });
  expect(stepAxis([1, 7], 4).ticks).toEqual([2, 4, 6]);
  expect(stepAxis([0, 10], 4).ticks).toEqual([0, 5, 10]);
  expect(stepAxis([5, 5], 4).ticks).toEqual([5]);
  expect(extent([NaN, 3, Infinity, 1])).toEqual([1, 3]);
  expect(extent([NaN])).toBeUndefined();
  fc.assert(
    fc.property(
      fc.double({ min: -1e6, max: 1e6, noNaN: true }),
      fc.double({ min: 1e-6, max: 1e6, noNaN: true }),
      fc.integer({ min: 2, max: 12 }),
      (low, span, max) => {
        const { min, max: top, ticks } = valueAxis([low, low + span], max);
        expect(ticks.length).toBeGreaterThanOrEqual(1);
        expect(ticks.length).toBeLessThanOrEqual(max + 1);
        expect(ticks[0]).toBeGreaterThanOrEqual(min - 1e-6 * (top - min));
        expect(ticks.at(-1)).toBeLessThanOrEqual(top + 1e-6 * (top - min));
      },
    ),
  );
  expect([0, 5e-5, 2.5e-4, 1.234e10].map(formatExponent)).toEqual(['0', '5e-5', '2.5e-4', '1.23e10']);
  expect([800, 1500, 20000, 12500, 1250000].map(formatStep)).toEqual(['800', '1500', '20k', '12.5k', '1.25M']);
  expect([0, 2.34567, 5e-5, 123456, NaN].map(formatValue)).toEqual(['0', '2.346', '5e-5', '1.23e5', 'NaN']);
});

test('series from a log history; the later entry of a step counts', () => {
  const history = [
    { step: 1, loss: 3, learning_rate: 1e-4, epoch: 0.1 },
    { step: 2, loss: 'NaN', learning_rate: 2e-4 },
    { step: 2, eval_loss: 2.5 },
    { step: 1, loss: 2.9 },
    { step: 3, train_loss: 2.2 },
  ];
  expect(curveFromLogHistory(history)).toEqual({
    train: [
      { step: 1, value: 2.9 },
      { step: 2, value: NaN },
    ],
    eval: [{ step: 2, value: 2.5 }],
    learningRate: [
      { step: 1, value: 1e-4 },
      { step: 2, value: 2e-4 },
    ],
  });
});
