/**
 * Runs generated Python programs one at a time in a process that is held on all sides, and says how each ended.
 *
 * `Sandbox.open` finds the interpreter and proves that verdicts mean something: a program that must pass passes, one that
 * must fail fails. `run` starts a fresh process for every program: own folder, time, memory, output and disk limits, and
 * whatever isolation the machine allows (see sandbox-runner.ts). At the end the whole process group is killed.
 *
 * Invariants: `failed` and `timed out` are verdicts on the program; `could not run` is one on this machine and never counts
 * against the program. A program passes only if the runner says so after its last line, before the time is over.
 */
import { execFile, spawn, type ChildProcess } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { mkdtemp, rm } from 'node:fs/promises';
import { constants, tmpdir } from 'node:os';
import { join } from 'node:path';
import { promisify } from 'node:util';
import type { Readable } from 'node:stream';
import { LatheError, formatBytes } from '../errors';
import { SANDBOX_RUNNER, type SandboxJob } from './sandbox-runner';

export type Outcome = 'passed' | 'failed' | 'timed out' | 'could not run';

export interface RunResult {
  readonly outcome: Outcome;
  /** Why: the exception, the signal, the limit; '' when passed. */
  readonly detail: string;
  /** Wall time of the program itself; 0 when it never began. */
  readonly seconds: number;
}

/** What a program may use. */
export interface SandboxLimits {
  /** Wall time. Default 3. */
  readonly timeoutSeconds?: number;
  /** Address space. Default 1 GiB. */
  readonly memoryBytes?: number;
  /** Standard output and error together. Default 1 MiB. */
  readonly outputBytes?: number;
  /** Files in its folder. Default 64 MiB. */
  readonly diskBytes?: number;
  /** Processes and threads. Default 16. */
  readonly processes?: number;
}

export interface SandboxOptions extends SandboxLimits {
  /** Default `python3`. */
  readonly python?: string;
  /** false leaves a layer out, for tests of the other. */
  readonly namespaces?: boolean;
  readonly guard?: boolean;
}

/** What the kernel keeps away from programs, and why not the rest. */
export interface Isolation {
  readonly isolated: readonly string[];
  readonly why: string | null;
  /** Limits that could not be set. */
  readonly refused: readonly string[];
}

/** Seconds a process gets to come up, on a machine that may be busy. */
const START_SECONDS = 30;

const run = promisify(execFile);

export class Sandbox {
  private constructor(
    readonly python: string,
    readonly version: string,
    readonly isolation: Isolation,
    private readonly limits: Required<SandboxLimits>,
    private readonly layers: { namespaces: boolean; guard: boolean },
  ) {}

  /** @throws LatheError ERR_UNSUPPORTED when programs cannot be run here at all */
  static async open(o: SandboxOptions = {}): Promise<Sandbox> {
    const { python, version } = await findPython(o.python ?? 'python3');
    const limits = {
      timeoutSeconds: o.timeoutSeconds ?? 3,
      memoryBytes: o.memoryBytes ?? 2 ** 30,
      outputBytes: o.outputBytes ?? 2 ** 20,
      diskBytes: o.diskBytes ?? 64 * 2 ** 20,
      processes: o.processes ?? 16,
    };
    const layers = { namespaces: o.namespaces ?? true, guard: o.guard ?? true };
    const first = new Execution(python, 'assert 1 + 1 == 2', { ...limits, timeoutSeconds: START_SECONDS }, layers);
    expectProbe(python, 'a program that must pass', await first.result(), 'passed');
    const sandbox = new Sandbox(python, version, first.isolation!, limits, layers);
    expectProbe(python, 'a program that must fail', await sandbox.run('assert 1 + 1 == 3', START_SECONDS), 'failed');
    return sandbox;
  }

  /** Runs one program, tests included. Never rejects for what the program does. */
  run(program: string, timeoutSeconds = this.limits.timeoutSeconds): Promise<RunResult> {
    return new Execution(this.python, program, { ...this.limits, timeoutSeconds }, this.layers).result();
  }

