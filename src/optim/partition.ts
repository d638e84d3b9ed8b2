/**
 * Who keeps the optimizer state of which parameter (ZeRO stage 1, arXiv 1910.02054): whole parameters, so that a rank's
 * state is some slots and not slices of them, the largest first to the rank that has least.
 *
 * Invariants: a function of the sizes and the number of ranks only, so all ranks agree without talking.
 */

/** The owner of each of `sizes`, a rank below `ranks`. */
export function partition(sizes: readonly number[], ranks: number): number[] {
  const held = new Array<number>(ranks).fill(0);
  const owners = new Array<number>(sizes.length).fill(0);
  const largestFirst = sizes.map((_, i) => i).sort((a, b) => sizes[b] - sizes[a] || a - b);
  for (const i of largestFirst) {
    const owner = held.indexOf(Math.min(...held));
    owners[i] = owner;
    held[owner] += sizes[i];
  }
  return owners;
}
