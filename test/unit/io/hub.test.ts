/** Hub names against a small local server that speaks the Hub's two routes. */
import { createServer, type Server } from 'node:http';
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import type { AddressInfo } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fetchModelConfig, resolveRepo, wantedFiles } from '../../../src/io/hub';

const FILES: Record<string, string> = {
  'config.json': '{"model_type":"llama"}',
  'model.safetensors': 'weights',
  'tokenizer.json': '{}',
  'pytorch_model.bin': 'never fetched',
  'onnx/model.onnx': 'no',
};
const COMMIT = '0123456789abcdef0123456789abcdef01234567';

let server: Server;
let cache: string;
const requested: string[] = [];
const saved = { ...process.env };

beforeAll(async () => {
  cache = mkdtempSync(join(tmpdir(), 'lathe-hub-'));
  server = createServer((request, response) => {
    const url = new URL(request.url!, 'http://hub');
    requested.push(`${request.method} ${url.pathname}`);
    const json = (value: unknown): void => {
      response.setHeader('content-type', 'application/json');
      response.end(JSON.stringify(value));
    };
    const entry = (path: string): object => ({
      type: 'file',
      path,
      size: FILES[path].length,
      oid: Buffer.from(path).toString('hex').padEnd(40, '0'),
    });
    if (url.pathname === '/api/models/org/tiny/revision/main')
      return json({
        _id: '1',
        id: 'org/tiny',
        sha: COMMIT,
        lastModified: '2026-01-01',
        likes: 0,
        downloads: 0,
        private: false,
        gated: false,
      });
    if (url.pathname === `/api/models/org/tiny/tree/${COMMIT}`) return json(Object.keys(FILES).map(entry));
    if (url.pathname === `/api/models/org/tiny/paths-info/${COMMIT}`) {
      let body = '';
      request.on('data', (part) => (body += String(part)));
      request.on('end', () => json((JSON.parse(body) as { paths: string[] }).paths.map(entry)));
      return;
    }
    const file = FILES[url.pathname.replace(/^\/org\/tiny\/resolve\/(main|[0-9a-f]{40})\//, '')];
    if (file === undefined) {
      response.statusCode = 404;
      response.setHeader('content-type', 'application/json');
      return response.end('{"error":"Repository not found"}');
    }
    response.setHeader('etag', `"${Buffer.from(url.pathname).toString('hex').slice(-40)}"`);
    response.setHeader('x-repo-commit', COMMIT);
    response.setHeader('content-length', file.length);
    response.setHeader('content-range', `bytes 0-0/${file.length}`);
    return response.end(request.method === 'HEAD' ? undefined : file);
  });
  await new Promise<void>((done) => server.listen(0, '127.0.0.1', done));
  process.env.HF_HUB_CACHE = cache;
  process.env.HF_ENDPOINT = `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
  delete process.env.HF_HUB_OFFLINE;
});

afterAll(async () => {
  process.env = saved;
  await new Promise((done) => server.close(done));
  rmSync(cache, { recursive: true, force: true });
});

test('an existing path is itself', async () => {
  expect(await resolveRepo(cache, 'model')).toBe(cache);
});

test('a plan gets config.json alone, and nothing counts as downloaded', async () => {
  expect(await fetchModelConfig('org/tiny')).toEqual({ model_type: 'llama' });
  expect(requested.some((r) => r.includes('safetensors'))).toBe(false);
  process.env.HF_HUB_OFFLINE = '1';
  await expect(resolveRepo('org/tiny', 'model')).rejects.toMatchObject({ code: 'ERR_CONFIG' });
  await expect(fetchModelConfig('org/tiny')).rejects.toMatchObject({ code: 'ERR_CONFIG' });
  delete process.env.HF_HUB_OFFLINE;
  await expect(fetchModelConfig('org/missing')).rejects.toMatchObject({ code: 'ERR_DATA' });
});

test("PyTorch's archives are fetched where there are no safetensors", () => {
  const files = [
    'config.json',
    'pytorch_model-00001-of-00002.bin',
    'pytorch_model-00002-of-00002.bin',
    'pytorch_model.bin.index.json',
    'optimizer.bin',
    'tf_model.h5',
    'onnx/pytorch_model.bin',
  ];
  expect(wantedFiles(files, 'model')).toEqual(files.slice(0, 4));
  expect(wantedFiles([...files, 'model.safetensors'], 'model')).toEqual([
    'config.json',
    'pytorch_model.bin.index.json',
    'model.safetensors',
  ]);
});

test('a Hub name is downloaded into the cache, without files that are not read, and found there afterwards', async () => {
  const folder = await resolveRepo('org/tiny', 'model');
  expect(readFileSync(join(folder, 'config.json'), 'utf8')).toBe(FILES['config.json']);
  expect(readFileSync(join(folder, 'model.safetensors'), 'utf8')).toBe('weights');
  expect(requested.some((r) => r.includes('pytorch_model.bin') || r.includes('onnx'))).toBe(false);
  requested.length = 0;
  process.env.HF_HUB_OFFLINE = '1';
  expect(await resolveRepo('org/tiny', 'model')).toBe(folder);
  expect(requested).toEqual([]);
  await expect(resolveRepo('org/other', 'model')).rejects.toMatchObject({ code: 'ERR_CONFIG' });
  delete process.env.HF_HUB_OFFLINE;
});

test('an unknown name and a name that is no name say what to do', async () => {
  await expect(resolveRepo('org/missing', 'model')).rejects.toMatchObject({
    code: 'ERR_DATA',
    message: expect.stringContaining('org/missing') as unknown,
  });
  await expect(resolveRepo('./nowhere/at/all', 'model')).rejects.toMatchObject({ code: 'ERR_CONFIG' });
});
