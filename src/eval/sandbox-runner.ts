/**
 * The Python program that runs one generated program. It is text: `python3 -c` gets it, and the job on standard input.
 *
 * The idea: three processes. The first one (outer) leaves the machine behind as far as it lets itself be left: own network
 * (none), own process table, own mounts, and a root that is a small memory disk with Python's own folders, read-only. The
 * second (init) is the first process of that world: when it ends, the kernel ends everything in it. The third sets limits,
 * gives up every right, installs the guard and runs the program.
 *
 * Where the machine allows no namespaces, limits and guard remain. The guard is an audit hook: it stops what would leave the
 * work folder (network, other processes, writes elsewhere) before it happens. It lives in the process it guards, so it stops
 * accidents, not an attacker; what was achieved is reported with the first message and shown to the user.
 *
 * Messages: lines on descriptor 3, JSON [token, kind, value]. `start` {isolated, refused} before the program; `passed`, or
 * `failed` with a reason, after it; `ended` with the wait status when the process is gone, however it went.
 *
 * Sources: unshare(2), pivot_root(2), mount_setattr(2), setrlimit(2), PEP 578. The list of what to keep away follows the
 * reliability guard of HumanEval (Chen et al. 2021).
 */

/** What the runner reads from standard input. */
export interface SandboxJob {
  /** Secret that its messages carry. */
  readonly token: string;
  readonly program: string;
  /** An empty folder: the work folder, or the place where the memory disk is mounted. */
  readonly folder: string;
  readonly memoryBytes: number;
  readonly diskBytes: number;
  readonly cpuSeconds: number;
  readonly processes: number;
  /** False leaves a layer out; for tests of the other one. */
  readonly namespaces: boolean;
  readonly guard: boolean;
}

