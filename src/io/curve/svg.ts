/** A scene as SVG text: no script, no external font, valid as XML for any title. */
import type { Point, Scene, Shape } from './scene';

const FONTS = 'system-ui, -apple-system, "Segoe UI", Helvetica, Arial, sans-serif';

function number(value: number): string {
  return String(Math.round(value * 100) / 100);
}

/** Escapes markup and drops characters that XML cannot carry. */
function escape(text: string): string {
  const legal = text.replace(/[\u0000-\u0008\u000b\u000c\u000e-\u001f\ufffe\uffff]|\p{Surrogate}/gu, '');
  return legal.replace(/[&<>"]/g, (c) => ({ '&': '&amp;', '<': '&lt;', '>': '&gt;', '"': '&quot;' })[c]!);
}

function path(points: readonly Point[]): string {
  return points.map(([x, y], i) => `${i === 0 ? 'M' : 'L'}${number(x)} ${number(y)}`).join('');
}

function element(shape: Shape): string {
  switch (shape.kind) {
    case 'rect':
      return `<rect x="${number(shape.x)}" y="${number(shape.y)}" width="${number(shape.width)}" height="${number(shape.height)}" fill="${shape.fill}"/>`;
    case 'line': {
      const dash = shape.dash ? ` stroke-dasharray="${shape.dash.join(' ')}"` : '';
      const opacity = shape.opacity === undefined ? '' : ` stroke-opacity="${shape.opacity}"`;
      return `<path d="${path(shape.points)}" fill="none" stroke="${shape.color}" stroke-width="${shape.width}" stroke-linejoin="round" stroke-linecap="round"${dash}${opacity}/>`;
    }
    case 'dot':
      return `<circle cx="${number(shape.center[0])}" cy="${number(shape.center[1])}" r="${shape.radius}" fill="${shape.fill}"/>`;
    case 'text': {
      const turn = shape.vertical ? ` transform="rotate(-90 ${number(shape.x)} ${number(shape.y)})"` : '';
      const weight = shape.bold ? ' font-weight="600"' : '';
      return `<text x="${number(shape.x)}" y="${number(shape.y)}" font-size="${shape.size}" fill="${shape.color}" text-anchor="${shape.anchor}"${weight}${turn}>${escape(shape.text)}</text>`;
    }
  }
}

export function renderSvg(scene: Scene): string {
  const { width, height } = scene;
  return [
    `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${width} ${height}" width="${width}" height="${height}" role="img" font-family='${FONTS}'>`,
    `<title>${escape(scene.title)}</title>`,
    `<desc>${escape(scene.description)}</desc>`,
    ...scene.shapes.map(element),
    '</svg>',
    '',
  ].join('\n');
}
