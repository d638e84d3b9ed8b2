/** Ids and labels against TRL's own (scripts/golden/data_masks.py). */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { Dataset, packBestFit, tokenizeDataset, type Row, type TokenizeOptions } from '../../../src/data';
import { AutoTokenizer } from '../../../src/tokenizers/auto-tokenizer';

const kGolden = join(__dirname, '../../golden');
const read = <T>(name: string): T => JSON.parse(readFileSync(join(kGolden, 'data-masks', name), 'utf8')) as T;

function tokenizer(chatTemplate: string | null = null) {
  const loaded = AutoTokenizer.fromPretrained(join(kGolden, 'tokenizers/tiny-bpe'));
  if (chatTemplate !== null) loaded.chatTemplate = chatTemplate;
  return loaded;
}

interface SftCase {
  name: string;
  rows: Row[];
  options: TokenizeOptions;
  chatTemplate: string | null;
  expected: { input_ids: number[]; labels: number[] }[];
}

describe('SFTTrainer', () => {
  test.each(read<SftCase[]>('sft.json').map((c): [string, SftCase] => [c.name, c]))(
    '%s',
    async (_, { rows, options, chatTemplate, expected }) => {
      const { examples } = await tokenizeDataset(Dataset.fromRows(rows), tokenizer(chatTemplate), {
        ...options,
        batchSize: 2,
      });
      expect(
        examples.map(({ inputIds, labels }) => ({ input_ids: Array.from(inputIds), labels: Array.from(labels) })),
      ).toEqual(expected);
    },
  );
});

interface CollatorCase {
  text: string;
  response: string;
  instruction: string | null;
  input_ids: number[];
  labels: number[];
}

describe('DataCollatorForCompletionOnlyLM', () => {
  test.each(
    read<CollatorCase[]>('completion-only.json').map((c): [string, CollatorCase] => [
      `${JSON.stringify(c.text)} by ${c.response} ${c.instruction ?? ''}`,
      c,
    ]),
  )('%s', async (_, { text, response, instruction, input_ids, labels }) => {
    const options: TokenizeOptions = {
      responseTemplate: response,
      instructionTemplate: instruction ?? undefined,
      appendEos: false,
    };
    const { examples } = await tokenizeDataset([{ text }], tokenizer(), options);
    expect(Array.from(examples[0].inputIds)).toEqual(input_ids);
    expect(Array.from(examples[0].labels)).toEqual(labels);
  });
});

test('best-fit packing needs as many rows as TRL within one of its batches', () => {
  for (const { lengths, maxLength, rows } of read<{ lengths: number[]; maxLength: number; rows: number }[]>(
    'packing.json',
  )) {
    expect(packBestFit(lengths, maxLength).rows.length).toBe(rows);
  }
});
