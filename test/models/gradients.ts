/** One micro-batch of a model's training program: its loss and the gradient of everything that is trained. */
import type { CheckpointPolicy } from '../../src/autodiff/checkpoint';
import { deviceSpec } from '../../src/compile/devices';
import { collate } from '../../src/data/collate';
import type { PreTrainedModel } from '../../src/pretrained/model';
import { sftLoss } from '../../src/train/losses/sft';
import { StepRunner } from '../../src/train/runner';
import type { Rows } from './logits';

export async function gradientsOf(
  model: PreTrainedModel,
  rows: Rows,
  o: { checkpoint?: CheckpointPolicy } = {},
): Promise<{ loss: number; gradients: Map<string, Float32Array> }> {
  const examples = rows.input_ids.map((ids, row) => ({
    inputIds: Int32Array.from(ids),
    labels: Int32Array.from(rows.labels[row]),
    row,
  }));
  const batch = collate(examples, { tokens: 64, documents: 4 });
  const runner = new StepRunner(model, {
    loss: sftLoss,
    optimizer: { kind: 'adamw', beta1: 0.9, beta2: 0.999, eps: 1e-8, maxGradNorm: 0 },
    weightDecayOf: () => 0,
    trainShapes: [{ tokens: 64, documents: 4 }],
    evalShapes: [],
    checkpoint: o.checkpoint ?? 'none',
    device: deviceSpec('cpu', 2),
    seed: 0,
  });
  const session = await runner.start();
  const { lossSum } = await runner.micro(batch, batch.numLabels, 1, 0);
  const gradients = new Map<string, Float32Array>();
  for (const p of runner.parameters) {
    const bytes = await session.readState(p.gradient.name);
    gradients.set(p.slot.name, new Float32Array(bytes.buffer, bytes.byteOffset, bytes.byteLength / 4));
  }
  return { loss: lossSum / batch.numLabels, gradients };
}
