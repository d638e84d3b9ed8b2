/**
 * What happens to a row that cannot be used: an unreadable line, a cell of the wrong type, a missing column.
 *
 * The idea: `error` stops at the first one; `skip` leaves such rows out, names the first few by file and line, and says
 * that there are more. Damage to a whole file (cut short, gone) is never a bad row.
 */
import { hasCode, LatheError } from '../errors';
import type { OnBadRow } from './byte-source';

export type BadRowPolicy = 'error' | 'skip';
const BAD_ROW_POLICIES: readonly BadRowPolicy[] = ['error', 'skip'];

const kShown = 5;

/** The handler of a policy; undefined means that a bad row is an error. @throws ERR_CONFIG for a policy that is none */
export function badRowHandler(
  policy: BadRowPolicy | undefined,
  warn: (message: string) => void = (m) => process.emitWarning(m),
): OnBadRow | undefined {
  if (policy !== undefined && !BAD_ROW_POLICIES.includes(policy)) {
    throw new LatheError(
      'ERR_CONFIG',
      `onBadRow: expected ${BAD_ROW_POLICIES.join(' or ')}, received ${JSON.stringify(policy)}`,
      { remedy: 'choose one of them' },
    );
  }
  if (policy !== 'skip') return undefined;
  let count = 0;
  return (error) => {
    // A mistake in the configuration spoils every row alike: leaving rows out would leave nothing.
    if (!hasCode(error, 'ERR_DATA')) throw error;
    count++;
    if (count <= kShown) warn(`row left out: ${error.message}`);
    if (count === kShown) warn('further rows that cannot be used are left out without a message');
  };
}
