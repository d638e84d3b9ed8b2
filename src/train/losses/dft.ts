/**
 * Dynamic fine-tuning: each token's loss is weighted by the probability that the model gives it, held constant. So the
 * gradient is that of the probability itself, and a label the model finds absurd no longer pulls the hardest.
 * Source: Wu et al. 2025 (arXiv 2508.05629); TRL 1.x, loss_type 'dft'.
 */
import { scope } from '../../graph/trace';
import { activation, mul, scale, stopGradient } from '../../ops/elementwise';
import { linearCrossEntropy } from '../../ops/loss';
import { sum } from '../../ops/reduce';
import type { Loss } from './loss';

export const dftLoss: Loss = (model, batch) => {
  const hidden = model.forward(batch);
  return scope('loss', () => {
    const { nll, correct, entropy } = linearCrossEntropy(hidden, model.head.read(hidden.dtype), batch.labels, {
      logitScale: model.logitScale,
      softcap: model.logitSoftcap,
    });
    // Masked rows have nll 0: weight 1 times 0.
    const probability = stopGradient(activation(scale(nll, -1), 'exp'));
    return {
      lossSum: sum(mul(nll, probability)),
      metricSums: { nll: sum(nll), mean_token_accuracy: sum(correct), entropy: sum(entropy) },
    };
  });
};
