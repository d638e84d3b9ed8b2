/** Shared helpers of the io tests: the golden folder, temporary folders, base64 and error capture. */
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { LatheError } from '../../../src/errors';

export const GOLDEN = join(__dirname, '../../golden/io');

/** A fresh folder per test, deleted afterwards. */
export function useTemporaryFolder(): () => string {
  let folder: string;
  beforeEach(() => {
    folder = mkdtempSync(join(tmpdir(), 'lathe-io-'));
  });
  afterEach(() => rmSync(folder, { recursive: true, force: true }));
  return () => folder;
}

export function fromBase64(text: string): Uint8Array {
  return new Uint8Array(Buffer.from(text, 'base64'));
}

export function asUint32(bytes: Uint8Array): Uint32Array {
  return new Uint32Array(bytes.slice().buffer);
}

/** What `action` throws; fails when it does not throw a LatheError. */
export async function errorOf(action: () => unknown): Promise<LatheError> {
  try {
    await action();
  } catch (error) {
    expect((error as LatheError).name).toBe('LatheError');
    return error as LatheError;
  }
  throw new Error('expected an error, got none');
}
