/**
 * Every kernel's `prepare` against operands and attributes that make no sense: it must refuse or accept, never crash.
 * What is accepted is run, so that an unchecked shape shows as a fault and not as luck.
 */
import fc from 'fast-check';
import { hasCode } from '../../src/errors';
import type { DType } from '../../src/graph/dtype';
import { loadNative } from '../../src/runtime/binding';
import { Session } from '../../src/runtime/session';
import { ABSENT, programBytes, type BufferSpec, type ProgramSpec } from './program-bytes';

const session = Session.create({ threads: 1 });
afterAll(() => session.close());

const SLOT = 1 << 16; // bytes of arena per operand: enough for every shape below
const extents = fc.constantFrom(0, 1, 2, 3, 4, 8, 16, 64);
const tensors = fc.record({
  dtype: fc.constantFrom<DType>('f32', 'bf16', 'f16', 'i32', 'u8'),
  shape: fc
    .array(extents, { minLength: 0, maxLength: 3 })
    .filter((s) => 4 * s.reduce<number>((a, b) => a * b, 1) <= SLOT),
});
const numbers = fc.oneof(
  fc.constantFrom<number>(0, 1, 2, 4, 8, -1, 0.5, 16, 64, 1e9, 2 ** 53, -(2 ** 31), 1e300, NaN, Infinity),
  fc.integer({ min: -2, max: 70 }),
);
const lists = fc.array(fc.constantFrom(0, 1, 2, 3, 4, 16, 64, -1, 0.5, 1e9), { maxLength: 4 });
const words = fc.constantFrom('silu', 'gelu', 'gelu_tanh', 'relu', 'nf4', 'fp4', 'f32', 'bf16', 'Q4_1', 'Q8_0', '');

/** Adds the attributes that `prepare` asks for and drops those that it never reads, by reading its complaints. */
function settleAttributes(
  spec: ProgramSpec,
  draw: (kind: string) => number | string | number[],
): ReturnType<Session['loadProgram']> | undefined {
  const attributes: Record<string, number | string | number[]> = {};
  spec.nodes![0].attributes = attributes;
  for (let attempt = 0; attempt < 60; attempt++) {
    try {
      return session.loadProgram(programBytes(spec));
    } catch (error) {
      if (!hasCode(error, 'ERR_PROGRAM') && !hasCode(error, 'ERR_UNSUPPORTED')) throw error;
      const message = (error as Error).message;
      const missing = /attribute '(\w+)' is missing/.exec(message);
      const kind = /attribute '(\w+)' should be (a number|a string|a list of numbers)/.exec(message);
      if (missing) attributes[missing[1]] = draw('a number');
      else if (kind) attributes[kind[1]] = draw(kind[2]);
      else return undefined;
    }
  }
  return undefined;
}

const accepted = new Set<string>();

test.each(loadNative().kernels())('%s', async (op) => {
  await fc.assert(
    fc.asyncProperty(
      fc.array(tensors, { minLength: 0, maxLength: 9 }),
      fc.array(fc.option(tensors, { freq: 6 }), { minLength: 1, maxLength: 5 }),
      fc.boolean(),
      fc.infiniteStream(numbers),
      fc.infiniteStream(words),
      fc.infiniteStream(lists),
      async (inputs, outputs, similar, nextNumber, nextWord, nextList) => {
        if (similar && inputs.length > 0) {
          // Operands alike: the only way past most shape rules.
          inputs = inputs.map(() => inputs[0]);
          outputs = outputs.map((output) => output && inputs[0]);
        }
        const buffers: BufferSpec[] = [...inputs, ...outputs.filter((o) => o !== null)].map((type, i) => ({
          kind: 'arena',
          ...type,
          place: i * SLOT,
        }));
        let next = inputs.length;
        const spec: ProgramSpec = {
          arenaBytes: buffers.length * SLOT,
          scratchBytes: 1 << 22,
          buffers,
          inputs: inputs.map((_, i) => [`x${i}`, i]),
          nodes: [
            {
              op,
              inputs: inputs.map((_, i) => i),
              outputs: outputs.map((o) => (o ? next++ : ABSENT)),
              scratchBytes: 1 << 22,
            },
          ],
        };
        const program = settleAttributes(spec, (kind) =>
          kind === 'a number'
            ? nextNumber.next().value!
            : kind === 'a string'
              ? nextWord.next().value!
              : nextList.next().value!,
        );
        if (!program) return;
        accepted.add(op);
        const array = { f32: Float32Array, i32: Int32Array, u8: Uint8Array, bf16: Uint16Array, f16: Uint16Array };
        const bindings = Object.fromEntries(
          program.inputs.map(({ name, dtype, shape }) => [name, new array[dtype](shape.reduce((a, b) => a * b, 1))]),
        );
        await session.run(program, bindings).catch((error: unknown) => {
          if (typeof (error as { code?: unknown }).code !== 'string') throw error;
        });
        session.releaseProgram(program);
      },
    ),
    // The same programs every time; LATHE_FUZZ_SEED tries others.
    { numRuns: 400, seed: Number(process.env.LATHE_FUZZ_SEED ?? 42) },
  );
});

test('the operands were not all nonsense', () => {
  // Which ops get through is up to the random draw; that several do is not.
  expect(accepted.size).toBeGreaterThan(4);
});
