/** Atomic files and folders, checksums, and the output lock, including processes that die in the middle. */
import { execFileSync, spawn } from 'node:child_process';
import { createHash } from 'node:crypto';
import {
  existsSync,
  mkdirSync,
  readFileSync,
  readdirSync,
  renameSync,
  rmSync,
  symlinkSync,
  truncateSync,
  writeFileSync,
} from 'node:fs';
import { hostname } from 'node:os';
import { join } from 'node:path';
import {
  CHECKSUMS_FILE,
  verifyDirectory,
  withAtomicFile,
  withDirectoryCommit,
  writeFileAtomic,
  writeJsonAtomic,
} from '../../../src/io/atomic-file';
import { LOCK_FILE, acquireOutputLock } from '../../../src/io/output-lock';
import { isProcessAlive, processStartTime } from '../../../src/io/process-identity';
import { errorOf, useTemporaryFolder } from './fixtures';

const folder = useTemporaryFolder();
const inside = (...parts: string[]): string => join(folder(), ...parts);

/** The pid of a process that has ended. */
function deadPid(): number {
  return Number(execFileSync(process.execPath, ['-p', 'process.pid'], { encoding: 'utf8' }));
}

const HOST_TAG = createHash('sha256').update(hostname()).digest('hex').slice(0, 8);

describe('files', () => {
  test('replace whole, create parents, leave nothing else', async () => {
    await writeFileAtomic(inside('a/b/x.txt'), 'one');
    await writeFileAtomic(inside('a/b/x.txt'), new Uint8Array([0x74, 0x77, 0x6f]));
    await writeJsonAtomic(inside('a/b/y.json'), { b: [1] });
    expect(readFileSync(inside('a/b/x.txt'), 'utf8')).toBe('two');
    expect(readFileSync(inside('a/b/y.json'), 'utf8')).toBe('{\n  "b": [\n    1\n  ]\n}\n');
    expect(readdirSync(inside('a/b')).sort()).toEqual(['x.txt', 'y.json']);
  });

  test('the old content is there until the new one is complete, and stays when the build fails', async () => {
    writeFileSync(inside('x'), 'old');
    await withAtomicFile(inside('x'), async (file) => {
      await file.write(Buffer.alloc(20 << 20, 1));
      expect(file.bytesWritten).toBe(20 << 20);
      expect(readFileSync(inside('x'), 'utf8')).toBe('old');
    });
    expect(readFileSync(inside('x')).length).toBe(20 << 20);
    await expect(
      withAtomicFile(inside('x'), async (file) => {
        await file.write(Buffer.from('half'));
        throw new Error('stop');
      }),
    ).rejects.toThrow('stop');
    expect(readFileSync(inside('x')).length).toBe(20 << 20);
    expect(readdirSync(folder())).toEqual(['x']);
  });

  test('a folder in the way', async () => {
    mkdirSync(inside('x/y'), { recursive: true });
    const error = await errorOf(() => writeFileAtomic(inside('x'), 'a'));
    expect(error.code).toBe('ERR_CHECKPOINT');
    expect(readdirSync(folder())).toEqual(['x']);
  });
});

