"""
Compares the native BPE trainer with the `tokenizers` library on any text: words of each pre-tokenizer, then vocabulary and
merges, which have to be equal line by line. Writes nothing into the tree.

    g++ -std=c++20 -O2 -pthread -o bpe native/tokenizer/*.cpp native/tests/bpe_train_main.cpp
    python scripts/golden/bpe_train_check.py ./bpe 16000 text.txt
"""

import json
import subprocess
import sys
import time
from pathlib import Path

from tokenizers import Regex, Tokenizer, models, pre_tokenizers, trainers

LLAMA3 = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"


def split(pattern):
    return pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(pattern), behavior="isolated"), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])


KINDS = {
    "gpt2": pre_tokenizers.ByteLevel(add_prefix_space=False),
    "gpt2-digits": pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]),
    "llama3": split(LLAMA3),
    "qwen2": split(LLAMA3.replace("{1,3}", "")),
}


def main():
    program, vocab, path = sys.argv[1], sys.argv[2], Path(sys.argv[3])
    kinds = sys.argv[4:] or list(KINDS)
    minimum = "2"
    text = path.read_bytes().decode("utf-8")
    lines = [line + "\n" for line in text.split("\n")]
    lines[-1] = lines[-1][:-1]
    lines = [line for line in lines if line]
    byte_of = {c: b for b, c in byte_chars().items()}
    failed = 0
    for kind in kinds:
        words = subprocess.run([program, "words", kind, str(path)], capture_output=True, check=True).stdout.split()
        expected = [bytes(byte_of[c] for c in piece).hex().encode() for piece, _ in KINDS[kind].pre_tokenize_str(text)]
        same = words == expected
        print(f"{kind}: {len(expected)} words, {'equal' if same else 'DIFFERENT'}", flush=True)
        failed += not same
        if not same:
            at = next(i for i, (a, b) in enumerate(zip(words, expected)) if a != b)
            show = lambda ws: [bytes.fromhex(w.decode()).decode("utf-8", "replace") for w in ws[max(0, at - 3) : at + 4]]
            print("  ours  ", show(words), "\n  theirs", show(expected))

        start = time.time()
        run = subprocess.run([program, "train", kind, vocab, minimum, "0", "0", str(path)], capture_output=True, check=True)
        ours = time.time() - start
        got = run.stdout.decode("utf-8").split("\n")
        tokenizer = Tokenizer(models.BPE())
        tokenizer.pre_tokenizer = KINDS[kind]
        start = time.time()
        tokenizer.train_from_iterator(lines, trainers.BpeTrainer(vocab_size=int(vocab), min_frequency=int(minimum), special_tokens=["<|endoftext|>"], initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False))
        theirs = time.time() - start
        model = json.loads(tokenizer.to_str())["model"]
        count = int(got[0])
        tokens, merges = got[1 : count + 1], got[count + 1 : -1]
        want_tokens, want_merges = sorted(model["vocab"], key=model["vocab"].get), [" ".join(m) for m in model["merges"]]
        same = tokens == want_tokens and merges == want_merges
        failed += not same
        print(f"{kind}: {len(want_merges)} merges, {'equal' if same else 'DIFFERENT'}; ours {ours:.1f} s ({run.stderr.decode().strip()}), tokenizers {theirs:.1f} s", flush=True)
        if not same:
            at = next((i for i, (a, b) in enumerate(zip(merges, want_merges)) if a != b), min(len(merges), len(want_merges)))
            print("  first difference at merge", at, merges[at : at + 3], want_merges[at : at + 3], len(merges), len(want_merges))
    sys.exit(1 if failed else 0)


def byte_chars():
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    chars = {b: chr(b) for b in printable}
    rest = [b for b in range(256) if b not in chars]
    chars.update({b: chr(0x100 + i) for i, b in enumerate(rest)})
    return chars


if __name__ == "__main__":
    main()
