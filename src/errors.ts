/**
 * LatheError: the one error type this package throws on purpose.
 *
 * A message always answers four questions in one sentence form:
 *   `[where] expected, received: at path (file:line): what to do`
 * and carries a stable `code`. Callers match on `err.code`, never on `instanceof`
 * (an error may come from another copy of the package, a worker or the addon).
 */

export type ErrorCode =
  | 'ERR_SHAPE'
  | 'ERR_DTYPE'
  | 'ERR_TRACE'
  | 'ERR_CONFIG'
  | 'ERR_DATA'
  | 'ERR_FORMAT'
  | 'ERR_UNSUPPORTED'
  | 'ERR_PLAN_MEMORY'
  | 'ERR_PROGRAM'
  | 'ERR_DEVICE'
  | 'ERR_NATIVE_LOAD'
  | 'ERR_CHECKPOINT'
  | 'ERR_NONFINITE';

export interface LatheErrorOptions {
  /** Where in a file, row, key or module path the problem sits, e.g. `train.yaml:3:10` or `model.layers.0.mlp`. */
  at?: string;
  /** What the user can do about it; an imperative clause. */
  remedy?: string;
  cause?: unknown;
}

export class LatheError extends Error {
  override readonly name = 'LatheError';
  readonly code: ErrorCode;
  readonly at?: string;
  readonly remedy?: string;

  constructor(code: ErrorCode, message: string, options: LatheErrorOptions = {}) {
    const at = options.at ? ` (at ${options.at})` : '';
    const remedy = options.remedy ? `: ${options.remedy}` : '';
    super(`${message}${at}${remedy}`, options.cause === undefined ? undefined : { cause: options.cause });
    this.code = code;
    this.at = options.at;
    this.remedy = options.remedy;
  }
}

/** The same error with a place, when it is ours and has none. */
export function withPlace(error: unknown, at: string): unknown {
  if (!(error instanceof LatheError) || error.at || !at) return error;
  const { code, remedy } = error;
  const message = remedy ? error.message.slice(0, -`: ${remedy}`.length) : error.message;
  return new LatheError(code, message, { at, remedy, cause: error });
}

/** True when `error` carries one of our codes, whichever realm or process made it. */
export function hasCode(error: unknown, code: ErrorCode): boolean {
  return typeof error === 'object' && error !== null && (error as { code?: unknown }).code === code;
}

/** `[2, 512, 576]` */
export function formatShape(shape: readonly number[]): string {
  return `[${shape.join(', ')}]`;
}

/** Binary units, three significant digits: `1.42 GiB`. */
export function formatBytes(bytes: number): string {
  const units = ['B', 'KiB', 'MiB', 'GiB', 'TiB'];
  let value = bytes;
  let unit = 0;
  while (Math.abs(value) >= 1024 && unit < units.length - 1) {
    value /= 1024;
    unit++;
  }
  const digits = unit === 0 ? 0 : Math.abs(value) >= 100 ? 0 : Math.abs(value) >= 10 ? 1 : 2;
  return `${value.toFixed(digits)} ${units[unit]}`;
}

/** The nearest of `candidates` to `word`, or undefined when none is close enough to be a plausible typo. */
export function nearest(word: string, candidates: Iterable<string>): string | undefined {
  let best: string | undefined;
  let bestDistance = Math.max(2, Math.floor(word.length / 3)) + 1;
  for (const candidate of candidates) {
    const distance = editDistance(word.toLowerCase(), candidate.toLowerCase());
    if (distance < bestDistance) {
      bestDistance = distance;
      best = candidate;
    }
  }
  return best;
}

/**
 * Options that are set and that nobody reads would be ignored in silence.
 * @param what whose options they are, e.g. LoraConfig @throws LatheError ERR_CONFIG naming the first unknown one
 */
export function refuseUnknownOptions(options: object, known: readonly string[], what: string): void {
  for (const [key, value] of Object.entries(options)) {
    if (value === undefined || known.includes(key)) continue;
    const guess = nearest(key, known);
    throw new LatheError('ERR_CONFIG', `[${what}] unknown option '${key}'`, {
      remedy: guess ? `did you mean '${guess}'?` : `use one of ${known.join(', ')}`,
    });
  }
}

function editDistance(a: string, b: string): number {
  let previous = Array.from({ length: b.length + 1 }, (_, j) => j);
  for (let i = 1; i <= a.length; i++) {
    const current = [i];
    for (let j = 1; j <= b.length; j++) {
      const substitute = previous[j - 1] + (a[i - 1] === b[j - 1] ? 0 : 1);
      current.push(Math.min(previous[j] + 1, current[j - 1] + 1, substitute));
    }
    previous = current;
  }
  return previous[b.length];
}
