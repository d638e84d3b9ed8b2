/**
 * The sandbox against programs that misbehave, layer by layer: the guard alone (what a machine without namespaces has), and
 * namespaces alone where this machine has them. Each program tries to do harm that the test would see.
 */
import { execFileSync } from 'node:child_process';
import {
  chmodSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  writeFileSync,
} from 'node:fs';
import { createServer, type AddressInfo } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { BUNDLED_PROBLEMS, programOf, readProblems } from '../../../src/eval/passk-problems';
import { Sandbox, type SandboxOptions } from '../../../src/eval/sandbox';

jest.setTimeout(180_000);

const hasPython = ((): boolean => {
  try {
    return (
      execFileSync('python3', ['-c', 'import sys; print(sys.version_info >= (3, 8))'], { encoding: 'utf8' }).trim() ===
      'True'
    );
  } catch {
    return false;
  }
})();
if (!hasPython) process.stdout.write('sandbox: not tested, this machine has no python3 of version 3.8 or later\n');
const withPython = hasPython ? describe : describe.skip;

// Every program's folder lies here, and its processes carry the name in their environment.
const base = mkdtempSync(join(tmpdir(), 'lathe-sandbox-test-'));
const outside = join(base, 'outside');
const before = process.env.TMPDIR;
beforeAll(() => {
  mkdirSync(outside);
  mkdirSync(join(base, 'tmp'));
  process.env.TMPDIR = join(base, 'tmp');
});
afterAll(() => {
  if (before === undefined) delete process.env.TMPDIR;
  else process.env.TMPDIR = before;
  rmSync(base, { recursive: true, force: true });
});

/** Processes that a program left behind. */
function leftovers(): string[] {
  if (!existsSync('/proc')) return [];
  return readdirSync('/proc').filter((pid) => {
    if (!/^\d+$/.test(pid) || pid === String(process.pid)) return false;
    try {
      return readFileSync(`/proc/${pid}/environ`, 'utf8').includes(`${base}/tmp/lathe-sandbox-`);
    } catch {
      return false;
    }
  });
}

/** Killing takes a moment. */
async function expectNothingLeft(): Promise<void> {
  for (let i = 0; i < 100 && leftovers().length; i++) await new Promise((resolve) => setTimeout(resolve, 50));
  expect(leftovers()).toEqual([]);
  expect(readdirSync(join(base, 'tmp'))).toEqual([]);
}

withPython('verdicts', () => {
  let sandbox: Sandbox;
  beforeAll(async () => {
    sandbox = await Sandbox.open({ timeoutSeconds: 20 });
  });

  test('every bundled solution passes, and none does with a wrong answer', async () => {
    for (const problem of readProblems(BUNDLED_PROBLEMS)) {
      expect([problem.taskId, await sandbox.run(programOf(problem, problem.canonicalSolution))]).toMatchObject([
        problem.taskId,
        { outcome: 'passed', detail: '' },
      ]);
      expect([problem.taskId, await sandbox.run(programOf(problem, '    return "wrong"\n'))]).toMatchObject([
        problem.taskId,
        { outcome: 'failed', detail: 'AssertionError' },
      ]);
    }
  });

  test.each([
    ['an exception', 'raise ValueError("no")', 'ValueError: no'],
    ['broken syntax', 'def f(:\n', /^SyntaxError/],
    ['sys.exit(0)', 'import sys\nsys.exit(0)', 'SystemExit: 0'],
    ['os._exit(0)', 'import os\nos._exit(0)', 'exit code 0 before its tests were done'],
    ['a verdict of its own', 'import os\nos.write(3, b\'["", "passed", null]\\n\')\nassert False', 'AssertionError'],
    ['reading from a person', 'input()', /^EOFError/],
    ['a deep recursion', 'def f(): return f()\nf()', /^RecursionError/],
    ['an exception whose text fails', 'class E(Exception):\n    def __str__(self): raise E()\nraise E()', 'E'],
  ])('%s fails', async (_name, program, detail) => {
    expect(await sandbox.run(program)).toMatchObject({
      outcome: 'failed',
      detail: detail instanceof RegExp ? expect.stringMatching(detail) : detail,
    });
  });

  test('no interpreter', async () => {
    await expect(Sandbox.open({ python: join(base, 'no-python') })).rejects.toMatchObject({
      code: 'ERR_UNSUPPORTED',
      message: expect.stringMatching(/does not start.*install Python/) as string,
    });
    await expect(Sandbox.open({ python: '/bin/false' })).rejects.toMatchObject({ code: 'ERR_UNSUPPORTED' });
  });

  test('an interpreter that breaks later: could not run, not failed', async () => {
    const [script, broken] = [join(base, 'python'), join(base, 'broken')];
    const real = sandbox.python;
    writeFileSync(
      script,
      `#!/bin/sh\ncase "$2" in *version_info*) echo '["${script}", "3.99", true]';; *) [ -e "${broken}" ] && { echo worn out >&2; exit 9; }; exec "${real}" "$@";; esac\n`,
    );
    chmodSync(script, 0o755);
    const frail = await Sandbox.open({ python: script });
    expect(frail.version).toBe('3.99');
    expect(await frail.run('assert True')).toMatchObject({ outcome: 'passed' });
    writeFileSync(broken, '');
    expect(await frail.run('assert True')).toEqual({
      outcome: 'could not run',
      detail: 'the runner ended (exit code 9) worn out',
      seconds: 0,
    });
    await expectNothingLeft();
  });
});

