/**
 * Reads the character vectors of an R package's data (`data/Rdata.rdb`).
 *
 * The file is a row of blocks: 4 bytes of uncompressed length, then a zlib stream; each holds one object in R's
 * serialisation, here version 3, XDR. Only what the sources need is read: a character vector without attributes.
 * Source: "Serialization Formats", R Internals, section 1.8.
 */
import { inflateSync } from 'node:zlib';

const STRSXP = 16;
const CHARSXP = 9;

/** One list of lines per object, in file order. @throws RangeError for anything but character vectors */
export function characterVectors(rdb: Buffer): string[][] {
  const result: string[][] = [];
  let at = 0;
  while (at < rdb.length) {
    // `info` tells how many input bytes the stream took, which is nowhere written.
    const { buffer, engine } = inflateSync(rdb.subarray(at + 4), { info: true }) as unknown as {
      buffer: Buffer;
      engine: { bytesWritten: number };
    };
    if (buffer.length !== rdb.readUInt32BE(at))
      throw new RangeError(`expected ${rdb.readUInt32BE(at)} bytes in the block at ${at}, received ${buffer.length}`);
    result.push(characterVector(buffer));
    at += 4 + engine.bytesWritten;
  }
  return result;
}

function characterVector(bytes: Buffer): string[] {
  if (bytes.toString('latin1', 0, 2) !== 'X\n' || bytes.readInt32BE(2) !== 3)
    throw new RangeError('expected R serialisation version 3, XDR');
  let at = 14;
  at += 4 + bytes.readInt32BE(at); // name of the native encoding
  if ((bytes.readInt32BE(at) & 0xff) !== STRSXP) throw new RangeError('expected a character vector');
  const count = bytes.readInt32BE(at + 4);
  at += 8;
  const lines: string[] = [];
  for (let i = 0; i < count; i++) {
    if ((bytes.readInt32BE(at) & 0xff) !== CHARSXP) throw new RangeError(`expected a string as element ${i}`);
    const length = Math.max(0, bytes.readInt32BE(at + 4)); // -1: NA
    lines.push(bytes.toString('utf8', at + 8, at + 8 + length));
    at += 8 + length;
  }
  return lines;
}
