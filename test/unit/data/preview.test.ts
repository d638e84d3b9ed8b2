/** The preview shows the ids that will be trained, and never lets data talk to the terminal. */
import {
  Dataset,
  previewLegend,
  renderPreview,
  renderSummary,
  summarise,
  tokenizeDataset,
  type Row,
  type TokenizeOptions,
} from '../../../src/data';
import { FakeTokenizer } from './fake-tokenizer';

const tokenizer = new FakeTokenizer();
const load = (rows: Row[], options: TokenizeOptions = {}) =>
  tokenizeDataset(Dataset.fromRows(rows), tokenizer, options);

test('marks and colours', async () => {
  const { examples } = await load([{ prompt: 'hello', completion: ' world' }]);
  expect(renderPreview(examples[0], tokenizer, { color: false })).toBe(
    'row 0: 3 tokens, 2 trained\nhello⟦ world</s>⟧\n',
  );
  expect(renderPreview(examples[0], tokenizer, { color: true, at: 'a.jsonl:7' })).toBe(
    'a.jsonl:7: 3 tokens, 2 trained\n\u001b[90mhello\u001b[0m\u001b[32m world</s>\u001b[0m\n',
  );
  expect(renderPreview(examples[0], tokenizer, { color: false, tokens: true })).toContain('hello⟦ world│</s>⟧');
  expect(previewLegend(false)).toBe('⟦trained⟧ masked');
});

test('control characters are shown, not obeyed', async () => {
  const { examples } = await load([{ text: 'a\u001b[2Jb\tc\nd\u0007' }]);
  const text = renderPreview(examples[0], tokenizer, { color: false });
  expect(text).toContain('a\\x1b[2Jb\tc\nd\\x07');
  expect(text).not.toContain('\u001b');
});

test('text reads as in context when the decoder strips a leading blank', async () => {
  const stripping = Object.assign(new FakeTokenizer(), {
    decode: (ids: ArrayLike<number>) => tokenizer.decode(ids).replace(/^ /, ''),
  });
  const { examples } = await load([{ prompt: 'hello', completion: ' world' }]);
  expect(renderPreview(examples[0], stripping, { color: false })).toContain('hello⟦ world</s>⟧');
});

test('summary', async () => {
  const rows = Array.from({ length: 20 }, (_, i) => ({ prompt: 'hello', completion: 'x'.repeat(i) }));
  const data = await load(rows, { maxLength: 20 });
  const summary = summarise(data);
  expect(summary).toMatchObject({ rows: 20, examples: 20, shortest: 2, longest: 20, median: 12 });
  expect(summary.tokens).toBe(Array.from({ length: 20 }, (_, i) => Math.min(i + 2, 20)).reduce((a, b) => a + b, 0));
  expect(summary.histogram.reduce((sum, { count }) => sum + count, 0)).toBe(20);
  expect(summary.packedRows).toBeGreaterThanOrEqual(Math.ceil(summary.tokens / 20));
  expect(summary.packingFill).toBeCloseTo(summary.tokens / (20 * (summary.packedRows as number)), 12);
  const text = renderSummary(data);
  expect(text).toMatch(/kind {5}prompt_completion/);
  expect(text).toMatch(/trained {2}209 \(91\.3%\)/);
  expect(text).toMatch(/cut 1 tokens, 1 of them trained, from 1 rows/);
  expect(text).toMatch(/ 17-32 █+ +\d+\n/);
});
