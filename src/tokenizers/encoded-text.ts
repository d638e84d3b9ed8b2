/**
 * One encoded text: its ids, and on demand where each token lies in the text.
 *
 * The library counts offsets in code points; JavaScript slices in UTF-16 units. The difference only shows in texts with
 * characters beyond U+FFFF, so the translation is made for those texts only, and only when offsets are asked for.
 */
import type { Encoding } from 'tokenizers';

/** One encoded text. `offsets[i]` is token i's [start, end) in the text, in UTF-16 units. */
export interface EncodedText {
  ids: number[];
  readonly offsets: [number, number][];
}

/** An Encoding whose offsets are read (and turned from code points into UTF-16 units) on demand. */
export class LazyEncoding implements EncodedText {
  readonly ids: number[];
  private readonly text: string;
  private readonly encoding: Encoding;
  private cached: [number, number][] | undefined;

  constructor(text: string, encoding: Encoding) {
    this.text = text;
    this.encoding = encoding;
    this.ids = encoding.getIds();
  }

  get offsets(): [number, number][] {
    this.cached ??= utf16Offsets(this.text, this.encoding.getOffsets() as [number, number][]);
    return this.cached;
  }
}

function utf16Offsets(text: string, offsets: [number, number][]): [number, number][] {
  if (!/[\ud800-\udfff]/.test(text)) return offsets;
  const position: number[] = [];
  let unit = 0;
  for (const char of text) {
    position.push(unit);
    unit += char.length;
  }
  position.push(unit);
  return offsets.map(([start, end]) => [position[start], position[end]]);
}
