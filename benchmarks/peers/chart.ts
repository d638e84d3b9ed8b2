/**
 * The chart of the README: for every comparison how many times faster than its peer, with the spread of the interleaved
 * pairs, the target, and both rates. One list of shapes, drawn as SVG and as PNG.
 */
import { writeFileSync } from 'node:fs';
import { encodePng } from '../../src/io/curve/png';
import { rasterize } from '../../src/io/curve/raster';
import type { Scene, Shape } from '../../src/io/curve/scene';
import { renderSvg } from '../../src/io/curve/svg';
import { figure } from '../harness/table';
import type { PeerRow } from './row';

const COLORS = {
  paper: '#ffffff',
  text: '#334155',
  muted: '#64748b',
  grid: '#e2e8f0',
  peer: '#475569',
  met: '#2563eb',
  missed: '#ea580c',
  plain: '#94a3b8',
  spread: '#0f172a',
  target: '#0d9488',
};
const WIDTH = 1120;
const ROW = 34;
/** Largest ratio drawn to scale. */
const MOST = 4;
const PLOT = { left: 430, right: 830, top: 92 };

/** Rows with a peer and a ratio, in the order given. */
export function drawable(rows: readonly PeerRow[]): PeerRow[] {
  return rows.filter((r) => r.peer !== '' && Number.isFinite(r.ratio.median));
}

export function peersScene(rows: readonly PeerRow[], subtitle: string): Scene {
  const shown = drawable(rows);
  const title = 'lathe against what users would pick instead, on the same cores';
  const height = PLOT.top + shown.length * ROW + 56;
  // One comparison far ahead must not make all others unreadable: bars end at the border, their numbers say the rest.
  const most = Math.min(MOST, Math.max(2, ...shown.map((r) => 1.05 * Math.max(r.ratio.high, r.targetRatio ?? 0))));
  const x = (ratio: number): number => PLOT.left + (Math.min(ratio, most) / most) * (PLOT.right - PLOT.left);
  const bottom = PLOT.top + shown.length * ROW;
  const shapes: Shape[] = [
    { kind: 'rect', x: 0, y: 0, width: WIDTH, height, fill: COLORS.paper },
    { kind: 'text', x: 24, y: 34, text: title, size: 18, bold: true, anchor: 'start', color: COLORS.text },
    { kind: 'text', x: 24, y: 56, text: subtitle, size: 12, anchor: 'start', color: COLORS.muted },
  ];
  for (let tick = 0; tick <= most; tick += 0.5) {
    shapes.push({
      kind: 'line',
      points: [
        [x(tick), PLOT.top - 6],
        [x(tick), bottom],
      ],
      color: COLORS.grid,
      width: 1,
    });
    shapes.push({
      kind: 'text',
      x: x(tick),
      y: PLOT.top - 12,
      text: `${tick}x`,
      size: 11,
      anchor: 'middle',
      color: COLORS.muted,
    });
  }
  shown.forEach((row, i) => shapes.push(...rowShapes(row, PLOT.top + i * ROW, x)));
  shapes.push({
    kind: 'line',
    points: [
      [x(1), PLOT.top - 6],
      [x(1), bottom],
    ],
    color: COLORS.peer,
    width: 1.5,
    dash: [4, 3],
  });
  shapes.push(...legend(bottom + 28));
  return {
    width: WIDTH,
    height,
    shapes,
    title,
    description: shown.map((r) => `${r.name}: ${r.ratio.median.toFixed(2)} times ${r.peer}`).join('; '),
  };
}

/** Without the shape that did worst: the table says which one it was. */
function shortName(row: PeerRow): string {
  return row.name.replace(/ \(.*\)$/, '');
}

function rowShapes(row: PeerRow, top: number, x: (ratio: number) => number): Shape[] {
  const { ratio, targetRatio } = row;
  const judged = targetRatio !== null && !ratio.disturbed;
  // A row has other targets than its ratio too, as a GEMM its share of peak.
  const missed = ratio.median < (targetRatio ?? 0) || row.verdicts.some((v) => v.met === false);
  const fill = !judged ? COLORS.plain : missed ? COLORS.missed : COLORS.met;
  const middle = top + ROW / 2 - 2;
  const shapes: Shape[] = [
    {
      kind: 'text',
      x: PLOT.left - 12,
      y: middle + 4,
      text: shortName(row),
      size: 11,
      anchor: 'end',
      color: COLORS.text,
    },
    { kind: 'rect', x: PLOT.left, y: middle - 8, width: Math.max(1, x(ratio.median) - PLOT.left), height: 16, fill },
    {
      kind: 'line',
      points: [
        [x(ratio.low), middle],
        [x(ratio.high), middle],
      ],
      color: COLORS.spread,
      width: 1.5,
    },
  ];
  for (const end of [ratio.low, ratio.high])
    shapes.push({
      kind: 'line',
      points: [
        [x(end), middle - 4],
        [x(end), middle + 4],
      ],
      color: COLORS.spread,
      width: 1.5,
    });
  if (targetRatio !== null)
    shapes.push({
      kind: 'line',
      points: [
        [x(targetRatio), middle - 12],
        [x(targetRatio), middle + 12],
      ],
      color: COLORS.target,
      width: 2.5,
    });
  const rates = `${figure(row.oursValue)} / ${figure(row.peerValue)} ${row.unit}${ratio.disturbed ? ', disturbed' : ''}`;
  shapes.push({
    kind: 'text',
    x: PLOT.right + 14,
    y: middle + 4,
    text: `${ratio.median.toFixed(2)}x   ${rates}`,
    size: 11,
    anchor: 'start',
    color: COLORS.text,
  });
  return shapes;
}

function legend(y: number): Shape[] {
  const shapes: Shape[] = [];
  let at = 24;
  for (const [color, label] of [
    [COLORS.met, 'target met'],
    [COLORS.missed, 'target missed'],
    [COLORS.plain, 'no target, or disturbed'],
    [COLORS.target, 'target'],
    [COLORS.spread, 'spread of interleaved pairs'],
  ]) {
    shapes.push({ kind: 'rect', x: at, y: y - 9, width: 12, height: 10, fill: color });
    shapes.push({ kind: 'text', x: at + 18, y, text: label, size: 11, anchor: 'start', color: COLORS.muted });
    at += 40 + label.length * 6.2;
  }
  return shapes;
}

/** Writes `<stem>.svg` and `<stem>.png`. */
export function writePeersChart(stem: string, rows: readonly PeerRow[], subtitle: string): void {
  const scene = peersScene(rows, subtitle);
  writeFileSync(`${stem}.svg`, renderSvg(scene));
  const { width, height, rgb } = rasterize(scene, 2);
  writeFileSync(`${stem}.png`, encodePng(width, height, rgb));
}
