"""What this machine does without us, in the same run; JSON on stdout. `torch_peers.py [--tiny]`

Ceilings: torch's bf16 matmul, copy bandwidth, scaled_dot_product_attention. A peer: transformers + peft LoRA training (bf16
weights, r 16 on seven modules) of Llama-3-8B's shape, random weights, 2 x 2048, with gradient checkpointing and without.
--tiny: small shapes, on the CPU where there is no GPU: that this script runs, its numbers mean nothing.
"""
import json
import sys
import time

try:
    import torch
except ImportError:
    json.dump({"failed": "torch is not installed"}, sys.stdout)
    sys.exit(0)
tiny = "--tiny" in sys.argv
gpu = torch.cuda.is_available()
if not gpu and not tiny:
    json.dump({"failed": "torch sees no device", "torch": torch.__version__}, sys.stdout)
    sys.exit(0)
device = "cuda" if gpu else "cpu"


def seconds(body, runs=10):
    for _ in range(3):
        body()
    if not gpu:
        begun = time.perf_counter()
        for _ in range(runs):
            body()
        return (time.perf_counter() - begun) / runs
    start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    start.record()
    for _ in range(runs):
        body()
    end.record()
    torch.cuda.synchronize()
    return start.elapsed_time(end) / runs / 1e3


def version(package):
    try:
        return __import__(package).__version__
    except Exception as error:  # absent, or broken: both are told
        return f"{type(error).__name__}: {error}"[:100]


copied, tokens, width, inner, heads, dim, length = (2**12, 64, 256, 512, 4, 64, 32) if tiny else (2**28, 4096, 4096, 14336, 32, 128, 2048)
out = {"torch": torch.__version__, "cuda": torch.version.cuda, "device": torch.cuda.get_device_name(0) if gpu else "cpu",
       "transformers": version("transformers"), "peft": version("peft")}
a = torch.randn(copied, dtype=torch.float32, device=device).to(torch.bfloat16)
b = torch.empty_like(a)
out["copyGigabytesPerSecond"] = 4 * copied / seconds(lambda: b.copy_(a)) / 1e9
del a, b
x = torch.randn(tokens, width, dtype=torch.bfloat16, device=device)
w = torch.randn(inner, width, dtype=torch.bfloat16, device=device)
out["gemmTeraflops"] = 2 * tokens * inner * width / seconds(lambda: x @ w.T) / 1e12
documents = tokens // length
q, k, v = (torch.randn(documents, heads, length, dim, dtype=torch.bfloat16, device=device, requires_grad=True) for _ in range(3))
attend = lambda: torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
flops = 4 * documents * heads * dim * length * (length + 1) / 2
out["attentionForwardTeraflops"] = flops / seconds(attend) / 1e12
g = torch.randn_like(q)
both = seconds(lambda: attend().backward(g))
out["attentionBothTeraflops"] = 3.5 * flops / both / 1e12
del q, k, v, g, x, w


def peer(checkpointing):
    from peft import LoraConfig, get_peft_model
    from transformers import LlamaConfig, LlamaForCausalLM

    shape = (dict(vocab_size=256, hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2)
             if tiny else
             dict(vocab_size=128256, hidden_size=4096, intermediate_size=14336, num_hidden_layers=32, num_attention_heads=32, num_key_value_heads=8))
    config = LlamaConfig(**shape, max_position_embeddings=8192, rope_theta=500000.0, use_cache=False)
    torch.set_default_dtype(torch.bfloat16)
    try:
        with torch.device(device):
            model = LlamaForCausalLM(config)
    finally:
        torch.set_default_dtype(torch.float32)
    modules = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    model = get_peft_model(model, LoraConfig(r=16, lora_alpha=16, target_modules=modules))
    if checkpointing:
        model.enable_input_require_grads()
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    model.train()
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-4, fused=gpu)
    rows, columns = 2, 32 if tiny else 2048
    ids = torch.randint(0, config.vocab_size, (rows, columns), device=device)
    if gpu:
        torch.cuda.reset_peak_memory_stats()

    def step():
        model(input_ids=ids, labels=ids).loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return {"tokensPerSecond": rows * columns / seconds(step, 5), "peakBytes": torch.cuda.max_memory_allocated() if gpu else None}


for name, checkpointing in (("peftLora", False), ("peftLoraCheckpointing", True)):
    try:
        out[name] = peer(checkpointing)
    except Exception as error:  # not installed, or too large for this GPU: said, not hidden
        out[name] = {"failed": f"{type(error).__name__}: {error}"[:300]}
    if gpu:
        torch.cuda.empty_cache()
json.dump(out, sys.stdout)
