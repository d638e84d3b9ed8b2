"""
test/golden/optim: optimizer trajectories and learning-rate schedules.

  start.safetensors    p0 fp32 [5000], g.<step> fp32 [5000] for steps 1..10 (the gradients do not depend on p)
  adamw.safetensors    torch.optim.AdamW fp32: p.<step> for steps 1, 2, 5, 10, and m, v after step 10
  adamw8bit.safetensors
                       block-wise 8-bit AdamW, decay before the update (torch order): p.<step>, and after step 10
                       state1, state2 uint8 [5000], absmax1, absmax2 fp32 [20]
  adamw8bit-cuda-order.safetensors
                       the same with bitsandbytes' CUDA order (decay after the update): p.10
  notes.json           hyperparameters; how far bitsandbytes' own CPU implementation is from adamw8bit
  schedules.json       transformers.get_scheduler: 40 + 5 values of the learning rate per case

The 8-bit trajectory is a torch restatement of bitsandbytes' CUDA rule, not its CPU backend: that one requantises through
a 65,536-bin table, which cannot reach the smallest codes. The rule, per block of 256 and in fp32: m, v are dequantised
(map[code] * absmax), updated, their new block maxima stored, p is updated from the un-quantised m, v, then both are
requantised to the nearest map entry (signed map for m, unsigned for v), and a code whose entry has the
other sign than m moves one step so that the sign survives. c1 = 1 - beta1^t and c2 = sqrt(1 - beta2^t) are taken in
double and p += (-lr * c2 / c1) * m / (sqrt(v) + c2 * eps).
"""

import math

import bitsandbytes.functional as F
import torch
from common import generator, output_folder, save_json, save_tensors, versions
from transformers import get_scheduler

N, STEPS, BLOCK = 5000, 10, 256
KEPT = (1, 2, 5, 10)
HYPER = dict(lr=1e-2, beta1=0.9, beta2=0.999, eps=1e-8, weight_decay=0.01)


