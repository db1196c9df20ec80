"""The `data` section: what is trained on, which columns, and how examples become batches."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from entrenar_core.config.base import AnyCase, Conflict, Section, not_allowed

SEPARATOR = "\n"


def _one_file(value: Any) -> Any:
    if isinstance(value, list) or (isinstance(value, str) and any(mark in value for mark in "*?[")):
        raise not_allowed("the path of one file; lists and patterns of files are not available yet in this release")
    return value


FilePath = Annotated[str, BeforeValidator(_one_file)]


class Data(Section):
    """The data set and its way into batches."""

    train: FilePath = Field(min_length=1, description="path of the parquet file to train on")
    val: Annotated[str | None, BeforeValidator(_one_file)] = Field(
        default=None, min_length=1, description="path of the parquet file to validate on"
    )
    val_fraction: float | None = Field(
        default=None, gt=0, lt=1, description="share of the training examples held out to validate on"
    )
    text: str | None = Field(default=None, min_length=1, description="column of plain text; default: inferred")
    prompt: str | None = Field(default=None, min_length=1, description="column that is read but not trained on")
    completion: str | None = Field(default=None, min_length=1, description="column that the model learns to write")
    separator: str = Field(default=SEPARATOR, description="text between prompt and completion, not trained on")
    seq_len: int | None = Field(
        default=None, ge=2, description="longest example in tokens; default: the model's context, at most 1024"
    )
    batch_size: int = Field(default=8, ge=1, description="examples in one forward pass")
    packing: bool = Field(default=False, description="put several short examples in one row, isolated from each other")
    overlong: Annotated[Literal["truncate", "split", "drop"] | None, AnyCase] = Field(
        default=None,
        description="what happens to examples over seq_len; default: split text, truncate prompt and completion",
    )
    train_on_prompt: bool = Field(default=False, description="train on the prompt too")
    add_bos: bool | None = Field(
        default=None, description="begin every example with the BOS token; default: what the tokenizer says"
    )
    add_eos: bool = Field(default=True, description="end every example with the EOS token, which is trained")
    shuffle: bool = Field(default=True, description="visit the examples in a new, seeded order every epoch")
    auto_infer_types: bool = Field(default=True, description="find the columns from their names and contents")

    @classmethod
    def conflicts(cls, given: Mapping[str, Any]) -> Iterator[Conflict]:
        if "val" in given and "val_fraction" in given:
            yield Conflict("val_fraction", "cannot go together with data.val", "keep one of them")
        for one, other in (("prompt", "completion"), ("completion", "prompt")):
            if one in given and other not in given:
                yield Conflict(one, f"needs data.{other} too", f"name both columns, or use data.text instead of {one}")
        if "text" in given:
            yield from cls._beside_text(given)
        elif given.get("auto_infer_types") is False and "prompt" not in given and "completion" not in given:
            yield Conflict(
                "auto_infer_types", "is off, and no columns are named", "set data.text, or prompt and completion"
            )

    @staticmethod
    def _beside_text(given: Mapping[str, Any]) -> Iterator[Conflict]:
        for key in ("prompt", "completion"):
            if key in given:
                yield Conflict(key, "cannot go together with data.text", "keep text, or prompt and completion")
        if given.get("train_on_prompt") is True:
            yield Conflict("train_on_prompt", "needs data.prompt; plain text is trained as a whole", "remove it")
        if given.get("separator", SEPARATOR) != SEPARATOR:
            yield Conflict("separator", "goes between prompt and completion; data.text has neither", "remove it")
