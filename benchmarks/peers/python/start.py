"""From the start of the process to the end of the first optimizer step, with weights from a folder."""

import time

from protocol import config, peak_resident_bytes, serve


def main():
    run = config()
    import torch

    from model import build, stepper

    torch.set_num_threads(run["threads"])
    model, optimizer = build(run)
    step = stepper(run, model, optimizer)
    begun = time.time() * 1e3
    step()
    done = time.time() * 1e3
    serve({"begunAt": begun, "doneAt": done, "cpuMs": time.process_time() * 1e3, "peakBytes": peak_resident_bytes()}, lambda _: {})


main()