  /** One or two sentences on how well programs are kept apart from this machine. */
  describe(): string {
    const { isolated, why, refused } = this.isolation;
    const missing = ['network', 'processes', 'files'].filter((part) => !isolated.includes(part));
    const limits = refused.length ? ` Limits that this machine refuses: ${refused.join(', ')}.` : '';
    if (missing.length === 0)
      return `Programs run without network, in a process table of their own, and of this machine's files see only /usr and Python, read-only.${limits}`;
    const kept = isolated.length ? ` The kernel keeps away: ${isolated.join(', ')}.` : '';
    return `This machine does not let programs be shut off from its ${missing.join(', ')} (${why}): a check inside of the Python process refuses that, which stops accidents and not an attacker. Use a container or a virtual machine for models you do not trust.${kept}${limits}`;
  }
}

async function findPython(name: string): Promise<{ python: string; version: string }> {
  const remedy = 'install Python 3.8 or later, or name it with --python';
  const script =
    'import json, platform, sys; print(json.dumps([sys.executable, platform.python_version(), sys.version_info >= (3, 8)]))';
  const { stdout } = await run(name, ['-c', script], { timeout: START_SECONDS * 1000 }).catch((cause: unknown) => {
    throw new LatheError(
      'ERR_UNSUPPORTED',
      `cannot run Python programs: '${name}' does not start (${firstLine((cause as Error).message)})`,
      { remedy, cause },
    );
  });
  const [python, version, enough] = JSON.parse(stdout) as [string, string, boolean];
  if (!enough)
    throw new LatheError('ERR_UNSUPPORTED', `expected Python 3.8 or later, received ${version}`, {
      at: python,
      remedy,
    });
  return { python, version };
}

function expectProbe(python: string, what: string, result: RunResult, expected: Outcome): void {
  if (result.outcome === expected) return;
  throw new LatheError(
    'ERR_UNSUPPORTED',
    `cannot run generated code: ${what} gave '${result.outcome}${result.detail && `: ${result.detail}`}'`,
    {
      at: python,
      remedy: 'check the interpreter, free memory and free space in the folder for temporary files',
    },
  );
}

const firstLine = (text: string): string => text.trim().split('\n')[0];

type Ending = Pick<RunResult, 'outcome' | 'detail'>;

/** One process, from start to verdict. */
class Execution {
  isolation: Isolation | null = null;
  private readonly token = randomBytes(16).toString('hex');
  private child: ChildProcess | null = null;
  private timer: NodeJS.Timeout | null = null;
  private startedAt = 0;
  private outputBytes = 0;
  private stderr = '';
  private settle: (ending: Ending) => void = () => undefined;

  constructor(
    private readonly python: string,
    private readonly program: string,
    private readonly limits: Required<SandboxLimits>,
    private readonly layers: { namespaces: boolean; guard: boolean },
  ) {}

  async result(): Promise<RunResult> {
    let folder: string;
    try {
      folder = await mkdtemp(join(tmpdir(), 'lathe-sandbox-'));
    } catch (cause) {
      return { outcome: 'could not run', detail: (cause as Error).message, seconds: 0 };
    }
    try {
      const ending = await this.execute(folder).catch((error: Error): Ending => ({
        outcome: 'could not run',
        detail: error.message,
      }));
      return { ...ending, seconds: this.startedAt ? (performance.now() - this.startedAt) / 1000 : 0 };
    } finally {
      this.end();
      await rm(folder, { recursive: true, force: true, maxRetries: 3 }).catch(() => undefined);
    }
  }

