/**
 * Flags of the benchmark commands: `--name value`, `--name=value` or a bare `--name`, nothing positional.
 *
 * Every command declares its flags once; `--help` prints them and an unknown one is an error that suggests the nearest.
 */
import { LatheError, nearest } from '../../src/errors';

export interface Flag {
  readonly help: string;
  /** Name of the value in the help; without it the flag takes none. */
  readonly value?: string;
}

export type Flags<K extends string> = Readonly<Partial<Record<K, string>>>;

/** Prints the help and exits when asked for it. @throws LatheError ERR_CONFIG for a flag that does not exist */
export function parseFlags<K extends string>(
  command: string,
  about: string,
  known: Readonly<Record<K, Flag>>,
  argv: readonly string[],
): Flags<K> {
  const found: Partial<Record<K, string>> = {};
  for (let i = 0; i < argv.length; i++) {
    const [, name, inline] = /^--([a-z0-9-]+)(?:=(.*))?$/s.exec(argv[i]) ?? [];
    if (name === 'help') {
      console.log(helpText(command, about, known));
      process.exit(0);
    }
    if (name === undefined || !Object.hasOwn(known, name)) throw unknownFlag(command, argv[i], Object.keys(known));
    const flag = known[name as K];
    if (!flag.value && inline !== undefined)
      throw new LatheError('ERR_CONFIG', `[${command}] --${name} takes no value, received '${inline}'`);
    const value = flag.value ? (inline ?? argv[++i]) : 'true';
    if (value === undefined)
      throw new LatheError('ERR_CONFIG', `[${command}] --${name} expected ${flag.value}, received nothing`);
    found[name as K] = value;
  }
  return found;
}

function unknownFlag(command: string, received: string, known: readonly string[]): LatheError {
  const guess = nearest(received.replace(/^-+/, ''), known);
  return new LatheError('ERR_CONFIG', `[${command}] expected a flag, received '${received}'`, {
    remedy: guess ? `did you mean --${guess}? --help lists them` : '--help lists them',
  });
}

function helpText(command: string, about: string, known: Readonly<Record<string, Flag>>): string {
  const rows = Object.entries(known).map(
    ([name, { help, value }]) => `  ${`--${name}${value ? ` ${value}` : ''}`.padEnd(26)} ${help}`,
  );
  return [`${command}: ${about}`, '', ...rows].join('\n');
}

/** A flag as a number in a range. @throws LatheError ERR_CONFIG */
export function numberFlag(
  flags: Readonly<Record<string, string | undefined>>,
  name: string,
  fallback: number,
  low = 1,
): number {
  const text = flags[name];
  if (text === undefined) return fallback;
  const value = Number(text);
  if (Number.isFinite(value) && value >= low) return value;
  throw new LatheError('ERR_CONFIG', `--${name} expected a number of at least ${low}, received '${text}'`);
}

/** A comma-separated flag as a list out of `known`. @throws LatheError ERR_CONFIG */
export function listFlag<T extends string>(
  flags: Readonly<Record<string, string | undefined>>,
  name: string,
  known: readonly T[],
  fallback: readonly T[],
): readonly T[] {
  const text = flags[name];
  if (text === undefined) return fallback;
  return text.split(',').map((item) => {
    const match = known.find((k) => k === item.trim());
    if (match) return match;
    throw new LatheError('ERR_CONFIG', `--${name} expected some of ${known.join(', ')}, received '${item}'`);
  });
}

/** Runs a command's main and prints a LatheError as one line instead of a stack. */
export function runMain(main: () => Promise<void>): void {
  let settled = false;
  // Node ends quietly when nothing is left to wait for; half a benchmark must not look like a whole one.
  process.on('exit', () => {
    if (settled || process.exitCode !== undefined) return;
    console.error('error: ended before the benchmark was done');
    process.exitCode = 1;
  });
  main()
    .catch((error: unknown) => {
      const expected =
        typeof (error as { code?: unknown } | null)?.code === 'string' &&
        (error as { code: string }).code.startsWith('ERR_');
      console.error(expected ? `error: ${(error as Error).message}` : error);
      process.exitCode = 1;
    })
    .finally(() => (settled = true));
}
