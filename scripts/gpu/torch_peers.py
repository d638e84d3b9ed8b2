"""What this machine does without us, in the same run; JSON on stdout.

Ceilings: torch's bf16 matmul, copy bandwidth, scaled_dot_product_attention. A peer: transformers + peft LoRA training (bf16
weights, r 16 on seven modules) of Llama-3-8B's shape, random weights, 2 x 2048, with gradient checkpointing and without.
"""
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
del q, k, v, g, x, w


def peer(checkpointing):
    from peft import LoraConfig, get_peft_model
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(vocab_size=128256, hidden_size=4096, intermediate_size=14336, num_hidden_layers=32, num_attention_heads=32,
                         num_key_value_heads=8, max_position_embeddings=8192, rope_theta=500000.0, use_cache=False)
    torch.set_default_dtype(torch.bfloat16)
    with torch.device("cuda"):
        model = LlamaForCausalLM(config)
    torch.set_default_dtype(torch.float32)
    modules = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    model = get_peft_model(model, LoraConfig(r=16, lora_alpha=16, target_modules=modules))
    if checkpointing:
        model.enable_input_require_grads()
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    model.train()
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-4, fused=True)
    ids = torch.randint(0, 128256, (2, 2048), device="cuda")
    torch.cuda.reset_peak_memory_stats()

    def step():
        model(input_ids=ids, labels=ids).loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return {"tokensPerSecond": 4096 / seconds(step, 5), "peakBytes": torch.cuda.max_memory_allocated()}


for name, checkpointing in (("peftLora", False), ("peftLoraCheckpointing", True)):
    try:
        out[name] = peer(checkpointing)
    except Exception as error:  # not installed, or too large for this GPU: said, not hidden
        out[name] = {"failed": f"{type(error).__name__}: {error}"[:300]}
    torch.cuda.empty_cache()
json.dump(out, sys.stdout)
