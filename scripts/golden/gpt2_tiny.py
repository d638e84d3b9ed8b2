"""
test/golden/gpt2-tiny: a tiny random GPT-2 in the Hugging Face layout (Conv1D weights are [in, out]; lm_head tied
to wte) and what transformers computes from it, dropout off.

  config.json, model.safetensors   keys as transformers saves them (transformer.h.0.attn.c_attn.weight, ...)
  inputs.json                      {input_ids, labels}: two ragged rows; labels unshifted, -100 = no loss
  golden.safetensors               logits.<row> fp32 [T, V], each row run alone
  golden.json                      loss (token mean over both rows), row_sums, tokens
  grads.safetensors                d loss / d (every weight); lm_head shares wte's entry
"""

import torch
from common import fill_parameters, output_folder, ragged_rows, rows_loss, save_json, save_tensors, versions
from transformers import AutoModelForCausalLM, GPT2Config, GPT2LMHeadModel


def main() -> None:
    folder = output_folder("gpt2-tiny")
    config = GPT2Config(
        vocab_size=160,
        n_positions=64,
        n_embd=48,
        n_layer=2,
        n_head=4,
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        bos_token_id=0,
        eos_token_id=0,
        attn_implementation="eager",
    )
    model = GPT2LMHeadModel(config).float().eval()
    fill_parameters(model, 400)
    model.save_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()

    ids, labels = ragged_rows(160, 401)
    save_json(folder / "inputs.json", {"input_ids": ids, "labels": labels})
    logits, loss, sums, count = rows_loss(model, ids, labels)
    loss.backward()
    save_tensors(folder / "golden.safetensors", {f"logits.{i}": x for i, x in enumerate(logits)})
    save_json(
        folder / "golden.json",
        {"loss": loss.item(), "row_sums": sums, "tokens": count, "versions": versions()},
    )
    save_tensors(folder / "grads.safetensors", {k: p.grad for k, p in model.named_parameters()})
    print("gpt2 loss", loss.item())


if __name__ == "__main__":
    main()
