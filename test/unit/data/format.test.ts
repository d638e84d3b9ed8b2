/** Row kinds, formatting, templates, truncation reports: from rows to examples. */
import fc from 'fast-check';
import {
  alpacaPrompt,
  countTrained,
  Dataset,
  describeTruncation,
  detectKind,
  fillTemplate,
  IGNORE_INDEX,
  maskByTemplate,
  RowFormatter,
  tokenizeDataset,
  type Row,
  type TokenizeOptions,
} from '../../../src/data';
import { FakeTokenizer } from './fake-tokenizer';

async function shown(rows: Row[], options: TokenizeOptions = {}): Promise<string[]> {
  const tokenizer = new FakeTokenizer();
  const { examples } = await tokenizeDataset(Dataset.fromRows(rows), tokenizer, options);
  return examples.map(({ inputIds, labels }) => {
    let text = '';
    labels.forEach((label, i) => {
      const open = label !== IGNORE_INDEX && (i === 0 || labels[i - 1] === IGNORE_INDEX);
      const close = label !== IGNORE_INDEX && (i === labels.length - 1 || labels[i + 1] === IGNORE_INDEX);
      text += `${open ? '[' : ''}${tokenizer.decode([inputIds[i]])}${close ? ']' : ''}`;
    });
    return text;
  });
}

test.each<[Row, string]>([
  [{ text: 'x' }, 'text'],
  [{ prompt: 'x', completion: 'y', text: 'z' }, 'prompt_completion'],
  [{ instruction: 'x', output: 'y', input: '' }, 'instruction'],
  [{ messages: [] }, 'messages'],
  [{ conversations: [] }, 'messages'],
  [{ input_ids: [1] }, 'tokens'],
])('detectKind %j', (row, kind) => {
  expect(detectKind(row)).toBe(kind);
});

test('unknown columns and unfit rows say what was expected, where', async () => {
  expect(() => detectKind({ question: 'x', answer: 'y' })).toThrow(/received question, answer.*formatting/);
  expect(() => detectKind({ chosen: 'x', rejected: 'y' })).toThrow(/preference pairs/);
  await expect(shown([{ text: 'a' }, { text: null }])).rejects.toMatchObject({ code: 'ERR_DATA', at: 'row 1' });
  await expect(shown([{ messages: [{ role: 'user', content: 'a' }, 'x'] }])).rejects.toThrow(
    /messages\[1\]: expected a message/,
  );
  await expect(shown([{ text: 'a' }], { kind: 'texts' as 'text' })).rejects.toThrow(/did you mean text/);
});

