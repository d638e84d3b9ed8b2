"""
test/golden/torch-archive: what torch.save writes, for the restricted reader.

  mixed.bin, mixed.json    every element type, scalars, empty tensors, views at an offset, shared storages; names, types,
                           shapes and bytes (base64) of each tensor as torch sees them
  protocol4.bin            two tensors, pickled with protocol 4
  parameters.bin           a dictionary of nn.Parameter
  refused/<why>.bin        archives that must be refused: a call of os.system, a view with other strides, ...
  gpt2/                    gpt2-tiny as the Hub's gpt2 has it: pytorch_model.bin, no prefix, causal masks
  gpt2-sharded/            the same weights in two shards with an index
  adapter/                 llama-tiny/tied's adapter as adapter_model.bin
"""

import base64
import json
import os
import shutil
from collections import OrderedDict
from pathlib import Path

import torch
from common import ROOT, generator, output_folder, save_json
from safetensors.torch import load_file

NAMES = {
    torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16", torch.float64: "F64", torch.int64: "I64", torch.int32: "I32",
    torch.int16: "I16", torch.int8: "I8", torch.uint8: "U8", torch.bool: "BOOL",
}


def mixed() -> OrderedDict:
    g = generator(700)
    tensors = OrderedDict()
    for dtype, name in NAMES.items():
        values = torch.randn(3, 5, generator=g) * 4
        tensors[f"plain.{name}"] = values > 0 if dtype == torch.bool else values.to(dtype)
    tensors["scalar"] = torch.tensor(2.5)
    tensors["empty"] = torch.zeros(0, 4)
    whole = torch.randn(6, 4, generator=g)
    tensors["shared.whole"] = whole
    tensors["shared.rows"] = whole[2:5]
    tensors["shared.again"] = whole
    tensors["column of one"] = torch.randn(4, 3, generator=g)[:, 1:2][:1]
    tensors["ünï"] = torch.randn(2, generator=g).to(torch.bfloat16)
    return tensors


class Call:
    """Pickles as a call."""

    def __init__(self, function, *args):
        self.call = (function, args)

    def __reduce__(self):
        return self.call


def refused(folder: Path) -> None:
    folder.mkdir()
    weight = torch.ones(2, 3)
    values = {
        "os-system": {"weight": weight, "extra": Call(os.system, "touch harm")},
        "eval": {"weight": Call(eval, "__import__('os').getcwd()")},
        "set-attribute": {"weight": Call(setattr, weight, "x", 1)},
        "strides": {"weight": torch.randn(3, 5, generator=generator(701)).t()},
        "wrapped": {"model": {"weight": weight}, "epoch": 3},
        "module": torch.nn.Linear(2, 2),
        "list": [weight],
        "sparse": {"weight": weight.to_sparse()},
        "float8": {"weight": weight.to(torch.float8_e4m3fn)},
        "numpy": {"weight": weight.numpy()},
        "dtype": {"weight": weight, "dtype": torch.float32},
    }
    for name, value in values.items():
        torch.save(value, folder / f"{name}.bin")
    torch.save({"weight": weight}, folder / "legacy.bin", _use_new_zipfile_serialization=False)


def gpt2(folder: Path, sharded: Path) -> None:
    source = ROOT / "test" / "golden" / "gpt2-tiny"
    weights = load_file(source / "model.safetensors")
    positions = json.loads((source / "config.json").read_text())["n_positions"]
    bare = OrderedDict((key.removeprefix("transformer."), value) for key, value in weights.items())
    for layer in sorted({key.split(".")[1] for key in bare if key.startswith("h.")}):
        bare[f"h.{layer}.attn.bias"] = torch.tril(torch.ones(positions, positions, dtype=torch.uint8)).view(1, 1, positions, positions)
    half = len(weights) // 2
    shards = [OrderedDict(list(weights.items())[:half]), OrderedDict(list(weights.items())[half:])]
    for target in (folder, sharded):
        target.mkdir()
        for name in ("config.json", "generation_config.json"):
            shutil.copy(source / name, target / name)
    torch.save(bare, folder / "pytorch_model.bin")
    names = [f"pytorch_model-{i + 1:05}-of-00002.bin" for i in range(2)]
    for name, shard in zip(names, shards):
        torch.save(shard, sharded / name)
    size = sum(w.numel() * w.element_size() for w in weights.values())
    save_json(sharded / "pytorch_model.bin.index.json", {"metadata": {"total_size": size}, "weight_map": {k: n for n, s in zip(names, shards) for k in s}})


def adapter(folder: Path) -> None:
    source = ROOT / "test" / "golden" / "llama-tiny" / "tied" / "adapter"
    folder.mkdir()
    shutil.copy(source / "adapter_config.json", folder / "adapter_config.json")
    torch.save(load_file(source / "adapter_model.safetensors"), folder / "adapter_model.bin")


def main() -> None:
    folder = output_folder("torch-archive")
    tensors = mixed()
    torch.save(tensors, folder / "mixed.bin")
    golden = {}
    for name, t in tensors.items():
        data = t.contiguous().flatten()
        golden[name] = {"dtype": NAMES[t.dtype], "shape": list(t.shape), "bytes": base64.b64encode(data.view(torch.uint8).numpy().tobytes() if data.numel() else b"").decode()}
    save_json(folder / "mixed.json", golden)
    torch.save({"a": torch.arange(4.0), "b": torch.arange(3)}, folder / "protocol4.bin", pickle_protocol=4)
    torch.save({"a": torch.nn.Parameter(torch.arange(4.0)), "b": torch.nn.Parameter(torch.arange(2.0), requires_grad=False)}, folder / "parameters.bin")
    refused(folder / "refused")
    gpt2(folder / "gpt2", folder / "gpt2-sharded")
    adapter(folder / "adapter")
    print(sum(f.stat().st_size for f in folder.rglob("*") if f.is_file()), "bytes in", folder)


if __name__ == "__main__":
    main()
