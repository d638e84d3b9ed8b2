"""
test/golden/tokenizer-families: small WordPiece and Unigram tokenizers as transformers' own classes make them.

  bert/, bert-cased/       BertTokenizer, with and without lower case and stripped accents
  t5/                      T5Tokenizer: Unigram, SentencePiece's normalisation table, sentinels, </s> at the end
  camembert/               CamembertTokenizer: Unigram, <s> $A </s>, a mask that eats the space before it
  unigram-bytes/           Unigram with byte fallback and an identity normaliser
  hub-bert/, hub-camembert/, hub-gpt2/   the same tokenizer.json with the few files that the Hub's oldest repositories have:
                           special tokens are named nowhere but in transformers' classes
  families.json            per folder: length, named tokens, ids, offsets and texts, from transformers

Vocabularies: WordPiece by hand, Unigram by the sentencepiece library (one thread).
"""

import json
import shutil
from pathlib import Path

import sentencepiece
from common import output_folder, save_json
from tokenizer_goldens import CORPUS, FOLDER, TEXTS
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import AutoTokenizer, BertTokenizer, CamembertTokenizer, PreTrainedTokenizerFast, T5Tokenizer

MORE = [
    "the [MASK] isn't , said he .",
    "the old <mask> watches <extra_id_0> 12 grey stones <extra_id_1>.</s>",
    "unbelievably naïve café ＡＢＣ ﬁne ①②",
    "  leading and trailing  ",
    "▁underline ▁▁ in the text",
    "cat##s [CLS] [SEP] [unused0] <s> </s> <pad> <unk>",
]


def word_piece(cased: bool) -> dict[str, int]:
    text = "".join(CORPUS) if cased else "".join(CORPUS).lower()
    letters = sorted(set(text) - set(" \t\r\n"))
    words = "the old cat small engine stones grey watch ##es paint ##s night train isn said about every third student letter harbour ##ly slow rope ##ter ##ing cafe naive def return 12 ##14 un ##bel".split()
    return {t: i for i, t in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"] + letters + ["##" + c for c in letters] + words)}


def unigram(folder: Path, size: int, rule: str, byte_fallback: bool = False):
    (folder / "corpus.txt").write_text("".join(CORPUS))
    prefix = str(folder / "sp")
    sentencepiece.SentencePieceTrainer.train(
        input=str(folder / "corpus.txt"), model_prefix=prefix, vocab_size=size, model_type="unigram", character_coverage=0.999, byte_fallback=byte_fallback,
        normalization_rule_name=rule, num_threads=1, minloglevel=2, hard_vocab_limit=False,
    )
    from sentencepiece import sentencepiece_model_pb2

    proto = sentencepiece_model_pb2.ModelProto()
    proto.ParseFromString((folder / "sp.model").read_bytes())
    for name in ("corpus.txt", "sp.model", "sp.vocab"):
        (folder / name).unlink()
    return [(p.piece, round(p.score, 6)) for p in proto.pieces], proto.normalizer_spec.precompiled_charsmap


def main() -> None:
    folder = output_folder("tokenizer-families")
    BertTokenizer(vocab=word_piece(False), model_max_length=512).save_pretrained(folder / "bert")
    BertTokenizer(vocab=word_piece(True), do_lower_case=False, model_max_length=512).save_pretrained(folder / "bert-cased")

    pieces, charsmap = unigram(folder, 400, "nmt_nfkc")
    plain = pieces[3:]  # behind <unk>, <s>, </s>
    sentinels = [(f"<extra_id_{i}>", 0.0) for i in range(9, -1, -1)]
    t5 = T5Tokenizer(vocab=[("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0)] + plain + sentinels, extra_ids=10, _spm_precompiled_charsmap=charsmap, model_max_length=512)
    t5.save_pretrained(folder / "t5")
    camembert = [("<s>NOTUSED", 0.0), ("<pad>", 0.0), ("</s>NOTUSED", 0.0), ("<unk>", 0.0), ("<unk>NOTUSED", -100.0), ("<s>", 0.0), ("</s>", 0.0)] + plain + [("<mask>", 0.0)]
    CamembertTokenizer(vocab=camembert, model_max_length=512).save_pretrained(folder / "camembert")

    pieces, _ = unigram(folder, 660, "identity", byte_fallback=True)
    bytes_model = Tokenizer(models.Unigram(pieces, unk_id=0, byte_fallback=True))
    bytes_model.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=True)
    bytes_model.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)])
    bytes_model.post_processor = processors.TemplateProcessing(single="<s> $A", pair="<s> $A <s> $B", special_tokens=[("<s>", 1)])
    PreTrainedTokenizerFast(tokenizer_object=bytes_model, bos_token="<s>", eos_token="</s>", unk_token="<unk>").save_pretrained(folder / "unigram-bytes")

    for name, source, config, model_type in (
        ("hub-bert", folder / "bert", {"do_lower_case": True, "model_max_length": 512}, "bert"),
        ("hub-camembert", folder / "camembert", {"model_max_length": 512}, "camembert"),
        ("hub-gpt2", FOLDER / "tiny-bpe", {"model_max_length": 1024}, "gpt2"),
    ):
        (folder / name).mkdir()
        shutil.copy(source / "tokenizer.json", folder / name / "tokenizer.json")
        save_json(folder / name / "tokenizer_config.json", config)
        save_json(folder / name / "config.json", {"model_type": model_type})

    out = {}
    for path in sorted(p for p in folder.iterdir() if p.is_dir()):
        tokenizer = AutoTokenizer.from_pretrained(str(path))
        # The library alone, from the same file: what our loader must equal whatever a class does on top.
        library = Tokenizer.from_file(str(path / "tokenizer.json"))
        rows = []
        for text in TEXTS + MORE:
            coded = library.encode(text)
            ids = tokenizer(text)["input_ids"]
            rows.append({
                "text": text, "ids": ids, "library": coded.ids, "offsets": coded.offsets, "bare": tokenizer.encode(text, add_special_tokens=False),
                "decoded": tokenizer.decode(ids), "skipped": tokenizer.decode(ids, skip_special_tokens=True),
            })
        out[path.name] = {"class": type(tokenizer).__name__, "length": len(tokenizer), "named": tokenizer.special_tokens_map, "special": sorted(tokenizer.all_special_tokens), "rows": rows}
    save_json(folder / "families.json", out)
    for name, entry in out.items():
        print(name, entry["class"], entry["length"], entry["named"], sum(r["ids"] != r["library"] for r in entry["rows"]), "rows differ from the library")


if __name__ == "__main__":
    main()