def requantise(x: torch.Tensor, table: torch.Tensor, signed: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """Codes of x [n] and the block maxima. Nearest entry by a binary search and one midpoint compare, as the CUDA kernel does it."""
    n = x.numel()
    padded = torch.nn.functional.pad(x, (0, -n % BLOCK)).view(-1, BLOCK)
    absmax = padded.abs().amax(1)
    # A block of zeros: 0 / 0; the kernel's result is harmless there because absmax is 0. Code of zero is what we store.
    scaled = torch.where(absmax.view(-1, 1) > 0, padded / absmax.view(-1, 1), torch.zeros(())).flatten()[:n]
    pivot = torch.full((n,), 127)
    lower, upper = torch.zeros(n, dtype=torch.long), torch.full((n,), 255)
    for i in (64, 32, 16, 8, 4, 2, 1):
        above = scaled > table[pivot]
        lower, upper = torch.where(above, pivot, lower), torch.where(above, upper, pivot)
        pivot = torch.where(above, pivot + i, pivot - i)
    value = table[pivot]
    above = scaled > value
    up = above & (scaled > (table[upper] + value) * 0.5)
    down = ~above & (scaled < (table[lower] + value) * 0.5)
    codes = torch.where(up, upper, torch.where(down, lower, pivot))
    if signed:
        wrong = torch.signbit(table[codes]) != torch.signbit(x)
        wrong &= x != 0
        codes = torch.where(wrong, codes + torch.where(x > 0, 1, -1), codes)
    assert (scaled - table[codes]).abs().sub((scaled.view(-1, 1) - table).abs().amin(1)).max() < 2e-6
    return codes.to(torch.uint8), absmax


def spread(absmax: torch.Tensor) -> torch.Tensor:
    return absmax.repeat_interleave(BLOCK)[:N]


def adamw8bit(p0, gradients, decay_after: bool):
    signed, unsigned = F.create_dynamic_map(signed=True), F.create_dynamic_map(signed=False)
    blocks = -(-N // BLOCK)
    p = p0.clone()
    codes1 = codes2 = torch.zeros(N, dtype=torch.uint8)
    max1 = max2 = torch.zeros(blocks)
    h, path = HYPER, {}
    decay = torch.tensor(1 - h["lr"] * h["weight_decay"])
    for t, g in enumerate(gradients, 1):
        m = signed[codes1.long()] * spread(max1) * h["beta1"] + (1 - h["beta1"]) * g
        v = unsigned[codes2.long()] * spread(max2) * h["beta2"] + (1 - h["beta2"]) * g * g
        c1, c2 = 1 - h["beta1"] ** t, math.sqrt(1 - h["beta2"] ** t)
        if not decay_after:
            p = p * decay
        p = p + (-h["lr"] * c2 / c1) * (m / (v.sqrt() + c2 * h["eps"]))
        if decay_after:
            p = p * decay
        codes1, max1 = requantise(m, signed, True)
        codes2, max2 = requantise(v, unsigned, False)
        if t in KEPT:
            path[f"p.{t}"] = p
    return path, dict(state1=codes1, state2=codes2, absmax1=max1, absmax2=max2)


def torch_adamw(p0, gradients):
    p = torch.nn.Parameter(p0.clone())
    h = HYPER
    optimizer = torch.optim.AdamW(
        [p], lr=h["lr"], betas=(h["beta1"], h["beta2"]), eps=h["eps"], weight_decay=h["weight_decay"]
    )
    path = {}
    for t, g in enumerate(gradients, 1):
        p.grad = g.clone()
        optimizer.step()
        if t in KEPT:
            path[f"p.{t}"] = p.detach().clone()
    state = optimizer.state[p]
    return {**path, "m": state["exp_avg"], "v": state["exp_avg_sq"]}


def bnb_cpu(p0, gradients) -> torch.Tensor:
    import bitsandbytes as bnb

    p = torch.nn.Parameter(p0.clone())
    h = HYPER
    optimizer = bnb.optim.AdamW8bit(
        [p], lr=h["lr"], betas=(h["beta1"], h["beta2"]), eps=h["eps"], weight_decay=h["weight_decay"]
    )
    for g in gradients:
        p.grad = g.clone()
        optimizer.step()
    assert optimizer.state[p]["state1"].dtype == torch.uint8
    return p.detach()


SCHEDULES = [
    ("constant", 0, {}),
    ("constant_with_warmup", 5, {}),
    ("linear", 0, {}),
    ("linear", 4, {}),
    ("cosine", 4, {}),
    ("cosine", 4, {"num_cycles": 1.5}),
    ("cosine_with_restarts", 4, {"num_cycles": 3}),
    ("cosine_with_restarts", 0, {}),
    ("polynomial", 4, {}),
    ("polynomial", 4, {"power": 2.0, "lr_end": 1e-5}),
    ("inverse_sqrt", 5, {}),
    ("inverse_sqrt", 0, {}),
    ("inverse_sqrt", 5, {"timescale": 20}),
    ("cosine_with_min_lr", 4, {"min_lr": 1e-4}),
    ("cosine_with_min_lr", 4, {"min_lr_rate": 0.1}),
    ("cosine_warmup_with_min_lr", 4, {"min_lr_rate": 0.1}),
    ("cosine_warmup_with_min_lr", 4, {"min_lr_rate": 0.1, "warmup_lr_rate": 0.05}),
    ("warmup_stable_decay", 5, {"num_decay_steps": 10}),
    ("warmup_stable_decay", 5, {"num_decay_steps": 10, "decay_type": "linear", "min_lr_ratio": 0.1}),
    ("warmup_stable_decay", 5, {"num_decay_steps": 10, "warmup_type": "cosine", "decay_type": "1-sqrt", "min_lr_ratio": 0.05}),
    ("warmup_stable_decay", 5, {"num_decay_steps": 8, "num_stable_steps": 12, "warmup_type": "1-sqrt", "num_cycles": 0.5}),
]  # fmt: skip


def schedules(lr: float = 2e-3, steps: int = 40) -> list[dict]:
    """Each case runs five steps past the end, where the schedules differ in what they hold on to."""
    out = []
    for name, warmup, kwargs in SCHEDULES:
        optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=lr)
        scheduler = get_scheduler(name, optimizer, warmup, steps, kwargs)
        values = []
        for _ in range(steps + 5):
            values.append(optimizer.param_groups[0]["lr"])
            optimizer.step()
            scheduler.step()
        out.append(dict(name=name, lr=lr, warmup_steps=warmup, total_steps=steps, kwargs=kwargs, values=values))
    return out


def main() -> None:
    folder = output_folder("optim")
    g = generator(900)
    p0 = torch.randn(N, generator=g)
    # Scales spread over a decade and a half inside each block, some elements and one whole block never get a gradient. Values
    # near zero are kept away from it: v of an element under 3e-7 of its block's maximum requantises to 0, and a later
    # small gradient then divides by eps. That is the method's known weakness, and chaos is no use as a golden.
    scale = 10 ** (torch.rand(N, generator=g) * 1.5 - 1.5)
    scale[torch.rand(N, generator=g) < 0.02] = 0.0
    scale[2 * BLOCK : 3 * BLOCK] = 0.0
    gradients = []
    for _ in range(STEPS):
        x = torch.randn(N, generator=g)
        gradients.append(torch.where(x < 0, -1.0, 1.0) * (x.abs() * 0.5 + 0.2) * scale)
    save_tensors(folder / "start.safetensors", {"p0": p0, **{f"g.{t}": x for t, x in enumerate(gradients, 1)}})

    reference = torch_adamw(p0, gradients)
    save_tensors(folder / "adamw.safetensors", reference)
    path, state = adamw8bit(p0, gradients, decay_after=False)
    save_tensors(folder / "adamw8bit.safetensors", {**path, **state})
    after, _ = adamw8bit(p0, gradients, decay_after=True)
    save_tensors(folder / "adamw8bit-cuda-order.safetensors", {"p.10": after["p.10"]})

    difference = (bnb_cpu(p0, gradients) - path["p.10"]).abs()
    versus_fp32 = (reference["p.10"] - path["p.10"]).abs()
    notes = dict(
        hyper=HYPER, block=BLOCK, versions=versions(),
        bnb_cpu_vs_rule=dict(max=difference.max().item(), mean=difference.mean().item()),
        fp32_vs_rule=dict(max=versus_fp32.max().item(), mean=versus_fp32.mean().item()),
    )  # fmt: skip
    save_json(folder / "notes.json", notes)
    save_json(folder / "schedules.json", schedules())
    print(notes)


if __name__ == "__main__":
    main()
