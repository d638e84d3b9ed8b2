/**
 * The loss curve of a run, as SVG and as PNG.
 *
 * The idea: lay the chart out once as a short list of shapes, then draw that list twice. Train loss and eval loss
 * share the left axis; the learning rate, if given, has the right one. Values that are not finite are gaps, never
 * interpolated over. Long runs are thinned to the pixels by keeping each column's extremes, so no spike is lost.
 */
import { writeFileAtomic } from './atomic-file';
import { extent, formatStep, formatValue, isDrawable, stepAxis, valueAxis, type Axis } from './curve/axis';
import { encodePng } from './curve/png';
import { rasterize } from './curve/raster';
import { estimateWidth, type Point, type Scene, type Shape } from './curve/scene';
import { renderSvg } from './curve/svg';

export interface CurvePoint {
  step: number;
  value: number;
}

export interface CurveSeries {
  train: readonly CurvePoint[];
  eval?: readonly CurvePoint[];
  learningRate?: readonly CurvePoint[];
}

export interface CurveOptions {
  /** Default `Loss`. */
  title?: string;
  /** CSS pixels; default 960 by 540. */
  width?: number;
  height?: number;
  /** Weight of the past in an exponential average drawn over the raw train loss, 0 (off, default) to below 1. */
  smoothing?: number;
  /** Device pixels per CSS pixel of the PNG; default 2. */
  pixelRatio?: number;
}

const COLORS = {
  paper: '#ffffff',
  plot: '#f8fafc',
  grid: '#e2e8f0',
  axis: '#94a3b8',
  text: '#334155',
  muted: '#64748b',
  train: '#2563eb',
  eval: '#ea580c',
  rate: '#0d9488',
};

/** The chart as SVG text. */
export function renderCurveSvg(series: CurveSeries, options: CurveOptions = {}): string {
  return renderSvg(layOut(series, options));
}

/** The chart as the bytes of a PNG file. */
export function renderCurvePng(series: CurveSeries, options: CurveOptions = {}): Uint8Array {
  const { width, height, rgb } = rasterize(layOut(series, options), options.pixelRatio ?? 2);
  return encodePng(width, height, rgb);
}

/** Writes `<stem>.svg` and `<stem>.png`, each atomically. @throws LatheError ERR_CHECKPOINT */
export async function writeCurve(stem: string, series: CurveSeries, options: CurveOptions = {}): Promise<void> {
  await writeFileAtomic(`${stem}.svg`, renderCurveSvg(series, options));
  await writeFileAtomic(`${stem}.png`, renderCurvePng(series, options));
}

/**
 * Series from the `log_history` of a trainer_state.json: `loss`, `eval_loss`, `learning_rate` by `step`.
 * Where a step occurs twice (a run that was resumed), the later entry counts. NaN may be the string it is in JSON.
 */
export function curveFromLogHistory(history: readonly Readonly<Record<string, unknown>>[]): Required<CurveSeries> {
  const pick = (key: string): CurvePoint[] => {
    const byStep = new Map<number, number>();
    for (const entry of history) {
      const value = entry[key];
      if (typeof entry.step !== 'number' || value === undefined || value === null) continue;
      byStep.set(entry.step, typeof value === 'number' ? value : NaN);
    }
    return [...byStep].map(([step, value]) => ({ step, value }));
  };
  return { train: pick('loss'), eval: pick('eval_loss'), learningRate: pick('learning_rate') };
}

// ---------------------------------------------------------------------------------------------- layout

interface Plot {
  left: number;
  top: number;
  right: number;
  bottom: number;
}

