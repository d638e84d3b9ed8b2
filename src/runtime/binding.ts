/**
 * Finds and loads the native addon, once and lazily: importing the package never touches it, so descriptions, data and
 * tokenizers work where no addon was built.
 *
 * Order: LATHE_ADDON_PATH (and nothing else when it is set), the platform package, then the folder this package was
 * built in. A failure is one ERR_NATIVE_LOAD that says the platform, what was searched and what to run.
 */
import path from 'node:path';
import bindings from 'bindings';
import { LatheError, hasCode, type ErrorCode } from '../errors';
import type { NativeAddon } from './native';

let loaded: NativeAddon | undefined;

/** The addon. Throws ERR_NATIVE_LOAD, each time anew, so that a program may build it and try again. */
export function loadNative(): NativeAddon {
  loaded ??= findAddon();
  return loaded;
}

/** True when the addon can be loaded. */
export function hasNative(): boolean {
  try {
    loadNative();
    return true;
  } catch (error) {
    if (hasCode(error, 'ERR_NATIVE_LOAD')) return false;
    throw error;
  }
}

/** Runs `body` and turns what the addon throws into a LatheError. */
export function convertErrors<T>(body: () => T): T {
  try {
    return body();
  } catch (error) {
    throw toLatheError(error);
  }
}

/** An addon's error as LatheError; anything else as it is. */
export function toLatheError(error: unknown): unknown {
  if (!(error instanceof Error) || error instanceof LatheError) return error;
  const code = (error as { code?: unknown }).code;
  return typeof code === 'string' && code.startsWith('ERR_') ? new LatheError(code as ErrorCode, error.message) : error;
}

interface Attempt {
  what: string;
  problem: string;
}

function findAddon(): NativeAddon {
  const override = process.env.LATHE_ADDON_PATH;
  if (override) return loadOverride(path.resolve(override));

  const attempts: Attempt[] = [];
  const packageName = `@lathe/${process.platform}-${process.arch}`;
  try {
    return require(packageName) as NativeAddon;
  } catch (error) {
    attempts.push({ what: `package ${packageName}`, problem: firstLine(error) });
  }
  const root = packageRoot();
  try {
    return bindings({ bindings: 'lathe', module_root: root }) as NativeAddon;
  } catch (error) {
    const tries = (error as { tries?: string[] }).tries;
    const what = path.join(root, 'build', 'Release', 'lathe.node');
    attempts.push({ what, problem: tries ? 'not there (nor in the other build folders)' : firstLine(error) });
    throw failure(attempts, `run \`npm run build:addon\` in ${root} (it needs cmake and a C++20 compiler)`, error);
  }
}

function loadOverride(file: string): NativeAddon {
  try {
    return require(file) as NativeAddon;
  } catch (error) {
    const attempt = { what: `${file} (from LATHE_ADDON_PATH)`, problem: firstLine(error) };
    throw failure([attempt], 'correct or unset LATHE_ADDON_PATH', error);
  }
}

function failure(attempts: Attempt[], remedy: string, cause: unknown): LatheError {
  const platform = `${process.platform}-${process.arch}, Node ${process.versions.node}`;
  const searched = attempts.map((attempt) => `\n  ${attempt.what}: ${attempt.problem}`).join('');
  return new LatheError(
    'ERR_NATIVE_LOAD',
    `the native addon for ${platform} cannot be loaded. Searched:${searched}\n`,
    {
      remedy,
      cause,
    },
  );
}

/** The folder of package.json, from src/runtime as from dist/runtime. */
function packageRoot(): string {
  return path.resolve(__dirname, '..', '..');
}

function firstLine(error: unknown): string {
  return (error instanceof Error ? error.message : String(error)).split('\n', 1)[0];
}
