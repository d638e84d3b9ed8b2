"""
GPT-2 at its real size (124M, 12 layers, vocabulary 50257) against transformers, in fp32 and without dropout: the loss and every
gradient of one batch, the losses of 20 steps of AdamW, and the trained model's files both ways. Run by hand; it needs about 4 GB of
memory and of disk.

    python scripts/interop/gpt2_124m.py make OUT                                     weights, batch, gradients, losses
    npx ts-node --transpile-only scripts/interop/gpt2-124m.ts OUT                    compares, trains, saves OUT/trained
    python scripts/interop/gpt2_124m.py check OUT                                    loads OUT/trained, compares logits
"""

import json
import os
import sys
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch  # noqa: E402
from safetensors.torch import load_file, save_file  # noqa: E402
from transformers import GPT2Config, GPT2LMHeadModel  # noqa: E402

STEPS, LEARNING_RATE, WEIGHT_DECAY, CLIP = 20, 3e-4, 0.1, 1.0
ROWS, LENGTH = 4, 64


def batch_loss(model, ids: torch.Tensor) -> torch.Tensor:
    return model(input_ids=ids, labels=ids).loss


def optimizer_of(model) -> torch.optim.AdamW:
    named = dict(model.named_parameters())
    plain = {name for name in named if name.endswith("bias") or ".ln_" in name}
    groups = [
        {"params": [p for name, p in named.items() if name not in plain], "weight_decay": WEIGHT_DECAY},
        {"params": [p for name, p in named.items() if name in plain], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=LEARNING_RATE, betas=(0.9, 0.999), eps=1e-8)


def make(out: Path) -> None:
    torch.manual_seed(0)
    config = GPT2Config(resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0)
    model = GPT2LMHeadModel(config).float().train()
    out.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(out / "start")
    # A small alphabet, so that 20 steps have something to learn.
    ids = torch.randint(0, 400, (STEPS, ROWS, LENGTH)) * 125
    loss = batch_loss(model, ids[0])
    loss.backward()
    save_file({name: p.grad.contiguous() for name, p in model.named_parameters()}, str(out / "grads.safetensors"), metadata={"format": "pt"})
    model.zero_grad()
    optimizer = optimizer_of(model)
    losses, norms = [], []
    for step in range(STEPS):
        loss = batch_loss(model, ids[step])
        loss.backward()
        norms.append(torch.nn.utils.clip_grad_norm_(model.parameters(), CLIP).item())
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
        print(step, losses[-1], norms[-1], flush=True)
    recipe = {"learning_rate": LEARNING_RATE, "weight_decay": WEIGHT_DECAY, "clip": CLIP}
    (out / "golden.json").write_text(json.dumps({"input_ids": ids.tolist(), "losses": losses, "grad_norms": norms, **recipe}))


def check(out: Path) -> None:
    model, info = GPT2LMHeadModel.from_pretrained(out / "trained", dtype=torch.float32, output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"], info
    golden = json.loads((out / "golden.json").read_text())
    with torch.no_grad():
        theirs = model.eval()(input_ids=torch.tensor([golden["input_ids"][0][0]])).logits[0]
    ours = load_file(str(out / "logits.safetensors"))["logits"]
    difference = (ours - theirs).abs().max().item()
    print(f"trained model: max |logit difference| {difference:.2e} of {theirs.abs().max().item():.1f}")
    sys.exit(0 if difference < 1e-4 * theirs.abs().max().item() else 1)


if __name__ == "__main__":
    {"make": make, "check": check}[sys.argv[1]](Path(sys.argv[2]))
