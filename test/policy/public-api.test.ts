/**
 * The public names, as a list in test/golden/public-api.txt, so that none comes or goes unnoticed. After reading the diff:
 *   LATHE_UPDATE_GOLDEN=1 npx jest test/policy/public-api
 */
import { readFileSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import * as api from '../../src';
import { readText, ROOT, withoutComments } from './source-files';

const GOLDEN = path.join(ROOT, 'test', 'golden', 'public-api.txt');

/** `type X` for what exists in types only, `X` for values. */
function exportedNames(): string[] {
  const names: string[] = [];
  for (const m of withoutComments(readText('src/index.ts')).matchAll(/export\s+(type\s+)?\{([^}]*)\}/g)) {
    for (const item of m[2]
      .split(',')
      .map((s) => s.trim())
      .filter(Boolean)) {
      const typeOnly = m[1] !== undefined || item.startsWith('type ');
      const name = item.replace(/^type\s+/, '').replace(/^.*\sas\s+/, '');
      names.push(typeOnly ? `type ${name}` : name);
    }
  }
  return names.sort();
}

test('the public names are those of the list', () => {
  const text = `${exportedNames().join('\n')}\n`;
  if (process.env.LATHE_UPDATE_GOLDEN) writeFileSync(GOLDEN, text);
  expect(text).toBe(readFileSync(GOLDEN, 'utf8'));
});

test('every value among them exists', () => {
  const values = exportedNames().filter((name) => !name.startsWith('type '));
  expect(Object.keys(api).sort()).toEqual(values);
  expect(values.filter((name) => (api as Record<string, unknown>)[name] === undefined)).toEqual([]);
});
