"""Training steps on command: the peer of benchmarks/step/child.ts."""

import torch

from model import build, stepper
from protocol import config, peak_resident_bytes, serve, timed


def main():
    run = config()
    torch.set_num_threads(run["threads"])
    torch.manual_seed(42)
    model, optimizer = build(run)
    step = stepper(run, model, optimizer)
    losses = []

    def handle(request):
        samples = [timed(lambda: losses.append(step())) for _ in range(request["run"])]
        return {"samples": samples, "loss": losses[-1], "peakBytes": peak_resident_bytes()}

    trainable = sum(p.numel() for p in model.parameters() if p.requires_grad)
    serve({"parameters": {"trainable": trainable, "all": sum(p.numel() for p in model.parameters())}}, handle)


main()
