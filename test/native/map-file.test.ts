/** Files as memory: the bytes of the file, whatever becomes of its name; tokens read from it are those read by position. */
import { mkdtempSync, readFileSync, renameSync, rmSync, unlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { TokenFile, TokenFileWriter, type TokenizedExample } from '../../src/data';
import { provideFileMapping } from '../../src/data/token-file';
import { emptyReport } from '../../src/data/truncate';
import { loadNative } from '../../src/runtime/binding';

const folder = mkdtempSync(join(tmpdir(), 'lathe-map-'));
afterAll(() => rmSync(folder, { recursive: true, force: true }));

test('its bytes, also once the file was replaced or removed; writing changes no file', () => {
  const path = join(folder, 'a');
  writeFileSync(path, Buffer.alloc(10_000, 'first'));
  const mapped = new Uint8Array(loadNative().mapFile(path, 10_000)!);
  writeFileSync(`${path}.new`, Buffer.alloc(10_000, 'other'));
  renameSync(`${path}.new`, path);
  expect(Buffer.from(mapped).equals(Buffer.alloc(10_000, 'first'))).toBe(true);
  mapped.fill(7);
  expect(readFileSync(path, 'utf8').startsWith('otherother')).toBe(true);
  unlinkSync(path);
  expect([mapped[0], mapped[9999]]).toEqual([7, 7]);
});

test('another size, no regular file, no file', () => {
  const path = join(folder, 'b');
  writeFileSync(path, 'four');
  expect(loadNative().mapFile(path, 5)).toBeNull();
  expect(loadNative().mapFile(folder, 4096)).toBeNull();
  writeFileSync(path, '');
  expect(loadNative().mapFile(path, 0)).toBeNull();
  expect(() => loadNative().mapFile(join(folder, 'none'), 5)).toThrow(
    expect.objectContaining({ code: 'ERR_DATA', message: expect.stringMatching(/none.*cannot be opened/) as string }),
  );
});

test.each([
  ['two bytes', 60_000],
  ['four bytes', 100_000],
])('tokens of %s an id are the same mapped and read by position', (_name, vocabSize) => {
  const rows: TokenizedExample[] = Array.from({ length: 50 }, (_, row) => {
    const inputIds = Int32Array.from({ length: 1 + ((row * 7) % 40) }, (_, i) => (row * 9973 + i * 31) % vocabSize);
    return { row, inputIds, labels: inputIds.map((id, i) => (i % 3 === row % 3 ? -100 : id)) };
  });
  const writer = new TokenFileWriter(vocabSize);
  const path = join(folder, `${vocabSize}.tokens`);
  const parts = [writer.begin(), ...rows.map((row) => writer.add(row))];
  writeFileSync(
    path,
    Buffer.concat([
      ...parts,
      writer.end({ key: 'k', rows: rows.length, kind: 'text', truncation: emptyReport('keep_start', null) }),
    ]),
  );
  const plain = (file: TokenFile): unknown[] =>
    file.examples.map(({ row, inputIds, labels }) => [row, Array.from(inputIds), Array.from(labels)]);
  provideFileMapping(() => null);
  const read = new TokenFile(path);
  provideFileMapping((file, bytes) => loadNative().mapFile(file, bytes));
  const mapped = new TokenFile(path);
  expect([read.isMapped, mapped.isMapped]).toEqual([false, true]);
  expect(plain(mapped)).toEqual(plain(read));
  expect(plain(mapped)).toEqual(
    rows.map(({ row, inputIds, labels }) => [row, Array.from(inputIds), Array.from(labels)]),
  );
});
