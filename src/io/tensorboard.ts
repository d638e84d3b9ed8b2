/**
 * TensorBoard event files: scalars and text, without TensorFlow.
 *
 * The idea: an event file is a list of CRC-framed protobuf messages, and the few messages we need are a dozen
 * fields. Records are written synchronously and whole, one system call per `write*`, so a killed run loses at
 * most what it had not logged yet. Nothing is buffered; training logs are rare next to training steps.
 *
 * Source: tensorboard's event.proto, summary.proto, tensor.proto; TFRecord framing; the names that transformers'
 * TensorBoardCallback gives to tags and folders.
 */
import { closeSync, mkdirSync, openSync, writeSync } from 'node:fs';
import { hostname } from 'node:os';
import { join } from 'node:path';
import { LatheError } from '../errors';
import { crc32c } from './crc';
import { toIoError } from './io-error';

// ---------------------------------------------------------------------------------------------- protobuf

function varint(value: bigint): Uint8Array {
  const bytes: number[] = [];
  let rest = BigInt.asUintN(64, value);
  while (rest > 0x7fn) {
    bytes.push(Number(rest & 0x7fn) | 0x80);
    rest >>= 7n;
  }
  bytes.push(Number(rest));
  return Uint8Array.from(bytes);
}

const Wire = { varint: 0, fixed64: 1, bytes: 2, fixed32: 5 } as const;

function tag(field: number, wire: number): Uint8Array {
  return varint(BigInt((field << 3) | wire));
}

function integerField(field: number, value: number): Uint8Array {
  return Buffer.concat([tag(field, Wire.varint), varint(BigInt(value))]);
}

function doubleField(field: number, value: number): Uint8Array {
  const bytes = Buffer.alloc(8);
  bytes.writeDoubleLE(value);
  return Buffer.concat([tag(field, Wire.fixed64), bytes]);
}

function floatField(field: number, value: number): Uint8Array {
  const bytes = Buffer.alloc(4);
  // A DataView, not writeFloatLE: values beyond float32 become infinities instead of an error.
  new DataView(bytes.buffer, bytes.byteOffset).setFloat32(0, value, true);
  return Buffer.concat([tag(field, Wire.fixed32), bytes]);
}

function bytesField(field: number, value: string | Uint8Array): Uint8Array {
  const bytes = typeof value === 'string' ? Buffer.from(value, 'utf8') : value;
  return Buffer.concat([tag(field, Wire.bytes), varint(BigInt(bytes.length)), bytes]);
}

function message(...fields: Uint8Array[]): Uint8Array {
  return Buffer.concat(fields);
}

/** `u64 length, masked crc of it, data, masked crc of data`. */
export function frameRecord(data: Uint8Array): Uint8Array {
  const record = Buffer.alloc(12 + data.length + 4);
  record.writeBigUInt64LE(BigInt(data.length), 0);
  record.writeUInt32LE(maskedCrc(record.subarray(0, 8)), 8);
  record.set(data, 12);
  record.writeUInt32LE(maskedCrc(data), 12 + data.length);
  return record;
}

/** CRC-32C, rotated and offset so that a crc of data that contains crcs stays useful. */
export function maskedCrc(bytes: Uint8Array): number {
  const crc = crc32c(bytes);
  return (((crc >>> 15) | (crc << 17)) + 0xa282ead8) >>> 0;
}

// Field numbers of the messages; names as in the .proto files.
const Event = { wallTime: 1, step: 2, fileVersion: 3, summary: 5, sessionLog: 7, sourceMetadata: 10 } as const;
const Value = { tag: 1, simpleValue: 2, tensor: 8, metadata: 9 } as const;
const Tensor = { dtype: 1, shape: 2, stringValue: 8 } as const;
const DT_STRING = 7;
const SESSION_START = 1;

function scalarValue(name: string, value: number): Uint8Array {
  return message(bytesField(Value.tag, name), floatField(Value.simpleValue, value));
}

function textValue(name: string, text: string): Uint8Array {
  const shape = message(bytesField(2, integerField(1, 1)));
  const tensor = message(
    integerField(Tensor.dtype, DT_STRING),
    bytesField(Tensor.shape, shape),
    bytesField(Tensor.stringValue, text),
  );
  // SummaryMetadata.plugin_data.plugin_name
  const metadata = bytesField(1, bytesField(1, 'text'));
  return message(
    bytesField(Value.tag, `${name}/text_summary`),
    bytesField(Value.tensor, tensor),
    bytesField(Value.metadata, metadata),
  );
}

// ---------------------------------------------------------------------------------------------- names

const MONTHS = ['Jan', 'Feb', 'Mar', 'Apr', 'May', 'Jun', 'Jul', 'Aug', 'Sep', 'Oct', 'Nov', 'Dec'];

