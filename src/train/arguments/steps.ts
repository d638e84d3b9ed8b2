/** What `logging_steps: 0.1` or `save_steps: 0.5` mean in a run of so many steps. The rule is transformers' (ceil for fractions). */

/** An interval in steps: a value below 1 is that fraction of all steps, rounded up; never less than 1. */
export function stepInterval(setting: number, totalSteps: number): number {
  return Math.max(1, setting < 1 ? Math.ceil(totalSteps * setting) : Math.floor(setting));
}
