"""
test/golden/arguments/trl-keys.json: every field of the dataclasses behind `trl sft --config` with its default, as JSON.

{class: {field: {default, choices, type}}} for TrainingArguments, SFTConfig, ModelConfig, ScriptArguments and
DatasetMixtureConfig of the versions in requirements.txt, and the names of optimizers and schedules. The test checks that
src/train/arguments knows every one of them, with the same default and choices.
"""

import dataclasses
import enum

from common import output_folder, save_json
from transformers import TrainingArguments
from transformers.trainer_utils import SchedulerType
from transformers.training_args import OptimizerNames
from trl import DatasetMixtureConfig, ModelConfig, ScriptArguments, SFTConfig


def default_of(field):
    if field.default is not dataclasses.MISSING:
        value = field.default
    elif field.default_factory is not dataclasses.MISSING:
        value = field.default_factory()
    else:
        raise ValueError(f"{field.name} has no default")
    return value.value if isinstance(value, enum.Enum) else value


def main() -> None:
    out = {}
    for cls in (TrainingArguments, SFTConfig, ModelConfig, ScriptArguments, DatasetMixtureConfig):
        out[cls.__name__] = {
            f.name: dict(
                default=default_of(f),
                choices=[str(getattr(c, "value", c)) for c in f.metadata["choices"]] if f.metadata.get("choices") else None,
                type=str(getattr(f.type, "__name__", f.type)),
            )
            for f in dataclasses.fields(cls)
            if f.init
        }
    out["optimizers"] = [o.value for o in OptimizerNames]
    out["schedules"] = [s.value for s in SchedulerType]
    save_json(output_folder("arguments") / "trl-keys.json", out)


if __name__ == "__main__":
    main()
