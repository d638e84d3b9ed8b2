/** Typed access to a config.json with defaults and errors that name the key. */
import { LatheError } from '../errors';

export type RawConfig = Readonly<Record<string, unknown>>;

export class ConfigReader {
  constructor(
    readonly raw: RawConfig,
    private readonly at = 'config.json',
  ) {}

  private fail(key: string, expected: string): never {
    throw new LatheError(
      'ERR_FORMAT',
      `config key '${key}' expected ${expected}, received ${JSON.stringify(this.raw[key])}`,
      { at: this.at },
    );
  }

  has(key: string): boolean {
    return this.raw[key] !== undefined && this.raw[key] !== null;
  }

  number(key: string, fallback?: number): number {
    const value = this.raw[key] ?? fallback;
    if (typeof value !== 'number' || !Number.isFinite(value)) this.fail(key, 'a number');
    return value;
  }

  /** A positive integer, such as a size. */
  size(key: string, fallback?: number): number {
    const value = this.number(key, fallback);
    if (!Number.isInteger(value) || value <= 0) this.fail(key, 'a positive integer');
    return value;
  }

  /** A dropout rate: in [0, 1). */
  probability(key: string, fallback: number): number {
    const value = this.number(key, fallback);
    if (value < 0 || value >= 1) this.fail(key, 'a number in [0, 1)');
    return value;
  }

  boolean(key: string, fallback: boolean): boolean {
    const value = this.raw[key] ?? fallback;
    if (typeof value !== 'boolean') this.fail(key, 'true or false');
    return value;
  }

  string(key: string, fallback?: string): string {
    const value = this.raw[key] ?? fallback;
    if (typeof value !== 'string') this.fail(key, 'a string');
    return value;
  }

  object(key: string): ConfigReader | null {
    const value = this.raw[key];
    if (value === undefined || value === null) return null;
    if (typeof value !== 'object' || Array.isArray(value)) this.fail(key, 'an object');
    return new ConfigReader(value as RawConfig, `${this.at} ${key}`);
  }
}
