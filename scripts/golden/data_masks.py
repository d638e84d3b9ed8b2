"""
test/golden/data-masks: token ids and labels that TRL makes of dataset rows. Run tokenizer_goldens.py first (its tiny-bpe folder).

  sft.json              SFTTrainer's own preparation of each case: rows, options, expected [{input_ids, labels}]; labels unshifted
  completion-only.json  trl 0.19.1's DataCollatorForCompletionOnlyLM (removed in 0.20): text, templates, expected labels.
                        Written when LATHE_TRL_019 names an unpacked trl 0.19.1 wheel
  packing.json          pack_dataset's row count for lists of lengths (at most 1,000: TRL packs batches of 1,000)
"""

import json
import os
import subprocess
import sys
import tempfile

from common import ROOT, generator, output_folder, save_json

TOKENIZER = ROOT / "test" / "golden" / "tokenizers" / "tiny-bpe"
GENERATION = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' }}{% if message['role'] == 'assistant' %}"
    "{% generation %}{{ message['content'] + '<|im_end|>' }}{% endgeneration %}{% else %}{{ message['content'] + '<|im_end|>' }}{% endif %}"
    "{{ '\\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)


def user(text):
    return {"role": "user", "content": text}


def assistant(text):
    return {"role": "assistant", "content": text}


TEXTS = [{"text": "the old cat watches 12 grey stones."}, {"text": "she repairs the harbour, slowly<|im_end|>"}, {"text": "naïve 日本語 😀"}]
PAIRS = [
    {"prompt": "the night train", "completion": " carries 3.14 metres of rope."},
    {"prompt": "he writes about", "completion": " a naïve idea<|im_end|>"},
    {"prompt": "an unread letter won't ", "completion": "forget the harbour"},
    {"prompt": "the ca", "completion": "t paints it  twice"},
]
CHATS = [
    {"messages": [user("who repairs the harbour?"), assistant("she does."), user("slowly?"), assistant("doesn't like it")]},
    {"messages": [{"role": "system", "content": "you are the old cat"}, user("hi 😀"), assistant("the café at 9:30")]},
]
CHAT_PAIRS = [
    {"prompt": [user("who paints?")], "completion": [assistant("the old cat paints snow\tand rain")]},
    {"prompt": [user("a"), assistant("b"), user("c")], "completion": [assistant("every third student")]},
]
SHAREGPT = [{"conversations": [{"from": "user", "value": "who carries?"}, {"from": "assistant", "value": "a small engine"}]}]

# name, rows, our options, TRL's options, chat template
CASES = [
    ("text", TEXTS, {}, {}, None),
    ("prompt completion", PAIRS, {}, {}, None),
    ("prompt completion, whole loss", PAIRS, {"completionOnlyLoss": False}, {"completion_only_loss": False}, None),
    ("chat", CHATS, {}, {}, None),
    ("chat, assistant only", CHATS, {"assistantOnlyLoss": True}, {"assistant_only_loss": True}, GENERATION),
    ("chat prompt completion", CHAT_PAIRS, {}, {}, None),
    ("chat prompt completion, assistant only", CHAT_PAIRS, {"assistantOnlyLoss": True}, {"assistant_only_loss": True}, GENERATION),
    ("sharegpt", SHAREGPT, {}, {}, None),
    ("text cut", TEXTS, {"maxLength": 6}, {"max_length": 6}, None),
    ("text cut at the start", TEXTS, {"maxLength": 6, "truncation": "keep_end"}, {"max_length": 6, "truncation_mode": "keep_end"}, None),
    ("pairs cut, rows without labels dropped", PAIRS, {"maxLength": 6}, {"max_length": 6}, None),
]


def prepare(rows, options, template):
    from datasets import Dataset
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM
    from trl import SFTConfig, SFTTrainer

    tokenizer = AutoTokenizer.from_pretrained(TOKENIZER)
    if template:
        tokenizer.chat_template = template
    config = LlamaConfig(vocab_size=len(tokenizer), hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1)
    with tempfile.TemporaryDirectory() as folder:
        arguments = SFTConfig(folder, report_to="none", use_cpu=True, bf16=False, shuffle_dataset=False, **options)
        trainer = SFTTrainer(LlamaForCausalLM(config), args=arguments, train_dataset=Dataset.from_list(rows), processing_class=tokenizer)
        return [{"input_ids": list(r["input_ids"]), "labels": list(r["labels"])} for r in trainer.train_dataset]


TEMPLATE_CASES = [
    # text, response template, instruction template
    ("### Q: who?\n### A: the old cat", "### A:", None),
    ("### Q: who?\n### A: he\n### Q: and?\n### A: she", "### A:", None),
    ("### Q: who?\n### A: he\n### Q: and?\n### A: she", "### A:", "### Q:"),
    ("### A: hello\n### Q: who?\n### A: he", "### A:", "### Q:"),
    ("### Q: who?\n### A: he\n### Q: and?", "### A:", "### Q:"),
    ("no template here", "### A:", None),
    ("### A: no question", "### A:", "### Q:"),
]

# Runs in a process of its own, where `trl` is version 0.19.1.
COLLATOR = """
import json, sys
from transformers import AutoTokenizer
from trl.trainer.utils import DataCollatorForCompletionOnlyLM
tokenizer = AutoTokenizer.from_pretrained(sys.argv[1])
tokenizer.pad_token = "<|endoftext|>"
answer = []
for text, response, instruction in json.load(sys.stdin):
    collator = DataCollatorForCompletionOnlyLM(response, instruction, tokenizer=tokenizer)
    ids = tokenizer(text)["input_ids"]
    labels = collator([{"input_ids": ids}])["labels"][0].tolist()
    answer.append({"text": text, "response": response, "instruction": instruction, "input_ids": ids, "labels": labels})
print("ANSWER" + json.dumps(answer))
"""


def completion_only(folder_019):
    environment = {**os.environ, "PYTHONPATH": folder_019}
    run = subprocess.run([sys.executable, "-c", COLLATOR, str(TOKENIZER)], input=json.dumps(TEMPLATE_CASES), text=True, capture_output=True, env=environment, check=True)
    return json.loads(run.stdout.split("ANSWER", 1)[1])


def packing_cases():
    import torch
    from datasets import Dataset
    from trl import pack_dataset

    cases = []
    for seed, (count, longest, width) in enumerate([(50, 64, 64), (1000, 300, 512), (1000, 1024, 1024), (700, 90, 128)]):
        skewed = torch.rand(count, generator=generator(seed)) ** 2
        lengths = (1 + skewed * (longest - 1)).long().tolist()
        packed = pack_dataset(Dataset.from_dict({"input_ids": [[1] * n for n in lengths]}), width, "bfd")
        cases.append({"lengths": lengths, "maxLength": width, "rows": len(packed)})
    return cases


if __name__ == "__main__":
    folder = output_folder("data-masks")
    sft = []
    for name, rows, options, trl_options, template in CASES:
        sft.append({"name": name, "rows": rows, "options": options, "chatTemplate": template, "expected": prepare(rows, trl_options, template)})
    save_json(folder / "sft.json", sft)
    save_json(folder / "packing.json", packing_cases())
    if "LATHE_TRL_019" in os.environ:
        save_json(folder / "completion-only.json", completion_only(os.environ["LATHE_TRL_019"]))
