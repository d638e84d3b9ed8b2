"""
Goldens of the tokenizer tests: test/golden/tokenizers.

    python scripts/golden/tokenizer_goldens.py

writes, from nothing but this file:
  tiny-bpe/        a byte-level BPE folder as transformers 4 saved it (added_tokens_decoder, template in the config)
  tiny-wordpiece/  a WordPiece folder as transformers 5 saves it
  tiny.json        ids, offsets and texts of both, from transformers
  chat.json        chat templates, conversations and what transformers renders; masks where a template has {% generation %}
  sentencepiece.json   a small SentencePiece BPE model as GGUF metadata, with the ids that the sentencepiece library gives
  train.json       a corpus and the vocabulary and merges that tokenizers' BpeTrainer learns from it

With LATHE_TOKENIZERS=<folder> set, also real-ids.json and real-chat.json: ids and texts (never vocabularies) of the real
tokenizers in its sub-folders gpt2, llama3, qwen3 and smollm2, each with tokenizer.json and tokenizer_config.json.
"""

import datetime
import json
import os
import shutil
from pathlib import Path

from common import ROOT, save_json
import sentencepiece
import transformers.utils.chat_template_utils as chat_template_utils
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

FOLDER = ROOT / "test" / "golden" / "tokenizers"

SUBJECTS = "the old cat|a small engine|my neighbour's dog|every third student|the night train|an unread letter|she|he".split("|")
VERBS = "watches|doesn't like|repairs|writes about|has counted|won't forget|paints|carries".split("|")
OBJECTS = "12 grey stones|the harbour, slowly|3.14 metres of rope|a naïve idea|über 400 Wörter|the café at 9:30|snow\tand rain|it  twice".split("|")
CORPUS = [f"{s} {v} {o}.\n" for s in SUBJECTS for v in VERBS for o in OBJECTS]
CORPUS += [f"def f{i}(x):\n    return x + {i * 37}\n\n" for i in range(40)] + ["日本語のテキスト。 emoji 😀😀 ok\r\n", "Привет, мир! " * 3] * 4

TEXTS = [
    "",
    " ",
    "Hello world",
    "  two  spaces\t\ttabs\n\nlines\r\n \n",
    "I'm sure they'll've said 'tis WE'RE DON'T",
    "x1=12345+67890; // naïve café über",
    "日本語 and 中文, עברית العربية हिन्दी ไทย",
    "emoji 😀👩‍👩‍👧 flags 🇩🇪 e\u0301 \u00a0nbsp\u2003em\u200bzw",
    "the old cat watches 12 grey stones.",
    "def f7(x):\n    return x + 259\n",
    "\u0000\u0001control\u007f \ufeffbom \u0085nel",
    "½ ² Ⅷ ٣٤ ௧ 一二 1,000.5",
    "a" * 40 + "!" * 20 + " " * 20 + "\n" * 5,
]


def byte_level_tokenizer(model):
    tokenizer = Tokenizer(model)
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    return tokenizer


