/** Finds the training objective that a configuration asks for. Adding one: its file and one line here. */
import { LatheError } from '../../errors';
import type { ResolvedConfig } from '../arguments';
import type { Loss } from './loss';
import { sftLoss } from './sft';

const LOSSES: Readonly<Partial<Record<ResolvedConfig['lossType'], Loss>>> = { nll: sftLoss };

/** The objective of `loss_type`. @throws LatheError ERR_UNSUPPORTED for one that is known and not implemented */
export function lossOf(args: Pick<ResolvedConfig, 'lossType'>): Loss {
  const loss = LOSSES[args.lossType];
  if (loss) return loss;
  throw new LatheError('ERR_UNSUPPORTED', `loss_type ${args.lossType} is not implemented`, { remedy: `use loss_type: ${Object.keys(LOSSES).join(' or ')}` });
}
