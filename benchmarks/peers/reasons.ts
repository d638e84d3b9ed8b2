/** Why targets are missed, as far as it is known: printed under the table for every row that misses one. */
import type { PeerRow } from './row';

const REASONS: readonly [start: string, reason: string][] = [
  [
    'GPT-2 124M full bf16',
    'a product reaches 94 % of peak on one core and less on two, which share memory: fp32 weights are packed from it at 10 to 12 GB/s a core and fp32 gradients written to it; an eighth of the step is no product',
  ],
  [
    'LoRA 135M bf16 2x512: NF4',
    'the pairs spread more widely than the 3 % that are asked; GEMM by GEMM NF4 is level with bf16',
  ],
  [
    'LoRA 135M bf16 2x512, checkpointing: NF4',
    'the pairs spread more widely than the 3 % that are asked; GEMM by GEMM NF4 is level with bf16',
  ],
  ['GEMM NF4', 'expanding the codes of a panel is paid back over the rows; 512 of them are few'],
  [
    'GEMM bf16, 2 threads',
    'a product of 512 to 1,024 rows is 0.6 to 5 ms, and a thread that the host takes away for one of them holds up the other, while the register loop waits for nobody: 3 to 5 % in loud minutes; TN packs op(a) first: half a megabyte read from memory and as much written, 4 % of 512 cubed',
  ],
  ['GEMM f32, 2 threads', 'as in bf16'],
  [
    'GEMM bf16, 1 thread',
    'a tile of 512 k spends 1 to 2 % on its beginning and end, panels another 2 %; a transposed op(a) (TN) is packed first, 3 to 4 % of 512 cubed',
  ],
  ['GEMM f32, 1 thread', 'a transposed op(a) (TN) is packed first'],
  ['decode', 'a single row is bound by memory (bf16) and by expanding and transposing codes (NF4)'],
  [
    'trace + compile + plan',
    'passes over some 3,000 nodes in a process that is just starting: spread evenly, much of it V8 compiling its own code and collecting garbage',
  ],
  ['start to the end', 'imports, compiling the programs (above) and loading weights one program per tensor'],
];

/** One line for each row of `rows` that misses a target. */
export function missedLines(rows: readonly PeerRow[]): string[] {
  return rows
    .filter((r) => r.verdicts.some((v) => v.met === false))
    .map((r) => `${r.name}: ${REASONS.find(([start]) => r.name.startsWith(start))?.[1] ?? 'not known yet'}`);
}
