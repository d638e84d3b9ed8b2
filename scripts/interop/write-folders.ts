/**
 * Writes every kind of folder this package can save, with the logits it computes from each, so that `check_folders.py`
 * can load the same folders with transformers, peft and bitsandbytes and compare. Run by hand, not by `npm test`:
 *
 *   npx ts-node --transpile-only scripts/interop/write-folders.ts MODEL OUT     (MODEL: a folder or a .gguf file)
 *   python scripts/interop/check_folders.py OUT
 */
import { mkdirSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { compile } from '../../src/compile/compile';
import { deviceSpec } from '../../src/compile/devices';
import { uniforms } from './random';
import { input, output, readState, trace } from '../../src/graph/trace';
import { elementCount } from '../../src/graph/tensor';
import { writeSafetensors } from '../../src/io/safetensors';
import { matmul } from '../../src/ops/matmul';
import { LoraConfig, type LoraOptions } from '../../src/peft/lora-config';
import { saveAdapter } from '../../src/peft/save';
import { AutoModelForCausalLM, type FromPretrainedOptions } from '../../src/pretrained/auto';
import { convertModel } from '../../src/pretrained/convert';
import type { PreTrainedModel } from '../../src/pretrained/model';
import { getPeftModel, PeftModel } from '../../src/pretrained/peft-model';
import { bytesOf } from '../../src/pretrained/run-once';
import { saveMerged } from '../../src/pretrained/save';
import { BitsAndBytesConfig } from '../../src/quantization/bitsandbytes';

interface Case {
  name: string;
  kind: 'model' | 'adapter';
  /** For adapters: folder of the base model; rows when its vocabulary was resized. */
  base?: string;
  rows?: number;
}

const TARGETS = ['q_proj', 'k_proj', 'v_proj', 'o_proj', 'gate_proj', 'up_proj', 'down_proj'];
const F32: FromPretrainedOptions = { dtype: 'f32' };

async function logitsOf(model: PreTrainedModel, ids: readonly number[]): Promise<Float32Array> {
  const session = await model.ready();
  const T = ids.length;
  const graph = trace('logits', () => {
    const x = model.module.forward({ inputIds: input('ids', [T], 'i32'), positionIds: input('positions', [T], 'i32'), cuSeqlens: input('cu', [2], 'i32'), rng: null } as never);
    output('logits', matmul(x, readState(model.module.head.slot()), { transB: true, compute: 'f32', dtype: 'f32', alpha: model.module.logitScale }));
  });
  const program = session.loadProgram(compile(graph, { device: deviceSpec('cpu', session.stats().threads) }).bytes);
  const { logits } = await session.run(program, { ids: Int32Array.from(ids), positions: Int32Array.from(ids, (_, i) => i), cu: Int32Array.of(0, T) });
  session.releaseProgram(program);
  return logits as Float32Array;
}

/** Random values in everything that is trained, as after a run: an untrained B would hide the adapter. */
async function perturb(model: PreTrainedModel): Promise<void> {
  const session = await model.ready();
  for (const [i, p] of model.trainableParameters().entries()) {
    const n = elementCount(p.shape);
    const noise = uniforms(n, 1000 + i);
    const old = new Float32Array((await session.readState(p.name)).slice().buffer);
    const std = p.name.includes('lora_') ? 0.02 : 0.01;
    await session.writeState(p.name, Float32Array.from(noise, (u, k) => (p.name.includes('lora_B') ? 0 : old[k]) + (u - 0.5) * 4 * std));
  }
}

async function main([source, out]: string[]): Promise<void> {
  if (!source || !out) throw new Error('usage: write-folders MODEL OUT');
  rmSync(out, { recursive: true, force: true });
  mkdirSync(out, { recursive: true });
  const cases: Case[] = [];
  const ids: number[] = [];

  const record = async (c: Case, model: PreTrainedModel): Promise<void> => {
    if (ids.length === 0) ids.push(...Array.from(uniforms(24, 1), (u) => Math.floor(u * model.vocabSize)));
    const logits = await logitsOf(model, ids);
    await model.close();
    const shape = [ids.length, logits.length / ids.length];
    await writeSafetensors(join(out, `${c.name}.logits.safetensors`), [{ name: 'logits', dtype: 'F32', shape, data: bytesOf(logits) }]);
    cases.push(c);
    console.log('wrote', c.name);
  };
  const saved = async (name: string): Promise<void> => record({ name, kind: 'model' }, await AutoModelForCausalLM.fromPretrained(join(out, name), F32));

  await convertModel(source, join(out, 'converted-f32'), { dtype: 'f32', maxShardBytes: 200e6 });
  await saved('converted-f32');
  await convertModel(source, join(out, 'converted-bf16'), { dtype: 'bf16' });
  await saved('converted-bf16');
  const base = join(out, 'converted-f32');

  const dense = await AutoModelForCausalLM.fromPretrained(base, { dtype: 'bf16' });
  await dense.savePretrained(join(out, 'saved-bf16'));
  await dense.close();
  await saved('saved-bf16');

  for (const [name, bnb4bitQuantType, bnb4bitUseDoubleQuant] of [['bnb-nf4-nested', 'nf4', true], ['bnb-fp4', 'fp4', false]] as const) {
    const quantizationConfig = new BitsAndBytesConfig({ loadIn4bit: true, bnb4bitQuantType, bnb4bitUseDoubleQuant, bnb4bitComputeDtype: 'f32' });
    const model = await AutoModelForCausalLM.fromPretrained(base, { dtype: 'f32', quantizationConfig });
    await model.savePretrained(join(out, name));
    await model.close();
    await saved(name);
  }

  const adapter = async (name: string, lora: LoraOptions, rows?: number): Promise<void> => {
    const model = await AutoModelForCausalLM.fromPretrained(base, F32);
    if (rows) model.resizeTokenEmbeddings(rows);
    getPeftModel(model, new LoraConfig({ r: 8, loraAlpha: 16, targetModules: TARGETS, ...lora }));
    await perturb(model);
    await saveAdapter(model, join(out, name));
    await saveMerged(model, join(out, `${name}-merged`), { dtype: 'f32' });
    await model.close();
    await record({ name, kind: 'adapter', base: 'converted-f32', rows }, await PeftModel.fromPretrained(await AutoModelForCausalLM.fromPretrained(base, F32), join(out, name)));
    await saved(`${name}-merged`);
  };
  const vocab = (await AutoModelForCausalLM.fromPretrained(base)).vocabSize;
  await adapter('adapter', {});
  await adapter('adapter-saved', { targetModules: ['q_proj', 'v_proj'], modulesToSave: ['embed_tokens', 'lm_head'] });
  await adapter('adapter-tied', { targetModules: ['q_proj', 'v_proj'], modulesToSave: ['embed_tokens'], ensureWeightTying: true });
  await adapter('adapter-resized', { targetModules: ['q_proj', 'v_proj'] }, vocab + 7);

  const resized = await AutoModelForCausalLM.fromPretrained(base, F32);
  resized.resizeTokenEmbeddings(vocab + 3, { padToMultipleOf: 8 });
  await resized.savePretrained(join(out, 'resized'));
  await resized.close();
  await saved('resized');

  writeFileSync(join(out, 'manifest.json'), JSON.stringify({ input_ids: ids, cases }, null, 1));
}

main(process.argv.slice(2)).catch((error: unknown) => {
  console.error(error);
  process.exitCode = 1;
});
