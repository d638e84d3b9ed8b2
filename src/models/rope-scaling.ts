/**
 * Inverse frequencies of rotary embeddings, of both generations of config.json: `rope_theta` + `rope_scaling`, or
 * `rope_parameters`. Types: default, linear, dynamic (at its base length), llama3, yarn. Computed in f64, used as f32.
 */
import { LatheError } from '../errors';
import type { ConfigReader } from './config-reader';

export interface RopeFrequencies {
  readonly invFreq: readonly number[];
  /** Multiplies cos and sin. */
  readonly attentionScaling: number;
}

export function ropeFrequencies(config: ConfigReader, headDim: number, maxPositions: number): RopeFrequencies {
  const scaling = config.object('rope_parameters') ?? config.object('rope_scaling');
  const theta = scaling?.has('rope_theta') ? scaling.number('rope_theta') : config.number('rope_theta', 10000);
  const partial = scaling?.has('partial_rotary_factor')
    ? scaling.number('partial_rotary_factor')
    : config.number('partial_rotary_factor', 1);
  const dim = Math.floor(headDim * partial);
  const base = Array.from({ length: dim / 2 }, (_, i) => 1 / theta ** ((2 * i) / dim));
  const type = scaling
    ? scaling.string('rope_type', scaling.has('type') ? scaling.string('type') : 'default')
    : 'default';
  switch (type) {
    case 'default':
    case 'dynamic':
      return { invFreq: base, attentionScaling: 1 };
    case 'linear':
      return { invFreq: base.map((f) => f / scaling!.number('factor')), attentionScaling: 1 };
    case 'llama3':
      return { invFreq: base.map((f) => llama3(f, scaling!, maxPositions)), attentionScaling: 1 };
    case 'yarn':
      return yarn(base, scaling!, theta, dim, maxPositions);
    default:
      throw new LatheError('ERR_UNSUPPORTED', `rope scaling type '${type}' is not supported`, {
        at: 'config.json',
        remedy: 'use default, linear, dynamic, llama3 or yarn',
      });
  }
}

function llama3(f: number, s: ConfigReader, maxPositions: number): number {
  const factor = s.number('factor', 8);
  const low = s.number('low_freq_factor', 1);
  const high = s.number('high_freq_factor', 4);
  const old = s.number('original_max_position_embeddings', maxPositions);
  const wavelength = (2 * Math.PI) / f;
  if (wavelength > old / low) return f / factor;
  if (wavelength < old / high) return f;
  const smooth = (old / wavelength - low) / (high - low);
  return ((1 - smooth) * f) / factor + smooth * f;
}

/** YaRN (arXiv 2309.00071). */
function yarn(
  base: readonly number[],
  s: ConfigReader,
  theta: number,
  dim: number,
  maxPositions: number,
): RopeFrequencies {
  const factor = s.number('factor');
  const old = s.number('original_max_position_embeddings', maxPositions);
  const correction = (rotations: number): number =>
    (dim * Math.log(old / (rotations * 2 * Math.PI))) / (2 * Math.log(theta));
  const low = Math.max(Math.floor(correction(s.number('beta_fast', 32))), 0);
  const high = Math.min(Math.ceil(correction(s.number('beta_slow', 1))), dim - 1);
  const invFreq = base.map((f, i) => {
    const ramp = Math.min(1, Math.max(0, (i - low) / Math.max(high - low, 0.001)));
    return (f / factor) * ramp + f * (1 - ramp);
  });
  return { invFreq, attentionScaling: s.number('attention_factor', 0.1 * Math.log(factor) + 1) };
}
