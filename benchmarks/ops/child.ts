/**
 * Runs single ops on command. `{prepare: case, key}` loads a case's program and answers its work, `{runMs: n, key}` runs it
 * for about n milliseconds and answers samples of several calls each, per application, `{release: true}` forgets all programs.
 */
import { randomNormal } from '../../src/ops/random';
import { updateState } from '../../src/graph/trace';
import { runOnce } from '../../src/pretrained/run-once';
import { Session, type ProgramHandle } from '../../src/runtime/session';
import { givenConfig, serve, timed } from '../harness/serve';
import type { Sample } from '../harness/statistics';
import { opProgram, type OpCase, type OpProgram } from './cases';

/**
 * Calls that are under way at once. The engine goes from one to the next by itself, as from node to node; the way to JavaScript
 * and back would be 2 to 4 % of a program of two threads and 7 ms, and training takes it once a step.
 */
const CALLS = 4;

class Bench {
  private readonly loaded = new Map<string, { handle: ProgramHandle; op: OpProgram }>();

  constructor(
    private readonly session: Session,
    private readonly threads: number,
  ) {}

  release(): object {
    for (const { handle, op } of this.loaded.values()) {
      this.session.releaseProgram(handle);
      this.session.dropState(op.slots.map((s) => s.name));
    }
    this.loaded.clear();
    return {};
  }

  async prepare(c: OpCase, key: string): Promise<object> {
    const op = opProgram(c, this.threads, `${key}.`);
    this.session.defineState(op.slots);
    for (const slot of op.random) await this.fill(slot);
    const handle = this.session.loadProgram(op.program.bytes, op.program.name);
    this.loaded.set(key, { handle, op });
    await this.session.run(handle); // touches every page
    return { flops: op.flops, bytes: op.bytes, repeats: op.repeats };
  }

  private async fill(slot: OpProgram['random'][number]): Promise<void> {
    if (slot.dtype === 'u8') {
      const bytes = new Uint8Array(slot.shape.reduce((a, b) => a * b, 1));
      let state = 1;
      for (let i = 0; i < bytes.length; i++) bytes[i] = (state = (Math.imul(state, 1664525) + 1013904223) >>> 0) >>> 24;
      await this.session.writeState(slot.name, bytes);
      return;
    }
    await runOnce(this.session, `fill ${slot.name}`, () => updateState(slot, randomNormal(slot, 0, 0.1, 1, slot.name)));
  }

  async run(milliseconds: number, key: string): Promise<Sample[]> {
    const { handle, op } = this.loaded.get(key)!;
    const samples: Sample[] = [];
    const end = performance.now() + milliseconds;
    do {
      const { wallMs, cpuMs } = await timed(() =>
        Promise.all(Array.from({ length: CALLS }, () => this.session.run(handle))),
      );
      const applications = CALLS * op.repeats;
      samples.push({ wallMs: wallMs / applications, cpuMs: cpuMs / applications });
    } while (performance.now() < end);
    return samples;
  }
}

async function main(): Promise<void> {
  const { threads } = givenConfig<{ threads: number }>();
  const session = Session.create({ threads });
  const bench = new Bench(session, threads);
  await serve({}, async (request) => {
    const key = String(request.key ?? '');
    if (request.release) return bench.release();
    if (request.prepare) return bench.prepare(request.prepare as OpCase, key);
    return { samples: await bench.run(request.runMs as number, key) };
  });
  await session.close();
}

void main();
