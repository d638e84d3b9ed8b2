"""
test/golden/decoder-tiny: tiny random checkpoints of Llama's descendants in the Hugging Face layout, and what
transformers computes from them.

  mistral   a sliding window of 5 in every layer, untied
  qwen2     biases on q, k, v; a sliding window of 6 in the second layer only, tied
  qwen3     norms over the heads of q and k, head_dim 24 (not hidden / heads), untied
  gemma     one key/value head, head_dim 24, GELU, norms times 1 + weight, embeddings times sqrt(hidden), tied

Per model folder:
  config.json, model.safetensors
  inputs.json            {input_ids, labels}: two ragged rows; labels unshifted, -100 = no loss
  golden.safetensors     logits.<row> fp32 [T, V], each row run alone
  golden.json            loss (token mean over both rows), row_sums, tokens
  grads.safetensors      d loss / d (every weight); a tied lm_head shares embed_tokens' entry
"""

import torch
from common import fill_parameters, output_folder, ragged_rows, rows_loss, save_json, save_tensors, versions
from transformers import AutoModelForCausalLM, GemmaConfig, MistralConfig, Qwen2Config, Qwen3Config

BASE = dict(
    vocab_size=160,
    hidden_size=64,
    intermediate_size=96,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    max_position_embeddings=256,
    bos_token_id=1,
    eos_token_id=2,
    pad_token_id=None,  # torch gives the padding row of an embedding no gradient
    attn_implementation="eager",
)

# config, and a change of it that has to change the loss: a fixture in which the special part did nothing would test nothing.
VARIANTS = {
    "mistral": (MistralConfig, dict(rms_norm_eps=1e-5, sliding_window=5), dict(sliding_window=None)),
    "qwen2": (
        Qwen2Config,
        dict(tie_word_embeddings=True, use_sliding_window=True, sliding_window=6, max_window_layers=1, rope_parameters=dict(rope_type="default", rope_theta=1000000.0)),
        dict(layer_types=["full_attention", "full_attention"]),
    ),
    "qwen3": (Qwen3Config, dict(head_dim=24), dict(rms_norm_eps=0.5)),
    "gemma": (GemmaConfig, dict(head_dim=24, num_key_value_heads=1), dict(hidden_act="relu")),
}


def open_model(folder, **changes):
    config = type(VARIANTS[folder.name][0]()).from_pretrained(folder)
    for key, value in changes.items():
        setattr(config, key, value)
    return AutoModelForCausalLM.from_pretrained(folder, config=config, dtype=torch.float32, attn_implementation="eager").eval()


def dump_variant(root, name: str, seed: int) -> None:
    folder = root / name
    config_class, overrides, change = VARIANTS[name]
    model = AutoModelForCausalLM.from_config(config_class(**{**BASE, **overrides})).float().eval()
    fill_parameters(model, seed)
    if name == "gemma":  # norms there multiply by 1 + weight
        with torch.no_grad():
            for key, p in model.named_parameters():
                if "norm" in key:
                    p.sub_(1.0)
    model.save_pretrained(folder)

    # What is on disk, not what is in memory, is the fixture.
    model = open_model(folder)
    ids, labels = ragged_rows(BASE["vocab_size"], seed + 1)
    save_json(folder / "inputs.json", {"input_ids": ids, "labels": labels})
    logits, loss, sums, count = rows_loss(model, ids, labels)
    loss.backward()
    save_tensors(folder / "golden.safetensors", {f"logits.{i}": x for i, x in enumerate(logits)})
    save_json(folder / "golden.json", {"loss": loss.item(), "row_sums": sums, "tokens": count, "versions": versions()})
    save_tensors(folder / "grads.safetensors", {k: p.grad for k, p in model.named_parameters()})
    assert abs(rows_loss(open_model(folder, **change), ids, labels)[1].item() - loss.item()) > 1e-3, name
    print(name, "loss", loss.item(), "tokens", count)


def main() -> None:
    root = output_folder("decoder-tiny")
    for i, name in enumerate(VARIANTS):
        dump_variant(root, name, seed=500 + 10 * i)


if __name__ == "__main__":
    main()
