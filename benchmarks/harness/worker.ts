/**
 * A program under measurement: a child process that stays alive and works on command, so that short slices of several
 * programs can alternate.
 *
 * Protocol, one JSON object a line: we write a request to its standard input; it answers with one line that starts with
 * `@@ ` on its standard output. Its first answer, without a request, says that it is ready. Other lines it prints are
 * kept for error messages. A child that exits early is an error that shows them.
 */
import { spawn, type ChildProcessWithoutNullStreams } from 'node:child_process';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { LatheError } from '../../src/errors';
import { ROOT } from './machine';
import type { Sample } from './statistics';
import { transpiled } from './transpile';

export const ANSWER = '@@ ';

/** Answer to a request for work: one sample per repetition, and what the child wants to say besides. */
export interface WorkAnswer {
  readonly samples: readonly Sample[];
  readonly [key: string]: unknown;
}

export interface WorkerCommand {
  readonly name: string;
  readonly command: string;
  readonly args: readonly string[];
  readonly env?: Readonly<Record<string, string>>;
}

interface Waiting {
  resolve(answer: Record<string, unknown>): void;
  reject(error: Error): void;
}

/** Lines of a child's own output that an error shows. */
const KEPT_LINES = 30;

export class Worker {
  readonly name: string;
  /** Answer that came before any request. */
  readonly ready: Promise<Record<string, unknown>>;
  private readonly child: ChildProcessWithoutNullStreams;
  private readonly waiting: Waiting[] = [];
  private readonly output: string[] = [];
  private gone = false;

  constructor(command: WorkerCommand) {
    this.name = command.name;
    this.child = spawn(command.command, command.args, {
      cwd: ROOT,
      env: { ...process.env, ...command.env },
      stdio: ['pipe', 'pipe', 'pipe'],
    });
    this.ready = this.answer();
    // Whoever awaits it sees the rejection; until then it must not end the process.
    this.ready.catch(() => undefined);
    createInterface(this.child.stdout).on('line', (line) => this.receive(line));
    createInterface(this.child.stderr).on('line', (line) => this.keep(line));
    this.child.stdin.on('error', () => undefined); // the exit says more
    this.child.on('error', (error) => this.fail(`cannot start: ${error.message}`));
    this.child.on('close', (code, signal) => this.fail(`ended with ${signal ?? `status ${code}`}`));
  }

  /** Sends a request and waits for its answer. */
  async request(body: object): Promise<Record<string, unknown>> {
    await this.ready;
    const answer = this.answer();
    this.child.stdin.write(`${JSON.stringify(body)}\n`);
    return answer;
  }

  async work(body: object): Promise<WorkAnswer> {
    return (await this.request(body)) as unknown as WorkAnswer;
  }

  /** Ends the child; waits until it is gone. */
  async close(): Promise<void> {
    if (this.gone) return;
    const closed = new Promise((resolve) => this.child.once('close', resolve));
    this.child.stdin.end();
    const late = setTimeout(() => this.child.kill('SIGKILL'), 10_000);
    await closed;
    clearTimeout(late);
  }

  private answer(): Promise<Record<string, unknown>> {
    if (this.gone) return Promise.reject(new LatheError('ERR_PROGRAM', `[${this.name}] has ended`));
    return new Promise((resolve, reject) => this.waiting.push({ resolve, reject }));
  }

  private receive(line: string): void {
    if (!line.startsWith(ANSWER)) {
      this.keep(line);
      return;
    }
    const answer = JSON.parse(line.slice(ANSWER.length)) as Record<string, unknown>;
    const next = this.waiting.shift();
    if (typeof answer.error === 'string') next?.reject(new LatheError('ERR_PROGRAM', `[${this.name}] ${answer.error}`));
    else next?.resolve(answer);
  }

  private keep(line: string): void {
    this.output.push(line);
    if (this.output.length > KEPT_LINES) this.output.shift();
  }

  private fail(what: string): void {
    this.gone = true;
    const error = new LatheError(
      'ERR_PROGRAM',
      `[${this.name}] ${what}${this.output.length ? `; it said:\n  ${this.output.join('\n  ')}` : ''}`,
    );
    for (const w of this.waiting.splice(0)) w.reject(error);
  }
}

/** Environment of a child of ours: the addon of this repository, and where the repository is. */
function childEnvironment(): Record<string, string> {
  return {
    LATHE_BENCH_ROOT: ROOT,
    LATHE_ADDON_PATH: process.env.LATHE_ADDON_PATH ?? join(ROOT, 'build', 'Release', 'lathe.node'),
  };
}

/** A Node child from a source file of this repository; `config` arrives in `serve`. */
export function nodeWorker(name: string, source: string, config: object, nodeFlags: readonly string[] = []): Worker {
  return new Worker({
    name,
    command: process.execPath,
    args: [...nodeFlags, transpiled(source), JSON.stringify(config)],
    env: childEnvironment(),
  });
}
