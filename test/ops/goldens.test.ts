/**
 * The CPU backend against golden files: bitsandbytes' 4-bit quantisation (scripts/golden/bnb4.py), torch's AdamW and the
 * 8-bit one (scripts/golden/adamw8bit.py), and Philox against Random123's known answers and the data layer's own Philox.
 */
import path from 'node:path';
import { compile } from '../../src/compile/compile';
import { deviceSpec } from '../../src/compile/devices';
import { philox4x32 } from '../../src/data/philox';
import type { DType } from '../../src/graph/dtype';
import type { StateSlot } from '../../src/graph/tensor';
import { input, output, readState, trace, updateState } from '../../src/graph/trace';
import { openSafetensors } from '../../src/io/safetensors';
import { readTensorBytes } from '../../src/io/tensor-source';
import { adamw, adamw8bit } from '../../src/ops/optim';
import { dequantizeParts, quantCode, quantize4bit, quantizeAbsmax, type QuantType } from '../../src/ops/quant';
import { dropout, philox, siteHash } from '../../src/ops/random';
import { Session, type TensorArray } from '../../src/runtime/session';
import { fromBytes } from './case';
import { sameBits } from './program';

const GOLDEN = path.join(__dirname, '..', 'golden');
const device = deviceSpec('cpu', 2);
let session: Session;
beforeAll(() => {
  session = Session.create({ threads: 2 });
});
afterAll(() => session.close());

/** All tensors of a golden file as typed arrays. */
async function arrays(file: string): Promise<Map<string, TensorArray>> {
  const { tensors } = await openSafetensors(path.join(GOLDEN, file));
  const dtypes: Record<string, DType> = { F32: 'f32', U8: 'u8' };
  const out = new Map<string, TensorArray>();
  for (const [name, source] of tensors) out.set(name, fromBytes(dtypes[source.dtype], await readTensorBytes(source)));
  return out;
}

async function runOnce(
  describe: () => void,
  inputs: Record<string, TensorArray>,
): Promise<Record<string, TensorArray>> {
  const program = session.loadProgram(compile(trace('golden', describe), { device }).bytes);
  const results = await session.run(program, inputs);
  session.releaseProgram(program);
  return results;
}

const largest = (a: TensorArray, b: TensorArray): number =>
  Array.from(a, (v, i) => Math.abs(v - b[i])).reduce((m, v) => Math.max(m, v), 0);
const sizeOf = (a: TensorArray): number => largest(a, new Float32Array(a.length));