export const SANDBOX_RUNNER = String.raw`
import json, os, signal, sys

job = json.load(sys.stdin)

def say(kind, value=None):
    os.write(3, (json.dumps([job["token"], kind, value]) + "\n").encode())

# ---- outer: namespaces and a root of its own -------------------------------------------------------------------------

NEWNS, NEWUTS, NEWIPC, NEWUSER, NEWPID, NEWNET = 0x20000, 0x4000000, 0x8000000, 0x10000000, 0x20000000, 0x40000000
MS_NOSUID, MS_NODEV, MS_BIND, MS_REC, MS_PRIVATE, MNT_DETACH = 2, 4, 4096, 16384, 1 << 18, 2
SYS_MOUNT_SETATTR, AT_FDCWD, AT_RECURSIVE = 442, -100, 0x8000

def load_libc():
    import ctypes
    libc = ctypes.CDLL(None, use_errno=True)
    def call(name, *args):
        args = [a.encode() if isinstance(a, str) else a for a in args]
        if getattr(libc, name)(*args) == -1:
            code = ctypes.get_errno()
            raise OSError(code, name + ": " + os.strerror(code))
    return ctypes, call

def leave(call):
    """Own namespaces; an unprivileged user needs a user namespace for them."""
    spaces = NEWNS | NEWUTS | NEWIPC | NEWPID | NEWNET
    uid, gid = os.getuid(), os.getgid()
    if uid == 0:
        try:
            call("unshare", spaces)
            return
        except OSError:
            pass
    call("unshare", spaces | NEWUSER)
    for name, text in (("setgroups", "deny"), ("uid_map", "%d %d 1" % (uid, uid)), ("gid_map", "%d %d 1" % (gid, gid))):
        with open("/proc/self/" + name, "w") as f:
            f.write(text)

def python_paths():
    """What Python and its libraries need to be found, shortest first, none inside of another."""
    wanted = ["/usr", "/lib", "/lib32", "/lib64", "/bin", "/etc/ld.so.cache", "/etc/localtime"]
    wanted += [sys.prefix, sys.base_prefix, sys.exec_prefix, sys.base_exec_prefix] + [p for p in sys.path if p]
    kept = []
    for path in sorted({os.path.abspath(p) for p in wanted if os.path.lexists(p)}, key=len):
        if path != "/" and not any(path == k or path.startswith(k + "/") for k in kept):
            kept.append(path)
    return kept

def new_root(ctypes, call):
    """A memory disk with Python, four devices and /work; the machine's files are gone afterwards."""
    call("mount", None, "/", None, MS_REC | MS_PRIVATE, None)
    root = job["folder"]
    call("mount", "tmpfs", root, "tmpfs", MS_NOSUID | MS_NODEV, "size=%d,nr_inodes=20000,mode=755" % job["diskBytes"])

    def bind(path, attributes):
        target = root + path
        os.makedirs(os.path.dirname(target), exist_ok=True)
        if os.path.islink(path):
            os.symlink(os.readlink(path), target)
            return
        if os.path.isdir(path):
            os.makedirs(target, exist_ok=True)
        else:
            open(target, "w").close()
        call("mount", path, target, None, MS_BIND | MS_REC, None)
        words = (ctypes.c_uint64 * 4)(attributes, 0, 0, 0)
        call("syscall", SYS_MOUNT_SETATTR, AT_FDCWD, target, AT_RECURSIVE, words, 32)

    for path in python_paths():
        bind(path, 1 | MS_NOSUID | MS_NODEV)
    for name in ("null", "zero", "random", "urandom"):
        if os.path.exists("/dev/" + name):
            bind("/dev/" + name, MS_NOSUID)
    os.mkdir(root + "/work", 0o777)
    os.chmod(root + "/work", 0o777)
    os.symlink("work", root + "/tmp")
    os.chdir(root)
    call("pivot_root", ".", ".")
    call("umount2", ".", MNT_DETACH)

def isolate(ctypes, call):
    """(what is kept away by the kernel, why the rest is not)"""
    done = []
    try:
        leave(call)
        done += ["network", "processes"]
        new_root(ctypes, call)
        done.append("files")
    except OSError as error:
        return done, error.strerror or str(error)
    return done, None

# ---- inner: rights, limits, guard, program ---------------------------------------------------------------------------

def everybody_reads(path):
    while True:
        mode = os.stat(path).st_mode
        if not mode & 0o001 or (os.path.isdir(path) and not mode & 0o004):
            return path == "/"
        if path == "/":
            return True
        path = os.path.dirname(path)

def give_up_rights(ctypes, call, outer):
    if os.geteuid() == 0 and everybody_reads(os.path.dirname(os.__file__)):
        # A user of its own, that owns nothing; its processes are counted apart from everybody else's.
        for uid in (0x60000000 + outer, 65534):
            try:
                os.chown(".", uid, uid)
                os.setgroups([])
                os.setresgid(uid, uid, uid)
                os.setresuid(uid, uid, uid)
                break
            except OSError:
                continue
    if call:
        call("prctl", 38, 1, 0, 0, 0)
        header = (ctypes.c_uint32 * 2)(0x20080522, 0)
        call("capset", header, (ctypes.c_uint32 * 6)())

def set_limits(alone):
    import resource
    def limit(name, value):
        kind = getattr(resource, name, None)
        if kind is None:
            return
        hard = resource.getrlimit(kind)[1]
        value = value if hard == resource.RLIM_INFINITY else min(value, hard)
        try:
            resource.setrlimit(kind, (value, value))
        except (ValueError, OSError):
            refused.append(name)
    refused = []
    limit("RLIMIT_CORE", 0)
    limit("RLIMIT_CPU", job["cpuSeconds"])
    limit("RLIMIT_FSIZE", job["diskBytes"])
    limit("RLIMIT_NOFILE", 64)
    # Without a user or a namespace of its own, everything the user runs would count: then no new process at all.
    limit("RLIMIT_NPROC", job["processes"] if alone else 0)
    limit("RLIMIT_AS", job["memoryBytes"])
    return refused

DENIED = ("subprocess.", "os.fork", "os.exec", "os.posix_spawn", "os.spawn", "os.system", "os.startfile", "os.kill", "os.chroot", "os.setuid", "pty.",
          "signal.pthread_kill", "socket.connect", "socket.bind", "socket.sendto", "socket.sendmsg", "socket.getaddrinfo", "socket.gethostby", "ctypes.", "syslog.", "resource.setrlimit", "resource.prlimit")
# Event: arguments that are paths which change, arguments that are folders those are relative to.
PATHS = {"os.remove": ((0,), (1,)), "os.rmdir": ((0,), (1,)), "os.mkdir": ((0,), (2,)), "os.chmod": ((0,), (2,)), "os.chown": ((0,), (3,)), "os.lchown": ((0,), ()),
         "os.chflags": ((0,), ()), "os.utime": ((0,), (3,)), "os.truncate": ((0,), ()), "os.setxattr": ((0,), ()), "os.removexattr": ((0,), ()),
         "os.rename": ((0, 1), (2, 3)), "os.link": ((0, 1), (2, 3)), "os.symlink": ((1,), (2,))}
# Those that change a name and not what is behind it.
NAMES = ("os.remove", "os.rmdir", "os.mkdir", "os.rename", "os.link", "os.symlink")
WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND

def install_guard(has_own_files):
    home = os.path.realpath(".")
    realpath, fsdecode, join, split, readlink = os.path.realpath, os.fsdecode, os.path.join, os.path.split, os.readlink
    unix = getattr(__import__("_socket"), "AF_UNIX", None)
    for name in [n for n in sys.modules if n == "_ctypes" or n.split(".")[0] == "ctypes"]:
        del sys.modules[name]

    def refuse(event):
        raise PermissionError("generated code may not use " + event)

    def check(path, event, folder=-1, name=False):
        # An open file was checked when it was opened; with a root of its own there is nothing to protect.
        if has_own_files or isinstance(path, int) or fsdecode(path) == "/dev/null":
            return
        path = fsdecode(path)
        if isinstance(folder, int) and folder >= 0:
            path = join(readlink("/proc/self/fd/%d" % folder), path)
        # A link that is removed or renamed is the link; what is opened or changed is what it leads to.
        path = join(realpath(split(path)[0]), split(path)[1]) if name else realpath(path)
        if path != home and not path.startswith(home + os.sep):
            refuse(event + " outside of its folder")

    def hook(event, args):
        if event == "open":
            if args[2] is not None and args[2] & WRITES:
                check(args[0], "open for writing")
        elif event in PATHS:
            paths, folders = PATHS[event]
            for i, index in enumerate(paths):
                check(args[index], event, args[folders[min(i, len(folders) - 1)]] if folders and len(args) > folders[-1] else -1, event in NAMES)
        elif event == "socket.__new__":
            if args[1] != unix:
                refuse("the network")
        elif event == "import":
            if args[0] in ("ctypes", "_ctypes"):
                raise ImportError("generated code may not use " + args[0])
        elif event.startswith(DENIED):
            refuse(event)

    sys.addaudithook(hook)

def run_program():
    try:
        exec(compile(job["program"], "<program>", "exec"), {})
    except BaseException as error:
        text = type(error).__name__
        try:
            text += (": " + str(error)[:300]) if str(error) else ""
        except BaseException:
            pass
        say("failed", text)
    else:
        say("passed")

def inner(ctypes, call, isolated, why, outer):
    null = os.open("/dev/null", os.O_RDONLY)
    os.dup2(null, 0)
    os.close(null)
    user_before = os.geteuid()
    give_up_rights(ctypes, call, outer)
    alone = "processes" in isolated or os.geteuid() != user_before
    refused = set_limits(alone)
    if job["guard"]:
        install_guard("files" in isolated)
    say("start", {"isolated": isolated, "why": why, "refused": refused})
    run_program()
    os._exit(0)

def main():
    ctypes = call = why = None
    isolated = []
    if sys.platform == "linux":
        try:
            ctypes, call = load_libc()
        except (ImportError, OSError) as error:
            why = "ctypes: " + str(error)
        if call and job["namespaces"]:
            isolated, why = isolate(ctypes, call)
        elif call:
            why = "not asked for"
    else:
        why = "namespaces are a matter of Linux"
    outer = os.getpid()
    init = os.fork()
    if init:
        os.waitpid(init, 0)
        os._exit(0)
    if call:
        call("prctl", 1, 9, 0, 0, 0)
    os.chdir("/work" if "files" in isolated else job["folder"])
    os.environ.update(HOME=os.getcwd(), TMPDIR=os.getcwd())
    program = os.fork()
    if program == 0:
        try:
            inner(ctypes, call, isolated, why, outer)
        except BaseException as error:
            say("broken", type(error).__name__ + ": " + str(error)[:300])
        os._exit(1)
    while True:
        pid, status = os.wait()
        if pid == program:
            break
    say("ended", status)
    os._exit(0)

main()
`;
