/** Configurations from YAML text, and the error of one that is refused. */
import { parseConfigText, resolveEntries, type ResolvedConfig } from '../../../src/train/arguments';

/** As the file train.yaml. */
export function fromYaml(text: string): ResolvedConfig {
  return resolveEntries(parseConfigText(text, 'train.yaml'));
}

export interface Failure {
  code: string;
  at?: string;
  message: string;
  remedy?: string;
}

/** What `run` throws; fails when it does not throw. */
export function failure(run: () => unknown): Failure {
  try {
    run();
  } catch (error) {
    return error as Failure;
  }
  throw new Error('expected an error');
}
