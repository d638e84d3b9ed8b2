/**
 * Programs on cuda in a process of their own, for errors that a process does not survive whole: prints the outcome as JSON.
 * `cuda-child.ts [N]` runs a program of three nodes N times, by default once; `cuda-child.ts load` loads three tensors that
 * stream in from a file, none of them awaited before the next.
 */
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { compile } from '../../src/compile/compile';
import { deviceSpec } from '../../src/compile/devices';
import type { LatheError } from '../../src/errors';
import type { StateSlot } from '../../src/graph/tensor';
import { input, output, scope, trace, updateState } from '../../src/graph/trace';
import { activation, scale } from '../../src/ops/elementwise';
import { Session } from '../../src/runtime/session';

const N = 8;
const AHEAD = 2 ** 27;

async function threeSteps(session: Session, runs: number): Promise<object> {
  const graph = trace('three steps', () => {
    let x = input('x', [N], 'f32');
    for (const name of ['first', 'second', 'third']) x = scope(name, () => activation(x, 'silu'));
    output('y', x);
  });
  const program = session.loadProgram(compile(graph, { device: deviceSpec('cuda') }).bytes);
  const run = (): Promise<Record<string, Iterable<number>>> => session.run(program, { x: new Float32Array(N).fill(1) });
  // The third run is a recorded graph.
  for (let i = 1; i < runs; i++) await run();
  return { y: [...(await run()).y] };
}

/** Each tensor is twice what the file holds: the last element of each, or the messages of those calls that failed. */
async function threeTensors(session: Session, folder: string): Promise<object> {
  const file = path.join(folder, 'weights');
  writeFileSync(file, new Uint8Array(Float32Array.from({ length: 3 * N }, (_, i) => i).buffer));
  const slots = ['a', 'b', 'c'].map((name): StateSlot => ({ name, shape: [N], dtype: 'f32', role: 'weights' }));
  session.defineState([...slots, { name: 'ahead', shape: [AHEAD], dtype: 'u8' }]);
  const programs = slots.map((slot) => {
    const graph = trace(`load ${slot.name}`, () => {
      const x = input('x', [N], 'f32', true);
      updateState(
        slot,
        scope('once', () =>
          scale(
            scope('twice', () => scale(x, 4)),
            0.5,
          ),
        ),
      );
    });
    return session.loadProgram(compile(graph, { device: deviceSpec('cuda') }).bytes);
  });
  // Long enough for the three to be queued behind it: a run waits for the device where nothing is.
  void session.writeState('ahead', new Uint8Array(AHEAD));
  const calls = programs.map((program, i) =>
    session.run(program, { x: { path: file, offset: 4 * N * i, byteLength: 4 * N } }),
  );
  const messages = (await Promise.allSettled(calls)).flatMap((call) =>
    call.status === 'rejected' ? [(call.reason as LatheError).message] : [],
  );
  if (messages.length) return { messages };
  const last = await Promise.all(
    slots.map(async ({ name }) => new Float32Array((await session.readState(name)).slice().buffer)[N - 1]),
  );
  return { last };
}

async function main(): Promise<void> {
  const session = Session.create({ device: 'cuda' });
  const folder = mkdtempSync(path.join(tmpdir(), 'lathe-cuda-child-'));
  try {
    console.log(
      JSON.stringify(
        await (process.argv[2] === 'load'
          ? threeTensors(session, folder)
          : threeSteps(session, Number(process.argv[2] ?? 1))),
      ),
    );
  } catch (error) {
    console.log(JSON.stringify({ code: (error as LatheError).code, message: (error as LatheError).message }));
  }
  await session.close();
  rmSync(folder, { recursive: true });
}

void main();
