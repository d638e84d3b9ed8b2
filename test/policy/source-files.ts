/** The files that policy tests look at: those that git would commit, read from disk. */
import { execFileSync } from 'node:child_process';
import { readFileSync } from 'node:fs';
import path from 'node:path';

export const ROOT = path.resolve(__dirname, '..', '..');

/** Tracked files and untracked ones that are not ignored, relative to the root, with forward slashes; only existing ones. */
export function projectFiles(): string[] {
  const list = (args: readonly string[]): string[] =>
    execFileSync('git', ['-C', ROOT, 'ls-files', '-z', ...args], { encoding: 'utf8', maxBuffer: 1 << 26 })
      .split('\0')
      .filter(Boolean);
  const deleted = new Set(list(['--deleted']));
  return [...new Set([...list([]), ...list(['--others', '--exclude-standard'])])]
    .filter((file) => !deleted.has(file))
    .sort();
}

export function readText(file: string): string {
  return readFileSync(path.join(ROOT, file), 'utf8');
}

/** Module specifiers of a TypeScript file's imports and re-exports; `typeOnly` when nothing of it exists at run time. */
export function importsOf(file: string): { from: string; typeOnly: boolean }[] {
  const text = withoutComments(readText(file));
  const found: { from: string; typeOnly: boolean }[] = [];
  for (const m of text.matchAll(/(?:^|\n)\s*(?:import|export)\s+(type\s+)?([^'";]*?\sfrom\s+)?'([^']+)'/g)) {
    const names = m[2] ?? '';
    const braces = /^\s*\{([^}]*)\}\s*from\s+$/.exec(names);
    const allTypes =
      braces !== null && braces[1].split(',').every((name) => name.trim() === '' || name.trim().startsWith('type '));
    found.push({ from: m[3], typeOnly: m[1] !== undefined || allTypes });
  }
  for (const m of text.matchAll(/\b(?:import|require)\(\s*'([^']+)'\s*\)/g))
    found.push({ from: m[1], typeOnly: false });
  return found;
}

export function withoutComments(text: string): string {
  return text.replace(/\/\*[\s\S]*?\*\//g, '').replace(/(^|[^:'"`])\/\/.*$/gm, '$1');
}

/** A relative import as a path from the root, without extension. */
export function resolveImport(file: string, from: string): string {
  return path.posix.normalize(path.posix.join(path.posix.dirname(file), from));
}
