/** The child's side of worker.ts: answers requests one after another until its input ends. */
import { readFileSync } from 'node:fs';
import { createInterface } from 'node:readline';
import type { Sample } from './statistics';
import { ANSWER } from './worker';

/** The configuration the parent started this process with. */
export function givenConfig<T>(): T {
  return JSON.parse(process.argv[2]) as T;
}

function say(answer: object): void {
  process.stdout.write(`${ANSWER}${JSON.stringify(answer)}\n`);
}

/** Says `ready`, then answers; an error of the handler is an answer too. Resolves when the parent is done. */
export async function serve(
  ready: object,
  handle: (request: Record<string, unknown>) => Promise<object>,
): Promise<void> {
  say(ready);
  for await (const line of createInterface(process.stdin)) {
    try {
      say(await handle(JSON.parse(line) as Record<string, unknown>));
    } catch (error) {
      say({ error: error instanceof Error ? (error.stack ?? error.message) : String(error) });
    }
  }
}

/** Times `work` by wall and by the CPU time of all threads of this process. */
export async function timed(work: () => Promise<unknown>): Promise<Sample> {
  const cpu = process.cpuUsage();
  const start = process.hrtime.bigint();
  await work();
  const wallMs = Number(process.hrtime.bigint() - start) / 1e6;
  const { user, system } = process.cpuUsage(cpu);
  return { wallMs, cpuMs: (user + system) / 1e3 };
}

/**
 * Largest resident set of this process in bytes. Not getrusage's: its maximum survives exec, so a child would report at
 * least what its parent had.
 */
export function peakResidentBytes(): number {
  try {
    const kib = /^VmHWM:\s+(\d+) kB$/m.exec(readFileSync('/proc/self/status', 'utf8'))?.[1];
    if (kib) return Number(kib) * 1024;
  } catch {
    // not Linux
  }
  return process.resourceUsage().maxRSS * 1024;
}
