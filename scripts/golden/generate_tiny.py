"""
test/golden/generation: what transformers generates from the checkpoints of test/golden/llama-tiny (fp32, CPU).

generate.json: for each model folder
  prompts      three ragged prompts (token ids)
  greedy       12 new tokens of each, no end token; from a left-padded batch with an attention mask, checked here to
               be what each prompt gives alone
  margin       smallest difference of the two best logits met: far above rounding, so the tokens are a fair test
  penalty      the same with repetition_penalty 1.3, each prompt alone (in a batch transformers would penalise the
               padding token)
  eos          {eos_token_id: list, tokens}: ends with an end token in mid-stream, that token included
  suppressed   greedy with suppress_tokens = the first greedy token of each prompt and min_new_tokens
  adapter      greedy with the folder's adapter
logits.safetensors: <model>.<prompt> fp32 [12, V], the logits behind `greedy`
"""

import torch
from common import ROOT, generator, output_folder, save_json, save_tensors, versions
from peft import PeftModel
from transformers import AutoModelForCausalLM

NEW = 12
LENGTHS = (5, 11, 2)


def load(folder):
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()


def generate(model, rows, **settings):
    """New tokens of each row, from one left-padded batch, and the logits [rows, steps, V]."""
    width = max(map(len, rows))
    ids = torch.tensor([[0] * (width - len(row)) + row for row in rows])
    mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows])
    out = model.generate(
        input_ids=ids,
        attention_mask=mask,
        max_new_tokens=NEW,
        pad_token_id=0,
        return_dict_in_generate=True,
        output_logits=True,
        **{"do_sample": False, "eos_token_id": None, **settings},
    )
    return out.sequences[:, width:].tolist(), torch.stack(out.logits, 1)


def alone(model, rows, **settings):
    return [generate(model, [row], **settings)[0][0] for row in rows]


def main() -> None:
    folder = output_folder("generation")
    golden, tensors = {"versions": versions(), "models": {}}, {}
    for seed, name in enumerate(["tied", "biased", "llama3"]):
        source = ROOT / "test" / "golden" / "llama-tiny" / name
        model = load(source)
        g = generator(7000 + seed)
        prompts = [torch.randint(3, 160, (n,), generator=g).tolist() for n in LENGTHS]
        greedy, logits = generate(model, prompts)
        assert greedy == alone(model, prompts), "the padded batch differs from single prompts"
        best = logits.topk(2, dim=-1).values
        eos = [greedy[0][4], 2]
        ended = alone(model, prompts[:1], eos_token_id=eos)[0]
        first = sorted({row[0] for row in greedy})
        golden["models"][name] = {
            "prompts": prompts,
            "greedy": greedy,
            "margin": (best[..., 0] - best[..., 1]).min().item(),
            "penalty": alone(model, prompts, repetition_penalty=1.3),
            "eos": {"eos_token_id": eos, "tokens": ended},
            "suppressed": {
                "suppress_tokens": first,
                "eos_token_id": eos,
                "min_new_tokens": 8,
                "tokens": alone(model, prompts, suppress_tokens=first, eos_token_id=eos, min_new_tokens=8),
            },
            "adapter": alone(PeftModel.from_pretrained(load(source), source / "adapter").eval(), prompts),
        }
        for i in range(len(prompts)):
            tensors[f"{name}.{i}"] = logits[i]
        print(name, golden["models"][name]["margin"], greedy[0], ended)
    save_json(folder / "generate.json", golden)
    save_tensors(folder / "logits.safetensors", tensors)


if __name__ == "__main__":
    main()
