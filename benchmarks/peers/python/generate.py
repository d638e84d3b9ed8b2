"""Prefill and greedy decoding in transformers: the peer of benchmarks/peers/generation-child.ts.

A loop over the model with its cache, which is faster than `generate`: logits of the last position only, argmax on it.
"""

import torch
from transformers import AutoConfig, AutoModelForCausalLM, DynamicCache

from protocol import config, peak_resident_bytes, serve, timed


def main():
    run = config()
    torch.set_num_threads(run["threads"])
    torch.manual_seed(42)
    raw = {k: v for k, v in run["model"].items() if k not in ("architectures", "torch_dtype", "model_type")}
    settings = AutoConfig.for_model(run["model"]["model_type"], **raw)
    model = AutoModelForCausalLM.from_config(settings, dtype=torch.bfloat16, attn_implementation="sdpa").eval()
    generator = torch.Generator().manual_seed(1)

    def prompt(length):
        return torch.randint(0, model.config.vocab_size, (1, length), generator=generator)

    def forward(ids, cache):
        return model(input_ids=ids, past_key_values=cache, use_cache=True, logits_to_keep=1).logits[:, -1].argmax(-1, keepdim=True)

    @torch.inference_mode()
    def handle(request):
        if "prefill" in request:
            ids = prompt(request["prefill"])
            samples = [timed(lambda: forward(ids, DynamicCache(config=model.config)))]
            return {"samples": samples, "tokens": request["prefill"], "peakBytes": peak_resident_bytes()}
        cache = DynamicCache(config=model.config)
        state = [forward(prompt(request["prompt"]), cache)]

        def decode():
            for _ in range(request["decode"]):
                state[0] = forward(state[0], cache)

        return {"samples": [timed(decode)], "tokens": request["decode"], "peakBytes": peak_resident_bytes()}

    serve({}, handle)


main()
