"""
Shared by the golden dump scripts: where the files go, seeded tensors, and the few save helpers.

Every script runs as `python scripts/golden/<name>.py [output folder]` from anywhere and overwrites
its own folder under test/golden. Everything is seeded and single threaded, so a second run with the
versions of requirements.txt writes the same bytes. Python is an oracle only: the package and its
tests never need it.
"""

import json
import os
import shutil
import sys
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import torch  # noqa: E402
from safetensors.torch import save_file  # noqa: E402

torch.set_num_threads(1)
torch.use_deterministic_algorithms(True)

ROOT = Path(__file__).resolve().parents[2]


def output_folder(name: str) -> Path:
    """test/golden/<name> (or <argv[1]>/<name>), emptied."""
    base = Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "test" / "golden"
    folder = base / name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def save_tensors(path: Path, tensors: dict[str, torch.Tensor]) -> None:
    save_file({k: v.detach().contiguous().clone() for k, v in tensors.items()}, str(path), metadata={"format": "pt"})


def save_json(path: Path, value) -> None:
    path.write_text(json.dumps(value, indent=1) + "\n")


def versions() -> dict[str, str]:
    import importlib.metadata as m

    return {p: m.version(p) for p in ("torch", "transformers", "peft", "bitsandbytes")}


def fill_parameters(model: torch.nn.Module, seed: int) -> None:
    """Weights large enough that every gradient is well above rounding: matrices N(0, 1/fan_in) * 1.5, norms near 1, biases N(0, 0.1)."""
    g = generator(seed)
    with torch.no_grad():
        for name, p in model.named_parameters():
            if p.dim() >= 2:
                scale = 0.3 if "embed" in name or "wte" in name or "wpe" in name else 1.5 / p.shape[-1] ** 0.5
                p.copy_(torch.randn(p.shape, generator=g) * scale)
            elif "norm" in name or "ln_" in name:
                offset = 0.0 if name.endswith("bias") else 1.0
                p.copy_(offset + 0.1 * torch.randn(p.shape, generator=g))
            else:
                p.copy_(0.1 * torch.randn(p.shape, generator=g))


def ragged_rows(vocab: int, seed: int, lengths=(17, 11), masked=(0, 4)):
    """Rows of different length. labels use -100 on the first `masked[i]` positions; they are NOT shifted (the loss shifts them)."""
    g = generator(seed)
    ids = [torch.randint(0, vocab, (n,), generator=g).tolist() for n in lengths]
    labels = [[-100] * m + row[m:] for row, m in zip(ids, masked)]
    return ids, labels


def rows_loss(model, ids, labels):
    """
    Each row alone, so padding cannot matter. Returns (logits per row fp32, mean loss with grad, per-row sums, count):
    loss = sum of token cross entropies over both rows / number of unmasked shifted labels.
    """
    logits, sums, count = [], [], 0
    for row, label in zip(ids, labels):
        out = model(input_ids=torch.tensor([row])).logits[0].float()
        target = torch.tensor(label)[1:]
        sums.append(torch.nn.functional.cross_entropy(out[:-1], target, ignore_index=-100, reduction="sum"))
        count += int((target != -100).sum())
        logits.append(out)
    return logits, sum(sums) / count, [s.item() for s in sums], count


def clean_adapter_folder(folder: Path, base_name: str) -> None:
    """PEFT writes a model card and the local path of the base model: drop the first, name the second neutrally."""
    (folder / "README.md").unlink(missing_ok=True)
    path = folder / "adapter_config.json"
    config = json.loads(path.read_text())
    config["base_model_name_or_path"] = base_name
    config["target_modules"] = sorted(config["target_modules"])  # a set: its order changes from run to run
    path.write_text(json.dumps(config, indent=2) + "\n")


def randomise_lora(model, seed: int, std: float = 0.1) -> None:
    """PEFT starts B at zero, which hides A's gradient: fill A and B both."""
    g = generator(seed)
    with torch.no_grad():
        for name, p in model.named_parameters():
            if "lora_" in name:
                p.copy_(torch.randn(p.shape, generator=g) * std)


def lora_key(name: str) -> str:
    """A PEFT parameter name as it stands in adapter_model.safetensors."""
    return name.replace(".default", "")
