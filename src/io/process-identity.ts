/**
 * Who a process is, across pid reuse: a pid and, on Linux, the time the kernel started it.
 */
import { readFileSync } from 'node:fs';
import { systemCode } from './io-error';

/** True unless this host has no such process. */
export function isProcessAlive(pid: number): boolean {
  if (!Number.isSafeInteger(pid) || pid <= 0) return false;
  try {
    process.kill(pid, 0);
    return true;
  } catch (error) {
    // EPERM: it exists and belongs to somebody else.
    return systemCode(error) !== 'ESRCH';
  }
}

/** Field 22 of /proc/<pid>/stat (clock ticks since boot) with the boot id, or null where there is no /proc. */
export function processStartTime(pid: number): string | null {
  try {
    const stat = readFileSync(`/proc/${pid}/stat`, 'utf8');
    // The command name may contain spaces and parentheses: count fields after the last one.
    const startTicks = stat.slice(stat.lastIndexOf(')') + 2).split(' ')[19];
    const bootId = readFileSync('/proc/sys/kernel/random/boot_id', 'utf8').trim();
    return `${bootId}:${startTicks}`;
  } catch {
    return null;
  }
}
