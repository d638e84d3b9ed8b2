/**
 * Finds stop strings in text that arrives in pieces, and holds back what could be the start of one.
 *
 * Invariants: a piece is given out as soon as no stop string can begin in it; all pieces together are the whole text, cut
 * before the earliest stop string. Nothing of a stop string is ever given out.
 */
export class StopStrings {
  private held = '';
  /** The stop string that was found; the stream is over then. */
  found: string | null = null;

  constructor(private readonly stops: readonly string[]) {}

  /** Adds text; returns what is certain now. */
  push(piece: string): string {
    if (this.found !== null) return '';
    const text = this.held + piece;
    let end = text.length;
    for (const stop of this.stops) {
      const at = text.indexOf(stop);
      if (at >= 0 && at < end) {
        end = at;
        this.found = stop;
      }
    }
    if (this.found === null) end -= this.pending(text);
    this.held = this.found === null ? text.slice(end) : '';
    return text.slice(0, end);
  }

  /** The rest, when no more text comes. */
  flush(): string {
    const rest = this.held;
    this.held = '';
    return rest;
  }

  /** Length of the longest end of `text` that a stop string starts with. */
  private pending(text: string): number {
    let most = 0;
    for (const stop of this.stops) {
      for (let n = Math.min(stop.length - 1, text.length); n > most; n--) if (text.endsWith(stop.slice(0, n))) most = n;
    }
    return most;
  }
}
