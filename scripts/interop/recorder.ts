/** What the interop writers share: logits of a model, and a manifest of folders that `check_folders.py` compares. */
import { mkdirSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { compile } from '../../src/compile/compile';
import { deviceSpec } from '../../src/compile/devices';
import { elementCount } from '../../src/graph/tensor';
import { input, output, readState, trace } from '../../src/graph/trace';
import { writeSafetensors } from '../../src/io/safetensors';
import { matmul } from '../../src/ops/matmul';
import { AutoModelForCausalLM, type FromPretrainedOptions } from '../../src/pretrained/auto';
import type { PreTrainedModel } from '../../src/pretrained/model';
import { bytesOf } from '../../src/pretrained/run-once';
import { uniforms } from './random';

export interface Case {
  name: string;
  kind: 'model' | 'adapter';
  /** For adapters: folder of the base model; rows when its vocabulary was resized. */
  base?: string;
  rows?: number;
}

export const F32: FromPretrainedOptions = { dtype: 'f32' };

/** fp32 logits `[T, V]` of one row. */
export async function logitsOf(model: PreTrainedModel, ids: readonly number[]): Promise<Float32Array> {
  const session = await model.ready();
  const T = ids.length;
  const graph = trace('logits', () => {
    const x = model.module.forward({
      inputIds: input('ids', [T], 'i32'),
      positionIds: input('positions', [T], 'i32'),
      cuSeqlens: input('cu', [2], 'i32'),
      rng: null,
    });
    output(
      'logits',
      matmul(x, readState(model.module.head.slot()), {
        transB: true,
        compute: 'f32',
        dtype: 'f32',
        alpha: model.module.logitScale,
      }),
    );
  });
  const program = session.loadProgram(compile(graph, { device: deviceSpec('cpu', session.stats().threads) }).bytes);
  const { logits } = await session.run(program, {
    ids: Int32Array.from(ids),
    positions: Int32Array.from(ids, (_, i) => i),
    cu: Int32Array.of(0, T),
  });
  session.releaseProgram(program);
  return logits as Float32Array;
}

/** Random values in everything that is trained, as after a run: an untrained B would hide the adapter. */
export async function perturb(model: PreTrainedModel): Promise<void> {
  const session = await model.ready();
  for (const [i, p] of model.trainableParameters().entries()) {
    const n = elementCount(p.shape);
    const noise = uniforms(n, 1000 + i);
    const old = new Float32Array((await session.readState(p.name)).slice().buffer);
    const std = p.name.includes('lora_') ? 0.02 : 0.01;
    await session.writeState(
      p.name,
      Float32Array.from(noise, (u, k) => (p.name.includes('lora_B') ? 0 : old[k]) + (u - 0.5) * 4 * std),
    );
  }
}

/** Collects cases below `out`, which is emptied first. */
export class Recorder {
  private readonly cases: Case[] = [];
  private ids: number[] | null = null;

  constructor(private readonly out: string) {
    rmSync(out, { recursive: true, force: true });
    mkdirSync(out, { recursive: true });
  }

  /** Writes a model's logits as case `c` and closes it. */
  async record(c: Case, model: PreTrainedModel): Promise<void> {
    // The first model's rows: all models of a run have at least these.
    const rows = model.vocabSize;
    this.ids ??= Array.from(uniforms(24, 1), (u) => Math.floor(u * rows));
    const logits = await logitsOf(model, this.ids);
    await model.close();
    const shape = [this.ids.length, logits.length / this.ids.length];
    await writeSafetensors(join(this.out, `${c.name}.logits.safetensors`), [
      { name: 'logits', dtype: 'F32', shape, data: bytesOf(logits) },
    ]);
    this.cases.push(c);
    console.log('wrote', c.name);
  }

  /** The model in folder `name`, opened here. */
  async saved(name: string): Promise<void> {
    await this.record({ name, kind: 'model' }, await AutoModelForCausalLM.fromPretrained(join(this.out, name), F32));
  }

  finish(): void {
    writeFileSync(join(this.out, 'manifest.json'), JSON.stringify({ input_ids: this.ids, cases: this.cases }, null, 1));
  }
}
