/** Traces, compiles and runs a program once: loading, saving and merging weights are made of these. */
import { compile } from '../compile/compile';
import { deviceSpec } from '../compile/devices';
import { trace } from '../graph/trace';
import type { Session, TensorArray } from '../runtime/session';
import type { FileBindings } from './weights';

/**
 * Runs what `build` describes and forgets it. `build` may add file ranges to `bindings` while it traces.
 * @returns the program's outputs by name
 */
export async function runOnce(
  session: Session,
  name: string,
  build: (bindings: FileBindings) => void,
): Promise<Record<string, TensorArray>> {
  const bindings: FileBindings = {};
  const graph = trace(name, () => build(bindings));
  const { device, threads } = session.stats();
  const program = session.loadProgram(compile(graph, { device: deviceSpec(device, threads) }).bytes);
  try {
    return await session.run(program, bindings);
  } finally {
    session.releaseProgram(program);
  }
}

/** The bytes behind a typed array. */
export function bytesOf(array: TensorArray): Uint8Array {
  return new Uint8Array(array.buffer, array.byteOffset, array.byteLength);
}
