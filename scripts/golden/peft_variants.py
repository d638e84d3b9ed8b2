"""
test/golden/peft-variants: adapter folders that PEFT writes for the less common options, on the llama-tiny models, with
what PEFT computes from them. Run llama_tiny.py first.

Per variant folder:
  adapter_config.json, adapter_model.safetensors   as PEFT wrote them (base name made neutral, no model card)
  golden.safetensors                               logits.<row> fp32 [T, V] for the rows of the base's inputs.json
variants.json    per variant: base folder under llama-tiny, vocabulary rows when resized, and PEFT's count of trainable and
                 of all parameters

All trained tensors (LoRA pairs, modules_to_save, biases) hold random values, so an ignored one changes the logits.
"""

import json
import warnings

import torch
from common import clean_adapter_folder, generator, output_folder, rows_loss, save_json, save_tensors
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM

warnings.filterwarnings("ignore")

Q = dict(target_modules=["q_proj", "down_proj"])
VARIANTS = {
    "bias-all": ("biased", dict(bias="all", **Q)),
    "bias-lora-only": ("biased", dict(bias="lora_only", **Q)),
    "tied-embed": ("tied", dict(modules_to_save=["embed_tokens"], **Q)),
    "tied-head": ("tied", dict(modules_to_save=["lm_head"], **Q)),
    "tied-both": ("tied", dict(modules_to_save=["embed_tokens", "lm_head"], **Q)),
    "tied-ensure": ("tied", dict(modules_to_save=["embed_tokens"], ensure_weight_tying=True, **Q)),
    "untied-both": ("llama3", dict(modules_to_save=["embed_tokens", "lm_head"], **Q)),
    "norms": ("tied", dict(modules_to_save=["norm"], **Q)),
    "resized-untied": ("llama3", dict(**Q)),
    "resized-tied": ("tied", dict(**Q)),
    "resized-saved": ("tied", dict(modules_to_save=["embed_tokens", "lm_head"], **Q)),
    "patterns": (
        "tied",
        dict(
            target_modules=["q_proj", "v_proj", "up_proj"],
            rank_pattern={"layers.1.self_attn.q_proj": 3},
            alpha_pattern={"v_proj": 5},
            use_rslora=True,
        ),
    ),
    "one-layer": ("tied", dict(layers_to_transform=[1], exclude_modules=["o_proj"], target_modules=["o_proj", "k_proj"])),
    "regex": ("tied", dict(target_modules=r".*\.0\.(self_attn|mlp)\.(k_proj|gate_proj)")),
    "all-linear": ("tied", dict(target_modules="all-linear")),
}
RESIZED = 170


def randomise(model, seed: int) -> None:
    g = generator(seed)
    with torch.no_grad():
        for p in model.parameters():
            if p.requires_grad:
                noise = torch.randn(p.shape, generator=g) * 0.1
                # Pairs are replaced, whole modules moved.
                p.copy_(noise if p.dim() == 2 and min(p.shape) <= 4 else p + noise)


def main() -> None:
    root = output_folder("peft-variants")
    base_root = root.parent / "llama-tiny"
    facts = {}
    for i, (name, (base, options)) in enumerate(VARIANTS.items()):
        model = AutoModelForCausalLM.from_pretrained(base_root / base, dtype=torch.float32, attn_implementation="eager")
        resized = RESIZED if name.startswith("resized") else None
        if resized:
            torch.manual_seed(900 + i)
            model.resize_token_embeddings(resized, mean_resizing=False)
        peft = get_peft_model(model, LoraConfig(r=2, lora_alpha=3, task_type="CAUSAL_LM", **options)).eval()
        randomise(peft, 910 + i)
        trainable, total = peft.get_nb_trainable_parameters()
        facts[name] = dict(base=base, resized=resized, trainable=trainable, all=total)
        peft.save_pretrained(root / name)
        config = json.loads((root / name / "adapter_config.json").read_text())
        targets = config["target_modules"]
        clean_adapter_folder(root / name, f"llama-tiny/{base}")
        if isinstance(targets, str):  # clean_adapter_folder sorts, which takes a pattern apart
            path = root / name / "adapter_config.json"
            cleaned = json.loads(path.read_text())
            path.write_text(json.dumps({**cleaned, "target_modules": targets}, indent=2) + "\n")
        inputs = json.loads((base_root / base / "inputs.json").read_text())
        with torch.no_grad():
            logits, _, _, _ = rows_loss(peft, inputs["input_ids"], inputs["labels"])
        save_tensors(root / name / "golden.safetensors", {f"logits.{r}": x for r, x in enumerate(logits)})
        print(name, facts[name])
    save_json(root / "variants.json", facts)


if __name__ == "__main__":
    main()
