/**
 * CRC-32 (IEEE 802.3, PNG) and CRC-32C (Castagnoli, TensorBoard records), both reflected and table-driven.
 * Node 20 has no zlib.crc32, hence these few lines.
 */

function buildTable(reflectedPolynomial: number): Uint32Array {
  const table = new Uint32Array(256);
  for (let byte = 0; byte < 256; byte++) {
    let remainder = byte;
    for (let bit = 0; bit < 8; bit++)
      remainder = remainder & 1 ? (remainder >>> 1) ^ reflectedPolynomial : remainder >>> 1;
    table[byte] = remainder;
  }
  return table;
}

function update(table: Uint32Array, bytes: Uint8Array, previous: number): number {
  let crc = ~previous;
  for (let i = 0; i < bytes.length; i++) crc = table[(crc ^ bytes[i]) & 0xff] ^ (crc >>> 8);
  return ~crc >>> 0;
}

const IEEE = buildTable(0xedb88320);
const CASTAGNOLI = buildTable(0x82f63b78);

/** CRC-32 of `bytes`, continuing from `previous` (the crc of what came before). */
export function crc32(bytes: Uint8Array, previous = 0): number {
  return update(IEEE, bytes, previous);
}

/** CRC-32C of `bytes`, continuing from `previous`. */
export function crc32c(bytes: Uint8Array, previous = 0): number {
  return update(CASTAGNOLI, bytes, previous);
}
