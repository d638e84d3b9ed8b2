/** Rows of sampling: the token is exact, its log-probability a rounding away. */
import { f32, fixed, i32, normal, type OpCase, type Values } from './case';
import { tolerance } from './tolerance';

const close = tolerance('f64 arithmetic; the sum runs in another order', { rel: 1e-6, abs: 1e-6 });

interface Settings {
  temperature?: number;
  topK?: number;
  topP?: number;
  minP?: number;
  penalty?: number;
  draw?: 0 | 1;
}

function row(
  name: string,
  batch: number,
  vocab: number,
  s: Settings,
  more: { history?: Values; logits?: Values; step?: number } = {},
): OpCase {
  const params = fixed(s.temperature ?? 1, s.topK ?? 0, s.topP ?? 1, s.minP ?? 0, s.penalty ?? 1, s.draw ?? 1, 0, 0);
  const history: Values = more.history ?? (() => Array<number>(3 * batch).fill(-1));
  return {
    op: 'sample',
    name,
    inputs: [
      f32([batch, vocab], more.logits ?? normal(3)),
      i32([batch, 3], history),
      f32([8], params),
      i32([4], fixed(5, 6, more.step ?? 7, 0)),
    ],
    out: [`i32[${batch}]`, `f32[${batch}]`],
    tolerance: close,
  };
}

export const cases: readonly OpCase[] = [
  row('greedy', 5, 37, { draw: 0 }),
  row('greedy, ties take the lowest id', 2, 4, { draw: 0 }, { logits: fixed(1, 3, 3, 0, 2, 2, 2, 2) }),
  row('temperature 0 is greedy', 3, 11, { temperature: 0 }),
  row('one token', 1, 1, {}),
  row('plain', 40, 50, {}),
  row('hot', 40, 50, { temperature: 2.5 }, { step: 9 }),
  row('cold', 40, 50, { temperature: 0.3 }),
  row('top-k', 40, 50, { topK: 5 }),
  row('top-k of more than there are', 10, 7, { topK: 50 }),
  row('top-p', 40, 50, { topP: 0.7 }),
  row('top-p of almost nothing', 10, 20, { topP: 1e-6 }),
  row('min-p', 40, 50, { minP: 0.1 }),
  row(
    'all filters',
    40,
    200,
    { temperature: 0.8, topK: 40, topP: 0.9, minP: 0.02, penalty: 1.2 },
    { history: (draw) => Array.from({ length: 120 }, () => Math.floor(draw() * 201) - 1) },
  ),
  row('penalty', 4, 9, { penalty: 1.5, draw: 0 }, { history: fixed(0, 1, 1, 8, -1, -1, 4, 4, 4, -1, -1, -1) }),
  row(
    'masked logits',
    8,
    12,
    {},
    { logits: (draw) => Array.from({ length: 96 }, (_, i) => (i % 3 === 0 ? draw() * 4 : -Infinity)) },
  ),
];