describe('what is trained', () => {
  test('text: everything, EOS added once', async () => {
    expect(await shown([{ text: 'cat' }, { text: 'cat</s>' }])).toEqual(['[cat</s>]', '[cat</s>]']);
  });

  test('prompt and completion: the completion, unless told otherwise', async () => {
    const rows = [{ prompt: 'hello', completion: ' world' }];
    expect(await shown(rows)).toEqual(['hello[ world</s>]']);
    expect(await shown(rows, { completionOnlyLoss: false })).toEqual(['[hello world</s>]']);
  });

  test('instructions take the Alpaca prompt, with and without input', async () => {
    const [without, withInput] = await shown([
      { instruction: 'say', output: 'cat', input: '' },
      { instruction: 'say', output: 'cat', input: 'it' },
    ]);
    expect(without).toBe(`${alpacaPrompt('say')}[cat</s>]`);
    expect(without).toContain('appropriately completes the request.\n\n### Instruction:\nsay\n\n### Response:\n[');
    expect(withInput).toContain('further context. Write');
    expect(withInput).toContain('### Instruction:\nsay\n\n### Input:\nit\n\n### Response:\n[');
  });

  test('conversations, ShareGPT speakers, system prompt, assistant only', async () => {
    const messages = [
      { role: 'user', content: 'hello' },
      { role: 'assistant', content: 'cat' },
      { role: 'user', content: 'x' },
      { role: 'assistant', content: 'y' },
    ];
    const conversations = messages.map(({ role, content }) => ({
      from: role === 'user' ? 'human' : 'gpt',
      value: content,
    }));
    const whole = '<turn>user\nhello</s>\n<turn>assistant\ncat</s>\n<turn>user\nx</s>\n<turn>assistant\ny</s>\n';
    expect(await shown([{ messages }])).toEqual([`[${whole}]`]);
    expect(await shown([{ conversations }])).toEqual([`[${whole}]`]);
    expect(await shown([{ messages }], { assistantOnlyLoss: true })).toEqual([
      '<turn>user\nhello</s>\n<turn>assistant\n[cat</s>]\n<turn>user\nx</s>\n<turn>assistant\n[y</s>]\n',
    ]);
    expect((await shown([{ messages }], { systemPrompt: 'be' }))[0]).toMatch(/^\[<turn>system\nbe<\/s>\n<turn>user/);
    expect(await shown([{ prompt: messages.slice(0, 3), completion: messages.slice(3) }])).toEqual([
      '<turn>user\nhello</s>\n<turn>assistant\ncat</s>\n<turn>user\nx</s>\n<turn>assistant\n[y</s>\n]',
    ]);
  });

  test('ready-made ids with labels or masks', async () => {
    expect(await shown([{ input_ids: [6, 7, 8], labels: [-100, 7, 8] }])).toEqual(['cat[hello world]']);
    expect(await shown([{ input_ids: [6, 7, 8], completion_mask: [0, 0, 1] }])).toEqual(['cathello[ world]']);
    await expect(shown([{ input_ids: [6, 7], labels: [7] }])).rejects.toThrow(/as many labels/);
    // A table holds null where a row lacks a column that another one has.
    expect(await shown([{ input_ids: [6, 7, 8], labels: null, completion_mask: [0, 0, 1] }])).toEqual([
      'cathello[ world]',
    ]);
    expect(await shown([{ input_ids: [6, 7, 8], completion_mask: [0, 0, 1] }], { completionOnlyLoss: false })).toEqual([
      '[cathello world]',
    ]);
    expect(await shown([{ input_ids: [6, 7, 8], labels: [6, -100, 8], completion_mask: [0, 0, 1] }])).toEqual([
      '[cat]hello[ world]',
    ]);
    for (const completion_mask of [
      [0, 1],
      [0, 0, 1, 1],
    ]) {
      await expect(shown([{ input_ids: [6, 7, 8], completion_mask }])).rejects.toThrow(
        /as many completion_mask as input_ids \(3\)/,
      );
    }
    await expect(shown([{ input_ids: [6, 7], labels: [-100, -5] }])).rejects.toThrow(
      /-100 where nothing is trained, received -5/,
    );
  });

  test('a message without content is refused, unless it calls a tool', async () => {
    await expect(shown([{ messages: [{ role: 'user', text: 'hello' }] }])).rejects.toMatchObject({
      code: 'ERR_DATA',
      message: expect.stringMatching(
        /messages\[0\]: expected a message with content, received one with role, text/,
      ) as string,
    });
    expect(
      await shown([
        {
          messages: [
            { role: 'user', content: 'hello' },
            { role: 'assistant', tool_calls: [] },
          ],
        },
      ]),
    ).toHaveLength(1);
  });

  test('options that would do nothing are refused', async () => {
    await expect(shown([{ text: 'a' }], { completionOnlyLoss: true })).rejects.toMatchObject({ code: 'ERR_CONFIG' });
    await expect(shown([{ text: 'a' }], { assistantOnlyLoss: true })).rejects.toThrow(/expected conversations/);
    await expect(shown([{ text: 'a' }], { instructionTemplate: 'x' })).rejects.toThrow(/responseTemplate beside it/);
  });
});

describe('formatting', () => {
  test('templates, pairs of templates and functions', async () => {
    const rows = [{ q: 'hello', a: 'cat', n: 3 }];
    expect(await shown(rows, { formatting: '{q} {{{n}}} {a}' })).toEqual(['[hello {3} cat</s>]']);
    expect(await shown(rows, { formatting: { prompt: '{q}', completion: '{a}' } })).toEqual(['hello[cat</s>]']);
    expect(await shown(rows, { formatting: (row) => `${row.a as string}!` })).toEqual(['[cat!</s>]']);
    expect(await shown(rows, { formatting: (row) => ({ messages: [{ role: 'user', content: row.q }] }) })).toEqual([
      '[<turn>user\nhello</s>\n]',
    ]);
  });

  test('a misspelt column is an error with the row', () => {
    expect(() => fillTemplate('{questoin}', { question: 1 })).toThrow(/did you mean \{question\}/);
    expect(() => new RowFormatter({ formatting: '{x}' }).normalise({ y: 1 }, 'a.jsonl:3')).toThrow(
      expect.objectContaining({ at: 'a.jsonl:3' }),
    );
  });
});

test('masks only take labels away, and leave exactly what follows the last response template', () => {
  const token = fc.integer({ min: 0, max: 3 });
  fc.assert(
    fc.property(
      fc.array(token, { maxLength: 30 }),
      fc.array(token, { minLength: 1, maxLength: 3 }),
      (ids, template) => {
        const labels = Int32Array.from(ids);
        const result = maskByTemplate(labels, template);
        const text = `,${ids.join(',')},`;
        const last = ids.length === 0 ? -1 : text.lastIndexOf(`,${template.join(',')},`);
        expect(result.found).toBe(last >= 0);
        const end = last < 0 ? ids.length : text.slice(0, last).split(',').length - 1 + template.length;
        ids.forEach((id, i) => expect(labels[i]).toBe(i < end ? IGNORE_INDEX : id));
      },
    ),
  );
});

describe('truncation', () => {
  const rows = [
    { prompt: 'ab', completion: 'cd' },
    { prompt: 'abcdef', completion: 'gh' },
    { prompt: 'ab', completion: 'cdefgh' },
  ];
  const run = (options: TokenizeOptions) =>
    tokenizeDataset(Dataset.fromRows(rows), new FakeTokenizer(), { maxLength: 6, ...options });

  test('keep_start drops rows that lose their answer and counts the rest', async () => {
    const { examples, truncation } = await run({});
    expect(examples.map(({ row, inputIds }) => [row, inputIds.length])).toEqual([
      [0, 5],
      [2, 6],
    ]);
    expect(examples[1].note?.cut).toEqual({ originalTokens: 9, cutTokens: 3, cutTrainedTokens: 3 });
    expect(describeTruncation(truncation)).toBe(
      'truncation keep_start at 6 tokens: cut 3 tokens, 3 of them trained, from 1 rows (first rows: 2); dropped 1 rows with no trained token left (first rows: 1)',
    );
  });

  test('keep_end, drop, error, none', async () => {
    const end = await run({ truncation: 'keep_end' });
    expect(end.examples.map(({ inputIds, labels }) => [inputIds.length, countTrained(labels)])).toEqual([
      [5, 3],
      [6, 3],
      [6, 5],
    ]);
    expect((await run({ truncation: 'drop' })).truncation).toMatchObject({
      droppedRows: 2,
      firstRows: { dropped: [1, 2] },
    });
    await expect(run({ truncation: 'error' })).rejects.toThrow(
      /at most 6 tokens, received 9 \(at row 1\): raise max_length to 9/,
    );
    expect((await run({ maxLength: null })).examples.length).toBe(3);
    expect(describeTruncation((await run({ maxLength: null })).truncation)).toBeUndefined();
    await expect(run({ maxLength: 1 })).rejects.toMatchObject({ code: 'ERR_CONFIG' });
    await expect(run({ truncation: 'middle' as 'drop' })).rejects.toMatchObject({ code: 'ERR_CONFIG' });
  });

  test('the report adds up, and no example is too long', async () => {
    const pairs = fc.array(fc.tuple(fc.string({ maxLength: 12 }), fc.string({ maxLength: 12 })), {
      minLength: 1,
      maxLength: 12,
    });
    await fc.assert(
      fc.asyncProperty(
        pairs,
        fc.integer({ min: 2, max: 12 }),
        fc.constantFrom('keep_start' as const, 'keep_end' as const, 'drop' as const),
        async (list, maxLength, truncation) => {
          const source = Dataset.fromRows(list.map(([prompt, completion]) => ({ prompt, completion })));
          const whole = await tokenizeDataset(source, new FakeTokenizer(), { maxLength: null });
          const cut = await tokenizeDataset(source, new FakeTokenizer(), { maxLength, truncation });
          for (const { inputIds } of cut.examples) expect(inputIds.length).toBeLessThanOrEqual(maxLength);
          const { cutTokens, droppedRows, emptiedRows } = cut.truncation;
          expect(cut.examples.length + droppedRows + emptiedRows).toBe(whole.examples.length);
          const kept = new Set(cut.examples.map(({ row }) => row));
          const tokens = (examples: typeof whole.examples): number =>
            examples.filter(({ row }) => kept.has(row)).reduce((sum, { inputIds }) => sum + inputIds.length, 0);
          expect(tokens(whole.examples) - tokens(cut.examples)).toBe(cutTokens);
        },
      ),
      { numRuns: 60 },
    );
  });
});
