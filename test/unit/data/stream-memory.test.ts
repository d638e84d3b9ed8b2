/** Memory stays flat while a compressed set many times the size of the buffers is streamed, tokenised and packed (scripts/stream-memory.ts, small). */
import { spawnSync } from 'node:child_process';
import { join } from 'node:path';
import type { StreamResult } from '../../../scripts/stream-memory';

test('RSS grows by less than 50 MB after the warm-up', () => {
  const script = join(__dirname, '../../../scripts/stream-memory.ts');
  const child = spawnSync(
    process.execPath,
    [
      '-r',
      'ts-node/register/transpile-only',
      script,
      '--gz-mb',
      '8',
      '--shard-mb',
      '0.5',
      '--shuffle',
      '50',
      '--warm-up',
      '0.4',
    ],
    { encoding: 'utf8' },
  );
  const lines = child.stdout.trim().split('\n');
  const result = JSON.parse(lines[lines.length - 1]) as StreamResult;
  expect([child.status, lines.slice(-2)[0]]).toEqual([0, expect.stringMatching(/^memory:/)]);
  // The set is larger than everything that may be held: growth would show.
  expect(result.textMegabytes).toBeGreaterThan(25);
  expect(result.peakRssMegabytes - result.warmRssMegabytes).toBeLessThan(50);
}, 300_000);
