"""Writes a GGUF of a Llama shape with random weights, for llama.cpp: make_gguf.py CONFIG_JSON TYPE OUT (BF16, Q8_0, Q4_0).

The vocabulary is made up (one token per id); benchmarks feed ids. Norms stay F32, as llama.cpp's own converter leaves them;
in a quantised file the tied embedding, which is the head too, is Q8_0 for Q4_0 as the converter's default would be Q6_K:
the nearest type that can be written without llama.cpp.
"""

import json
import sys

import gguf
import numpy as np


def main():
    settings, kind, out = json.loads(sys.argv[1]), sys.argv[2], sys.argv[3]
    d, f, layers, vocabulary = (settings[k] for k in ("hidden_size", "intermediate_size", "num_hidden_layers", "vocab_size"))
    heads, groups = settings["num_attention_heads"], settings["num_key_value_heads"]
    head = d // heads
    w = gguf.GGUFWriter(out, "llama")
    w.add_context_length(settings["max_position_embeddings"])
    w.add_embedding_length(d)
    w.add_block_count(layers)
    w.add_feed_forward_length(f)
    w.add_head_count(heads)
    w.add_head_count_kv(groups)
    w.add_rope_dimension_count(head)
    w.add_rope_freq_base(settings.get("rope_theta", 10000.0))
    w.add_layer_norm_rms_eps(settings["rms_norm_eps"])
    w.add_vocab_size(vocabulary)
    w.add_tokenizer_model("gpt2")
    w.add_tokenizer_pre("default")
    w.add_token_list([f"<{i}>" for i in range(vocabulary)])
    w.add_token_types([gguf.TokenType.NORMAL] * vocabulary)
    w.add_token_merges(["<2> <3>"])  # never applied, but a vocabulary of this kind has to have some
    w.add_bos_token_id(0)
    w.add_eos_token_id(0)

    random = np.random.default_rng(1)
    matrix = gguf.GGMLQuantizationType[kind]
    table = gguf.GGMLQuantizationType.Q8_0 if kind == "Q4_0" else matrix

    def add(name, shape, quant):
        data = random.standard_normal(shape, dtype=np.float32) * 0.02
        w.add_tensor(name, gguf.quants.quantize(data, quant), raw_dtype=quant)

    def ones(name):
        w.add_tensor(name, np.ones(d, dtype=np.float32))

    add("token_embd.weight", (vocabulary, d), table)
    for i in range(layers):
        for name, shape in (("attn_q", (d, d)), ("attn_k", (groups * head, d)), ("attn_v", (groups * head, d)), ("attn_output", (d, d)),
                            ("ffn_gate", (f, d)), ("ffn_up", (f, d)), ("ffn_down", (d, f))):
            add(f"blk.{i}.{name}.weight", shape, matrix)
        for name in ("attn_norm", "ffn_norm"):
            ones(f"blk.{i}.{name}.weight")
    ones("output_norm.weight")
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_tensors_to_file()
    w.close()


main()