describe('folders', () => {
  const build =
    (text: string) =>
    async (dir: string): Promise<string> => {
      mkdirSync(join(dir, 'sub'));
      writeFileSync(join(dir, 'a.txt'), text);
      writeFileSync(join(dir, 'sub/b.txt'), '');
      return text;
    };

  test('appear whole, with checksums', async () => {
    const seen: string[] = [];
    const result = await withDirectoryCommit(inside('out/ckpt'), async (dir) => {
      seen.push(...readdirSync(inside('out')));
      return build('hello')(dir);
    });
    expect(result).toBe('hello');
    expect(seen).toHaveLength(1);
    expect(seen[0]).toMatch(/^\.ckpt\.tmp-/);
    expect(readdirSync(inside('out'))).toEqual(['ckpt']);
    expect(JSON.parse(readFileSync(inside('out/ckpt', CHECKSUMS_FILE), 'utf8'))).toEqual({
      version: 1,
      algorithm: 'sha256',
      files: {
        'a.txt': { sha256: '2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824', bytes: 5 },
        'sub/b.txt': { sha256: 'e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855', bytes: 0 },
      },
    });
    expect(await verifyDirectory(inside('out/ckpt'))).toEqual([]);
  });

  test('a failed build leaves the old folder and no temporary', async () => {
    await withDirectoryCommit(inside('ckpt'), build('one'));
    const failing = async (dir: string): Promise<void> => {
      await build('two')(dir);
      throw Object.assign(new Error('disk'), { code: 'ENOSPC' });
    };
    const error = await errorOf(() => withDirectoryCommit(inside('ckpt'), failing, { replace: true }));
    expect(error.message).toMatch(/no space left.*nothing half-written was left behind/);
    expect(readdirSync(folder())).toEqual(['ckpt']);
    expect(readFileSync(inside('ckpt/a.txt'), 'utf8')).toBe('one');
  });

  test('an existing folder is replaced only on request', async () => {
    mkdirSync(inside('ckpt'));
    await withDirectoryCommit(inside('ckpt'), build('one'));
    const error = await errorOf(() => withDirectoryCommit(inside('ckpt'), build('two')));
    expect(error.message).toMatch(/expected no folder or an empty one, found 3 entries/);
    expect(readFileSync(inside('ckpt/a.txt'), 'utf8')).toBe('one');
    await withDirectoryCommit(inside('ckpt'), build('three'), { replace: true });
    expect(readFileSync(inside('ckpt/a.txt'), 'utf8')).toBe('three');
    expect(readdirSync(folder())).toEqual(['ckpt']);
  });

  test('links are refused', async () => {
    const error = await errorOf(() =>
      withDirectoryCommit(inside('ckpt'), async (dir) => symlinkSync('/etc/hostname', join(dir, 'link'))),
    );
    expect(error.message).toMatch(/received a link or special file 'link'/);
    expect(readdirSync(folder())).toEqual([]);
  });

  test('leftovers of killed processes are swept; those of live ones and of other names are not', async () => {
    const dead = deadPid();
    const names = [
      `.ckpt.tmp-${HOST_TAG}-${dead}-0123abcd`,
      `.ckpt.tmp-${HOST_TAG}-${process.ppid}-0123abcd`,
      `.ckpt.tmp-00000000-${dead}-0123abcd`,
      `.ckpt2.tmp-${HOST_TAG}-${dead}-0123abcd`,
    ];
    for (const name of names) mkdirSync(inside(name));
    await withDirectoryCommit(inside('ckpt'), build('x'));
    expect(readdirSync(folder()).sort()).toEqual([...names.slice(1), 'ckpt'].sort());
  });

  test('so are those of a single file', async () => {
    const names = [`.a.txt.tmp-${HOST_TAG}-${deadPid()}-0123abcd`, `.b.txt.tmp-${HOST_TAG}-${deadPid()}-0123abcd`];
    for (const name of names) writeFileSync(inside(name), 'half');
    await writeFileAtomic(inside('a.txt'), 'whole');
    expect(readdirSync(folder()).sort()).toEqual([names[1], 'a.txt'].sort());
    const folderOfThatName = `.a.txt.tmp-${HOST_TAG}-${deadPid()}-0123abcd`;
    mkdirSync(inside(folderOfThatName));
    await writeFileAtomic(inside('a.txt'), 'again'); // what cannot be deleted stays
    expect(readFileSync(inside('a.txt'), 'utf8')).toBe('again');
    expect(readdirSync(folder())).toContain(folderOfThatName);
  });

  test('a process killed between the two renames of a replacement: the old folder comes back', async () => {
    await withDirectoryCommit(inside('ckpt'), build('old'));
    renameSync(inside('ckpt'), inside(`.ckpt.old-${HOST_TAG}-${deadPid()}-0123abcd`));
    const error = await errorOf(() => withDirectoryCommit(inside('ckpt'), build('new')));
    expect(error.message).toMatch(/found 3 entries/);
    expect(readFileSync(inside('ckpt/a.txt'), 'utf8')).toBe('old');
  });

  test('a process killed while building leaves no final folder', async () => {
    const script = `const fs = require('fs'), path = require('path');
      const dir = path.join(${JSON.stringify(folder())}, '.ckpt.tmp-${HOST_TAG}-' + process.pid + '-0123abcd');
      fs.mkdirSync(dir); fs.writeFileSync(path.join(dir, 'a.txt'), 'half'); process.kill(process.pid, 'SIGKILL');`;
    await new Promise((resolve) => spawn(process.execPath, ['-e', script]).on('exit', resolve));
    expect(readdirSync(folder())).toHaveLength(1);
    await withDirectoryCommit(inside('ckpt'), build('whole'));
    expect(readdirSync(folder())).toEqual(['ckpt']);
  });

  test('damage is found and named', async () => {
    await withDirectoryCommit(inside('ckpt'), async (dir) => {
      for (const name of ['gone', 'cut', 'changed', 'fine']) writeFileSync(join(dir, name), `content of ${name}`);
    });
    writeFileSync(inside('ckpt/extra'), '');
    rmSync(inside('ckpt/gone'));
    truncateSync(inside('ckpt/cut'), 3);
    writeFileSync(inside('ckpt/changed'), 'content of CHANGED');
    const problems = await verifyDirectory(inside('ckpt'));
    expect(problems.map(({ file, kind }) => [file, kind])).toEqual([
      ['changed', 'content'],
      ['cut', 'size'],
      ['gone', 'missing'],
    ]);
    expect(problems[1].message).toBe('expected 14 bytes (14 B), found 3');
    expect((await verifyDirectory(inside('ckpt'), { quick: true })).map(({ kind }) => kind)).toEqual([
      'size',
      'missing',
    ]);
  });

  test('checksums that are missing, cut or hostile', async () => {
    await withDirectoryCommit(inside('ckpt'), build('x'));
    const path = inside('ckpt', CHECKSUMS_FILE);
    for (const text of [
      '{',
      'null',
      '{"version":1,"algorithm":"sha256","files":{"../x":{"sha256":"","bytes":0}}}',
      '{"version":1,"algorithm":"sha256","files":{"x":null}}',
    ]) {
      writeFileSync(path, text);
      expect(await verifyDirectory(inside('ckpt'))).toMatchObject([{ file: CHECKSUMS_FILE, kind: 'unreadable' }]);
    }
    rmSync(path);
    expect(await verifyDirectory(inside('ckpt'))).toMatchObject([{ file: CHECKSUMS_FILE, kind: 'missing' }]);
  });
});

