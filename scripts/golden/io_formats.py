"""Golden files for src/io: ggml block formats, a small GGUF file, safetensors files, a TensorBoard read-back.

Run in an environment with numpy, gguf, safetensors and torch:
    python scripts/golden/io_formats.py test/golden/io

Writes
  ggml-blocks.json      random blocks of each format (base64) with gguf.quants.dequantize of them (float32, base64)
  tiny-llama.gguf       a two-layer llama with every metadata value type, written by gguf.GGUFWriter
  tiny-llama.json       what gguf.GGUFReader and the Hugging Face layout say about it
  mixed.safetensors     one tensor of each plain dtype, written by the safetensors library
Everything is seeded; a second run writes the same bytes.
"""

import base64
import json
import sys
from pathlib import Path

import gguf
import numpy as np
import torch
from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType
from gguf.quants import dequantize, quantize
from safetensors.torch import save_file

# Byte offsets of the f16 fields of each format; random bits there would be NaN or infinity now and then.
HALF_FIELDS = {
    "Q4_0": [0], "Q4_1": [0, 2], "Q5_0": [0], "Q5_1": [0, 2], "Q8_0": [0],
    "Q2_K": [80, 82], "Q3_K": [108], "Q4_K": [0, 2], "Q5_K": [0, 2], "Q6_K": [208],
}
PLAIN = ["F32", "F16", "BF16"]


def b64(array):
    return base64.b64encode(np.ascontiguousarray(array).tobytes()).decode()


def random_blocks(rng, name, blocks):
    _, size = GGML_QUANT_SIZES[GGMLQuantizationType[name]]
    data = rng.integers(0, 256, (blocks, size), dtype=np.uint8)
    for field in HALF_FIELDS[name]:
        scales = (rng.standard_normal(blocks) * 10.0 ** rng.integers(-6, 2, blocks)).astype(np.float16)
        data[:, field:field + 2] = scales.view(np.uint8).reshape(blocks, 2)
    return data


def plain_values(rng, name):
    edge = np.array([0.0, -0.0, 1.0, -1.5, 65504.0, -65504.0, 6e-8, -6e-5, 6.1e-5, np.inf, -np.inf, 1e-3], dtype=np.float32)
    values = np.concatenate([edge, rng.standard_normal(52).astype(np.float32)])
    if name == "BF16":
        return quantize(values, GGMLQuantizationType.BF16)
    return values.astype({"F32": np.float32, "F16": np.float16}[name]).view(np.uint8)


def dump_blocks(out):
    rng = np.random.default_rng(20240607)
    golden = {}
    for name in PLAIN:
        data = plain_values(rng, name)
        golden[name] = {"bytes": b64(data), "values": b64(dequantize(data, GGMLQuantizationType[name]).astype(np.float32))}
    for name in HALF_FIELDS:
        data = random_blocks(rng, name, 2 if name.endswith("_K") else 8)
        golden[name] = {"bytes": b64(data), "values": b64(dequantize(data, GGMLQuantizationType[name]))}
    golden["sizes"] = {kind.name: list(size) for kind, size in GGML_QUANT_SIZES.items()}
    golden["ids"] = {kind.name: int(kind) for kind in GGML_QUANT_SIZES}
    (out / "ggml-blocks.json").write_text(json.dumps(golden) + "\n")


