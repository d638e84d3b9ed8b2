/**
 * Session: the only owner of bytes. It holds state slots, loaded programs, and the arena and scratch that they share,
 * and runs programs on an engine thread of its own.
 *
 * Calls are queued and take effect in call order, so a caller never needs to await one run before submitting the next.
 * What `run` and `writeState` are given is copied before they return; results are fresh arrays.
 */
import type { DType } from '../graph/dtype';
import { convertErrors, loadNative, toLatheError } from './binding';
import type { NativeSession } from './native';

export interface SessionOptions {
  /** Where programs run: `'cpu'`, `'cuda'` or `'cuda:1'`. Default `'cpu'`. */
  device?: string;
  /** Engine threads, 1 to 1024. Default: LATHE_THREADS, else the cores that this process may use. */
  threads?: number;
}

/** A state slot, or an input or output of a program. */
export interface TensorSpec {
  name: string;
  dtype: DType;
  shape: readonly number[];
}

/** Bytes of a file, bound to an input without being copied. */
export interface FileRange {
  path: string;
  offset: number;
  byteLength: number;
}

/** f32: Float32Array, i32: Int32Array, u8: Uint8Array, bf16 and f16: Uint16Array of the bit patterns. */
export type TensorArray = Float32Array | Int32Array | Uint8Array | Uint16Array;

export interface ProgramHandle {
  readonly id: number;
  readonly name: string;
  readonly arenaBytes: number;
  readonly scratchBytes: number;
  readonly nodes: number;
  readonly inputs: readonly TensorSpec[];
  readonly outputs: readonly TensorSpec[];
}

export interface RunOptions {
  /** Scan every node's outputs and reject with ERR_NONFINITE, naming the node, at the first NaN or infinity. */
  checkFinite?: boolean;
}

export interface ProfileRow {
  program: string;
  op: string;
  /** Module path, as the program recorded it. */
  where: string;
  calls: number;
  ns: number;
}

export interface SessionStats {
  device: string;
  threads: number;
  stateBytes: number;
  /** Allocated for the largest loaded program. */
  arenaBytes: number;
  /** One past the last arena byte that any run has used so far. */
  arenaHighWaterBytes: number;
  scratchBytes: number;
  constantBytes: number;
  mappedBytes: number;
  states: number;
  programs: number;
  /** Runs finished, whether well or not. */
  runs: number;
  /** Calls submitted and not finished. */
  pending: number;
}

export class Session {
  readonly #native: NativeSession;

  private constructor(native: NativeSession) {
    this.#native = native;
  }

  /** Starts the engine. Throws ERR_NATIVE_LOAD, ERR_CONFIG (threads) or ERR_DEVICE. */
  static create(options: SessionOptions = {}): Session {
    const addon = loadNative();
    const { device = 'cpu', threads } = options;
    return new Session(convertErrors(() => new addon.Session({ device, threads })));
  }

  /**
   * Allocates zero-filled slots. A slot that exists with the same dtype and shape keeps its contents.
   * All or nothing; throws ERR_PROGRAM (another type), ERR_PLAN_MEMORY.
   */
  defineState(slots: readonly TensorSpec[]): void {
    convertErrors(() =>
      this.#native.defineState(slots.map(({ name, dtype, shape }) => ({ name, dtype, shape: [...shape] }))),
    );
  }

  /** Frees slots. Throws ERR_PROGRAM when a loaded program uses one, or when one does not exist. */
  dropState(names: readonly string[]): void {
    convertErrors(() => this.#native.dropState(names));
  }

  /** The slots, by name. */
  states(): TensorSpec[] {
    return convertErrors(() => this.#native.states());
  }

  /** Decodes, validates and prepares a program; its state must be defined. Throws ERR_PROGRAM, ERR_PLAN_MEMORY. */
  loadProgram(bytes: Uint8Array, name?: string): ProgramHandle {
    return convertErrors(() => this.#native.loadProgram(bytes, name));
  }

  /** Forgets a program. Runs already queued still happen. */
  releaseProgram(program: ProgramHandle): void {
    convertErrors(() => this.#native.releaseProgram(program.id));
  }

  /**
   * Runs a program: every input must be bound, by a typed array of its dtype or by a file range. Resolves to its
   * outputs. Rejects with ERR_PROGRAM (names), ERR_DTYPE, ERR_SHAPE (sizes), ERR_DATA (files), ERR_NONFINITE.
   * State that a failed run had already updated stays updated.
   */
  async run(
    program: ProgramHandle,
    bindings: Record<string, TensorArray | FileRange> = {},
    options: RunOptions = {},
  ): Promise<Record<string, TensorArray>> {
    return settle(() => this.#native.run(program.id, bindings, options.checkFinite ?? false));
  }

  /** The bytes of a slot, or of a part of it; at most 4 GiB in one call. */
  async readState(name: string, range: { offset?: number; byteLength?: number } = {}): Promise<Uint8Array> {
    return settle(() => this.#native.readState(name, range.offset, range.byteLength));
  }

  /** Overwrites a slot; with `offset`, a part of it. `data` is bytes, or an array of the slot's dtype. */
  async writeState(name: string, data: TensorArray, range: { offset?: number } = {}): Promise<void> {
    return settle(() => this.#native.writeState(name, data, range.offset));
  }

  /**
   * Every rank's bytes in rank order, on every rank; all give as many, and all make the same exchanges in the same order.
   * Runs in turn with programs. Rejects with ERR_DEVICE when a rank or the network is gone.
   */
  async allGather(bytes: Uint8Array): Promise<Uint8Array> {
    return settle(() => this.#native.allGather(bytes));
  }

  /** The bytes that rank `root` gives, on every rank; the others give as many. See `allGather`. */
  async broadcast(bytes: Uint8Array, root: number): Promise<Uint8Array> {
    return settle(() => this.#native.broadcast(bytes, root));
  }

  /** What loading weights leaves behind: unmaps files that earlier runs had bound, and gives back working memory that no loaded program needs. */
  releaseFiles(): void {
    convertErrors(() => this.#native.releaseFiles());
  }

  /** Time per node, from the next run on. */
  setProfiling(on: boolean): void {
    convertErrors(() => this.#native.setProfiling(on));
  }

  /** Accumulated times of the loaded programs, one row per (program, op, module path). */
  profile(): ProfileRow[] {
    return convertErrors(() => this.#native.profile());
  }

  resetProfile(): void {
    convertErrors(() => this.#native.resetProfile());
  }

  stats(): SessionStats {
    return convertErrors(() => this.#native.stats());
  }

  /** Lets queued calls finish, then frees everything. Later calls fail with ERR_DEVICE; closing twice is harmless. */
  async close(): Promise<void> {
    return settle(() => this.#native.close());
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close();
  }
}

async function settle<T>(call: () => Promise<T>): Promise<T> {
  try {
    return await call();
  } catch (error) {
    throw toLatheError(error);
  }
}