describe('the output lock', () => {
  const write = (record: object): void => writeFileSync(inside(LOCK_FILE), JSON.stringify(record));
  const base = { startTime: null, host: hostname(), createdAt: '2024-06-07T00:00:00Z', token: 'x' };

  test('is exclusive, released, and taken again', async () => {
    const lock = await acquireOutputLock(inside('out'));
    expect(existsSync(lock.path)).toBe(true);
    const error = await errorOf(() => acquireOutputLock(inside('out')));
    expect(error.code).toBe('ERR_CHECKPOINT');
    expect(error.message).toContain(`locked by this process (pid ${process.pid})`);
    await lock.release();
    await lock.release();
    expect(readdirSync(inside('out'))).toEqual([]);
    await (await acquireOutputLock(inside('out'))).release();
  });

  test('names a live process that holds it', async () => {
    const child = spawn(process.execPath, ['-e', 'setInterval(() => {}, 1000)']);
    try {
      write({ ...base, pid: child.pid, startTime: processStartTime(child.pid!) });
      expect((await errorOf(() => acquireOutputLock(folder()))).message).toContain(
        `locked by process ${child.pid} on ${hostname()} since 2024-06-07`,
      );
      // The same pid with another start time is another process: the lock is stale.
      if (processStartTime(child.pid!) !== null) {
        write({ ...base, pid: child.pid, startTime: 'earlier-boot:1' });
        await (await acquireOutputLock(folder())).release();
      }
    } finally {
      child.kill();
    }
  });

  test.each([
    ['a dead process', () => ({ ...base, pid: deadPid() })],
    ['nonsense', () => 'not json'],
    ['an empty file', () => ''],
  ])('is taken over from %s', async (_name, content) => {
    const value = content();
    writeFileSync(inside(LOCK_FILE), typeof value === 'string' ? value : JSON.stringify(value));
    const lock = await acquireOutputLock(folder());
    expect((JSON.parse(readFileSync(lock.path, 'utf8')) as { pid: number }).pid).toBe(process.pid);
    await lock.release();
    expect(readdirSync(folder())).toEqual([]);
  });

  test('of another host counts as held', async () => {
    write({ ...base, pid: deadPid(), host: 'elsewhere' });
    expect((await errorOf(() => acquireOutputLock(folder()))).message).toMatch(
      /on elsewhere.*if that run is gone, delete/,
    );
  });

  test('only one of many contenders gets it, also over a stale one', async () => {
    write({ ...base, pid: deadPid() });
    const results = await Promise.allSettled(Array.from({ length: 8 }, () => acquireOutputLock(folder())));
    expect(results.filter(({ status }) => status === 'fulfilled')).toHaveLength(1);
    expect(readdirSync(folder())).toEqual([LOCK_FILE]);
  });

  test('release leaves a lock alone that has changed hands', async () => {
    const lock = await acquireOutputLock(folder());
    write({ ...base, pid: 1 });
    await lock.release();
    expect(existsSync(lock.path)).toBe(true);
  });

  test('process identity', () => {
    expect(isProcessAlive(process.pid)).toBe(true);
    expect(isProcessAlive(deadPid())).toBe(false);
    expect(isProcessAlive(-1)).toBe(false);
    expect(processStartTime(process.pid)).toBe(processStartTime(process.pid));
  });
});
