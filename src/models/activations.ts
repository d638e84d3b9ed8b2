/** Activation names of config.json (transformers' ACT2FN) as the kinds that ops know. */
import { LatheError } from '../errors';
import type { ActivationKind } from '../ops/elementwise';

const KINDS: Readonly<Record<string, ActivationKind>> = {
  silu: 'silu',
  swish: 'silu',
  gelu: 'gelu',
  gelu_new: 'gelu_tanh',
  gelu_pytorch_tanh: 'gelu_tanh',
  relu: 'relu',
  tanh: 'tanh',
  sigmoid: 'sigmoid',
};

/** @throws LatheError ERR_UNSUPPORTED naming the config key */
export function activationKind(name: string, key: string): ActivationKind {
  const kind = KINDS[name];
  if (kind) return kind;
  throw new LatheError('ERR_UNSUPPORTED', `${key} '${name}' is not supported`, {
    at: 'config.json',
    remedy: `use one of ${Object.keys(KINDS).join(', ')}`,
  });
}
