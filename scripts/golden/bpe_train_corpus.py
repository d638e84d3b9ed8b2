"""
Trains the `tokenizers` library's byte-level BPE on the *.py files below a folder, says what it cost, and compares with the
folder that `lathe tokenizer train` wrote from the same files: vocabulary and merges have to be equal, and transformers has to load the
folder and give the library's ids. Writes nothing. The numbers are in docs/tokenizer-training.md.

    lathe tokenizer train --files 'CORPUS/**/*.py' --on-bad-file skip --vocab-size 32768 --output OURS
    python scripts/golden/bpe_train_corpus.py CORPUS 32768 [OURS]
"""

import json
import os
import resource
import sys
import time
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers


def corpus_files(folder: Path) -> list[Path]:
    return sorted(p for p in folder.rglob("*.py") if p.is_file() and not any(part.startswith(".") or part == "__pycache__" for part in p.relative_to(folder).parts))


def texts(files: list[Path], counted: dict):
    for path in files:
        data = path.read_bytes()
        try:
            text = data.decode("utf-8-sig")
        except UnicodeDecodeError:
            continue
        counted["bytes"] += len(data)
        yield text


def main() -> None:
    folder, vocab_size = Path(sys.argv[1]), int(sys.argv[2])
    files = corpus_files(folder)
    before = resource.getrusage(resource.RUSAGE_SELF)
    counted = {"bytes": 0}
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=vocab_size, min_frequency=2, special_tokens=["<|endoftext|>"], initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False)
    start = time.perf_counter()
    tokenizer.train_from_iterator(texts(files, counted), trainer)
    seconds = time.perf_counter() - start
    after = resource.getrusage(resource.RUSAGE_SELF)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    print(f"tokenizers: {counted['bytes'] / 1e6:.1f} MB, {seconds:.1f} s ({counted['bytes'] / 1e6 / seconds:.1f} MB/s), {cpu:.1f} s of CPU, {after.ru_maxrss / 1024:.0f} MiB peak memory, {os.cpu_count()} cores")
    if len(sys.argv) > 3:
        compare(tokenizer, Path(sys.argv[3]), files)


def compare(theirs: Tokenizer, folder: Path, files: list[Path]) -> None:
    want = json.loads(theirs.to_str())["model"]
    got = json.loads((folder / "tokenizer.json").read_text())["model"]
    merges = lambda model: [tuple(m) if isinstance(m, list) else tuple(m.split(" ")) for m in model["merges"]]
    same_merges, same_vocab = merges(want) == merges(got), want["vocab"] == got["vocab"]
    print(f"{len(want['merges'])} merges {'equal' if same_merges else 'DIFFERENT'}, {len(want['vocab'])} tokens {'equal' if same_vocab else 'DIFFERENT'}")
    if not same_merges:
        at = next((i for i, (a, b) in enumerate(zip(merges(got), merges(want))) if a != b), None)
        print("first difference at", at, merges(got)[at : at + 3], merges(want)[at : at + 3])

    from transformers import AutoTokenizer

    loaded = AutoTokenizer.from_pretrained(folder)
    library = Tokenizer.from_file(str(folder / "tokenizer.json"))
    checked = 0
    for path in files[:: max(1, len(files) // 200)]:
        try:
            text = path.read_bytes().decode("utf-8-sig")
        except UnicodeDecodeError:
            continue
        ids = theirs.encode(text).ids
        assert loaded(text)["input_ids"] == ids and library.encode(text).ids == ids, path
        assert loaded.decode(ids) == text or loaded.clean_up_tokenization_spaces, path
        checked += 1
    print(f"{checked} files: the same ids through transformers ({type(loaded).__name__}, eos {loaded.eos_token!r}) and tokenizers")
    sys.exit(0 if same_merges and same_vocab else 1)


if __name__ == "__main__":
    main()
