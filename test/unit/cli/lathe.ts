/** Runs a command in this process: what it printed and threw. */
import { CommanderError, type Command } from 'commander';
import { program } from '../../../src/cli/main';

export interface Result {
  out: string;
  err: string;
  error?: Error & { code?: string };
}

/** Runs `lathe ...args`; commander throws instead of ending the process. */
export async function lathe(...args: string[]): Promise<Result> {
  const result: Result = { out: '', err: '' };
  const take = (stream: NodeJS.WriteStream, key: 'out' | 'err'): (() => void) => {
    const spy = jest.spyOn(stream, 'write').mockImplementation((chunk: unknown) => {
      result[key] += String(chunk);
      return true;
    });
    return () => spy.mockRestore();
  };
  const restore = [take(process.stdout, 'out'), take(process.stderr, 'err')];
  const log = jest
    .spyOn(console, 'log')
    .mockImplementation((line: unknown) => void (result.out += `${String(line)}\n`));
  try {
    const lines = program();
    const all = (c: Command): Command[] => [c, ...c.commands.flatMap(all)];
    for (const command of all(lines)) command.exitOverride();
    await lines.parseAsync(['node', 'lathe', ...args]);
  } catch (error) {
    if (!(error instanceof CommanderError && error.exitCode === 0)) result.error = error as Error;
  } finally {
    restore.forEach((undo) => undo());
    log.mockRestore();
  }
  return result;
}

/** As `lathe`, for what must work. */
export async function output(...args: string[]): Promise<string> {
  const { out, error } = await lathe(...args);
  if (error) throw error;
  return out;
}
