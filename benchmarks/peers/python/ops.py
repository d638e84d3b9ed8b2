"""Single ops in torch and numpy (OpenBLAS) on command: the peer of benchmarks/ops/child.ts.

Operands differ from one application to the next, as many as the engine uses, and results are written into tensors that
exist: neither side allocates. Attention is timed with grouped heads as torch can take them (`gqa`) and with keys and values
expanded as transformers does (`expand`); the better one is the peer.
"""

import time

import numpy
import torch
import torch.nn.functional as F

from protocol import config, rest, serve, timed

DTYPES = {"f32": torch.float32, "bf16": torch.bfloat16}


def matmul_works(case, repeats):
    """Zero-argument functions by library, each doing all applications once."""
    m, k, n = case["m"], case["k"], case["n"]
    turn_a, turn_b = case["layout"][0] == "T", case["layout"][1] == "T"
    dtype = DTYPES[case["form"]]
    a = [torch.randn((k, m) if turn_a else (m, k)).mul_(0.1).to(dtype) for _ in range(repeats)]
    b = torch.randn((n, k) if turn_b else (k, n)).mul_(0.1).to(dtype)
    out = [torch.empty(m, n, dtype=dtype) for _ in range(repeats)]
    left = [x.t() if turn_a else x for x in a]
    right = b.t() if turn_b else b

    def run_torch():
        for x, y in zip(left, out):
            torch.mm(x, right, out=y)

    works = {"torch": run_torch}
    if case["form"] == "f32":
        left_np, right_np, out_np = [x.numpy() for x in left], right.numpy(), [y.numpy() for y in out]

        def run_numpy():
            for x, y in zip(left_np, out_np):
                numpy.matmul(x, right_np, out=y)

        works["numpy"] = run_numpy
    return works


def attention_works(case, repeats):
    b, s, h, g, d = (case[key] for key in ("documents", "length", "heads", "kvHeads", "headDim"))
    dtype, train = DTYPES[case["form"]], case["pass"] == "both"

    def operand(heads, grad):
        # As projections leave them: [B, S, heads * d], viewed as [B, heads, S, d].
        return torch.randn(b, s, heads * d).mul_(0.1).to(dtype).requires_grad_(grad)

    q = [operand(h, train) for _ in range(repeats)]
    k = [operand(g, train) for _ in range(repeats)]
    v = [operand(g, train) for _ in range(repeats)]
    grads = [operand(h, False).view(b, s, h, d).transpose(1, 2) for _ in range(repeats)]

    def split(x, heads):
        return x.view(b, s, heads, d).transpose(1, 2)

    def expand(x):
        return x[:, :, None].expand(b, g, h // g, s, d).reshape(b, h, s, d)

    def work(gqa):
        def run():
            for qi, ki, vi, go in zip(q, k, v, grads):
                heads = [split(qi, h), split(ki, g), split(vi, g)]
                if not gqa:
                    heads[1:] = [expand(x) for x in heads[1:]]
                with torch.set_grad_enabled(train):
                    o = F.scaled_dot_product_attention(*heads, is_causal=True, enable_gqa=gqa and g != h)
                if train:
                    torch.autograd.grad(o, (qi, ki, vi), go)

        return run

    return {"gqa": work(True)} if g == h else {"gqa": work(True), "expand": work(False)}


def main():
    threads = config()["threads"]
    torch.set_num_threads(threads)
    works, repeats = {}, [1]

    def handle(request):
        if "prepare" in request:
            case, repeats[0] = request["prepare"], request["repeats"]
            works.clear()
            works.update(matmul_works(case, repeats[0]) if case["kind"] == "matmul" else attention_works(case, repeats[0]))
            for work in works.values():
                work()
            rest()
            return {"libraries": list(works)}
        samples, end = [], time.perf_counter() + request["runMs"] / 1e3
        while not samples or time.perf_counter() < end:
            one = timed(works[request["library"]])
            samples.append({key: value / repeats[0] for key, value in one.items()})
        rest()
        return {"samples": samples}

    serve({}, handle)


main()
