/** The error of something that must fail. */
import type { LatheError } from '../../src/errors';

/** What `action` throws; fails when it does not throw a LatheError. */
export async function failure(action: () => unknown): Promise<LatheError> {
  try {
    await action();
  } catch (error) {
    expect((error as Error).name).toBe('LatheError');
    return error as LatheError;
  }
  throw new Error('expected an error');
}
