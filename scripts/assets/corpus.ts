/**
 * Builds the text that the small base model of `npm run train` is pretrained on.
 *
 *   npx ts-node scripts/assets/corpus.ts [folder for the downloads]
 *
 * Writes data/corpus/train.jsonl and test.jsonl ({"text": ...}, one document a line). Not committed: about 20 MB that
 * this script makes again, byte for byte. Needs npm, pip and apt-get (Debian) with their registries; what is already in
 * the download folder is not fetched again. Every 100th document or so is set aside for testing, by its own hash.
 */
import { mkdirSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Draw, place } from './draw';
import { plainEnglish } from './plain-english';
import { documentsFrom, sources } from './public-domain';

const OWN_BYTES = 7_000_000;
const TEST_SHARE = 0.01;
const downloads = process.argv[2] ?? join(tmpdir(), 'lathe-corpus');
const target = join(__dirname, '../../data/corpus');

const documents: string[] = [];
const report = (name: string, list: string[]) => {
  const size = list.reduce((sum, text) => sum + text.length, 0);
  console.log(`${name}: ${list.length} documents, ${(size / 1e6).toFixed(2)} MB`);
  documents.push(...list);
};
for (const source of sources)
  report(source.name, documentsFrom(source, join(downloads, source.spec.replace(/[^a-z0-9.]+/gi, '-'))));
report("this project's own plain English", plainEnglish(new Draw(7), OWN_BYTES));

mkdirSync(target, { recursive: true });
const shuffled = new Draw(11).shuffled([...new Set(documents)]);
for (const [name, isTest] of [
  ['train', false],
  ['test', true],
] as const) {
  const part = shuffled.filter((text) => place(text) < TEST_SHARE === isTest);
  writeFileSync(join(target, `${name}.jsonl`), part.map((text) => `${JSON.stringify({ text })}\n`).join(''));
  console.log(`data/corpus/${name}.jsonl: ${part.length} documents`);
}
