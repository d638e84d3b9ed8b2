"""
test/golden/llama-tiny: three tiny random Llama checkpoints in the Hugging Face layout, with what transformers
and PEFT compute from them.

  tied     tie_word_embeddings, transformers-5 style config (rope_parameters, dtype)
  biased   untied, attention_bias and mlp_bias, three safetensors shards with an index
  llama3   untied, head_dim 24 (not hidden / heads), llama3 rope scaling, transformers-4 style config
           (rope_theta, rope_scaling, torch_dtype), which is what Llama 3.x checkpoints on disk look like

Per model folder:
  config.json, model.safetensors (or shards)
  inputs.json                  {input_ids, labels}: two ragged rows; labels unshifted, -100 = no loss
  golden.safetensors           logits.<row> fp32 [T, V], each row run alone
  golden.json                  loss (token mean over both rows), row_sums, tokens
  adapter/                     PEFT folder: r 4, alpha 8, all seven projections, random A and B
  adapter-golden.safetensors   logits.<row> with the adapter
  adapter-golden.json          loss, row_sums, tokens
  adapter-grads.safetensors    d loss / d (every LoRA weight), keys as in adapter_model.safetensors
  grads.safetensors            (tied only) d loss / d (every base weight); lm_head shares embed_tokens' entry
"""

import json

import torch
from common import (
    clean_adapter_folder,
    fill_parameters,
    lora_key,
    output_folder,
    ragged_rows,
    randomise_lora,
    rows_loss,
    save_json,
    save_tensors,
    versions,
)
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

BASE = dict(
    vocab_size=160,
    hidden_size=64,
    intermediate_size=96,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    max_position_embeddings=256,
    rms_norm_eps=1e-5,
    bos_token_id=1,
    eos_token_id=2,
    attn_implementation="eager",
)

LLAMA3_SCALING = dict(
    rope_type="llama3",
    factor=8.0,
    low_freq_factor=1.0,
    high_freq_factor=4.0,
    original_max_position_embeddings=64,
)

VARIANTS = {
    "tied": dict(tie_word_embeddings=True),
    "biased": dict(tie_word_embeddings=False, attention_bias=True, mlp_bias=True),
    "llama3": dict(
        tie_word_embeddings=False, head_dim=24, rope_parameters=dict(rope_theta=10000.0, **LLAMA3_SCALING)
    ),
}

MODULES = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def rewrite_as_v4(path) -> None:
    """The spelling of transformers 4 (rope_theta and rope_scaling at the top level, torch_dtype)."""
    config = json.loads(path.read_text())
    rope = config.pop("rope_parameters")
    config["rope_theta"] = rope.pop("rope_theta")
    config["rope_scaling"] = rope
    config["torch_dtype"] = config.pop("dtype")
    config["transformers_version"] = "4.45.0"
    path.write_text(json.dumps(config, indent=2) + "\n")


def check_scaling_matters(folder, ids, labels, loss: float) -> None:
    """A fixture in which rope scaling changed nothing would test nothing."""
    config = LlamaConfig.from_pretrained(folder)
    config.rope_parameters = dict(rope_type="default", rope_theta=10000.0)
    plain = LlamaForCausalLM.from_pretrained(folder, config=config, dtype=torch.float32, attn_implementation="eager")
    assert abs(rows_loss(plain.eval(), ids, labels)[1].item() - loss) > 1e-3


def dump_variant(root, name: str, overrides: dict, seed: int) -> None:
    folder = root / name
    model = LlamaForCausalLM(LlamaConfig(**{**BASE, **overrides})).float().eval()
    fill_parameters(model, seed)
    model.save_pretrained(folder, max_shard_size="150KB" if name == "biased" else "5GB")
    if name == "llama3":
        rewrite_as_v4(folder / "config.json")

    # What is on disk, not what is in memory, is the fixture.
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()
    ids, labels = ragged_rows(BASE["vocab_size"], seed + 1)
    save_json(folder / "inputs.json", {"input_ids": ids, "labels": labels})

    logits, loss, sums, count = rows_loss(model, ids, labels)
    save_tensors(folder / "golden.safetensors", {f"logits.{i}": x for i, x in enumerate(logits)})
    save_json(
        folder / "golden.json",
        {"loss": loss.item(), "row_sums": sums, "tokens": count, "versions": versions()},
    )
    if name == "llama3":
        check_scaling_matters(folder, ids, labels, loss.item())
    if name == "tied":
        loss.backward()
        save_tensors(folder / "grads.safetensors", {k: p.grad for k, p in model.named_parameters()})
        model.zero_grad(set_to_none=True)

    peft = get_peft_model(
        model, LoraConfig(r=4, lora_alpha=8, lora_dropout=0.0, target_modules=MODULES, task_type="CAUSAL_LM")
    )
    randomise_lora(peft, seed + 2)
    peft.save_pretrained(folder / "adapter")
    clean_adapter_folder(folder / "adapter", f"llama-tiny/{name}")
    base = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager")
    peft = PeftModel.from_pretrained(base, folder / "adapter", is_trainable=True).eval()
    logits, loss, sums, count = rows_loss(peft, ids, labels)
    loss.backward()
    save_tensors(folder / "adapter-golden.safetensors", {f"logits.{i}": x for i, x in enumerate(logits)})
    save_json(folder / "adapter-golden.json", {"loss": loss.item(), "row_sums": sums, "tokens": count})
    save_tensors(
        folder / "adapter-grads.safetensors",
        {lora_key(k): p.grad for k, p in peft.named_parameters() if p.requires_grad},
    )
    print(name, "loss", loss.item(), "tokens", count)


def main() -> None:
    root = output_folder("llama-tiny")
    for i, (name, overrides) in enumerate(VARIANTS.items()):
        dump_variant(root, name, overrides, seed=100 * (i + 1))


if __name__ == "__main__":
    main()
