/** The doctor finds each mistake, names the row, and leaves healthy data alone. */
import {
  assertHealthy,
  Dataset,
  formatFinding,
  inspectDataset,
  tokenizeDataset,
  type Finding,
  type FindingCode,
  type Row,
  type TokenizeOptions,
} from '../../../src/data';
import { FakeTokenizer, type FakeOptions } from './fake-tokenizer';

async function findingsOf(
  rows: Row[],
  options: TokenizeOptions = {},
  fake: FakeOptions = {},
  embeddingRows?: number,
): Promise<Finding[]> {
  const tokenizer = new FakeTokenizer(fake);
  const data = await tokenizeDataset(Dataset.fromRows(rows), tokenizer, options);
  return inspectDataset(data, { tokenizer, embeddingRows });
}

const codes = (findings: Finding[]): FindingCode[] => findings.map(({ code }) => code);
const good = { prompt: 'hello', completion: ' world' };
const chat = (answer: string): Row => ({
  messages: [
    { role: 'user', content: 'hello' },
    { role: 'assistant', content: answer },
  ],
});

describe('healthy data has no findings', () => {
  test.each<[string, Row[], TokenizeOptions, FakeOptions]>([
    ['text', [{ text: 'hello cat' }], {}, {}],
    ['text with BOS', [{ text: 'hello cat' }], {}, { bos: true }],
    ['pairs', [good], {}, {}],
    ['pairs, pad = eos', [good], {}, { padIsEos: true }],
    ['conversations', [chat('cat')], {}, {}],
    ['conversations, assistant only', [chat('cat')], { assistantOnlyLoss: true }, {}],
    ['templates', [{ text: '### Q:hello### A:cat' }], { responseTemplate: '### A:' }, {}],
    ['ready-made blocks', [{ input_ids: [5, 6, 7] }], {}, {}],
  ])('%s', async (_, rows, options, fake) => {
    expect(await findingsOf(rows, options, fake, 400)).toEqual([]);
  });
});

test('response template not found: its tokens, and how the row spells it', async () => {
  const [finding] = await findingsOf([{ text: '### A:cat' }, { text: 'cat' }, { text: 'cat' }], {
    responseTemplate: '### A:',
  });
  expect(finding).toMatchObject({ code: 'template_not_found', severity: 'error', row: 1, count: 2 });
  expect(finding.message).toContain('4 "### A:"');
  expect(finding.remedy).toContain('no such text');
  // " w" alone is two letters, but in the row it is part of " world".
  const [spelt] = await findingsOf([{ text: 'hello world' }], { responseTemplate: ' w' });
  expect(spelt.remedy).toContain('responseTemplate: [8]');
});

test('no trained token', async () => {
  const findings = await findingsOf([good, { prompt: 'hello', completion: '' }], { appendEos: false });
  expect(findings.find(({ code }) => code === 'no_trained_tokens')).toMatchObject({ row: 1, count: 1 });
  expect(
    codes(await findingsOf([{ messages: [{ role: 'user', content: 'hello' }] }], { assistantOnlyLoss: true })),
  ).toEqual(['no_trained_tokens']);
});

test('doubled BOS', async () => {
  const [finding] = await findingsOf([{ text: '<s>hello' }], {}, { bos: true });
  expect(finding).toMatchObject({ code: 'doubled_bos', row: 0 });
  expect(finding.remedy).toContain('addSpecialTokens: false');
  expect(await findingsOf([{ text: '<s>hello' }], { addSpecialTokens: false }, { bos: true })).toEqual([]);
});

test('EOS missing: not appended, forgotten by the template, or none at all', async () => {
  expect(codes(await findingsOf([good], { appendEos: false }))).toEqual(['eos_missing']);
  const [finding] = await findingsOf([chat('cat')], {}, { turnEnd: '' });
  expect(finding).toMatchObject({ code: 'eos_missing', row: 0 });
  const [none] = await findingsOf([good], {}, { eos: '' });
  expect(none.message).toContain('no EOS token');
});

