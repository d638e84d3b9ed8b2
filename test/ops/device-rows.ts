/**
 * Runs rows of the op tables on a session of some device: the plain program against the f64 reference, then the same
 * program again and every variant against its bits. It needs no test framework, so a machine with nothing but Node can
 * run it too (scripts/gpu/op-rows.ts).
 */
import { writeFileSync } from 'node:fs';
import path from 'node:path';
import { deviceSpec } from '../../src/compile/devices';
import type { DeviceSpec } from '../../src/graph/device';
import { printType } from '../../src/graph/print';
import type { FileRange, Session, TensorArray } from '../../src/runtime/session';
import {
  concrete,
  drawInputs,
  referenceOf,
  runsOf,
  toNumbers,
  type Concrete,
  type FloatRun,
  type OpCase,
} from './case';
import { baseVariant, resultOf, runnable, runOn, sameBits, variantsOf, type Results, type Variant } from './program';
import { FAMILY_TABLES } from './tables';
import { compare } from './tolerance';

export interface RowOfDevice {
  readonly family: string;
  readonly name: string;
  readonly row: OpCase;
  readonly run: FloatRun;
}

export const DEVICE_ROWS: readonly RowOfDevice[] = FAMILY_TABLES.flatMap(([family, rows]) =>
  rows
    .filter((row) => row.op !== 'reshape')
    .flatMap((row) => runsOf(row).map((run) => ({ family, name: `${row.op}: ${row.name} (${run})`, row, run }))),
);

/** What is wrong with a row on this session's device; empty when nothing is. `folder` takes one scratch file; `threads` are the session's. */
export async function problemsOfRow(
  { row, run }: RowOfDevice,
  session: Session,
  device: string,
  folder: string,
  threads = 1,
): Promise<string[]> {
  const c = concrete(row, run);
  const x = drawInputs(row, c);
  const { plain, variant, problems } = await allVariants(c, x, session, deviceSpec(device, threads), folder);
  const want = referenceOf(row, c, x);
  c.outputs.forEach((type, i) => {
    const got = toNumbers(type.dtype, resultOf(plain, variant, i));
    const bound = (run === 'bf16' && row.tolerance.inBf16?.[i]) || row.tolerance.bounds[type.dtype]!;
    const { ratio, worst } = compare(got, want[i].data, bound);
    if (process.env.LATHE_OPS_ERRORS)
      process.stdout.write(`${ratio.toFixed(3).padStart(9)}  ${row.op}: ${row.name} (${run}) output ${i}\n`);
    if (ratio > 1)
      problems.push(
        `output ${i} ${printType(type)}: element ${worst!.index} is ${worst!.got}, expected ${worst!.want} within ${worst!.allowed} (${ratio.toPrecision(3)} times that)`,
      );
  });
  return problems;
}

async function allVariants(
  c: Concrete,
  x: ReturnType<typeof drawInputs>,
  session: Session,
  spec: DeviceSpec,
  folder: string,
): Promise<{ plain: Results; variant: Variant; problems: string[] }> {
  const { threads } = spec;
  const variant = baseVariant(c);
  const problems: string[] = [];
  const plain = await runOn(session, runnable(c, x, variant, threads, spec));
  for (const v of [{ ...variant, name: 'again' }, ...variantsOf(c)]) {
    const results = await runOn(
      session,
      runnable(c, x, v, threads, spec),
      v.external ? (inputs) => bindToFile(inputs, session, folder) : undefined,
    );
    c.outputs.forEach((_, i) => {
      if (!v.absent.includes(i) && !sameBits(resultOf(results, v, i), resultOf(plain, variant, i)))
        problems.push(`${v.name}: output ${i} has other bits`);
    });
    for (const i of v.keep)
      if (!v.external && !sameBits(results[`x${i}`], plain[`x${i}`]))
        problems.push(`${v.name}: input ${i} was changed`);
  }
  return { plain, variant, problems };
}

/** Puts the inputs into one file, each one element off the natural alignment. */
function bindToFile(
  inputs: Readonly<Record<string, TensorArray>>,
  session: Session,
  folder: string,
): Record<string, FileRange> {
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