describe('bitsandbytes', () => {
  test.each(['nf4', 'fp4'] as const)(
    '%s: codes, scales and dequantised values of every case',
    async (type: QuantType) => {
      const all = await arrays('bnb4/cases.safetensors');
      const names = [...all.keys()]
        .filter((key) => key.endsWith('.input'))
        .map((key) => key.slice(0, -'.input'.length));
      expect(names.length).toBe(12);
      for (const name of names) {
        const x = all.get(`${name}.input`)!;
        const results = await runOnce(
          () => {
            const parts = quantize4bit(input('x', [1, x.length], 'f32'), type);
            output('packed', parts[0]);
            output('absmax', parts[1]);
            output('dequantised', dequantizeParts(parts, quantCode(type, false), 1, x.length, 'f32'));
          },
          { x },
        );
        expect([name, Array.from(results.packed)]).toEqual([name, Array.from(all.get(`${name}.${type}.packed`)!)]);
        expect([name, sameBits(results.absmax, all.get(`${name}.${type}.absmax`)!)]).toEqual([name, true]);
        // Zeros of a zero block may differ in sign: -0 = +0.
        expect([name, Array.from(results.dequantised, (v) => v + 0)]).toEqual([
          name,
          Array.from(all.get(`${name}.${type}.dequantised`)!, (v) => v + 0),
        ]);
      }
    },
  );

  test('double quantisation of scales', async () => {
    const all = await arrays('bnb4/nested.safetensors');
    const absmax = all.get('absmax')!;
    const results = await runOnce(
      () => {
        const [codes, nested, offset] = quantizeAbsmax(input('absmax', [absmax.length], 'f32'));
        output('codes', codes);
        output('nested_absmax', nested);
        output('offset', offset);
      },
      { absmax },
    );
    expect(Array.from(results.codes)).toEqual(Array.from(all.get('codes')!));
    // The mean is a sum of 1500 floats: torch's fp32 order and our f64 sum round to neighbours, which moves scales as much.
    const ulp = all.get('offset')![0] * 2 ** -23;
    for (const name of ['nested_absmax', 'offset'])
      expect([name, largest(results[name], all.get(name)!) <= ulp]).toEqual([name, true]);
    // Scales as matmul sees them: code 15 of NF4 is 1, so a weight of 15s dequantises to its scales.
    const n = 64 * absmax.length;
    const parts = {
      packed: new Uint8Array(n / 2).fill(0xff),
      codes: results.codes,
      nested: results.nested_absmax,
      offset: results.offset,
    };
    const { weight } = await runOnce(() => {
      const tensors = [
        input('packed', [n / 2], 'u8'),
        input('codes', [absmax.length], 'u8'),
        input('nested', [results.nested_absmax.length], 'f32'),
        input('offset', [1], 'f32'),
      ];
      output('weight', dequantizeParts(tensors, quantCode('nf4', true), absmax.length, 64, 'f32'));
    }, parts);
    expect(
      largest(
        Float32Array.from(absmax, (_, b) => weight[64 * b]),
        all.get('dequantised')!,
      ),
    ).toBeLessThanOrEqual(2 * ulp);
  });
});

describe('optimizers', () => {
  const HYPER = { beta1: 0.9, beta2: 0.999, eps: 1e-8, weightDecay: 0.01 };
  const LR = 1e-2;
  const N = 5000;

  /** Ten steps on state slots; returns the named slots after some steps, and at the end. */
  async function trajectory(kind: 'adamw' | 'adamw_8bit', read: readonly string[]): Promise<Map<string, TensorArray>> {
    const start = await arrays('optim/start.safetensors');
    const blocks = Math.ceil(N / 256);
    const slot = (name: string, n: number, dtype: DType): StateSlot => ({ name, shape: [n], dtype, role: 'optimizer' });
    const slots =
      kind === 'adamw'
        ? [slot('p', N, 'f32'), slot('m', N, 'f32'), slot('v', N, 'f32')]
        : [
            slot('p', N, 'f32'),
            slot('state1', N, 'u8'),
            slot('state2', N, 'u8'),
            slot('absmax1', blocks, 'f32'),
            slot('absmax2', blocks, 'f32'),
          ];
    session.defineState(slots);
    await session.writeState('p', start.get('p0')!);
    const graph = trace(kind, () => {
      const inputs = {
        lr: input('lr', [1], 'f32'),
        step: input('step', [1], 'i32'),
        gradScale: input('scale', [1], 'f32'),
      };
      const [p, ...state] = slots.map(readState);
      const group = [p, input('g', [N], 'f32'), ...state];
      const [[stepped, ...moments]] = (kind === 'adamw' ? adamw : adamw8bit)(inputs, [group], HYPER);
      [stepped, ...moments].forEach((t, i) => updateState(slots[i], t));
    });
    const program = session.loadProgram(compile(graph, { device }).bytes);
    const seen = new Map<string, TensorArray>();
    for (let step = 1; step <= 10; step++) {
      await session.run(program, {
        lr: Float32Array.of(LR),
        step: Int32Array.of(step),
        scale: Float32Array.of(1),
        g: start.get(`g.${step}`)!,
      });
      if (read.includes(`p.${step}`)) seen.set(`p.${step}`, fromBytes('f32', await session.readState('p')));
    }
    for (const s of slots) seen.set(s.name, fromBytes(s.dtype, await session.readState(s.name)));
    session.releaseProgram(program);
    session.dropState(slots.map((s) => s.name));
    return seen;
  }

  test("AdamW follows torch's trajectory", async () => {
    const golden = await arrays('optim/adamw.safetensors');
    const ours = await trajectory('adamw', [...golden.keys()]);
    for (const [name, want] of golden) {
      // fp32 on both sides in the same order; a step moves p by lr, so 1e-7 of p is an ulp or two.
      expect([name, largest(ours.get(name)!, want) <= 4e-7 * Math.max(sizeOf(want), name === 'p' ? 1 : 0)]).toEqual([
        name,
        true,
      ]);
    }
  });

  test('8-bit AdamW follows the rule of bitsandbytes', async () => {
    const golden = await arrays('optim/adamw8bit.safetensors');
    const ours = await trajectory('adamw_8bit', [...golden.keys()]);
    for (const name of ['state1', 'state2']) {
      const want = golden.get(name)!;
      const different = Array.from(ours.get(name)!, (code, i) => Math.abs(code - want[i])).filter((d) => d > 0);
      // A quotient next to a midpoint of two codes takes the other one when the last bit differs: rare, and by one code.
      expect([name, different.length <= N * 0.002, Math.max(0, ...different) <= 1]).toEqual([name, true, true]);
    }
    for (const name of ['absmax1', 'absmax2', 'p.1', 'p.2', 'p.5', 'p.10']) {
      const want = golden.get(name)!;
      // A code that went the other way moves a moment by up to a 64th of its size, and p by less than lr / 64 per step.
      const tolerance = name.startsWith('absmax')
        ? 1e-5 * sizeOf(want)
        : name === 'p.1'
          ? 4e-7 * sizeOf(want)
          : LR / 64;
      expect([name, largest(ours.get(name)!, want) <= tolerance]).toEqual([name, true]);
    }
  });
});

