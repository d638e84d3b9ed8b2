/** Devices the planner knows. Memory is what a process can use; flops and bandwidth are sustained figures, not datasheet peaks. */
import { availableParallelism, totalmem } from 'node:os';
import { LatheError, nearest } from '../errors';
import type { DeviceSpec } from '../graph/device';

const GiB = 2 ** 30;

const gpu = (name: string, memoryGiB: number, teraflops: number, gigabytesPerSecond: number): DeviceSpec => ({
  kind: 'cuda',
  name,
  memoryBytes: memoryGiB * GiB,
  threads: 1,
  flops: teraflops * 1e12,
  bandwidth: gigabytesPerSecond * 1e9,
});

/** GPUs by name: usable memory, sustained dense bf16 (fp16 on t4) FLOP/s and bytes/s. */
const GPUS: readonly DeviceSpec[] = [
  gpu('t4', 14.6, 50, 280),
  gpu('rtx4090', 23.5, 155, 930),
  gpu('a100-40', 39.4, 270, 1400),
  gpu('a100-80', 79.1, 270, 1750),
  gpu('h100', 79.1, 790, 3000),
  gpu('h200', 139.8, 790, 4300),
];

const DEVICE_NAMES = ['cpu', ...GPUS.map((d) => d.name)];

/** Threads a CPU session uses by default: LATHE_THREADS, else what the affinity mask allows. @throws LatheError ERR_CONFIG as the engine does */
export function defaultThreads(): number {
  const text = process.env.LATHE_THREADS;
  if (!text) return availableParallelism();
  const asked = Number(text);
  if (Number.isInteger(asked) && asked >= 1 && asked <= 1024) return asked;
  throw new LatheError('ERR_CONFIG', `LATHE_THREADS: expected a number from 1 to 1024, received '${text}'`, {
    remedy: 'correct or unset it',
  });
}

/** A device by name: `cpu`, `cuda`, `cuda:0` or a GPU's name. */
export function deviceSpec(name: string, threads = defaultThreads()): DeviceSpec {
  if (name === 'cpu') return { kind: 'cpu', name, memoryBytes: totalmem(), threads, flops: 0, bandwidth: 0 };
  const known = GPUS.find((d) => d.name === name);
  if (known) return known;
  if (/^cuda(:\d+)?$/.test(name))
    return { kind: 'cuda', name, memoryBytes: Infinity, threads: 1, flops: 0, bandwidth: 0 };
  const guess = nearest(name, DEVICE_NAMES);
  throw new LatheError('ERR_DEVICE', `unknown device '${name}'`, {
    remedy: `use one of ${DEVICE_NAMES.join(', ')}${guess ? ` (did you mean '${guess}'?)` : ''}`,
  });
}
