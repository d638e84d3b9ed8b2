/** The middle part of gpt2_124m.py, which describes all three. */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { deviceSpec } from '../../src/compile/devices';
import { collate } from '../../src/data/collate';
import type { Batch } from '../../src/data/types';
import { openCheckpoint } from '../../src/io/checkpoint-files';
import { readTensorFloats } from '../../src/io/float-codec';
import { writeSafetensors } from '../../src/io/safetensors';
import { AutoModelForCausalLM } from '../../src/pretrained/auto';
import { bytesOf } from '../../src/pretrained/run-once';
import { sftLoss } from '../../src/train/losses/sft';
import { StepRunner } from '../../src/train/runner';
import { hasWeightDecay } from '../../src/train/training-plan';
import { F32, logitsOf } from './recorder';

interface Golden {
  input_ids: number[][][];
  losses: number[];
  grad_norms: number[];
  learning_rate: number;
  weight_decay: number;
  clip: number;
}

async function main([out]: string[]): Promise<void> {
  if (!out) throw new Error('usage: gpt2-124m OUT');
  const golden = JSON.parse(readFileSync(join(out, 'golden.json'), 'utf8')) as Golden;
  const [rows, length] = [golden.input_ids[0].length, golden.input_ids[0][0].length];
  const shape = { tokens: rows * length, documents: rows };
  const batchOf = (step: number): Batch =>
    collate(
      golden.input_ids[step].map((ids, row) => ({ inputIds: Int32Array.from(ids), labels: Int32Array.from(ids), row })),
      shape,
    );

  const model = await AutoModelForCausalLM.fromPretrained(join(out, 'start'), F32);
  model.trainAll();
  const runner = new StepRunner(model, {
    loss: sftLoss,
    optimizer: { kind: 'adamw', beta1: 0.9, beta2: 0.999, eps: 1e-8, maxGradNorm: golden.clip },
    weightDecayOf: (p) => (hasWeightDecay(p.name) ? golden.weight_decay : 0),
    trainShapes: [shape],
    evalShapes: [],
    checkpoint: 'none',
    device: deviceSpec('cpu', 2),
    seed: 0,
  });
  const session = await runner.start();
  let [worstGradient, worstLoss, failed] = [0, 0, false];
  const want = await openCheckpoint(out, { stem: 'grads' });
  for (let step = 0; step < golden.losses.length; step++) {
    const batch = batchOf(step);
    const { lossSum } = await runner.micro(batch, batch.numLabels, step + 1, 0);
    const loss = lossSum / batch.numLabels;
    if (step === 0) {
      for (const p of runner.parameters) {
        const expected = await readTensorFloats(want.get(p.slot.name)!);
        const bytes = await session.readState(p.gradient.name);
        const got = new Float32Array(bytes.buffer, bytes.byteOffset, bytes.byteLength / 4);
        let [scale, difference] = [0, 0];
        for (let i = 0; i < got.length; i++) {
          scale = Math.max(scale, Math.abs(expected[i]));
          difference = Math.max(difference, Math.abs(expected[i] - got[i]));
        }
        if (!(difference / scale < 1e-4)) console.log('FAIL gradient of', p.slot.name, difference / scale);
        worstGradient = Math.max(worstGradient, difference / scale);
      }
      failed ||= !(worstGradient < 1e-4) || want.size !== runner.parameters.length;
      console.log(
        `${runner.parameters.length} gradients: largest difference ${worstGradient.toExponential(2)} of the tensor's largest`,
      );
    }
    const { gradNorm } = await runner.update(golden.learning_rate, step + 1);
    worstLoss = Math.max(worstLoss, Math.abs(loss - golden.losses[step]));
    console.log(
      `step ${step + 1}: loss ${loss.toFixed(6)} (${golden.losses[step].toFixed(6)}), norm ${gradNorm.toFixed(4)} (${golden.grad_norms[step].toFixed(4)})`,
    );
  }
  failed ||= !(worstLoss < 1e-3);
  console.log(
    `${failed ? 'FAIL' : 'ok'}: largest loss difference over ${golden.losses.length} steps ${worstLoss.toExponential(2)}`,
  );

  await model.savePretrained(join(out, 'trained'), { tokenizer: null });
  await model.close();
  const trained = await AutoModelForCausalLM.fromPretrained(join(out, 'trained'), F32);
  const ids = golden.input_ids[0][0];
  const logits = await logitsOf(trained, ids);
  await trained.close();
  await writeSafetensors(join(out, 'logits.safetensors'), [
    { name: 'logits', dtype: 'F32', shape: [ids.length, logits.length / ids.length], data: bytesOf(logits) },
  ]);
  if (failed) process.exitCode = 1;
}

main(process.argv.slice(2)).catch((error: unknown) => {
  console.error(error);
  process.exitCode = 1;
});