def permute(weight, heads):
    """What convert_hf_to_gguf does to q_proj and k_proj: half-split rotary rows become interleaved pairs."""
    return weight.reshape(heads, 2, weight.shape[0] // heads // 2, *weight.shape[1:]).swapaxes(1, 2).reshape(weight.shape)


def llama3_factors(head_dim, base, factor, low, high, original):
    freqs = 1.0 / (base ** (np.arange(0, head_dim, 2, dtype=np.float64) / head_dim))
    wavelen = 2 * np.pi / freqs
    smooth = (original / wavelen - low) / (high - low)
    middle = 1 / ((1 - smooth) / factor + smooth)
    return np.where(wavelen < original / high, 1.0, np.where(wavelen > original / low, factor, middle)).astype(np.float32)


def dump_tiny_llama(out):
    rng = np.random.default_rng(7)
    vocab, hidden, inter, layers, heads, kv, head_dim = 40, 32, 64, 2, 4, 2, 8
    writer = gguf.GGUFWriter(out / "tiny-llama.gguf", "llama")
    writer.add_context_length(128)
    writer.add_embedding_length(hidden)
    writer.add_block_count(layers)
    writer.add_feed_forward_length(inter)
    writer.add_head_count(heads)
    writer.add_head_count_kv(kv)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(500000.0)
    writer.add_rope_dimension_count(head_dim)
    writer.add_vocab_size(vocab)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_token_list([f"t{i}".encode() for i in range(vocab - 1)] + ["é".encode()])
    writer.add_token_scores([float(-i) for i in range(vocab)])
    # One of each value type, so that the reader is checked against gguf-py for all of them.
    for name, value in {"uint8": 200, "int8": -3, "uint16": 60000, "int16": -30000, "uint32": 4000000000, "int32": -2000000000,
                        "float32": 0.1, "uint64": 2**60 + 1, "int64": -5, "float64": 0.1, "bool": True, "string": "naïve ✓"}.items():
        getattr(writer, f"add_{name}")(f"test.{name}", value)
    writer.add_array("test.array_int", [1, -2, 3])
    writer.add_array("test.array_bool", [True, False])
    writer.add_array("test.array_nested", [[1, 2], [3]])

    hf = {}

    def add(gguf_name, hf_name, shape, kind, transform=lambda x: x):
        weight = rng.standard_normal(shape).astype(np.float32)
        stored = transform(weight)
        qtype = GGMLQuantizationType[kind]
        if kind == "F32":
            writer.add_tensor(gguf_name, stored)
            values = stored
        else:
            packed = quantize(stored, qtype)
            writer.add_tensor(gguf_name, packed, raw_dtype=qtype)
            values = dequantize(packed, qtype)
        hf[hf_name] = (values, weight)

    # Values go through the quantised form in GGUF order; undoing the permutation must give them in HF order.
    def unpermute(values, heads):
        return values.reshape(heads, values.shape[0] // heads // 2, 2, *values.shape[1:]).swapaxes(1, 2).reshape(values.shape)

    add("token_embd.weight", "model.embed_tokens.weight", (vocab, hidden), "Q8_0")
    add("rope_freqs.weight", "rope", (head_dim // 2,), "F32", lambda _: llama3_factors(head_dim, 500000.0, 32.0, 1.0, 4.0, 8192))
    heads_of = {}
    for i in range(layers):
        g, h = f"blk.{i}.", f"model.layers.{i}."
        add(g + "attn_norm.weight", h + "input_layernorm.weight", (hidden,), "F32")
        add(g + "attn_q.weight", h + "self_attn.q_proj.weight", (heads * head_dim, hidden), "Q4_1", lambda w: permute(w, heads))
        add(g + "attn_k.weight", h + "self_attn.k_proj.weight", (kv * head_dim, hidden), "Q4_0", lambda w: permute(w, kv))
        heads_of[h + "self_attn.q_proj.weight"] = heads
        heads_of[h + "self_attn.k_proj.weight"] = kv
        add(g + "attn_v.weight", h + "self_attn.v_proj.weight", (kv * head_dim, hidden), "Q5_0")
        add(g + "attn_output.weight", h + "self_attn.o_proj.weight", (hidden, heads * head_dim), "Q5_1")
        add(g + "ffn_norm.weight", h + "post_attention_layernorm.weight", (hidden,), "F32")
        add(g + "ffn_gate.weight", h + "mlp.gate_proj.weight", (inter, hidden), "BF16")
        add(g + "ffn_up.weight", h + "mlp.up_proj.weight", (inter, hidden), "F16")
        add(g + "ffn_down.weight", h + "mlp.down_proj.weight", (hidden, inter), "Q4_1")
    add("output_norm.weight", "model.norm.weight", (hidden,), "F32")
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()

    reader = gguf.GGUFReader(out / "tiny-llama.gguf")
    fields = {}
    for key, field in reader.fields.items():
        if not key.startswith("GGUF.") and "nested" not in key:
            value = field.contents()
            fields[key] = str(value) if isinstance(value, int) and abs(value) > 2**53 else value
    tensors = {t.name: {"dtype": t.tensor_type.name, "shape": [int(n) for n in t.shape[::-1]], "offset": int(t.data_offset), "bytes": int(t.n_bytes)} for t in reader.tensors}
    weights = {}
    for name, (values, original) in hf.items():
        if name == "rope":
            continue
        values = unpermute(values, heads_of[name]) if name in heads_of else values
        # The HF-order values must be near the weights we started from: guards this script's own un-permutation.
        assert np.abs(values - original).max() < 0.5, name
        weights[name] = {"shape": list(values.shape), "sum": float(values.astype(np.float64).sum()), "first": [float(x) for x in values.reshape(-1)[:4]],
                         "weighted": float((values.astype(np.float64).reshape(-1) * np.arange(values.size)).sum())}
    (out / "tiny-llama.json").write_text(json.dumps({"metadata": fields, "tensors": tensors, "hf": weights}, ensure_ascii=False, indent=1) + "\n")


def dump_safetensors(out):
    generator = torch.Generator().manual_seed(3)
    f32 = torch.randn(3, 5, generator=generator)
    tensors = {
        "z.f32": f32, "a.f32": f32[:1].clone(), "é.f32": f32[1:2].clone(), "f64": f32.double(), "f16": f32.half(), "bf16": f32.bfloat16(),
        "i64": torch.arange(3), "i32": torch.arange(4, dtype=torch.int32), "i16": torch.arange(5, dtype=torch.int16), "i8": torch.arange(6, dtype=torch.int8),
        "u8": torch.arange(7, dtype=torch.uint8), "u16": torch.arange(2).to(torch.uint16), "u32": torch.arange(2).to(torch.uint32), "u64": torch.arange(2).to(torch.uint64),
        "bool": torch.tensor([True, False, True]), "e4m3": f32.to(torch.float8_e4m3fn), "e5m2": f32.to(torch.float8_e5m2), "e4m3fnuz": f32.to(torch.float8_e4m3fnuz),
        "e5m2fnuz": f32.to(torch.float8_e5m2fnuz), "e8m0": f32.abs().to(torch.float8_e8m0fnu), "c64": torch.complex(f32, f32),
        "scalar": torch.tensor(2.5), "empty": torch.zeros(0, 4), 'quote"\\\n': torch.tensor([1.0]),
    }
    save_file(tensors, out / "mixed.safetensors", metadata={"format": "pt"})


if __name__ == "__main__":
    target = Path(sys.argv[1] if len(sys.argv) > 1 else "test/golden/io")
    target.mkdir(parents=True, exist_ok=True)
    dump_blocks(target)
    dump_tiny_llama(target)
    dump_safetensors(target)
