/**
 * Typed access to the key-value pairs of one GGUF file, with errors that name the key and the file.
 *
 * `prefix` is the architecture's (`llama.`): most keys of a model begin with it.
 */
import { LatheError } from '../../errors';
import type { GgufFile } from './reader';
import type { GgufValue } from './types';

export class Metadata {
  readonly prefix: string;
  #file: GgufFile;

  constructor(file: GgufFile, prefix: string) {
    this.#file = file;
    this.prefix = prefix;
  }

  get(key: string): GgufValue | undefined {
    return this.#file.metadata.get(key);
  }

  number(key: string): number | undefined {
    const value = this.get(key);
    if (value === undefined) return undefined;
    if (typeof value !== 'number') throw this.error(`expected a number for '${key}', received ${typeof value}`);
    return value;
  }

  count(key: string): number | undefined {
    const value = this.number(key);
    if (value !== undefined && (!Number.isSafeInteger(value) || value <= 0))
      throw this.error(`expected a positive integer for '${key}', received ${value}`);
    return value;
  }

  required(key: string): number {
    const value = this.count(key);
    if (value === undefined) throw this.error(`expected the metadata key '${key}', found none`);
    return value;
  }

  text(key: string): string | undefined {
    const value = this.get(key);
    return typeof value === 'string' ? value : undefined;
  }

  error(message: string): LatheError {
    return new LatheError('ERR_FORMAT', message, {
      at: this.#file.path,
      remedy: 'convert the model again with a current llama.cpp',
    });
  }
}
