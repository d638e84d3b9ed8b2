"""
test/golden/bnb4: 4-bit quantisation as bitsandbytes documents and stores it.

  maps.safetensors    nf4[16], fp4[16], dynamic_signed[256], dynamic_unsigned[256], all fp32, as bitsandbytes makes them
  cases.safetensors   per case: <case>.input fp32 [n], and for q in nf4, fp4: <case>.<q>.packed uint8 [(n+1)/2],
                      <case>.<q>.absmax fp32 [ceil(n/64)], <case>.<q>.dequantised fp32 [n]
  nested.safetensors  double quantisation of an absmax vector: absmax fp32 [1500], offset fp32 [1], codes uint8 [1500],
                      nested_absmax fp32 [6], dequantised fp32 [1500]
  checkpoint/         llama-tiny/biased quantised by transformers + bitsandbytes (NF4, double quantisation, bf16) and
                      written by save_pretrained: the interop fixture. Run llama_tiny.py first.
  checkpoint-golden.safetensors
                      weights dequantised by the rule below and rounded to bf16 (dequantised.<module>, bf16);
                      logits.<row>: those weights in an all-fp32 forward pass; logits_bf16.<row>: in an all-bf16 one
  notes.json          state-dict keys of the checkpoint, and where bitsandbytes' CPU paths differ from the rule

The rule (its CUDA kernels): blocks of 64 in row-major order; a = max|x|; inv = 1 / max(a, 1e-38) in fp32; code of
x * inv: the number of midpoints strictly below it. First element in the high nibble. An all-zero block gets code 7
(NF4) or 0 (FP4). Dequantise: table[code] * a in fp32. FP4 picks the magnitude the same way on |x| and sets bit 3 for
x < 0. Double quantisation: offset = mean(absmax); (absmax - offset) in blocks of 256 with the signed dynamic map,
nearest entry.

bitsandbytes' CPU backend is not the rule everywhere: its 8-bit quantiser goes through a 65,536-bin table, its 4-bit
one divides in the last, partial block and takes FP4's thresholds (and the sign of zero) from midpoints instead of the
kernel's decimal constants, its AVX-512 dequantiser is wrong where a block crosses a row (down_proj here: 96 columns). So the arrays here come from the rule restated in torch; they are compared with
bitsandbytes where it should agree, and the differences are counted in notes.json.
"""

import json
import warnings

import torch
from common import generator, output_folder, rows_loss, save_json, save_tensors, versions

warnings.filterwarnings("ignore")
import bitsandbytes.functional as F  # noqa: E402
from bitsandbytes.backends.default.ops import _dequantize_4bit_compute  # noqa: E402
from safetensors.torch import load_file  # noqa: E402
from transformers import AutoModelForCausalLM, BitsAndBytesConfig, LlamaForCausalLM  # noqa: E402

BLOCK = 64
FP4_THRESHOLDS = [0.00260417, 0.0859375, 0.20833333, 0.29166667, 0.4166667, 0.583333, 0.8333333]
FP4_CODES = torch.tensor([0, 1, 6, 7, 4, 5, 2, 3], dtype=torch.uint8)


def tables() -> dict[str, torch.Tensor]:
    return {
        "nf4": F.get_4bit_type("nf4", device="cpu").float(),
        "fp4": F.get_4bit_type("fp4", device="cpu").float(),
        "dynamic_signed": F.create_dynamic_map(signed=True).float(),
        "dynamic_unsigned": F.create_dynamic_map(signed=False).float(),
    }


