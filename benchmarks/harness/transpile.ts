/**
 * Plain JavaScript for the processes that are measured.
 *
 * Under ts-node a process carries the TypeScript compiler: some 150 MiB and a second of start, neither of which a user of
 * the package has. So sources are transpiled (not type-checked) into build/bench/js, which mirrors the repository, and
 * children run from there. Only files that changed are written again.
 */
import { existsSync, mkdirSync, readdirSync, readFileSync, statSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { ROOT } from './machine';

const OUT = join(ROOT, 'build', 'bench', 'js');

/** Transpiles src and benchmarks; the path of the JavaScript of a source file given from the repository's root. */
export function transpiled(source: string): string {
  for (const folder of ['src', 'benchmarks']) transpileFolder(folder);
  return join(OUT, source.replace(/\.ts$/, '.js'));
}

function transpileFolder(folder: string): void {
  for (const entry of readdirSync(join(ROOT, folder), { withFileTypes: true })) {
    const path = join(folder, entry.name);
    if (entry.isDirectory()) transpileFolder(path);
    else if (/(?<!\.d)\.ts$/.test(entry.name)) transpileFile(path);
  }
}

function transpileFile(path: string): void {
  const from = join(ROOT, path);
  const to = join(OUT, path.replace(/\.ts$/, '.js'));
  if (existsSync(to) && statSync(to).mtimeMs >= statSync(from).mtimeMs) return;
  // Loaded only when something changed: the compiler alone takes a third of a second.
  const ts = require('typescript') as typeof import('typescript');
  const compilerOptions = { target: ts.ScriptTarget.ES2022, module: ts.ModuleKind.Node20, esModuleInterop: true };
  const { outputText } = ts.transpileModule(readFileSync(from, 'utf8'), { fileName: from, compilerOptions });
  mkdirSync(dirname(to), { recursive: true });
  writeFileSync(to, outputText);
}
