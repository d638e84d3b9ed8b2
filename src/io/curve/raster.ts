/**
 * A scene as pixels: anti-aliased lines by distance to the segment, also for text; no dependency.
 *
 * The idea: a stroke first fills a coverage mask with the maximum over its segments, then is blended once, so
 * joints and overlapping segments of one line are not darkened twice.
 */
import { ASCENT, outlineText } from './bitmap-font';
import type { Dot, Point, Polyline, Rect, Scene, Text } from './scene';

// The inner loops run millions of times; a local name spares the lookup of a global.
const { ceil, floor, hypot, max, min, round, sqrt } = Math;

type Rgb = readonly [number, number, number];

function parseColor(hex: string): Rgb {
  const value = Number.parseInt(hex.slice(1), 16);
  return [value >> 16, (value >> 8) & 255, value & 255];
}

export interface Raster {
  width: number;
  height: number;
  /** 3 bytes per pixel, rows from the top. */
  rgb: Uint8Array;
}

/** @param scale device pixels per CSS pixel */
export function rasterize(scene: Scene, scale: number): Raster {
  const canvas = new Canvas(round(scene.width * scale), round(scene.height * scale), scale);
  for (const shape of scene.shapes) {
    if (shape.kind === 'rect') canvas.rect(shape);
    else if (shape.kind === 'line') canvas.stroke(shape);
    else if (shape.kind === 'dot') canvas.dot(shape);
    else canvas.text(shape);
  }
  return { width: canvas.width, height: canvas.height, rgb: canvas.rgb };
}

class Canvas {
  readonly rgb: Uint8Array;
  #coverage: Float32Array;

  constructor(
    readonly width: number,
    readonly height: number,
    readonly scale: number,
  ) {
    this.rgb = new Uint8Array(width * height * 3).fill(255);
    this.#coverage = new Float32Array(width * height);
  }

  rect({ x, y, width, height, fill }: Rect): void {
    const color = parseColor(fill);
    const [left, top, right, bottom] = [x, y, x + width, y + height].map((value) => round(value * this.scale));
    for (let row = max(0, top); row < min(this.height, bottom); row++) {
      for (let column = max(0, left); column < min(this.width, right); column++)
        this.#blend(row * this.width + column, color, 1);
    }
  }

  dot({ center, radius, fill }: Dot): void {
    this.#strokeSegments([[center, center]], radius * 2, fill, 1);
  }

  stroke({ points, color, width, dash, opacity = 1 }: Polyline): void {
    const segments =
      points.length === 1
        ? [[points[0], points[0]] as const]
        : points.slice(1).map((point, i) => [points[i], point] as const);
    this.#strokeSegments(dash ? dashed(segments, dash) : segments, width, color, opacity);
  }

  #strokeSegments(segments: readonly (readonly [Point, Point])[], width: number, color: string, opacity: number): void {
    const half = (width * this.scale) / 2;
    const touched = new Set<number>();
    for (const [a, b] of segments) this.#cover(a, b, half, touched);
    const rgb = parseColor(color);
    for (const pixel of touched) {
      this.#blend(pixel, rgb, this.#coverage[pixel] * opacity);
      this.#coverage[pixel] = 0;
    }
  }

  /** Raises the coverage of pixels near the segment; pixel centres lie at half-integers. */
  #cover(a: Point, b: Point, half: number, touched: Set<number>): void {
    const [ax, ay, bx, by] = [a[0], a[1], b[0], b[1]].map((value) => value * this.scale);
    const [dx, dy] = [bx - ax, by - ay];
    const squared = dx * dx + dy * dy;
    const reach = half + 1;
    const top = max(0, floor(min(ay, by) - reach));
    const bottom = min(this.height - 1, ceil(max(ay, by) + reach));
    for (let y = top; y <= bottom; y++) {
      // Only the stretch of the segment near this row matters: keeps long diagonals linear.
      const [from, to] = columnsNearRow(ax, ay, bx, by, y + 0.5, reach);
      for (let x = max(0, floor(from)); x <= min(this.width - 1, ceil(to)); x++) {
        const t = squared === 0 ? 0 : min(1, max(0, ((x + 0.5 - ax) * dx + (y + 0.5 - ay) * dy) / squared));
        const distance = sqrt((x + 0.5 - ax - t * dx) ** 2 + (y + 0.5 - ay - t * dy) ** 2);
        const coverage = min(1, half + 0.5 - distance);
        const pixel = y * this.width + x;
        if (coverage > this.#coverage[pixel]) {
          this.#coverage[pixel] = coverage;
          touched.add(pixel);
        }
      }
    }
  }

  text({ x, y, text, size, bold, anchor, color, vertical }: Text): void {
    // Capitals of common faces are 0.72 of the font size tall.
    const unit = (size * 0.72) / ASCENT;
    const { segments, width } = outlineText(text);
    const shift = anchor === 'start' ? 0 : anchor === 'end' ? width : width / 2;
    const place = ([u, v]: Point): Point => {
      const [along, down] = [(u - shift) * unit, (v - ASCENT) * unit];
      return vertical ? [x + down, y - along] : [x + along, y + down];
    };
    this.#strokeSegments(
      segments.map(([a, b]) => [place(a), place(b)]),
      unit * (bold ? 1.45 : 1.15),
      color,
      1,
    );
  }

  #blend(pixel: number, color: Rgb, alpha: number): void {
    for (let channel = 0; channel < 3; channel++) {
      const i = pixel * 3 + channel;
      this.rgb[i] = round(this.rgb[i] + (color[channel] - this.rgb[i]) * alpha);
    }
  }
}

/** Range of x for which a point at height `y` can lie within `reach` of the segment. */
function columnsNearRow(ax: number, ay: number, bx: number, by: number, y: number, reach: number): [number, number] {
  let [t0, t1] = [0, 1];
  if (ay !== by) {
    const [u, v] = [(y - reach - ay) / (by - ay), (y + reach - ay) / (by - ay)];
    t0 = max(0, min(u, v));
    t1 = min(1, max(u, v));
  }
  const [x0, x1] = [ax + t0 * (bx - ax), ax + t1 * (bx - ax)];
  return [min(x0, x1) - reach, max(x0, x1) + reach];
}

/** Cuts a chain of segments into strokes; the pattern runs on over corners. */
function dashed(
  segments: readonly (readonly [Point, Point])[],
  [on, off]: readonly [number, number],
): (readonly [Point, Point])[] {
  const strokes: (readonly [Point, Point])[] = [];
  let phase = 0;
  for (const [a, b] of segments) {
    const length = hypot(b[0] - a[0], b[1] - a[1]);
    const at = (s: number): Point => [a[0] + ((b[0] - a[0]) * s) / length, a[1] + ((b[1] - a[1]) * s) / length];
    let s = 0;
    while (s < length) {
      const inStroke = phase < on;
      const step = min(length - s, (inStroke ? on : on + off) - phase);
      if (inStroke) strokes.push([at(s), at(s + step)]);
      s += step;
      // Guards against a step too small to change s.
      phase = phase + step >= on + off - 1e-9 ? 0 : phase + max(step, 1e-9);
    }
  }
  return strokes;
}