const LAYERS: [string, SandboxOptions][] = [
  ['the guard alone', { namespaces: false, guard: true }],
  ['namespaces alone', { namespaces: true, guard: false }],
  ['both', {}],
];

withPython.each(LAYERS)('%s', (name, layer) => {
  let sandbox: Sandbox;
  let usable = true;
  beforeAll(async () => {
    sandbox = await Sandbox.open({ ...layer, timeoutSeconds: 20, memoryBytes: 512 * 2 ** 20, diskBytes: 8 * 2 ** 20 });
    usable = layer.guard !== false || sandbox.isolation.isolated.length === 3;
    if (!usable) process.stdout.write(`sandbox, ${name}: not tested, this machine refuses: ${sandbox.isolation.why}\n`);
  });
  afterEach(expectNothingLeft);
  /** A test that is left out, and says so above, where the machine has no such layer. */
  const held = (what: string, body: () => Promise<void>): void => test(what, async () => (usable ? body() : undefined));
  const failed = (program: string, detail: RegExp): Promise<void> =>
    sandbox
      .run(program)
      .then((result) =>
        expect(result).toMatchObject({ outcome: 'failed', detail: expect.stringMatching(detail) as string }),
      );

  held('says what is kept away', async () => {
    expect(sandbox.isolation.refused).toEqual([]);
    expect(sandbox.describe()).toMatch(
      sandbox.isolation.isolated.length === 3
        ? /without network.*only \/usr and Python, read-only/
        : /stops accidents and not an attacker/,
    );
  });

  held('modules of the standard library and temporary files work', async () => {
    const modules =
      'os, math, random, re, json, collections, itertools, functools, heapq, hashlib, decimal, fractions, datetime, typing, string, statistics, bisect, copy, operator, dataclasses, socket, subprocess, tempfile, threading';
    const program = `import ${modules}\nwith tempfile.TemporaryFile() as f: f.write(b"x")\nwith tempfile.TemporaryDirectory() as d:\n    open(d + "/x", "w").close()\n    os.symlink("/etc", d + "/link")\nopen("here.txt", "w").write("y")\nassert open("here.txt").read() == "y"\nassert hashlib.md5(b"Hello world").hexdigest().startswith("3e25960a")`;
    expect(await sandbox.run(program)).toMatchObject({ outcome: 'passed' });
  });

  held('an endless loop times out', async () => {
    const quick = await Sandbox.open({ ...layer, timeoutSeconds: 1 });
    expect(await quick.run('while True: pass')).toMatchObject({ outcome: 'timed out', detail: 'after 1 s' });
    expect(await quick.run('import time\ntime.sleep(60)')).toMatchObject({ outcome: 'timed out' });
    expect(
      await quick.run(
        'import signal\nfor s in (signal.SIGTERM, signal.SIGXCPU): signal.signal(s, signal.SIG_IGN)\nwhile True:\n    try:\n        while True: pass\n    except BaseException: pass',
      ),
    ).toMatchObject({ outcome: 'timed out' });
  });

  held('a memory hog gets no more than its limit', async () => {
    await failed('x = bytearray(600 << 20)', /^MemoryError/);
    await failed('x = []\nwhile True: x.append(bytearray(1 << 20))', /^MemoryError|exit code|ended by/);
  });

  held('a flood of output is cut off', async () => {
    await failed('while True: print("x" * 1000)', /^printed more than 1\.00 MiB/);
  });

  held('a full disk is its own', async () => {
    await failed('f = open("big", "wb")\nwhile True: f.write(b"x" * (1 << 20)); f.flush()', /^OSError/);
  });

  held('files outside are neither made, changed nor removed', async () => {
    const [made, kept] = [join(outside, 'made'), join(outside, 'kept')];
    writeFileSync(kept, 'as it was');
    await failed(`open(${JSON.stringify(made)}, "w").write("x")`, /Error/);
    await failed(`import os\nos.open(${JSON.stringify(made)}, os.O_CREAT | os.O_WRONLY)`, /Error/);
    await failed(`open(${JSON.stringify(kept)}, "a").write("x")`, /Error/);
    await failed(`import os\nos.remove(${JSON.stringify(kept)})`, /Error/);
    await failed(`import os\nos.rename(${JSON.stringify(kept)}, ${JSON.stringify(made)})`, /Error/);
    await failed(`import shutil\nshutil.rmtree(${JSON.stringify(outside)})`, /Error/);
    await failed(`import os\nos.symlink(${JSON.stringify(kept)}, "link")\nopen("link", "w").write("x")`, /Error/);
    expect(readdirSync(outside)).toEqual(['kept']);
    expect(readFileSync(kept, 'utf8')).toBe('as it was');
  });

  held('nobody is reached over the network', async () => {
    let reached = 0;
    const server = createServer((socket) => {
      reached++;
      socket.destroy();
    });
    await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
    const { port } = server.address() as AddressInfo;
    await failed(`import socket\nsocket.create_connection(("127.0.0.1", ${port}), 3)`, /Error/);
    await failed(`import urllib.request\nurllib.request.urlopen("http://127.0.0.1:${port}", timeout=3)`, /Error/);
    server.close();
    expect(reached).toBe(0);
  });

  held('forks end with the program', async () => {
    const bomb = await sandbox.run(
      'import os, time\nfor _ in range(12): os.fork()\ntime.sleep(0.2)\nraise ValueError("done")',
    );
    expect(bomb).toMatchObject({
      outcome: 'failed',
      detail: expect.stringMatching(/PermissionError|BlockingIOError|ValueError/) as string,
    });
    const child = await sandbox.run('import subprocess\nsubprocess.Popen(["sleep", "600"], start_new_session=True)');
    expect(child.outcome).toBe(layer.guard === false ? 'passed' : 'failed');
  });

  held('nobody else is killed', async () => {
    const other = String(process.pid);
    for (const target of [other, '-1', 'os.getppid()']) await sandbox.run(`import os\nos.kill(${target}, 9)`);
    expect(await sandbox.run('assert True')).toMatchObject({ outcome: 'passed' });
  });

  if (layer.guard === false) {
    held('a crash of the interpreter is a failure of the program', async () => {
      await failed('import ctypes\nctypes.string_at(0)', /^ended by SIGSEGV/);
    });

    held('no file of the machine but Python is there', async () => {
      expect(
        await sandbox.run(
          `import os\nassert not os.path.exists(${JSON.stringify(outside)})\nassert not os.path.exists("/home") and not os.path.exists("/proc/1")`,
        ),
      ).toMatchObject({ outcome: 'passed' });
    });
  }
});
