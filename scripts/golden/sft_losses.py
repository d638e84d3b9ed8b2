"""
test/golden/sft: twenty optimizer steps of LoRA fine-tuning on llama-tiny/tied by a plain transformers + PEFT +
torch.optim.AdamW loop. Run llama_tiny.py first.

  data.json       rows: [{input_ids, labels}], ragged, labels unshifted with -100 = no loss; a row's target is
                  a deterministic walk over the vocabulary, so the loss has something to learn
  initial/        the PEFT adapter before step 1 (A random, B zero): r 4, alpha 8, dropout 0, seven projections
  base/           the base of the plain runs
  final-fp32/     the adapter after step 20 of the fp32 run (adapter_model.safetensors)
  losses.json     recipe and, per run, losses[20], grad_norms[20] (before clipping), learning_rates[20]

Recipe: step s uses rows 4s .. 4s+3 (mod the row count) as two micro-batches of two, right-padded with an attention
mask. Each micro-batch adds sum(token cross entropy) / N to the gradients, N being the unmasked shifted labels of the
whole step (token-exact normalisation); the reported loss is that sum. Then the gradients are clipped to a global norm of 1.0
(torch.nn.utils.clip_grad_norm_), AdamW(lr 1e-2, betas 0.9 0.999, eps 1e-8, weight decay 0.01), linear schedule with
2 warmup steps over 20.

Runs:
  fp32           everything fp32
  bf16           base weights bf16; adapters fp32, as PEFT makes them by default (autocast_adapter_dtype); no autocast.
                 So: base matmuls and activations bf16, the LoRA branch in fp32 on the activation cast up, their sum cast
                 back to bf16; logits bf16, cross entropy on them cast to fp32
  bf16-autocast  the same weights under torch.autocast(bf16), which is what Trainer(bf16=True) does: LoRA matmuls in bf16 too
  fp32-plain, bf16-plain   the first two on base/, the same architecture as transformers initialises it (std 0.02). The weights
                 of llama-tiny are large, to make mistakes show: rounding its logits of 10 and more to bf16, as the
                 reference does, alone moves its losses by 0.03
"""

import contextlib

import torch
from common import clean_adapter_folder, generator, output_folder, randomise_lora, save_json, versions
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoConfig, AutoModelForCausalLM, get_scheduler

STEPS, BATCH, ACCUMULATION, ROWS = 20, 2, 2, 16
LR, WARMUP, WEIGHT_DECAY, CLIP = 1e-2, 2, 0.01, 1.0
MODULES = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def make_rows() -> list[dict]:
    """x[t+1] = (x[t] * 3 + stride) mod 157 with a per-row stride in {5, 11}; the first 2..5 labels are masked."""
    g = generator(700)
    rows = []
    for _ in range(ROWS):
        length = int(torch.randint(8, 25, (1,), generator=g))
        masked = int(torch.randint(2, 6, (1,), generator=g))
        stride = (5, 11)[int(torch.randint(0, 2, (1,), generator=g))]
        ids = [int(torch.randint(3, 157, (1,), generator=g))]
        while len(ids) < length:
            ids.append((ids[-1] * 3 + stride) % 157)
        rows.append({"input_ids": ids, "labels": [-100] * masked + ids[masked:]})
    return rows


def padded(rows: list[dict]):
    width = max(len(r["input_ids"]) for r in rows)
    ids = torch.tensor([r["input_ids"] + [0] * (width - len(r["input_ids"])) for r in rows])
    mask = torch.tensor([[1] * len(r["input_ids"]) + [0] * (width - len(r["input_ids"])) for r in rows])
    labels = torch.tensor([r["labels"] + [-100] * (width - len(r["labels"])) for r in rows])
    return ids, mask, labels


def train(model, rows: list[dict], autocast: bool) -> dict:
    model.train()
    weights = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(weights, lr=LR, betas=(0.9, 0.999), eps=1e-8, weight_decay=WEIGHT_DECAY)
    scheduler = get_scheduler("linear", optimizer, num_warmup_steps=WARMUP, num_training_steps=STEPS)
    losses, norms, rates = [], [], []
    for step in range(STEPS):
        picked = [rows[(step * BATCH * ACCUMULATION + i) % len(rows)] for i in range(BATCH * ACCUMULATION)]
        tokens = sum(sum(label != -100 for label in r["labels"][1:]) for r in picked)
        total = 0.0
        for micro in range(ACCUMULATION):
            ids, mask, labels = padded(picked[micro * BATCH : (micro + 1) * BATCH])
            context = torch.autocast("cpu", dtype=torch.bfloat16) if autocast else contextlib.nullcontext()
            with context:
                logits = model(input_ids=ids, attention_mask=mask).logits
            loss = torch.nn.functional.cross_entropy(
                logits[:, :-1].float().flatten(0, 1), labels[:, 1:].flatten(), ignore_index=-100, reduction="sum"
            )
            (loss / tokens).backward()
            total += loss.item() / tokens
        norms.append(torch.nn.utils.clip_grad_norm_(weights, CLIP).item())
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
        optimizer.zero_grad(set_to_none=True)
        losses.append(total)
    return {"losses": losses, "grad_norms": norms, "learning_rates": rates}


def main() -> None:
    folder = output_folder("sft")
    base_folder = folder.parent / "llama-tiny" / "tied"
    rows = make_rows()
    save_json(folder / "data.json", {"rows": rows})

    def base(dtype, folder=base_folder):
        return AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, attn_implementation="eager")

    torch.manual_seed(702)
    AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(base_folder), dtype=torch.float32).save_pretrained(folder / "base")

    initial = get_peft_model(
        base(torch.float32),
        LoraConfig(r=4, lora_alpha=8, lora_dropout=0.0, target_modules=MODULES, task_type="CAUSAL_LM"),
    )
    randomise_lora(initial, 701)
    for name, p in initial.named_parameters():
        if "lora_B" in name:
            p.data.zero_()
    initial.save_pretrained(folder / "initial")
    clean_adapter_folder(folder / "initial", "llama-tiny/tied")

    runs = {}
    for name, dtype, autocast, source in (
        ("fp32", torch.float32, False, base_folder),
        ("bf16", torch.bfloat16, False, base_folder),
        ("bf16-autocast", torch.bfloat16, True, base_folder),
        ("fp32-plain", torch.float32, False, folder / "base"),
        ("bf16-plain", torch.bfloat16, False, folder / "base"),
    ):
        model = PeftModel.from_pretrained(base(dtype, source), folder / "initial", is_trainable=True)
        assert {p.dtype for p in model.parameters() if p.requires_grad} == {torch.float32}
        runs[name] = train(model, rows, autocast)
        if name == "fp32":
            model.save_pretrained(folder / "final-fp32")
            clean_adapter_folder(folder / "final-fp32", "llama-tiny/tied")
        print(name, [round(x, 4) for x in runs[name]["losses"]])
    recipe = dict(
        model="llama-tiny/tied", steps=STEPS, batch=BATCH, accumulation=ACCUMULATION, learning_rate=LR,
        warmup_steps=WARMUP, weight_decay=WEIGHT_DECAY, max_grad_norm=CLIP, schedule="linear",
    )  # fmt: skip
    save_json(folder / "losses.json", {"recipe": recipe, "runs": runs, "versions": versions()})


if __name__ == "__main__":
    main()