def quantise_rule(x: torch.Tensor, kind: str, maps) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    n = x.numel()
    blocks = -(-n // BLOCK)
    padded = torch.nn.functional.pad(x.flatten().float(), (0, blocks * BLOCK - n)).view(blocks, BLOCK)
    absmax = padded.abs().amax(1)
    scaled = padded * (1.0 / absmax.clamp(min=1e-38)).view(-1, 1)
    if kind == "nf4":
        middle = (maps["nf4"][:-1] + maps["nf4"][1:]) / 2
        codes = (scaled.unsqueeze(-1) > middle).sum(-1).to(torch.uint8)
    else:
        steps = (scaled.abs().unsqueeze(-1) > torch.tensor(FP4_THRESHOLDS)).sum(-1)
        codes = FP4_CODES[steps] + (scaled < 0).to(torch.uint8) * 8
    dequantised = (maps[kind][codes.long()] * absmax.view(-1, 1)).flatten()[:n]
    codes = codes.flatten()[:n]
    if n % 2:
        # The unused low nibble of an odd tail holds the code of zero.
        codes = torch.cat([codes, torch.tensor([7 if kind == "nf4" else 0], dtype=torch.uint8)])
    return codes[0::2] * 16 + codes[1::2], absmax, dequantised


def adversarial(middle: torch.Tensor, scale: float) -> torch.Tensor:
    """Blocks whose first element fixes absmax at `scale`, the rest sits on a midpoint and one ulp to either side."""
    up, down = (torch.nextafter(middle, torch.full_like(middle, s * 9)) for s in (1.0, -1.0))
    values = torch.cat([middle, up, down, -middle, torch.tensor([0.0, -0.0, 1.0, -1.0])])
    blocks = [torch.cat([torch.tensor([1.0]), part]) for part in values.split(BLOCK - 1)]
    blocks[-1] = torch.nn.functional.pad(blocks[-1], (0, BLOCK - blocks[-1].numel()))
    return torch.cat(blocks) * scale


def cases(maps) -> dict[str, torch.Tensor]:
    g = generator(800)
    nf4 = (maps["nf4"][:-1] + maps["nf4"][1:]) / 2
    fp4 = torch.tensor(FP4_THRESHOLDS)
    tiny = torch.zeros(4 * BLOCK)
    tiny[:BLOCK] = torch.randn(BLOCK, generator=g) * 1e-30
    tiny[BLOCK : 2 * BLOCK] = torch.randn(BLOCK, generator=g) * 1e-37
    tiny[3 * BLOCK :] = -0.0  # blocks 2 and 3: all zero, of either sign
    return {
        "normal": torch.randn(2048, generator=g).mul_(0.02).bfloat16().float(),
        "heavy_tail": torch.randn(1024, generator=g) / torch.rand(1024, generator=g).clamp(min=1e-3),
        "uniform": torch.rand(512, generator=g) * 2 - 1,
        "one_sided": -torch.rand(256, generator=g),
        "tail_40": torch.randn(1000, generator=g).bfloat16().float(),
        "odd": torch.randn(129, generator=g),
        "single": torch.tensor([-0.25]),
        "midpoints_1": adversarial(torch.cat([nf4, fp4]), 1.0),
        "midpoints_3": adversarial(torch.cat([nf4, fp4]), 3.0),
        "midpoints_0_7": adversarial(torch.cat([nf4, fp4]), 0.7),
        "huge": torch.randn(128, generator=g) * 5e37,
        "tiny_and_zero": tiny,
    }


def unpack(packed: torch.Tensor, n: int) -> torch.Tensor:
    flat = packed.flatten()
    return torch.stack([flat >> 4, flat & 15], 1).flatten()[:n]


def dump_cases(folder, maps, notes) -> None:
    out = {}
    for name, x in cases(maps).items():
        out[f"{name}.input"] = x
        for kind in ("nf4", "fp4"):
            packed, absmax, dequantised = quantise_rule(x, kind, maps)
            out.update({f"{name}.{kind}.packed": packed, f"{name}.{kind}.absmax": absmax})
            out[f"{name}.{kind}.dequantised"] = dequantised
            theirs, state = F.quantize_4bit(x, blocksize=BLOCK, quant_type=kind)
            ours_codes, their_codes = unpack(packed, x.numel()), unpack(theirs, x.numel())
            differ = (ours_codes != their_codes).nonzero().flatten()
            tail = x.numel() // BLOCK * BLOCK
            if len(differ):
                only_sign_of_zero = (ours_codes[differ] & 7 == 0) & (their_codes[differ] & 7 == 0) & (kind == "fp4")
                notes["cases"].append(
                    dict(case=name, kind=kind, differing_codes=len(differ), of_those_in_the_partial_block=int((differ >= tail).sum()),
                         of_those_only_the_sign_of_zero=int(only_sign_of_zero.sum()),
                         examples=[[int(i), int(ours_codes[i]), int(their_codes[i])] for i in differ[:3]])
                )  # fmt: skip
            if kind == "nf4":
                assert not (differ < tail).any(), f"{name}: bitsandbytes disagrees in a full block"
                full = x.numel() // BLOCK
                assert torch.equal(absmax[:full], state.absmax[:full])
    save_tensors(folder / "cases.safetensors", out)


def nearest_signed(r: torch.Tensor, table: torch.Tensor) -> torch.Tensor:
    """Index of the nearest map entry; the data has no exact ties (asserted), so the tie rule does not matter here."""
    distance = (r.double().unsqueeze(-1) - table.double()).abs()
    best = distance.topk(2, dim=-1, largest=False).values
    assert (best[..., 0] < best[..., 1]).all()
    return distance.argmin(-1).to(torch.uint8)


def dump_nested(folder, maps, notes) -> None:
    weights = torch.randn(1500, BLOCK, generator=generator(801)) * 0.02
    absmax = weights.abs().amax(1)
    offset = absmax.mean()
    rest = absmax - offset
    padded = torch.nn.functional.pad(rest, (0, -len(rest) % 256)).view(-1, 256)
    nested_absmax = padded.abs().amax(1)
    table = maps["dynamic_signed"]
    codes = nearest_signed(padded * (1.0 / nested_absmax).view(-1, 1), table).flatten()[: len(rest)]
    dequantised = table[codes.long()] * nested_absmax.repeat_interleave(256)[: len(rest)] + offset
    save_tensors(
        folder / "nested.safetensors",
        dict(absmax=absmax, offset=offset.view(1), codes=codes, nested_absmax=nested_absmax, dequantised=dequantised),
    )
    theirs, _ = F.quantize_blockwise(rest, code=table, blocksize=256)
    notes["nested_codes_differing_from_bnb_cpu"] = int((theirs != codes).sum())


def dump_checkpoint(folder, maps, notes) -> None:
    source = folder.parent / "llama-tiny" / "biased"
    config = BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True, bnb_4bit_compute_dtype=torch.bfloat16
    )
    model = AutoModelForCausalLM.from_pretrained(
        source, quantization_config=config, dtype=torch.bfloat16, device_map="cpu", attn_implementation="eager"
    ).eval()
    model.save_pretrained(folder / "checkpoint")

    saved = load_file(str(folder / "checkpoint" / "model.safetensors"))
    notes["checkpoint_keys"] = {k: [str(v.dtype).removeprefix("torch."), list(v.shape)] for k, v in sorted(saved.items())}

    plain = LlamaForCausalLM.from_pretrained(source, dtype=torch.bfloat16, attn_implementation="eager").eval()
    out = {}
    with torch.no_grad():
        for key, value in saved.items():
            if key.endswith(".weight") and f"{key}.absmax" in saved:
                name = key.removesuffix(".weight")
                target = plain.get_submodule(name).weight
                state = bytes(saved[f"{key}.quant_state.bitsandbytes__nf4"].tolist()).decode()
                notes.setdefault("quant_state_json", state)
                weight = dequantise_saved(saved, key, state, target.shape, maps)
                check_against_bnb(model.get_submodule(name).weight, weight.bfloat16(), name, notes)
                out[f"dequantised.{name}"] = weight.bfloat16()
                target.copy_(weight.bfloat16())
        inputs = json.loads((source / "inputs.json").read_text())
        save_json(folder / "inputs.json", inputs)
        rows = (inputs["input_ids"], inputs["labels"])
        bf16, _, _, _ = rows_loss(plain, *rows)
        # In eval mode bitsandbytes repacks weights for an AVX-512 kernel that needs widths divisible by the block size.
        theirs, _, _, _ = rows_loss(model.train(), *rows)
        fp32, loss, _, _ = rows_loss(plain.float(), *rows)
    for i, (a, b) in enumerate(zip(fp32, bf16)):
        out[f"logits.{i}"], out[f"logits_bf16.{i}"] = a, b
    notes["checkpoint_loss_fp32"] = loss.item()
    notes["max_logit_difference_bnb_cpu_vs_bf16_reference"] = max((a - b).abs().max().item() for a, b in zip(theirs, bf16))
    notes["max_logit_difference_bf16_vs_fp32_reference"] = max((a - b).abs().max().item() for a, b in zip(fp32, bf16))
    save_tensors(folder / "checkpoint-golden.safetensors", out)


