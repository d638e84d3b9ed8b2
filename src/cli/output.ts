/** How commands talk to people: one place for colours, tables and errors. */
import { formatBytes } from '../errors';
import { toIoError } from '../io/io-error';
import { hasNative, loadNative } from '../runtime/binding';
import { sameDevice } from '../runtime/device';

const colored = (stream: NodeJS.WriteStream): boolean => stream.isTTY === true && !process.env.NO_COLOR;

export const style = {
  bold: (s: string): string => (colored(process.stdout) ? `\u001b[1m${s}\u001b[22m` : s),
  dim: (s: string): string => (colored(process.stdout) ? `\u001b[2m${s}\u001b[22m` : s),
  red: (s: string): string => (colored(process.stderr) ? `\u001b[31m${s}\u001b[39m` : s),
  yellow: (s: string): string => (colored(process.stderr) ? `\u001b[33m${s}\u001b[39m` : s),
};

let silent = false;

/** Of several processes of a job, only the first talks. Errors are still reported. */
export function silence(): void {
  silent = true;
}

export function say(line = ''): void {
  if (silent) return;
  process.stdout.write(`${line}\n`);
}

export function warn(message: string): void {
  if (silent) return;
  process.stderr.write(`${style.yellow('note')}: ${message}\n`);
}

/** One line for people; the stack only when asked for with LATHE_DEBUG. */
export function reportError(thrown: unknown): void {
  const { path, syscall } = thrown as NodeJS.ErrnoException;
  // A system error that nobody has put into words.
  const error = path && syscall ? toIoError(thrown, syscall === 'mkdir' ? 'create' : syscall, path) : thrown;
  const e = error as { code?: string; message?: string; stack?: string };
  const code = typeof e.code === 'string' ? `[${e.code}]` : '';
  process.stderr.write(`${style.red(`error${code}`)}: ${e.message ?? String(error)}\n`);
  if (process.env.LATHE_DEBUG || !code) process.stderr.write(`${e.stack ?? ''}\n`);
}

export const gib = formatBytes;

/** `cpu`, or `cuda:0 (NVIDIA H200)`: a GPU with what its driver calls it. */
export function describeDevice(device: string): string {
  if (device === 'cpu' || !hasNative()) return device;
  const found = loadNative()
    .devices()
    .find((d) => sameDevice(d.device, device));
  return found ? `${device} (${found.name})` : device;
}

/** `1 h 02 m`, `3 m 04 s`, `12 s` */
export function duration(seconds: number): string {
  const s = Math.max(0, Math.round(seconds));
  if (s >= 3600) return `${Math.floor(s / 3600)} h ${String(Math.floor((s % 3600) / 60)).padStart(2, '0')} m`;
  if (s >= 60) return `${Math.floor(s / 60)} m ${String(s % 60).padStart(2, '0')} s`;
  return `${s} s`;
}
