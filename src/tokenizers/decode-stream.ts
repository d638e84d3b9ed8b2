/**
 * Streaming decode: token ids in, text pieces out, never half a character.
 *
 * Two ways. A byte-level tokenizer's tokens are bytes, so they go through an incremental UTF-8 decoder: exact, and
 * constant work per token. Any other decoder (SentencePiece pieces, WordPiece) may change a token's text by its
 * neighbours, so a short window of ids is decoded again and only the new suffix is given out; it is held back while
 * it ends in U+FFFD, which is how an unfinished byte sequence decodes.
 *
 * Invariant: the concatenation of all pieces, with `flush()`, equals `decode` of all ids.
 */
import { byteLevelBytes } from './byte-level';

/** What the stream needs from a tokenizer. */
export interface StreamSource {
  readonly byteLevel: boolean;
  /** The token of an id, or undefined when the id is unknown or is to be skipped. */
  tokenOf(id: number): string | undefined;
  decode(ids: readonly number[]): string;
}

/** Byte-fallback tokens hold one byte each and a character has at most four; beyond that the bytes are just invalid. */
const MAX_HELD_TOKENS = 8;

export class DecodeStream {
  private readonly source: StreamSource;
  private readonly utf8 = new TextDecoder('utf-8', { ignoreBOM: true });
  private window: number[] = [];
  private windowText = '';
  private held = 0;

  constructor(source: StreamSource) {
    this.source = source;
  }

  /** Adds one id; returns the text that became certain, often '' in the middle of a character. */
  push(id: number): string {
    const token = this.source.tokenOf(id);
    if (token === undefined) return '';
    if (this.source.byteLevel) return this.utf8.decode(byteLevelBytes(token), { stream: true });
    this.window.push(id);
    this.held++;
    const text = this.source.decode(this.window);
    if (text.endsWith('\uFFFD') && this.held < MAX_HELD_TOKENS) return '';
    return this.emit(text);
  }

  /** The rest: what an unfinished character decodes to. The stream can be used again afterwards. */
  flush(): string {
    if (this.source.byteLevel) return this.utf8.decode();
    const piece = this.emit(this.source.decode(this.window));
    this.window = [];
    this.windowText = '';
    return piece;
  }

  private emit(text: string): string {
    const piece = text.slice(this.windowText.length);
    // Keep the last tokens as context: decoders look at the start of a sequence (SentencePiece strips its first space).
    const keep = this.window.slice(-Math.max(this.held, 1));
    this.held = 0;
    if (piece !== '') {
      this.window = keep;
      this.windowText = this.source.decode(keep);
    }
    return piece;
  }
}
