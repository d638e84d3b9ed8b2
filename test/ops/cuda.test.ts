/**
 * The CUDA backend against the f64 references, on the same rows and in the same variants as the CPU's, each run twice for
 * equal bits. It runs on a GPU, or without one on the host shim: `npm run build:cuda-host`, then LATHE_CUDA_MODULE names
 * build/cuda-host/lathe_cuda_host.so. With neither it says so and does nothing.
 */
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { deviceSpec } from '../../src/compile/devices';
import { printType } from '../../src/graph/print';
import { loadNative } from '../../src/runtime/binding';
import { Session, type FileRange, type TensorArray } from '../../src/runtime/session';
import { concrete, drawInputs, referenceOf, runsOf, toNumbers, type Concrete, type OpCase } from './case';
import { baseVariant, resultOf, runnable, runOn, sameBits, variantsOf, type Results, type Variant } from './program';
import { FAMILY_TABLES } from './tables';
import { compare } from './tolerance';

const cuda = loadNative().cuda();
const available = loadNative().devices().some((d) => d.device === 'cuda:0');
const device = deviceSpec('cuda');
let folder: string;
let session: Session;

if (!available) {
  process.stdout.write(`CUDA op rows skipped: ${cuda.problem}\n`);
  test('CUDA op rows: skipped, no device', () => expect(cuda.problem).not.toBe(''));
} else {
  beforeAll(() => {
    folder = mkdtempSync(path.join(tmpdir(), 'lathe-cuda-'));
    session = Session.create({ device: 'cuda' });
  });
  afterAll(async () => {
    await session.close();
    rmSync(folder, { recursive: true });
  });

  test('every op has a kernel', () => expect(loadNative().kernels().filter((op) => !cuda.kernels.includes(op))).toEqual([]));

  describe.each(FAMILY_TABLES)('%s', (_family, rows) => {
    const cases = rows.filter((row) => row.op !== 'reshape').flatMap((row) => runsOf(row).map((run): [string, OpCase, 'f32' | 'bf16'] => [`${row.op}: ${row.name} (${run})`, row, run]));
    test.each(cases)('%s', async (_name, row, run) => {
      const c = concrete(row, run);
      const x = drawInputs(row, c);
      const { plain, variant } = await allVariants(c, x);
      const want = referenceOf(row, c, x);
      const problems: string[] = [];
      c.outputs.forEach((type, i) => {
        const got = toNumbers(type.dtype, resultOf(plain, variant, i));
        const bound = (run === 'bf16' && row.tolerance.inBf16?.[i]) || row.tolerance.bounds[type.dtype]!;
        const { ratio, worst } = compare(got, want[i].data, bound);
        if (process.env.LATHE_OPS_ERRORS) process.stdout.write(`${ratio.toFixed(3).padStart(9)}  ${_name} output ${i}\n`);
        if (ratio > 1) problems.push(`output ${i} ${printType(type)}: element ${worst!.index} is ${worst!.got}, expected ${worst!.want} within ${worst!.allowed} (${ratio.toPrecision(3)} times that)`);
      });
      expect(problems).toEqual([]);
    });
  });
}

/** The row's results by its plain program, after comparing a second run and every variant with it. */
async function allVariants(c: Concrete, x: ReturnType<typeof drawInputs>): Promise<{ plain: Results; variant: Variant }> {
  const variant = baseVariant(c);
  const plain = await runOn(session, runnable(c, x, variant, 1, device));
  for (const v of [{ ...variant, name: 'again' }, ...variantsOf(c)]) {
    const results = await runOn(session, runnable(c, x, v, 1, device), v.external ? bindToFile : undefined);
    c.outputs.forEach((_, i) => {
      if (!v.absent.includes(i) && !sameBits(resultOf(results, v, i), resultOf(plain, variant, i))) throw new Error(`${v.name}: output ${i} has other bits`);
    });
    for (const i of v.keep) if (!v.external && !sameBits(results[`x${i}`], plain[`x${i}`])) throw new Error(`${v.name}: input ${i} was changed`);
  }
  return { plain, variant };
}

function bindToFile(inputs: Readonly<Record<string, TensorArray>>): Record<string, FileRange> {
  const file = path.join(folder, 'inputs.bin');
  const parts: Buffer[] = [];
  let offset = 0;
  const ranges: Record<string, FileRange> = {};
  for (const [name, array] of Object.entries(inputs)) {
    const lead = 64 - (offset % 64) + array.BYTES_PER_ELEMENT;
    parts.push(Buffer.alloc(lead, 0xab), Buffer.from(array.buffer, array.byteOffset, array.byteLength));
    ranges[name] = { path: file, offset: offset + lead, byteLength: array.byteLength };
    offset += lead + array.byteLength;
  }
  parts.push(Buffer.alloc(1));
  session.releaseFiles();
  writeFileSync(file, Buffer.concat(parts));
  return ranges;
}