CHATML = (
    "{% for message in messages %}{{'<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n'}}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)


def tiny_folders():
    bpe = byte_level_tokenizer(models.BPE())
    bpe.train_from_iterator(CORPUS, trainers.BpeTrainer(vocab_size=420, special_tokens=["<|endoftext|>"], initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()), show_progress=False))
    bpe.add_special_tokens([AddedToken("<|im_start|>", special=True), AddedToken("<|im_end|>", special=True)])
    bpe.add_tokens([AddedToken("<think>", normalized=False)])
    folder = FOLDER / "tiny-bpe"
    folder.mkdir(parents=True)
    bpe.save(str(folder / "tokenizer.json"))
    added = json.loads((folder / "tokenizer.json").read_text())["added_tokens"]
    save_json(
        folder / "tokenizer_config.json",
        {
            "added_tokens_decoder": {str(t["id"]): {k: v for k, v in t.items() if k != "id"} for t in added},
            "additional_special_tokens": ["<|im_start|>", "<|im_end|>"],
            "bos_token": "<|endoftext|>",
            "eos_token": "<|im_end|>",
            "unk_token": "<|endoftext|>",
            "add_bos_token": False,
            "clean_up_tokenization_spaces": True,
            "chat_template": CHATML,
            "model_max_length": 512,
            "tokenizer_class": "PreTrainedTokenizerFast",
        },
    )
    save_json(folder / "special_tokens_map.json", {"bos_token": "<|endoftext|>", "eos_token": "<|im_end|>", "unk_token": "<|endoftext|>", "additional_special_tokens": ["<|im_start|>", "<|im_end|>"]})

    # WordPieceTrainer's ids differ from run to run, so this vocabulary is put together by hand.
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    letters = sorted(set("".join(CORPUS).lower()) - set(" \t\r\n"))
    words = "the old cat small engine stones grey watch ##es paint ##s night train isn said about every third student letter harbour ##ly slow rope ##ter ##ing cafe naive def return 12 ##14".split()
    vocab = {token: i for i, token in enumerate(special + letters + ["##" + c for c in letters] + words)}
    wp = Tokenizer(models.WordPiece(vocab, unk_token="[UNK]", max_input_chars_per_word=100))
    wp.normalizer = normalizers.BertNormalizer(lowercase=True)
    wp.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    wp.decoder = decoders.WordPiece(prefix="##")
    wp.post_processor = processors.TemplateProcessing(single="[CLS]:0 $A:0 [SEP]:0", pair="[CLS]:0 $A:0 [SEP]:0 $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)])
    fast = PreTrainedTokenizerFast(tokenizer_object=wp, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]", mask_token="[MASK]", clean_up_tokenization_spaces=True)
    fast.save_pretrained(str(FOLDER / "tiny-wordpiece"))


def tiny_goldens():
    out = {}
    for name in ("tiny-bpe", "tiny-wordpiece"):
        tokenizer = AutoTokenizer.from_pretrained(str(FOLDER / name))
        rows = []
        for text in TEXTS + ["<|im_start|>user\nhi <think>x</think><|im_end|>", "the [MASK] isn't , said he ."]:
            coded = tokenizer(text, return_offsets_mapping=True)
            ids = coded["input_ids"]
            rows.append(
                {
                    "text": text,
                    "ids": ids,
                    "offsets": coded["offset_mapping"],
                    "bare": tokenizer.encode(text, add_special_tokens=False),
                    "decoded": tokenizer.decode(ids),
                    "skipped": tokenizer.decode(ids, skip_special_tokens=True),
                }
            )
        out[name] = {"length": len(tokenizer), "named": tokenizer.special_tokens_map, "rows": rows}
    save_json(FOLDER / "tiny.json", out)


CONVERSATIONS = {
    "plain": [{"role": "user", "content": "Hi, who are you?"}, {"role": "assistant", "content": "  A model.\n"}, {"role": "user", "content": "2+2?"}, {"role": "assistant", "content": "4"}],
    "system": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Näme a colour 😀"}, {"role": "assistant", "content": "Blue."}],
    "open": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": " padded \n"}],
    "think": [{"role": "user", "content": "Why?"}, {"role": "assistant", "content": "<think>\nhm  \n\n</think>\n\n because"}, {"role": "user", "content": "And?"}, {"role": "assistant", "content": "<think>\n\nmore \n</think>\n\nso", "name": None}],
    "reason": [{"role": "user", "content": "Why?"}, {"role": "assistant", "reasoning": "a\nb\n", "content": "c"}],
    "tool": [
        {"role": "user", "content": "Weather in Paris?"},
        {"role": "assistant", "content": "", "tool_calls": [{"type": "function", "function": {"name": "weather", "arguments": {"city": "Paris", "days": [1, 2], "ok": True, "x": None, "f": 1.5}}}]},
        {"role": "tool", "content": "{\"t\": 21}"},
        {"role": "tool", "content": "sunny"},
        {"role": "assistant", "content": "21 degrees & \"sunny\" <b>"},
    ],
}
TOOLS = [{"type": "function", "function": {"name": "weather", "description": "Says 'the' weather, <html> & ümlaut", "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}}}]

TEMPLATES = {
    "chatml": CHATML,
    "smollm2": "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}{{ '<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n' }}{% endif %}"
    "{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}",
    "headers": "{%- set day = strftime_now('%d %b %Y') -%}\n{{- bos_token }}\n{%- for message in messages %}\n    {%- set content = '<|start_header_id|>' + message.role + '<|end_header_id|>\\n\\n' + message.content | trim + '<|eot_id|>' %}\n"
    "    {%- if loop.index0 == 0 and message.role == 'system' %}\n        {%- set content = content + 'Today: ' ~ day %}\n    {%- endif %}\n    {{- content }}\n{%- endfor %}\n"
    "{%- if add_generation_prompt %}\n    {{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}\n{%- endif %}\n",
    "thinker": "{%- set ns = namespace(last=messages|length - 1, found=false) %}\n{%- for m in messages[::-1] %}\n    {%- if not ns.found and m.role == 'user' and not (m.content.startswith('<r>') and m.content.endswith('</r>')) %}\n"
    "        {%- set ns.found = true %}\n        {%- set ns.last = (messages|length - 1) - loop.index0 %}\n    {%- endif %}\n{%- endfor %}\n{%- if tools %}\n    {{- '<|im_start|>system\\n# Tools' }}\n"
    "    {%- for tool in tools %}\n        {{- '\\n' }}\n        {{- tool | tojson }}\n    {%- endfor %}\n    {{- '<|im_end|>\\n' }}\n{%- endif %}\n{%- for m in messages %}\n    {%- set content = m.content %}\n"
    "    {%- set thought = m.reasoning_content if m.reasoning_content is defined else '' %}\n    {%- if m.role == 'assistant' and '</think>' in content %}\n"
    "        {%- set thought = content.split('</think>')[0].rstrip('\\n').split('<think>')[-1].lstrip('\\n') %}\n        {%- set content = content.split('</think>')[-1].lstrip('\\n') %}\n    {%- endif %}\n"
    "    {{- '<|im_start|>' + m.role + '\\n' }}\n    {%- if m.role == 'assistant' and loop.index0 > ns.last %}\n        {{- '<think>\\n' + thought.strip('\\n') + '\\n</think>\\n\\n' }}\n    {%- endif %}\n    {{- content }}\n"
    "    {%- for call in m.tool_calls or [] %}\n        {{- '\\n<tool_call>' ~ call.function.name ~ (call.function.arguments | tojson) ~ '</tool_call>' }}\n    {%- endfor %}\n    {{- '<|im_end|>\\n' }}\n{%- endfor %}\n"
    "{%- if add_generation_prompt %}\n    {{- '<|im_start|>assistant\\n' }}\n    {%- if enable_thinking is defined and enable_thinking is false %}\n        {{- '<think>\\n\\n</think>\\n\\n' }}\n    {%- endif %}\n{%- endif %}",
    "marked": "{% for message in messages %}\n    {% if message.role == 'assistant' %}\n<|im_start|>assistant\n        {% generation %}\n{{ message.content }}<|im_end|>\n        {% endgeneration %}\n\n"
    "    {%- else %}\n{{ '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' }}\n    {%- endif %}\n{% endfor %}\n{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}",
    "marked-tight": "{%- for message in messages -%}\n  {{ '<|im_start|>' + message.role + '\\n' }}\n  {%- if message.role == 'assistant' -%}\n    {%- generation -%} {{ message.content + '<|im_end|>' }} {%- endgeneration -%}\n  {%- else -%}\n"
    "    {{ message.content + '<|im_end|>' }}\n  {%- endif -%}\n  {{ '\\n' }}\n{%- endfor -%}",
    # Where JavaScript and Python differ.
    "probe": "{{ none }}|{{ true }}|{{ messages[0].missing }}|{{ 0 == '' }}|{{ none == messages[0].missing }}|{{ 1 == 1.0 }}|{{ 'x ' + 'y' | upper }}|{{ ' \\n a b ' | trim }}|{{ 'xxabxx'.strip('x') }}|{{ ' a  b c '.split() }}|"
    "{{ 'a,b,c'.split(',', 1) | join('+') }}|{{ 'aBC dE'.capitalize() }}|{{ 'aBC dE'.title() }}|{{ [1, 2] == [1, 2] }}|{{ {'a': 1} == {'a': 1} }}|{% for i in range(3) %}{% if i == 1 %}{% set seen = 'yes' %}{% endif %}{{ seen }}{{ i }}{% endfor %}|"
    "{{ {'a': [1, 'é', none, true, 1.5, '\"'], 'b': {}} | tojson }}|{{ {'a': [1]} | tojson(indent=2) }}|{{ 7 // 2 }}|{{ 7 / 2 }}|{{ -7 % 3 if false else 'm' }}|{{ messages | length }}|{{ messages[-1].role }}|{{ 'ab' * 1 if false else 'r' }}|"
    "{{ 'a-b-c'.rsplit('-', 1) | join('+') }}|{{ messages | map(attribute='role') | join(',') }}|{{ messages | selectattr('role', 'equalto', 'user') | list | length }}|{{ (messages | first).role }}|{{ 'a\\tb' }}|{{ eos_token }}|{{ pad_token }}|{{ ['it\'s', \"b\\n\", 1.0, none, true, {'k': []}] }}|{{ 'n' ~ none ~ 1.0 ~ [true] }}|{{ \"they're o'neil x2y\".title() }}",
}


class FixedDate(datetime.datetime):
    @classmethod
    def now(cls, tz=None):
        return cls(2024, 7, 4, 15, 6, 7)


def chat_cases(tokenizer, template):
    cases = []
    for name, messages in CONVERSATIONS.items():
        for options in ({}, {"add_generation_prompt": True}, {"tools": TOOLS, "add_generation_prompt": True, "enable_thinking": False}):
            case = {"conversation": name, "options": options}
            try:
                case["text"] = tokenizer.apply_chat_template(messages, chat_template=template, tokenize=False, **options)
            except Exception as error:  # the probe of a template's own refusals
                case["error"] = type(error).__name__
            cases.append(case)
    return cases


def chat_goldens():
    chat_template_utils.datetime = FixedDate
    tokenizer = AutoTokenizer.from_pretrained(str(FOLDER / "tiny-bpe"))
    templates = {}
    for name, template in TEMPLATES.items():
        entry = {"template": template, "cases": chat_cases(tokenizer, template)}
        if "generation" in template.replace("add_generation_prompt", ""):
            entry["masks"] = {
                c: tokenizer.apply_chat_template(CONVERSATIONS[c], chat_template=template, tokenize=True, return_dict=True, return_assistant_tokens_mask=True)["assistant_masks"] for c in ("plain", "system", "think")
            }
        templates[name] = entry
    save_json(FOLDER / "chat.json", {"now": "2024-07-04T15:06:07", "conversations": CONVERSATIONS, "templates": templates})


def sentencepiece_goldens():
    work = FOLDER / "work"
    work.mkdir()
    (work / "corpus.txt").write_text("".join(CORPUS))
    sentencepiece.SentencePieceTrainer.train(
        input=str(work / "corpus.txt"), model_prefix=str(work / "sp"), vocab_size=560, model_type="bpe", byte_fallback=True, character_coverage=0.999,
        normalization_rule_name="identity", remove_extra_whitespaces=False, add_dummy_prefix=True, num_threads=1, minloglevel=2,
    )
    sp = sentencepiece.SentencePieceProcessor(model_file=str(work / "sp.model"))
    n = sp.get_piece_size()
    kind = lambda i: 2 if sp.is_unknown(i) else 3 if sp.is_control(i) else 6 if sp.is_byte(i) else 5 if sp.is_unused(i) else 1
    metadata = {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.tokens": [sp.id_to_piece(i) for i in range(n)],
        "tokenizer.ggml.scores": [sp.get_score(i) for i in range(n)],
        "tokenizer.ggml.token_type": [kind(i) for i in range(n)],
        "tokenizer.ggml.bos_token_id": sp.bos_id(),
        "tokenizer.ggml.eos_token_id": sp.eos_id(),
        "tokenizer.ggml.unknown_token_id": sp.unk_id(),
    }
    texts = [t for t in TEXTS if "\u0000" not in t] + CORPUS[::97]
    save_json(FOLDER / "sentencepiece.json", {"metadata": metadata, "rows": [{"text": t, "ids": sp.encode(t), "decoded": sp.decode(sp.encode(t))} for t in texts]})
    shutil.rmtree(work)


def train_goldens():
    cases = []
    for size, minimum, alphabet, special in ((400, 0, True, ["<|endoftext|>", "<pad>"]), (300, 2, False, []), (5000, 0, False, ["<|endoftext|>"]), (700, 3, True, [])):
        tokenizer = byte_level_tokenizer(models.BPE())
        tokenizer.train_from_iterator(CORPUS, trainers.BpeTrainer(vocab_size=size, min_frequency=minimum, special_tokens=special, initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()) if alphabet else [], show_progress=False))
        model = json.loads(tokenizer.to_str())["model"]
        cases.append({"vocabSize": size, "minFrequency": minimum, "initialAlphabet": alphabet, "specialTokens": special, "tokens": sorted(model["vocab"], key=model["vocab"].get), "merges": [" ".join(m) for m in model["merges"]]})
    save_json(FOLDER / "train.json", {"corpus": CORPUS, "cases": cases})


def real_goldens(base: Path):
    ids, chats = {}, {}
    for name in ("gpt2", "llama3", "qwen3", "smollm2"):
        tokenizer = Tokenizer.from_file(str(base / name / "tokenizer.json"))
        ids[name] = {"length": tokenizer.get_vocab_size(), "rows": [{"text": t, "ids": tokenizer.encode(t).ids} for t in TEXTS]}
        wrapped = AutoTokenizer.from_pretrained(str(base / name))
        if wrapped.chat_template:
            chats[name] = chat_cases(wrapped, None)
    save_json(FOLDER / "real-ids.json", ids)
    save_json(FOLDER / "real-chat.json", {"conversations": CONVERSATIONS, "tokenizers": chats})


if __name__ == "__main__":
    FOLDER.mkdir(parents=True, exist_ok=True)
    for name in ("tiny-bpe", "tiny-wordpiece", "work"):
        shutil.rmtree(FOLDER / name, ignore_errors=True)
    tiny_folders()
    tiny_goldens()
    chat_goldens()
    sentencepiece_goldens()
    train_goldens()
    if os.environ.get("LATHE_TOKENIZERS"):
        real_goldens(Path(os.environ["LATHE_TOKENIZERS"]))
