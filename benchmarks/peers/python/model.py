"""The model under training in torch + transformers + peft: what a careful user would write.

Fused AdamW, set_to_none, SDPA attention, one micro-batch a step. Gradients are not clipped (the engine's own step always
computes the norm). LoRA in an all-bf16 run is bf16 too, which is the faster choice in torch.
"""

import torch
from transformers import AutoConfig, AutoModelForCausalLM

DTYPES = {"f32": torch.float32, "bf16": torch.bfloat16}


def build(run):
    """Model and optimizer of a run; random weights unless `weights` names a folder."""
    full = run["train"] == "full"
    dtype = torch.float32 if full else DTYPES[run["base"]]
    if run.get("weights"):
        model = AutoModelForCausalLM.from_pretrained(run["weights"], dtype=dtype, attn_implementation="sdpa")
    else:
        raw = {k: v for k, v in run["model"].items() if k not in ("architectures", "torch_dtype", "model_type")}
        settings = AutoConfig.for_model(run["model"]["model_type"], **raw)
        model = AutoModelForCausalLM.from_config(settings, dtype=dtype, attn_implementation="sdpa")
    model.config.use_cache = False
    if not full:
        from peft import LoraConfig, get_peft_model

        lora = LoraConfig(r=run["rank"], lora_alpha=run["rank"], lora_dropout=0.0, target_modules=run["targets"], task_type="CAUSAL_LM")
        model = get_peft_model(model, lora, autocast_adapter_dtype=False)
    if run["checkpoint"] != "none":
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        if not full:
            model.enable_input_require_grads()
    model.train()
    trained = [p for p in model.parameters() if p.requires_grad]
    return model, torch.optim.AdamW(trained, lr=1e-4, weight_decay=0.01, fused=True)


def stepper(run, model, optimizer):
    """A function that does one step and returns its loss."""
    vocabulary = model.config.vocab_size
    ids = torch.randint(0, vocabulary, (run["batch"], run["length"]), generator=torch.Generator().manual_seed(1))
    autocast = run["train"] == "full" and run["base"] == "bf16"

    def step():
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
            loss = model(input_ids=ids, labels=ids, use_cache=False).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return float(loss.detach())

    return step
