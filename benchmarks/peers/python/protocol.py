"""The child's side of benchmarks/harness/worker.ts: JSON lines in, JSON lines out, one answer per request."""

import json
import resource
import sys
import time
import traceback

ANSWER = "@@ "


def config():
    return json.loads(sys.argv[1])


def say(answer):
    sys.stdout.write(ANSWER + json.dumps(answer) + "\n")
    sys.stdout.flush()


def serve(ready, handle):
    """Says `ready`, then answers requests until the input ends."""
    say(ready)
    for line in sys.stdin:
        try:
            say(handle(json.loads(line)))
        except Exception:  # the parent shows it
            say({"error": traceback.format_exc()})


def timed(work):
    """Wall time and the CPU time of all threads of this process, in milliseconds."""
    cpu, wall = time.process_time(), time.perf_counter()
    work()
    return {"wallMs": (time.perf_counter() - wall) * 1e3, "cpuMs": (time.process_time() - cpu) * 1e3}


def rest(at_most=0.3):
    """Returns when the threads of this process sleep: libraries keep theirs spinning after a call (OpenBLAS for 30 to 90 ms of
    CPU time), and the slice of whoever comes next would pay for it."""
    end = time.perf_counter() + at_most
    while time.perf_counter() < end:
        cpu = time.process_time()
        time.sleep(0.005)
        if time.process_time() - cpu < 0.0005:
            return


def peak_resident_bytes():
    """Not getrusage's, whose maximum survives exec and so would be the parent's."""
    try:
        with open("/proc/self/status") as status:
            for line in status:
                if line.startswith("VmHWM:"):
                    return int(line.split()[1]) * 1024
    except OSError:
        pass
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
