/**
 * Who may import whom (CONTRIBUTING.md, Style). The table is the rule, written once; a folder that is not in it fails. Everything
 * may import errors. In C++: addon -> engine -> include/lathe <- {cpu, cuda, collectives}.
 */
import path from 'node:path';
import { importsOf, projectFiles, readText, resolveImport, withoutComments } from './source-files';

const GRAPH = ['graph'];
const DESCRIPTIONS = ['nn', 'ops', 'graph'];
const RUNNING = ['compile', 'runtime'];

/** Folders of src that a folder may import from. */
const MAY_IMPORT: Readonly<Record<string, readonly string[]>> = {
  graph: [],
  ops: GRAPH,
  passes: ['ops', 'graph'],
  // checkpoint is a pass that belongs to differentiation; it uses the passes' rewriting frame.
  autodiff: ['passes', 'ops', 'graph'],
  compile: ['autodiff', 'passes', 'ops', 'graph'],
  // Programs as types only: see below.
  runtime: ['compile', 'graph'],
  nn: ['ops', 'graph'],
  models: DESCRIPTIONS,
  // Adapters and quantisation change a model's description; adapters also have a file format.
  peft: ['models', 'io', ...DESCRIPTIONS],
  quantization: ['models', ...DESCRIPTIONS],
  optim: ['ops', 'graph'],
  // Data, tokenizers and files know element types and nothing else: see below.
  data: GRAPH,
  tokenizers: GRAPH,
  io: GRAPH,
  generation: [...RUNNING, 'models', 'tokenizers', ...DESCRIPTIONS],
  pretrained: ['generation', 'models', 'peft', 'quantization', 'io', 'tokenizers', ...RUNNING, ...DESCRIPTIONS],
  train: [
    'pretrained',
    'generation',
    'models',
    'peft',
    'quantization',
    'optim',
    'autodiff',
    'data',
    'tokenizers',
    'io',
    ...RUNNING,
    ...DESCRIPTIONS,
  ],
  eval: ['train', 'pretrained', 'generation', 'data', 'tokenizers', ...RUNNING, ...GRAPH],
  pipelines: ['pretrained', 'generation', 'tokenizers', 'data', 'io'],
  cli: [
    'train',
    'eval',
    'pipelines',
    'pretrained',
    'generation',
    'peft',
    'quantization',
    'data',
    'tokenizers',
    'io',
    ...RUNNING,
    ...GRAPH,
  ],
};

const sources = projectFiles().filter((file) => /^src\/.*\.ts$/.test(file));
/** The folder of src that a file, or what an import names (a file without extension, or a folder's index), lies in. */
const folderOf = (file: string): string => {
  const [, folder, ...rest] = file.split('/');
  return rest.length > 0 || folder in MAY_IMPORT ? folder : '';
};

interface Edge {
  readonly file: string;
  readonly to: string;
  readonly typeOnly: boolean;
}

const edges: Edge[] = sources.flatMap((file) =>
  importsOf(file)
    .filter(({ from }) => from.startsWith('.'))
    .map(({ from, typeOnly }) => ({ file, to: resolveImport(file, from), typeOnly })),
);

test('the walk sees the imports', () => {
  expect(sources.length).toBeGreaterThan(100);
  expect(edges.some((e) => e.file === 'src/compile/compile.ts' && e.to === 'src/passes/fuse')).toBe(true);
  expect(edges.some((e) => e.file === 'src/runtime/session.ts' && e.to === 'src/graph/dtype' && e.typeOnly)).toBe(true);
});

test('every folder of src is in the table', () => {
  expect([...new Set(sources.map(folderOf))].filter((folder) => folder !== '' && !(folder in MAY_IMPORT))).toEqual([]);
});

test('no folder imports what it may not', () => {
  const wrong = edges.filter(({ file, to }) => {
    const [from, target] = [folderOf(file), folderOf(to)];
    return from !== '' && target !== from && to !== 'src/errors' && !MAY_IMPORT[from]?.includes(target);
  });
  expect(wrong.map((e) => `${e.file} -> ${e.to}`)).toEqual([]);
});

test('imports stay inside of src', () => {
  const outside = edges.filter((e) => !e.to.startsWith('src/'));
  expect(outside.map((e) => `${e.file} -> ${e.to}`)).toEqual([]);
});

test('data, tokenizers and io know graph/dtype at most', () => {
  const wrong = edges.filter(
    (e) =>
      ['data', 'tokenizers', 'io'].includes(folderOf(e.file)) &&
      e.to.startsWith('src/graph/') &&
      e.to !== 'src/graph/dtype',
  );
  expect(wrong.map((e) => `${e.file} -> ${e.to}`)).toEqual([]);
});

