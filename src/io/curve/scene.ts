/**
 * The shapes a chart is made of, in CSS pixels; two renderers (SVG, raster) draw the same list.
 */

export type Point = readonly [x: number, y: number];

export interface Rect {
  kind: 'rect';
  x: number;
  y: number;
  width: number;
  height: number;
  fill: string;
}

export interface Polyline {
  kind: 'line';
  points: readonly Point[];
  color: string;
  width: number;
  /** Lengths of stroke and gap. */
  dash?: readonly [number, number];
  opacity?: number;
}

export interface Dot {
  kind: 'dot';
  center: Point;
  radius: number;
  fill: string;
}

export interface Text {
  kind: 'text';
  /** Baseline. */
  y: number;
  x: number;
  text: string;
  size: number;
  bold?: boolean;
  anchor: 'start' | 'middle' | 'end';
  color: string;
  /** Turned a quarter counter-clockwise around (x, y). */
  vertical?: boolean;
}

export type Shape = Rect | Polyline | Dot | Text;

export interface Scene {
  width: number;
  height: number;
  shapes: Shape[];
  /** For screen readers. */
  title: string;
  description: string;
}

/** Estimated width of a text in CSS pixels, good enough to place a legend for both renderers. */
export function estimateWidth(text: string, size: number): number {
  return [...text].length * size * 0.55;
}
