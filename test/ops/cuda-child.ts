/** One program on cuda in a process of its own, for errors that a process does not survive whole: prints the error as JSON. */
import { compile } from '../../src/compile/compile';
import { deviceSpec } from '../../src/compile/devices';
import type { LatheError } from '../../src/errors';
import { input, output, scope, trace } from '../../src/graph/trace';
import { activation } from '../../src/ops/elementwise';
import { Session } from '../../src/runtime/session';

async function main(): Promise<void> {
  const session = Session.create({ device: 'cuda' });
  const graph = trace('three steps', () => {
    let x = input('x', [8], 'f32');
    for (const name of ['first', 'second', 'third']) x = scope(name, () => activation(x, 'silu'));
    output('y', x);
  });
  const program = session.loadProgram(compile(graph, { device: deviceSpec('cuda') }).bytes);
  try {
    const { y } = await session.run(program, { x: new Float32Array(8).fill(1) });
    console.log(JSON.stringify({ y: [...y] }));
  } catch (error) {
    console.log(JSON.stringify({ code: (error as LatheError).code, message: (error as LatheError).message }));
  }
  await session.close();
}

void main();