/**
 * Where a run's events belong: `TENSORBOARD_LOGGING_DIR`, else `<outputDir>/runs/Jun07_09-05-03_<host>` (local time).
 */
export function tensorboardDir(
  outputDir: string,
  options: { now?: Date; host?: string; env?: NodeJS.ProcessEnv } = {},
): string {
  const { now = new Date(), host = hostname(), env = process.env } = options;
  if (env.TENSORBOARD_LOGGING_DIR) return env.TENSORBOARD_LOGGING_DIR;
  const two = (value: number): string => String(value).padStart(2, '0');
  const time = [now.getHours(), now.getMinutes(), now.getSeconds()].map(two).join('-');
  return join(outputDir, 'runs', `${MONTHS[now.getMonth()]}${two(now.getDate())}_${time}_${host}`);
}

/** `eval_loss` to `eval/loss`, `test_loss` to `test/loss`, all others to `train/...`. */
export function scalarTag(key: string): string {
  if (key.startsWith('eval_')) return `eval/${key.slice(5)}`;
  if (key.startsWith('test_')) return `test/${key.slice(5)}`;
  return `train/${key}`;
}

// ---------------------------------------------------------------------------------------------- writer

export interface EventWriterOptions {
  /** Folder of the event file; created if missing. */
  dir: string;
  /** Step from which an earlier run's events are void: the step a resumed run starts at. */
  purgeStep?: number;
  host?: string;
  pid?: number;
  /** Milliseconds since 1970; injectable for tests. */
  now?: () => number;
}

// Distinguishes writers that one process opens within a second.
let writersOpened = 0;

/** Appends events to one new file. All methods are synchronous; a failed write throws LatheError ERR_CHECKPOINT. */
export class EventWriter {
  readonly path: string;
  #file: number | undefined;
  #now: () => number;

  constructor(options: EventWriterOptions) {
    const { dir, purgeStep, host = hostname(), pid = process.pid, now = Date.now } = options;
    this.#now = now;
    const seconds = String(Math.floor(now() / 1000)).padStart(10, '0');
    this.path = join(dir, `events.out.tfevents.${seconds}.${host}.${pid}.${writersOpened++}`);
    try {
      mkdirSync(dir, { recursive: true });
      this.#file = openSync(this.path, 'wx');
    } catch (error) {
      throw toIoError(error, 'create the event file', this.path);
    }
    this.#append(
      bytesField(Event.fileVersion, 'brain.Event:2'),
      bytesField(Event.sourceMetadata, bytesField(1, 'lathe')),
    );
    if (purgeStep !== undefined)
      this.#append(
        integerField(Event.step, checkStep(purgeStep)),
        bytesField(Event.sessionLog, integerField(1, SESSION_START)),
      );
  }

  /** One point. NaN and infinities are written as they are; TensorBoard marks them. */
  writeScalar(name: string, value: number, step: number): void {
    this.#writeSummary([scalarValue(name, value)], step);
  }

  /** Markdown text, shown in the Text tab under `name`. */
  writeText(name: string, text: string, step = 0): void {
    this.#writeSummary([textValue(name, text)], step);
  }

  /**
   * One log entry: its numbers as scalars under `scalarTag`, in one event.
   * @returns the keys that were dropped because their values are no numbers
   */
  writeLog(entry: Readonly<Record<string, unknown>>, step: number): string[] {
    const numbers = Object.entries(entry).filter((pair): pair is [string, number] => typeof pair[1] === 'number');
    if (numbers.length > 0)
      this.#writeSummary(
        numbers.map(([key, value]) => scalarValue(scalarTag(key), value)),
        step,
      );
    return Object.keys(entry).filter((key) => typeof entry[key] !== 'number');
  }

  /** Closes the file; later writes are errors, a second close is not. */
  close(): void {
    if (this.#file !== undefined) closeSync(this.#file);
    this.#file = undefined;
  }

  #writeSummary(values: Uint8Array[], step: number): void {
    const summary = message(...values.map((value) => bytesField(1, value)));
    this.#append(integerField(Event.step, checkStep(step)), bytesField(Event.summary, summary));
  }

  #append(...fields: Uint8Array[]): void {
    if (this.#file === undefined) {
      throw new LatheError('ERR_CONFIG', 'expected an open event writer, received a closed one', {
        at: this.path,
        remedy: 'write before close()',
      });
    }
    const record = frameRecord(message(doubleField(Event.wallTime, this.#now() / 1000), ...fields));
    try {
      for (let done = 0; done < record.length;) done += writeSync(this.#file, record, done);
    } catch (error) {
      throw toIoError(error, 'append to the event file', this.path);
    }
  }
}

function checkStep(step: number): number {
  if (!Number.isSafeInteger(step) || step < 0) {
    throw new LatheError('ERR_CONFIG', `expected a step that is a non-negative integer, received ${step}`, {
      at: 'event step',
      remedy: 'log with the global step',
    });
  }
  return step;
}