test('runtime knows programs as types only', () => {
  const wrong = edges.filter(
    (e) =>
      folderOf(e.file) === 'runtime' &&
      e.to.startsWith('src/compile/') &&
      !(e.typeOnly && e.to === 'src/compile/program'),
  );
  expect(wrong.map((e) => `${e.file} -> ${e.to}`)).toEqual([]);
});

test('the addon is found by one file, and its types do not leave runtime', () => {
  const wrong = edges.filter((e) => e.to === 'src/runtime/native' && folderOf(e.file) !== 'runtime');
  expect(wrong.map((e) => `${e.file} -> ${e.to}`)).toEqual([]);
  const loaders = sources.filter(
    (file) =>
      /\.node\b|from 'bindings'/.test(withoutComments(readText(file))) &&
      importsOf(file).some(({ from }) => from === 'bindings' || from.endsWith('.node')),
  );
  expect(loaders).toEqual(['src/runtime/binding.ts']);
});

test('src has no import cycle between folders', () => {
  const graph = new Map(
    Object.keys(MAY_IMPORT).map((folder) => [
      folder,
      new Set(edges.filter((e) => folderOf(e.file) === folder && !e.typeOnly).map((e) => folderOf(e.to))),
    ]),
  );
  const cycles: string[] = [];
  const visit = (folder: string, trail: readonly string[]): void => {
    if (trail.includes(folder)) return void cycles.push([...trail.slice(trail.indexOf(folder)), folder].join(' -> '));
    for (const next of graph.get(folder) ?? []) if (next !== folder && next !== '') visit(next, [...trail, folder]);
  };
  for (const folder of graph.keys()) visit(folder, []);
  expect([...new Set(cycles)]).toEqual([]);
});

test('index.ts only re-exports', () => {
  const rest = withoutComments(readText('src/index.ts')).replace(
    /export\s+(?:type\s+)?\{[^}]*\}\s+from\s+'[^']+';/g,
    '',
  );
  expect(rest.trim()).toBe('');
});

describe('native', () => {
  const native = projectFiles().filter((file) => /^native\/(?!tests\/).*\.(cpp|h|inc|cu|cuh)$/.test(file));
  const layerOf = (file: string): string => (file.startsWith('native/include/') ? 'include' : file.split('/')[1]);
  const MAY_INCLUDE: Readonly<Record<string, readonly string[]>> = {
    include: [],
    engine: ['include'],
    cpu: ['include'],
    cuda: ['include'],
    collectives: ['include'],
    tokenizer: ['include'],
    addon: ['engine', 'tokenizer', 'include'],
  };
  const exists = new Set(native);

  /** Quoted includes as files of the project; the search path is native/include, native, and the file's own folder. */
  function includesOf(file: string): { name: string; target: string | undefined }[] {
    return [...withoutComments(readText(file)).matchAll(/^\s*#\s*include\s+"([^"]+)"/gm)].map(([, name]) => {
      const candidates = [
        path.posix.join(path.posix.dirname(file), name),
        `native/include/${name}`,
        `native/${name}`,
        `native/${layerOf(file)}/${name}`,
      ].map((p) => path.posix.normalize(p));
      return { name, target: candidates.find((p) => exists.has(p)) };
    });
  }

  test('a layer includes only what it may', () => {
    expect(native.length).toBeGreaterThan(50);
    const wrong = native.flatMap((file) =>
      includesOf(file)
        .filter(
          ({ target }) =>
            target !== undefined &&
            layerOf(target) !== layerOf(file) &&
            !MAY_INCLUDE[layerOf(file)]?.includes(layerOf(target)),
        )
        .map(({ name }) => `${file} includes ${name}`),
    );
    expect(wrong).toEqual([]);
  });

  test('only the addon knows Node, only cuda knows CUDA', () => {
    const uses = (pattern: RegExp): string[] => native.filter((file) => pattern.test(withoutComments(readText(file))));
    expect(uses(/#\s*include\s*[<"](napi|node_api|node)\.h/).filter((file) => layerOf(file) !== 'addon')).toEqual([]);
    expect(
      uses(/#\s*include\s*[<"](cuda|cublas|cudnn|nvrtc)\w*\.h/).filter((file) => layerOf(file) !== 'cuda'),
    ).toEqual([]);
  });

  test('nothing native ends the process', () => {
    const calls = native.filter((file) =>
      /(?<![\w.:>])(?:std::)?(?:abort|exit|_Exit|quick_exit|terminate)\s*\(/.test(withoutComments(readText(file))),
    );
    expect(calls).toEqual([]);
  });
});
