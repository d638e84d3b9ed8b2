/**
 * The typed boundary: exactly what the C++ addon exports (native/addon). Nothing outside of this folder imports
 * this. Synchronous methods throw, promises reject, with an Error whose `code` is one of our ErrorCodes.
 */
import type { DType } from '../graph/dtype';

export interface NativePort {
  name: string;
  dtype: DType;
  shape: number[];
}

/** Bytes of a file, mapped read-only. */
export interface NativeFileRange {
  path: string;
  offset: number;
  byteLength: number;
}

export type NativeArray = Float32Array | Int32Array | Uint8Array | Uint16Array;

export interface NativeProgram {
  id: number;
  name: string;
  arenaBytes: number;
  scratchBytes: number;
  nodes: number;
  inputs: NativePort[];
  outputs: NativePort[];
}

export interface NativeProfileRow {
  program: string;
  op: string;
  where: string;
  calls: number;
  ns: number;
}

export interface NativeStats {
  device: string;
  threads: number;
  stateBytes: number;
  arenaBytes: number;
  arenaHighWaterBytes: number;
  scratchBytes: number;
  constantBytes: number;
  mappedBytes: number;
  states: number;
  programs: number;
  runs: number;
  pending: number;
}

export interface NativeSession {
  defineState(slots: readonly NativePort[]): void;
  dropState(names: readonly string[]): void;
  states(): NativePort[];
  loadProgram(bytes: Uint8Array, name?: string): NativeProgram;
  releaseProgram(id: number): void;
  /** Typed arrays are copied before this returns. */
  run(
    id: number,
    bindings: Record<string, NativeArray | NativeFileRange>,
    checkFinite: boolean,
  ): Promise<Record<string, NativeArray>>;
  readState(name: string, offset?: number, byteLength?: number): Promise<Uint8Array>;
  writeState(name: string, data: NativeArray, offset?: number): Promise<void>;
  /** Every rank's bytes (as many on each) in rank order; waits for all ranks. */
  allGather(bytes: Uint8Array): Promise<Uint8Array>;
  /** The bytes of rank `root`; the others give as many. Waits for the root. */
  broadcast(bytes: Uint8Array, root: number): Promise<Uint8Array>;
  releaseFiles(): void;
  setProfiling(on: boolean): void;
  profile(): NativeProfileRow[];
  resetProfile(): void;
  stats(): NativeStats;
  /** Resolves when what was queued has run and the memory is free. */
  close(): Promise<void>;
}

export interface NativeBpeOptions {
  vocabSize: number;
  minFrequency: number;
  specialTokens: string[];
  /** Bytes that are in the vocabulary even when the text lacks them. */
  initialAlphabet: Uint8Array;
  preTokenizer: 'gpt2' | 'gpt2-digits' | 'llama3' | 'qwen2';
  /** 0: as `defaultThreads()`. */
  threads: number;
  /** Bound on the word counts; 0: none. */
  memoryCapBytes: number;
}

export interface NativeBpeResult {
  /** By id, in byte-level characters. */
  tokens: string[];
  /** By rank: ids of the left and the right part, alternating. */
  merges: Uint32Array;
  stats: { words: number; occurrences: number; prunedWords: number; prunedOccurrences: number; textBytes: number };
}

/** One call at a time: a second one while a promise is pending throws ERR_CONFIG. */
export interface NativeBpeTrainer {
  /** Texts as UTF-8, end to end, each counted by itself; copied before this returns, counted on other threads. */
  feed(utf8: Uint8Array, lengths: Uint32Array): Promise<void>;
  train(): Promise<NativeBpeResult>;
  /** How far `train` is, every 256 merges. */
  progress(): { merges: number; tokens: number };
}

export interface NativeBpeEncoderOptions {
  preTokenizer: NativeBpeOptions['preTokenizer'];
  /** The id of each byte's token. */
  byteIds: Int32Array;
  /** By rank: ids of the left part, the right part and the two together. */
  merges: Int32Array;
}

/** Several calls at once work on several threads. */
export interface NativeBpeEncoder {
  /** Texts as UTF-8, end to end, copied before this returns; their ids end to end, and how many each text has. */
  encode(utf8: Uint8Array, lengths: Uint32Array): Promise<{ ids: Int32Array; counts: Uint32Array }>;
}

export interface NativeWorld {
  rank: number;
  size: number;
  /** What carries the bytes, with its version; 'single' for a process that is alone. */
  library: string;
}

export interface NativeAddon {
  Session: new (options: { device: string; threads?: number }) => NativeSession;
  isa(): { arch: string; features: string[] };
  /** LATHE_THREADS, else the number of cores in the affinity mask. */
  defaultThreads(): number;
  /** The CPU first, then every CUDA device (`freeBytes` now, of all processes; `heldBytes` by this one's sessions). */
  devices(): { device: string; name: string; memoryBytes: number; freeBytes?: number; heldBytes?: number }[];
  /** What became of the CUDA backend's shared object; `problem` is empty when there is a device. */
  cuda(): { module: boolean; path: string; built: string; libraries: string; problem: string; kernels: string[] };
  memory(): { usedBytes: number; limitBytes: number };
  /** The ops that the CPU backend has kernels for. */
  kernels(): string[];
  /** The job that this process is a part of: rank 0 of 1 unless it joined one. */
  world(): NativeWorld;
  /** Opens the first of these MPI libraries that is there and starts it on this thread. */
  joinMpiWorld(libraries: string[], rank: number, size: number): NativeWorld;
  /** Ends MPI in order; all ranks must come here. */
  leaveWorld(): void;
  createBpeTrainer(options: NativeBpeOptions): NativeBpeTrainer;
  createBpeEncoder(options: NativeBpeEncoderOptions): NativeBpeEncoder;
  /** A regular file of this many bytes as memory, read when it is looked at; null for one of another size, or where foreign memory cannot be wrapped. */
  mapFile(path: string, bytes: number): ArrayBuffer | null;
}
