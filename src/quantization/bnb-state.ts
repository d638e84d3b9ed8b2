/**
 * The `quant_state` tensor of a bitsandbytes checkpoint: what a packed 4-bit weight needs besides its bytes, as UTF-8
 * JSON in a u8 tensor. Written with the keys in the library's order and Python's spacing, read strictly.
 *
 * Source: bitsandbytes functional.py, QuantState.as_dict / from_dict.
 */
import { LatheError, formatShape } from '../errors';
import { BLOCK, FP4, NESTED_BLOCK, NF4, type QuantType } from '../ops/quant';
import { DYNAMIC_MAP_SIGNED } from '../ops/quant-tables';

export interface BnbState {
  readonly type: QuantType;
  /** Of the dense weight, `[out, in]`. */
  readonly shape: readonly [rows: number, cols: number];
  /** Float type the weight had, as torch calls it. */
  readonly dtype: string;
  /** Offset of double quantisation; null when the block scales are plain. */
  readonly nestedOffset: number | null;
}

/** Name endings of the tensors beside `<module>.weight`. */
export const BNB_PARTS = {
  absmax: '.absmax',
  map: '.quant_map',
  nestedAbsmax: '.nested_absmax',
  nestedMap: '.nested_quant_map',
} as const;

export const bnbStateKey = (name: string, type: QuantType): string => `${name}.quant_state.bitsandbytes__${type}`;

/** The weight's name when `key` is its quant_state. */
export function bnbStateOwner(key: string): { name: string; type: QuantType } | null {
  const match = /^(.*)\.quant_state\.bitsandbytes__(nf4|fp4)$/.exec(key);
  return match ? { name: match[1], type: match[2] as QuantType } : null;
}

/** The 16 values of a code, in the file's form. */
export function quantMap(type: QuantType): Float32Array {
  return Float32Array.from(type === 'nf4' ? NF4 : FP4);
}

export const nestedQuantMap = (): Float32Array => Float32Array.from(DYNAMIC_MAP_SIGNED);

/** Bytes of the quant_state tensor. */
export function encodeBnbState(state: BnbState): Uint8Array {
  const fields = [
    `"quant_type": "${state.type}"`,
    `"blocksize": ${BLOCK}`,
    `"dtype": "${state.dtype}"`,
    `"shape": [${state.shape.join(', ')}]`,
  ];
  if (state.nestedOffset !== null)
    fields.push(
      `"nested_blocksize": ${NESTED_BLOCK}`,
      '"nested_dtype": "float32"',
      `"nested_offset": ${pythonFloat(state.nestedOffset)}`,
    );
  return Uint8Array.from(Buffer.from(`{${fields.join(', ')}}`, 'utf8'));
}

/** A whole number keeps its point, so that Python reads a float. */
const pythonFloat = (value: number): string => (Number.isInteger(value) ? value.toFixed(1) : String(value));

/** Parses a quant_state. @throws LatheError ERR_CHECKPOINT / ERR_UNSUPPORTED naming `name` */
export function decodeBnbState(bytes: Uint8Array, name: string, type: QuantType, at: string): BnbState {
  const bad = (what: string): LatheError =>
    new LatheError('ERR_CHECKPOINT', `quant_state of '${name}' ${what}`, {
      at,
      remedy: 'the 4-bit checkpoint is damaged; save it again',
    });
  let json: Record<string, unknown>;
  try {
    json = JSON.parse(Buffer.from(bytes).toString('utf8')) as Record<string, unknown>;
  } catch (cause) {
    throw bad(`is not JSON: ${(cause as Error).message}`);
  }
  const { shape, dtype, nested_offset: offset } = json;
  if (json.quant_type !== type) throw bad(`expected quant_type ${type}, received ${JSON.stringify(json.quant_type)}`);
  if (!Array.isArray(shape) || shape.length !== 2 || !shape.every((dim) => Number.isInteger(dim) && dim > 0))
    throw bad(`expected a shape [out, in], received ${JSON.stringify(shape)}`);
  if (offset !== undefined && typeof offset !== 'number')
    throw bad(`expected a number as nested_offset, received ${JSON.stringify(offset)}`);
  const blocks: [string, unknown, number][] = [['blocksize', json.blocksize, BLOCK]];
  if (offset !== undefined) blocks.push(['nested_blocksize', json.nested_blocksize, NESTED_BLOCK]);
  for (const [key, received, supported] of blocks) {
    if (received !== supported)
      throw new LatheError(
        'ERR_UNSUPPORTED',
        `'${name}' has ${key} ${JSON.stringify(received)}, only ${supported} is supported`,
        { at, remedy: 'quantise the dense model again, with the default block size' },
      );
  }
  return { type, shape: shape as [number, number], dtype: String(dtype), nestedOffset: offset ?? null };
}

/** A stored table that is not the constant one would decode to other weights. */
export function checkQuantMap(stored: Float32Array, expected: Float32Array, name: string, at: string): void {
  if (stored.length === expected.length && stored.every((value, i) => value === expected[i])) return;
  throw new LatheError(
    'ERR_UNSUPPORTED',
    `'${name}' is not the table of bitsandbytes ${formatShape([expected.length])}`,
    { at, remedy: 'quantise the dense model again' },
  );
}
