"""
Loads the folders that scripts/interop/write-folders.ts wrote with transformers, peft and bitsandbytes and compares logits.

    python scripts/interop/check_folders.py OUT

Everything is compared in fp32: largest logit difference below 1e-4 relative to the largest logit. Run by hand.
"""

import json
import os
import sys
import warnings
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
warnings.filterwarnings("ignore")

import bitsandbytes  # noqa: E402
import bitsandbytes.functional as F  # noqa: E402
import torch  # noqa: E402
from bitsandbytes.backends.default.ops import _dequantize_4bit_compute  # noqa: E402
from peft import PeftModel  # noqa: E402
from safetensors.torch import load_file  # noqa: E402
from transformers import AutoModelForCausalLM, AutoTokenizer  # noqa: E402


def open_model(folder: Path):
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager")


def open_case(root: Path, case: dict):
    if case["kind"] == "model":
        return open_model(root / case["name"])
    base = open_model(root / case["base"])
    if case.get("rows"):
        base.resize_token_embeddings(case["rows"], mean_resizing=False)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        model = PeftModel.from_pretrained(base, root / case["name"])
    keys = [str(w.message) for w in caught if "missing" in str(w.message).lower() or "unexpected" in str(w.message).lower()]
    assert not keys, keys
    return model


def unpacked(model):
    """
    Every Linear4bit as a dense layer, dequantised by bitsandbytes' generic rule from the state it loaded. Its fast CPU
    kernels are wrong where a block of 64 crosses a row (scripts/golden/bnb4.py), which is not what is tested here.
    """
    for name, module in list(model.named_modules()):
        if not isinstance(module, bitsandbytes.nn.Linear4bit):
            continue
        state = module.weight.quant_state
        absmax = F.dequantize_blockwise(state.absmax, state.state2) + state.offset if state.nested else state.absmax
        dense = torch.nn.Linear(module.in_features, module.out_features, bias=module.bias is not None)
        packed = module.weight.data.reshape(-1)
        dense.weight.data = _dequantize_4bit_compute(packed, absmax, state.code, state.blocksize, state.shape, torch.float32)
        if module.bias is not None:
            dense.bias.data = module.bias.data.float()
        parent = model.get_submodule(name.rpartition(".")[0])
        setattr(parent, name.rpartition(".")[2], dense)
    return model


def check_strict(root: Path, case: dict) -> None:
    """transformers and peft only warn about names that do not fit."""
    if case["kind"] == "model":
        _, info = AutoModelForCausalLM.from_pretrained(root / case["name"], output_loading_info=True)
        left = {k: v for k, v in info.items() if v and k in ("missing_keys", "unexpected_keys", "mismatched_keys", "error_msgs")}
        assert not left, left


def main() -> None:
    root = Path(sys.argv[1])
    manifest = json.loads((root / "manifest.json").read_text())
    ids = torch.tensor([manifest["input_ids"]])
    failed = 0
    for case in manifest["cases"]:
        check_strict(root, case)
        model = open_case(root, case)
        if case["name"].startswith("bnb"):
            model = unpacked(model)
        model.eval()
        with torch.no_grad():
            theirs = model(input_ids=ids).logits[0].float()
        ours = load_file(str(root / f"{case['name']}.logits.safetensors"))["logits"]
        difference = (ours - theirs).abs().max().item()
        limit = 1e-4 * max(1.0, theirs.abs().max().item())
        failed += not difference < limit
        print(f"{'ok  ' if difference < limit else 'FAIL'} {case['name']:24} max |logit difference| {difference:.2e} of {theirs.abs().max().item():.1f}")
    tokenizer_folder = root / "converted-bf16"
    if (tokenizer_folder / "tokenizer.json").exists():
        tokenizer = AutoTokenizer.from_pretrained(tokenizer_folder)
        model = AutoModelForCausalLM.from_pretrained(tokenizer_folder, dtype=torch.float32)
        prompts = ["The capital of France is"]
        if tokenizer.chat_template:
            prompts.append(tokenizer.apply_chat_template([{"role": "user", "content": "What is the capital of France?"}], tokenize=False, add_generation_prompt=True))
        for prompt in prompts:
            out = model.generate(**tokenizer(prompt, return_tensors="pt"), max_new_tokens=24, do_sample=False)
            print(repr(tokenizer.decode(out[0])))
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