def check_against_bnb(packed, weight: torch.Tensor, name: str, notes) -> None:
    """Bit-equal to bitsandbytes' generic path; its AVX-512 path assumes that no block crosses a row, and is only reported."""
    state = packed.quant_state
    absmax = F.dequantize_blockwise(state.absmax, state.state2) + state.offset
    generic = _dequantize_4bit_compute(packed.data.reshape(-1), absmax, state.code, state.blocksize, state.shape, torch.bfloat16)
    assert torch.equal(generic, weight), name
    fast = F.dequantize_4bit(packed.data, state)
    if not torch.equal(fast, weight):
        notes.setdefault("bnb_avx512_dequantise_differs", {})[name] = int((fast != weight).sum())


def dequantise_saved(saved, key: str, state_json: str, shape, maps) -> torch.Tensor:
    """The rule on what the file holds: nested absmax first, then the codes; fp32 throughout."""
    state = json.loads(bytes(saved[f"{key}.quant_state.bitsandbytes__nf4"].tolist()))
    assert torch.equal(saved[f"{key}.quant_map"], maps["nf4"])
    assert torch.equal(saved[f"{key}.nested_quant_map"], maps["dynamic_signed"])
    nested = saved[f"{key}.nested_absmax"].repeat_interleave(state["nested_blocksize"])
    codes8 = saved[f"{key}.absmax"].long().flatten()
    absmax = maps["dynamic_signed"][codes8] * nested[: len(codes8)] + torch.tensor(state["nested_offset"])
    n = shape.numel()
    codes = unpack(saved[key], n).long()
    return (maps["nf4"][codes] * absmax.repeat_interleave(state["blocksize"])[:n]).view(shape)


def main() -> None:
    folder = output_folder("bnb4")
    maps = tables()
    save_tensors(folder / "maps.safetensors", maps)
    notes = {"versions": versions(), "cases": []}
    dump_cases(folder, maps, notes)
    dump_nested(folder, maps, notes)
    dump_checkpoint(folder, maps, notes)
    save_json(folder / "notes.json", notes)
    print({k: v for k, v in notes.items() if k != "checkpoint_keys"})


if __name__ == "__main__":
    main()
