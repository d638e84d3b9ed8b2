"""Ceilings of this machine in the same run: torch's bf16 matmul, copy bandwidth, scaled_dot_product_attention. JSON on stdout."""
import json
import sys

try:
    import torch
except ImportError:
    json.dump({"failed": "torch is not installed"}, sys.stdout)
    sys.exit(0)
if not torch.cuda.is_available():
    json.dump({"failed": "torch sees no device", "torch": torch.__version__}, sys.stdout)
    sys.exit(0)


def seconds(body, runs=10):
    for _ in range(3):
        body()
    start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    start.record()
    for _ in range(runs):
        body()
    end.record()
    torch.cuda.synchronize()
    return start.elapsed_time(end) / runs / 1e3


out = {"torch": torch.__version__, "cuda": torch.version.cuda, "device": torch.cuda.get_device_name(0)}
a = torch.empty(2**28, dtype=torch.bfloat16, device="cuda")
b = torch.empty_like(a)
out["copyGigabytesPerSecond"] = 2**30 / seconds(lambda: b.copy_(a)) / 1e9
del a, b
x = torch.randn(4096, 4096, dtype=torch.bfloat16, device="cuda")
w = torch.randn(14336, 4096, dtype=torch.bfloat16, device="cuda")
out["gemmTeraflops"] = 2 * 4096 * 14336 * 4096 / seconds(lambda: x @ w.T) / 1e12
q, k, v = (torch.randn(2, 32, 2048, 128, dtype=torch.bfloat16, device="cuda", requires_grad=True) for _ in range(3))
attend = lambda: torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
flops = 4 * 2 * 32 * 128 * 2048 * 2049 / 2
out["attentionForwardTeraflops"] = flops / seconds(attend) / 1e12
g = torch.randn_like(q)
both = seconds(lambda: attend().backward(g))
out["attentionBothTeraflops"] = 3.5 * flops / both / 1e12
json.dump(out, sys.stdout)