test('EOS masked because pad = eos', async () => {
  const rows = [{ input_ids: [6, 7, 8, 1], labels: [-100, 7, 8, -100] }];
  const [finding] = await findingsOf(rows, {}, { padIsEos: true });
  expect(finding).toMatchObject({ code: 'eos_masked', row: 0 });
  expect(finding.remedy).toContain('pad = eos');
  expect((await findingsOf(rows))[0].remedy).toContain('end-of-turn');
});

test('prompt tokens that are no prefix: both spellings are shown', async () => {
  const [finding] = await findingsOf([good, { prompt: 'hello ', completion: 'world' }]);
  expect(finding).toMatchObject({ code: 'prompt_not_prefix', row: 1, count: 1 });
  expect(finding.message).toContain('82 " "');
  expect(finding.message).toContain('8 " world"');
  expect(finding.message).toContain('part at token 1');
});

test('answers cut off, in part or whole; texts only warn; drops are told', async () => {
  const long = { prompt: 'hello', completion: 'abcdefgh' };
  const [partly] = await findingsOf([good, long], { maxLength: 5 });
  expect(partly).toMatchObject({ code: 'answer_cut', row: 1, count: 1 });
  expect(partly.remedy).toContain('raise max_length to 10');
  const [whole] = await findingsOf([{ prompt: 'abcdefgh', completion: 'x' }, good], { maxLength: 5 });
  expect(whole).toMatchObject({ code: 'answer_cut', row: 0 });
  expect(whole.message).toContain('whole answer');
  expect(
    (await findingsOf([{ text: 'abcdefgh' }], { maxLength: 5 })).map(({ code, severity }) => [code, severity]),
  ).toEqual([['text_cut', 'warning']]);
  expect(
    (await findingsOf([good, long], { maxLength: 5, truncation: 'drop' })).map(({ code, severity, row }) => [
      code,
      severity,
      row,
    ]),
  ).toEqual([['rows_dropped', 'warning', 1]]);
  expect(codes(await findingsOf([long], { maxLength: 5, truncation: 'drop' }))).toEqual(['no_rows', 'rows_dropped']);
});

test('vocabulary larger than the embedding: an id that occurs, or one that might', async () => {
  const [used] = await findingsOf([{ text: 'cat' }, { text: 'hello ~' }], {}, {}, 150);
  expect(used).toMatchObject({ code: 'vocabulary_too_large', row: 1 });
  expect(used.remedy).toContain('resizeTokenEmbeddings(400)');
  const [unused] = await findingsOf([{ text: 'cat' }], {}, {}, 150);
  expect(unused).toMatchObject({ code: 'vocabulary_too_large', row: undefined });
});

test('assertHealthy stops on errors with the row and the fix, and lets through what is allowed', async () => {
  const findings = await findingsOf([{ prompt: 'hello ', completion: 'world' }, good], { appendEos: false });
  expect(codes(findings)).toEqual(['prompt_not_prefix', 'eos_missing']);
  expect(() => assertHealthy(findings)).toThrow(expect.objectContaining({ code: 'ERR_DATA', at: 'row 0' }));
  expect(() => assertHealthy(findings)).toThrow(/also: error eos_missing \(2 rows, first row 0\)/);
  expect(() => assertHealthy(findings, { allow: ['prompt_not_prefix', 'eos_missing'] })).not.toThrow();
  expect(() => assertHealthy(findings, { allow: ['prompt_not_prefix'] })).toThrow(/EOS/);
  expect(() => assertHealthy([], { allow: ['eos_mising' as FindingCode] })).toThrow(
    expect.objectContaining({ code: 'ERR_CONFIG', message: expect.stringContaining('"eos_mising"') as string }),
  );
  const warnings = await findingsOf([{ text: 'abcdefgh' }], { maxLength: 5 });
  expect(() => assertHealthy(warnings)).not.toThrow();
  expect(formatFinding(warnings[0])).toMatch(/^warning text_cut \(1 row, first row 0\): /);
});