  private execute(folder: string): Promise<Ending> {
    return new Promise<Ending>((resolve) => {
      this.settle = resolve;
      const env = {
        PATH: '/usr/local/bin:/usr/bin:/bin',
        LANG: 'C.UTF-8',
        PYTHONHASHSEED: '0',
        OMP_NUM_THREADS: '1',
        HOME: folder,
        TMPDIR: folder,
      };
      // detached: a process group of its own, so that all of it can be killed.
      const child = (this.child = spawn(this.python, ['-s', '-B', '-c', SANDBOX_RUNNER], {
        cwd: folder,
        env,
        detached: true,
        stdio: ['pipe', 'pipe', 'pipe', 'pipe'],
      }));
      const broken = (error: Error): void => this.couldNotRun(error.message);
      child.on('error', broken);
      for (const stream of child.stdio) stream?.on('error', () => undefined);
      child.stdout.on('data', (bytes: Buffer) => this.takeOutput(bytes));
      child.stderr.on('data', (bytes: Buffer) => this.takeOutput(bytes, true));
      lines(child.stdio[3] as Readable, (line) => this.takeMessage(line));
      child.on('close', (code, signal) =>
        this.couldNotRun(
          `the runner ended (${signal ?? `exit code ${code}`}) ${firstLine(this.stderr.slice(-300))}`.trim(),
        ),
      );
      this.timer = setTimeout(
        () => this.couldNotRun(`the process did not start within ${START_SECONDS} s`),
        START_SECONDS * 1000,
      );
      child.stdin.end(JSON.stringify(this.job(folder)));
    });
  }

  private job(folder: string): SandboxJob {
    const { memoryBytes, diskBytes, processes, timeoutSeconds } = this.limits;
    return {
      token: this.token,
      program: this.program,
      folder,
      memoryBytes,
      diskBytes,
      processes,
      cpuSeconds: Math.ceil(timeoutSeconds) + 1,
      ...this.layers,
    };
  }

  private takeOutput(bytes: Buffer, isError = false): void {
    this.outputBytes += bytes.length;
    if (isError) this.stderr = (this.stderr + bytes.toString('utf8')).slice(-2000);
    if (this.outputBytes > this.limits.outputBytes)
      this.settle({ outcome: 'failed', detail: `printed more than ${formatBytes(this.limits.outputBytes)}` });
  }

  private takeMessage(line: string): void {
    let message: unknown;
    try {
      message = JSON.parse(line);
    } catch {
      return;
    }
    // The program can reach the descriptor too; what it writes there does not carry the token.
    if (!Array.isArray(message) || message[0] !== this.token) return;
    const [, kind, value] = message as [string, string, unknown];
    if (kind === 'start') this.begin(value as Isolation);
    else if (kind === 'broken') this.couldNotRun(String(value));
    else if (!this.startedAt) this.couldNotRun('the runner ended before the program began');
    else if (kind === 'passed') this.settle({ outcome: 'passed', detail: '' });
    else if (kind === 'failed') this.settle({ outcome: 'failed', detail: String(value) });
    else if (kind === 'ended') this.settle(endingOf(Number(value)));
  }

  private begin(isolation: Isolation): void {
    this.isolation = isolation;
    this.startedAt = performance.now();
    clearTimeout(this.timer!);
    const { timeoutSeconds } = this.limits;
    this.timer = setTimeout(
      () => this.settle({ outcome: 'timed out', detail: `after ${timeoutSeconds} s` }),
      timeoutSeconds * 1000,
    );
  }

  private couldNotRun(detail: string): void {
    this.settle({ outcome: 'could not run', detail });
  }

  private end(): void {
    if (this.timer) clearTimeout(this.timer);
    const { child } = this;
    if (!child?.pid) return;
    try {
      process.kill(-child.pid, 'SIGKILL');
    } catch {
      // The group is gone already.
    }
    // A process that got away may hold the pipes open: nobody waits for them.
    for (const stream of child.stdio) stream?.destroy();
    child.unref();
  }
}

/** How a program ended that gave no verdict: it left by itself, or a signal took it. */
function endingOf(status: number): Ending {
  const signal = status & 0x7f;
  if (signal === constants.signals.SIGXCPU) return { outcome: 'timed out', detail: 'CPU time' };
  const name = Object.entries(constants.signals).find(([, number]) => number === signal)?.[0] ?? `signal ${signal}`;
  return {
    outcome: 'failed',
    detail: signal ? `ended by ${name}` : `exit code ${(status >> 8) & 0xff} before its tests were done`,
  };
}

/** Calls `take` with every whole line; one that grows without end is dropped. */
function lines(stream: Readable, take: (line: string) => void): void {
  let rest = '';
  stream.setEncoding('utf8').on('data', (text: string) => {
    const parts = (rest + text).split('\n');
    rest = parts.pop()!.slice(0, 1 << 16);
    parts.forEach(take);
  });
}