function layOut(series: CurveSeries, options: CurveOptions): Scene {
  const { title = 'Loss', width = 960, height = 540, smoothing = 0 } = options;
  const [train, evals, rates] = [series.train, series.eval ?? [], series.learningRate ?? []].map(sortPoints);
  const plot: Plot = { left: 72, top: 76, right: width - (rates.length > 0 ? 76 : 28), bottom: height - 56 };
  const shapes: Shape[] = [{ kind: 'rect', x: 0, y: 0, width, height, fill: COLORS.paper }];
  shapes.push({
    kind: 'rect',
    x: plot.left,
    y: plot.top,
    width: plot.right - plot.left,
    height: plot.bottom - plot.top,
    fill: COLORS.plot,
  });
  shapes.push({
    kind: 'text',
    x: plot.left,
    y: 34,
    text: title,
    size: 18,
    bold: true,
    anchor: 'start',
    color: COLORS.text,
  });

  const steps = extent([...train, ...evals, ...rates].map(({ step }) => step));
  const losses = extent([...train, ...evals].map(({ value }) => value));
  const rateExtent = extent(rates.map(({ value }) => value));
  if (!steps || (!losses && !rateExtent)) {
    shapes.push({
      kind: 'text',
      x: (plot.left + plot.right) / 2,
      y: (plot.top + plot.bottom) / 2,
      text: 'no finite values yet',
      size: 14,
      anchor: 'middle',
      color: COLORS.muted,
    });
    return { width, height, shapes, title, description: 'No finite values yet.' };
  }
  const x = stepAxis(steps, Math.max(2, Math.floor((plot.right - plot.left) / 90)));
  const y = valueAxis(losses ?? [0, 1], Math.max(2, Math.floor((plot.bottom - plot.top) / 55)));
  shapes.push(...drawAxes(plot, x, y, losses !== undefined));
  if (rateExtent) {
    const right = valueAxis([Math.min(0, rateExtent[0]), rateExtent[1]], y.ticks.length);
    shapes.push(
      ...drawRightAxis(plot, right),
      ...drawLines(rates, plot, x, right, { color: COLORS.rate, width: 1.5, dash: [5, 5] }),
    );
  }
  if (smoothing > 0) {
    shapes.push(...drawLines(train, plot, x, y, { color: COLORS.train, width: 1.25, opacity: 0.3 }));
    shapes.push(...drawLines(smooth(train, smoothing), plot, x, y, { color: COLORS.train, width: 2 }));
  } else shapes.push(...drawLines(train, plot, x, y, { color: COLORS.train, width: 1.75 }));
  shapes.push(...drawLines(evals, plot, x, y, { color: COLORS.eval, width: 2, dots: evals.length <= 60 }));
  const legend = legendEntries(train, evals, rates, smoothing);
  shapes.push(...drawLegend(legend, plot));
  return {
    width,
    height,
    shapes,
    title,
    description: `Steps ${formatStep(steps[0])} to ${formatStep(steps[1])}; last ${legend.map(({ label }) => label).join(', ')}.`,
  };
}

/** By step, dropping points without a finite step. */
function sortPoints(points: readonly CurvePoint[]): CurvePoint[] {
  return points.filter(({ step }) => isDrawable(step)).sort((a, b) => a.step - b.step);
}

/** Exponential average without the start-up bias; a gap stays a gap and does not enter the average. */
function smooth(points: readonly CurvePoint[], weight: number): CurvePoint[] {
  let [sum, mass] = [0, 0];
  return points.map(({ step, value }) => {
    if (!isDrawable(value)) return { step, value };
    sum = weight * sum + (1 - weight) * value;
    mass = weight * mass + (1 - weight);
    return { step, value: sum / mass };
  });
}

function drawAxes(plot: Plot, x: Axis, y: Axis, hasLoss: boolean): Shape[] {
  const shapes: Shape[] = [];
  for (const tick of hasLoss ? y.ticks : []) {
    const at = project(tick, y, plot.bottom, plot.top);
    shapes.push({
      kind: 'line',
      points: [
        [plot.left, at],
        [plot.right, at],
      ],
      color: COLORS.grid,
      width: 1,
    });
    shapes.push({
      kind: 'text',
      x: plot.left - 10,
      y: at + 4,
      text: y.format(tick),
      size: 12,
      anchor: 'end',
      color: COLORS.muted,
    });
  }
  for (const tick of x.ticks) {
    const at = project(tick, x, plot.left, plot.right);
    shapes.push({
      kind: 'line',
      points: [
        [at, plot.bottom],
        [at, plot.bottom + 5],
      ],
      color: COLORS.axis,
      width: 1,
    });
    shapes.push({
      kind: 'text',
      x: at,
      y: plot.bottom + 20,
      text: x.format(tick),
      size: 12,
      anchor: 'middle',
      color: COLORS.muted,
    });
  }
  shapes.push({
    kind: 'line',
    points: [
      [plot.left, plot.bottom],
      [plot.right, plot.bottom],
    ],
    color: COLORS.axis,
    width: 1,
  });
  shapes.push({
    kind: 'text',
    x: (plot.left + plot.right) / 2,
    y: plot.bottom + 42,
    text: 'step',
    size: 13,
    anchor: 'middle',
    color: COLORS.text,
  });
  if (hasLoss)
    shapes.push({
      kind: 'text',
      x: 20,
      y: (plot.top + plot.bottom) / 2,
      text: 'loss',
      size: 13,
      anchor: 'middle',
      color: COLORS.text,
      vertical: true,
    });
  return shapes;
}

