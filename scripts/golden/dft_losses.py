"""
test/golden/dft/losses.json: the fp32 recipe of sft_losses.py with TRL's loss_type "dft": each token's negative log-likelihood
times its own probability, detached. Run sft_losses.py first: the rows and the first adapter are its own.

  {losses[20], grad_norms[20]}
"""

import torch
from common import ROOT, output_folder, save_json
from peft import PeftModel
from sft_losses import ACCUMULATION, BATCH, CLIP, LR, STEPS, WARMUP, WEIGHT_DECAY, make_rows, padded
from transformers import AutoModelForCausalLM, get_scheduler


def main() -> None:
    folder = output_folder("dft")
    rows = make_rows()
    base = AutoModelForCausalLM.from_pretrained(ROOT / "test/golden/llama-tiny/tied", dtype=torch.float32, attn_implementation="eager")
    model = PeftModel.from_pretrained(base, ROOT / "test/golden/sft/initial", is_trainable=True).train()
    weights = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(weights, lr=LR, betas=(0.9, 0.999), eps=1e-8, weight_decay=WEIGHT_DECAY)
    scheduler = get_scheduler("linear", optimizer, num_warmup_steps=WARMUP, num_training_steps=STEPS)
    losses, norms = [], []
    for step in range(STEPS):
        picked = [rows[(step * BATCH * ACCUMULATION + i) % len(rows)] for i in range(BATCH * ACCUMULATION)]
        count = sum(label != -100 for r in picked for label in r["labels"][1:])
        total = 0.0
        for micro in range(ACCUMULATION):
            ids, mask, labels = padded(picked[micro * BATCH : (micro + 1) * BATCH])
            logits = model(input_ids=ids, attention_mask=mask).logits.float()
            nll = torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten(), ignore_index=-100, reduction="none")
            loss = (nll * torch.exp(-nll).detach()).sum() / count
            loss.backward()
            total += loss.item()
        losses.append(total)
        norms.append(torch.nn.utils.clip_grad_norm_(weights, CLIP).item())
        optimizer.step()
        scheduler.step()
        optimizer.zero_grad()
    save_json(folder / "losses.json", {"losses": losses, "grad_norms": norms})
    print("dft", losses[0], losses[-1])


if __name__ == "__main__":
    main()
