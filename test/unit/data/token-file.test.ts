/** Tokens in a file are the tokens in memory: examples, pieces of them, and batches in any order. */
import { mkdtempSync, rmSync, truncateSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import fc from 'fast-check';
import {
  createLoader,
  packExamples,
  TokenFile,
  TokenFileWriter,
  type LoaderOptions,
  type TokenizedExample,
} from '../../../src/data';
import { emptyReport } from '../../../src/data/truncate';

const folder = mkdtempSync(join(tmpdir(), 'lathe-tokens-'));
afterAll(() => rmSync(folder, { recursive: true, force: true }));
let files = 0;

function save(examples: readonly TokenizedExample[], vocabSize: number): TokenFile {
  const writer = new TokenFileWriter(vocabSize);
  const path = join(folder, `${files++}.tokens`);
  const parts = [writer.begin(), ...examples.map((example) => writer.add(example))];
  writeFileSync(
    path,
    Buffer.concat([
      ...parts,
      writer.end({ key: 'k', rows: examples.length, kind: 'text', truncation: emptyReport('keep_start', 16) }),
    ]),
  );
  return new TokenFile(path);
}

const plain = ({ inputIds, labels, row }: TokenizedExample): unknown => [Array.from(inputIds), Array.from(labels), row];

const examples = (masked: boolean): fc.Arbitrary<TokenizedExample[]> =>
  fc
    .array(fc.array(fc.tuple(fc.nat(60000), fc.boolean()), { maxLength: 30 }), { minLength: 1, maxLength: 20 })
    .map((rows) =>
      rows.map((tokens, row) => {
        const inputIds = Int32Array.from(tokens, ([id]) => id);
        return {
          inputIds,
          labels: masked ? Int32Array.from(tokens, ([id, trained]) => (trained ? id : -100)) : inputIds,
          row,
        };
      }),
    );

test.each([
  ['ids of two bytes', false, 60001],
  ['ids of four bytes', false, 70000],
  ['masked', true, 60001],
])('%s: what was written is read, whole, in pieces and across rows', (_, masked, vocabSize) => {
  fc.assert(
    fc.property(examples(masked), (rows) => {
      const file = save(rows, vocabSize);
      expect(file.examples.map(plain)).toEqual(rows.map(plain));
      for (const strategy of ['bfd_split', 'wrapped'] as const) {
        const [disk, memory] = [packExamples(file.examples, 8, strategy), packExamples(rows, 8, strategy)];
        expect(disk.documents.map(plain)).toEqual(memory.documents.map(plain));
        expect(disk.packing).toEqual(memory.packing);
      }
    }),
    { numRuns: 40 },
  );
});

test.each<Partial<LoaderOptions>>([
  {},
  { packing: 'bfd', maxLength: 32 },
  { packing: 'wrapped', maxLength: 8 },
  { samplingStrategy: 'group_by_length' },
])('a loader over the file gives the batches of one over memory: %j', (options) => {
  const rows = fc.sample(examples(true), { seed: 5, numRuns: 1 })[0];
  const make = (list: readonly TokenizedExample[]) => createLoader(list, { batchSize: 2, seed: 3, ...options });
  const [disk, memory] = [make(save(rows, 70000).examples), make(rows)];
  for (let i = 0; i < 2 * memory.stepsPerEpoch; i++) expect(disk.next()).toEqual(memory.next());
});

test('a file that is cut short or none at all is refused', () => {
  const file = save([{ inputIds: Int32Array.of(1, 2, 3), labels: Int32Array.of(1, 2, 3), row: 0 }], 100);
  truncateSync(file.path, 40);
  expect(() => new TokenFile(file.path)).toThrow(expect.objectContaining({ code: 'ERR_FORMAT' }));
  writeFileSync(file.path, 'hello');
  expect(() => new TokenFile(file.path)).toThrow(/delete it/);
  // One that shrinks while it is open fails with an error, too.
  expect(() => plain(file.examples[0])).toThrow(expect.objectContaining({ code: 'ERR_FORMAT' }));
});

test('labels that are not the ids are refused', () => {
  expect(() => new TokenFileWriter(100).add({ inputIds: Int32Array.of(1), labels: Int32Array.of(2), row: 7 })).toThrow(
    /row 7/,
  );
});