function drawRightAxis(plot: Plot, axis: Axis): Shape[] {
  const shapes: Shape[] = axis.ticks.flatMap((tick): Shape[] => {
    const at = project(tick, axis, plot.bottom, plot.top);
    return [
      {
        kind: 'line',
        points: [
          [plot.right, at],
          [plot.right + 5, at],
        ],
        color: COLORS.axis,
        width: 1,
      },
      {
        kind: 'text',
        x: plot.right + 10,
        y: at + 4,
        text: axis.format(tick),
        size: 12,
        anchor: 'start',
        color: COLORS.rate,
      },
    ];
  });
  shapes.push({
    kind: 'line',
    points: [
      [plot.right, plot.top],
      [plot.right, plot.bottom],
    ],
    color: COLORS.axis,
    width: 1,
  });
  return shapes;
}

function project(value: number, { min, max }: Axis, from: number, to: number): number {
  return from + ((value - min) / (max - min)) * (to - from);
}

interface Style {
  color: string;
  width: number;
  dash?: readonly [number, number];
  opacity?: number;
  dots?: boolean;
}

/** One polyline per run of finite values; a run of one is a dot. */
function drawLines(points: readonly CurvePoint[], plot: Plot, x: Axis, y: Axis, style: Style): Shape[] {
  const { dots, ...stroke } = style;
  const shapes: Shape[] = [];
  for (const run of finiteRuns(points)) {
    const line = thin(
      run.map(({ step, value }): Point => [
        project(step, x, plot.left, plot.right),
        project(value, y, plot.bottom, plot.top),
      ]),
    );
    if (line.length > 1) shapes.push({ kind: 'line', points: line, ...stroke });
    if (line.length === 1 || dots)
      shapes.push(
        ...line.map((center): Shape => ({ kind: 'dot', center, radius: dots ? 3.25 : 3, fill: style.color })),
      );
  }
  return shapes;
}

function finiteRuns(points: readonly CurvePoint[]): CurvePoint[][] {
  const runs: CurvePoint[][] = [];
  let open = false;
  for (const point of points) {
    if (!isDrawable(point.value)) open = false;
    else if (open) runs.at(-1)!.push(point);
    else {
      runs.push([point]);
      open = true;
    }
  }
  return runs;
}

/** At most four points per half pixel column: first, lowest, highest, last, in their order. */
function thin(points: readonly Point[]): Point[] {
  const kept: Point[] = [];
  let start = 0;
  while (start < points.length) {
    const column = Math.floor(points[start][0] * 2);
    let [end, low, high] = [start, start, start];
    while (end + 1 < points.length && Math.floor(points[end + 1][0] * 2) === column) {
      end++;
      if (points[end][1] < points[low][1]) low = end;
      if (points[end][1] > points[high][1]) high = end;
    }
    for (const index of new Set([start, Math.min(low, high), Math.max(low, high), end])) kept.push(points[index]);
    start = end + 1;
  }
  return kept;
}

interface LegendEntry {
  label: string;
  color: string;
  dash?: readonly [number, number];
  dot?: boolean;
}

function legendEntries(
  train: readonly CurvePoint[],
  evals: readonly CurvePoint[],
  rates: readonly CurvePoint[],
  smoothing: number,
): LegendEntry[] {
  const last = (points: readonly CurvePoint[]): string => formatValue(points.at(-1)!.value);
  const entries: LegendEntry[] = [];
  if (train.length > 0)
    entries.push({
      label: `train loss ${last(smoothing > 0 ? smooth(train, smoothing) : train)}${smoothing > 0 ? ' (smoothed)' : ''}`,
      color: COLORS.train,
    });
  if (evals.length > 0) entries.push({ label: `eval loss ${last(evals)}`, color: COLORS.eval, dot: true });
  if (rates.length > 0) entries.push({ label: `learning rate ${last(rates)}`, color: COLORS.rate, dash: [5, 5] });
  return entries;
}

/** In a row above the plot, ending near its right edge. */
function drawLegend(entries: readonly LegendEntry[], plot: Plot): Shape[] {
  const shapes: Shape[] = [];
  const y = plot.top - 16;
  const [sampleWidth, gap, between] = [24, 8, 22];
  let right = plot.right;
  for (const { label, color, dash, dot } of [...entries].reverse()) {
    const text = right - estimateWidth(label, 12);
    const sample = text - gap - sampleWidth;
    shapes.push({ kind: 'text', x: text, y: y + 4, text: label, size: 12, anchor: 'start', color: COLORS.text });
    shapes.push({
      kind: 'line',
      points: [
        [sample, y],
        [sample + sampleWidth, y],
      ],
      color,
      width: 2,
      ...(dash ? { dash } : {}),
    });
    if (dot) shapes.push({ kind: 'dot', center: [sample + sampleWidth / 2, y], radius: 3.25, fill: color });
    right = sample - between;
  }
  return shapes;
}
