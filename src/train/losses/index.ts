/** Finds the training objective that a configuration asks for. Adding one: its file and one line here. */
import type { ResolvedConfig } from '../arguments';
import { dftLoss } from './dft';
import type { Loss } from './loss';
import { sftLoss } from './sft';

const LOSSES: Readonly<Record<ResolvedConfig['lossType'], Loss>> = { nll: sftLoss, dft: dftLoss };

/** The objective of `loss_type`. */
export function lossOf(args: Pick<ResolvedConfig, 'lossType'>): Loss {
  return LOSSES[args.lossType];
}
