/**
 * Supervised fine-tuning: cross-entropy of the next token over unmasked labels. The head is fused with the loss, so
 * logits never exist in full and masked rows cost nothing. Metrics as TRL logs them.
 */
import { scope } from '../../graph/trace';
import { linearCrossEntropy } from '../../ops/loss';
import { sum } from '../../ops/reduce';
import type { Loss } from './loss';

export const sftLoss: Loss = (model, batch) => {
  const hidden = model.forward(batch);
  return scope('loss', () => {
    const { nll, correct, entropy } = linearCrossEntropy(hidden, model.head.read(hidden.dtype), batch.labels, {
      logitScale: model.logitScale,
      softcap: model.logitSoftcap,
    });
    return { lossSum: sum(nll), metricSums: { mean_token_accuracy: sum(correct), entropy: sum(entropy) } };
  });
};