describe('Philox4x32-10', () => {
  test("Random123's known answers", () => {
    const ones = 0xffffffff;
    const hex = (words: ArrayLike<number>): string =>
      Array.from(words, (w) => w.toString(16).padStart(8, '0')).join(' ');
    expect(hex(philox(0, 0, 0, 0, 0, 0))).toBe('6627e8d5 e169c58d bc57ac4c 9b00dbd8');
    expect(hex(philox(ones, ones, ones, ones, ones, ones))).toBe('408f276d 41c83b0e a20bc7c6 6d5451fd');
    expect(hex(philox(0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344, 0xa4093822, 0x299f31d0))).toBe(
      'd16cfe09 94fdcceb 5001e420 24126ea1',
    );
    const words = new Uint32Array(4);
    philox4x32([0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344], [0xa4093822, 0x299f31d0], words);
    expect(hex(words)).toBe('d16cfe09 94fdcceb 5001e420 24126ea1');
  });

  test('the dropout kernel keeps what the documented counter says', async () => {
    const [n, p, name] = [4099, 0.25, 'model.layers.0.mlp.down_proj'];
    const rng = Int32Array.of(0x12345678, -2, 9, 4);
    const { y } = await runOnce(
      () => output('y', dropout(input('x', [n], 'f32'), input('rng', [4], 'i32'), p, name, 2)),
      { x: new Float32Array(n).fill(1), rng },
    );
    const site = siteHash(name, 2);
    const words = new Uint32Array(4);
    const kept = Array.from({ length: n }, (_, e) => {
      philox4x32([Math.floor(e / 4), 0, rng[2], rng[3]], [(rng[0] ^ site.lo) >>> 0, (rng[1] ^ site.hi) >>> 0], words);
      return words[e % 4] < Math.floor((1 - p) * 2 ** 32);
    });
    expect(Array.from(y, (v) => v !== 0)).toEqual(kept);
    const share = kept.filter(Boolean).length / n;
    expect(Math.abs(share - (1 - p))).toBeLessThan(4 * Math.sqrt((p * (1 - p)) / n));
  });
});
