/** Schedules against transformers' get_scheduler (test/golden/optim/schedules.json, dumped by scripts/golden/adamw8bit.py). */

import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { createSchedule, warmupStepCount } from '../../../src/optim/schedules';
import type { ScheduleName } from '../../../src/optim/schedules';

interface Case {
  name: ScheduleName;
  lr: number;
  warmup_steps: number;
  total_steps: number;
  kwargs: Record<string, unknown>;
  values: number[];
}

const cases = JSON.parse(readFileSync(join(__dirname, '../../golden/optim/schedules.json'), 'utf8')) as Case[];

test.each(cases.map((c) => [`${c.name}, ${c.warmup_steps} warm-up steps, ${JSON.stringify(c.kwargs)}`, c] as const))(
  '%s',
  (_, c) => {
    const schedule = createSchedule({
      name: c.name,
      learningRate: c.lr,
      warmupSteps: c.warmup_steps,
      totalSteps: c.total_steps,
      kwargs: c.kwargs,
    });
    expect(c.values.length).toBe(c.total_steps + 5);
    // Equal up to the last bits of cos and pow, at the scale of the peak rate.
    const worst = Math.max(...c.values.map((value, step) => Math.abs(schedule(step) - value)));
    expect(worst).toBeLessThanOrEqual(8 * Number.EPSILON * c.lr);
  },
);

test('every schedule has a case', () => {
  expect(new Set(cases.map((c) => c.name)).size).toBe(10);
});

test('warm-up in steps or as a fraction', () => {
  expect([0, 0.03, 0.5, 1, 50, 10.7].map((setting) => warmupStepCount(setting, 110))).toEqual([0, 4, 55, 1, 50, 10]);
});

const base = { learningRate: 1e-3, warmupSteps: 0, totalSteps: 10 };

test.each([
  [{ ...base, name: 'cosin' as ScheduleName }, /did you mean cosine/],
  [{ ...base, name: 'cosine' as const, kwargs: { num_cycle: 1 } }, /did you mean num_cycles/],
  [{ ...base, name: 'cosine' as const, kwargs: { num_cycles: 'two' } }, /expected a number, received "two"/],
  [{ ...base, name: 'linear' as const, kwargs: { power: 2 } }, /no parameters/],
  [{ ...base, name: 'warmup_stable_decay' as const }, /num_decay_steps/],
  [
    { ...base, name: 'warmup_stable_decay' as const, kwargs: { num_decay_steps: 2, decay_type: 'step' } },
    /linear, cosine or 1-sqrt/,
  ],
  [{ ...base, name: 'cosine_with_min_lr' as const }, /one of min_lr and min_lr_rate, received neither/],
  [{ ...base, name: 'cosine_with_min_lr' as const, kwargs: { min_lr: 1e-5, min_lr_rate: 0.1 } }, /received both/],
  [{ ...base, name: 'polynomial' as const, kwargs: { lr_end: 1 } }, /lr_end below/],
])('%j is refused', (options, message) => {
  expect(() => createSchedule(options)).toThrow(
    expect.objectContaining({ code: 'ERR_CONFIG', message: expect.stringMatching(message) as string }),
  );
});
