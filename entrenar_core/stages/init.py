"""`entrenar init`: a commented YAML for a model and a data set, with everything decided that the two files tell.

Task and columns come from the data, the length of the examples from a sample of them, and whether a chat template is at
hand from the model. The draft is a configuration like any other and is checked as one before it is handed out.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from entrenar_core.config.load import config_from_text
from entrenar_core.config.root import Config
from entrenar_core.data.opening import HEAD_TASKS, OpenedSource
from entrenar_core.data.row_encoders import EncodedRow
from entrenar_core.events import SilentReporter
from entrenar_core.stages.base_model import BaseModel, open_base
from entrenar_core.stages.dataset import OpenedData, open_data

SAMPLED_ROWS = 500
"""Rows whose length decides seq_len."""

LENGTH_SHARE = 0.95
"""Share of the sampled rows that fit seq_len."""

SHORTEST, STEP = 64, 64
"""Smallest seq_len that is proposed, and what it is a multiple of."""

TOKENS_PER_BATCH = 2048
"""Aim for the tokens of one batch: enough work for the matrix products, little enough memory for a laptop."""

MOST_ROWS = 16
"""Largest batch_size that is proposed."""

ENOUGH_ROWS, VAL_FRACTION = 100, 0.02
"""Data with at least this many rows have this share set aside for validation."""

STREAMED_STEPS = 1000
"""Steps that are proposed for data that are streamed, whose epochs have no known length."""

PACKED_SHARE = 0.6
"""Examples that fill less than this share of a row on average are packed."""


@dataclass(frozen=True)
class InitRequest:
    """What a person said; all else is found out. `columns` by role, and `task`, where the data leave them open."""

    model: str
    data: str
    task: str | None = None
    columns: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Draft:
    """The text of a configuration that is valid, and what it says."""

    text: str
    config: Config


@dataclass(frozen=True)
class _Facts:
    """What the files told."""

    base: BaseModel
    opened: OpenedData
    seq_len: int
    mean_length: float

    @property
    def source(self) -> OpenedSource:
        return self.opened.train[0]

    @property
    def is_head(self) -> bool:
        return self.source.task in HEAD_TASKS


def draft_config(request: InitRequest, name: str) -> Draft:
    """The YAML for a model and its data.

    Args:
        request: see there.
        name: of the file that will be written: for the commands in its comments and for its output folder.

    Raises:
        DataError: the data cannot be read, or their columns do not tell what to do with them.
        FormatError, ModelError, TokenizerError, ConfigError: the model cannot be used, or not for these data.
    """
    smallest = json.dumps({"model": {"path": request.model}, "data": _data_keys(request)}, ensure_ascii=False)
    config = config_from_text(smallest, name, ["training.max_steps=1"])
    base = open_base(config, SilentReporter())
    try:
        opened = open_data(config, base, SilentReporter())
        lengths = _sampled_lengths(opened)
        facts = _Facts(base, opened, _sequence_length(lengths, base), float(lengths.mean()))
        text = "\n".join(_lines(request, facts, name)) + "\n"
    finally:
        base.close()
    return Draft(text, config_from_text(text, name))


def _data_keys(request: InitRequest) -> dict[str, Any]:
    keys: dict[str, Any] = {"train": request.data}
    if request.task is not None:
        keys["task"] = request.task
    if request.columns:
        keys["columns"] = dict(request.columns)
    return keys


def _sampled_lengths(opened: OpenedData) -> np.ndarray:
    """Positions that the first rows fill, int64; rows that are refused do not count."""
    one = opened.train[0]
    encoder = opened.encoding.encoder(one.task, one.source.name)
    lengths: list[int] = []
    for rows, locate in one.read():
        encoded = encoder.encode(rows, locate)
        lengths += [len(row.tokens) - 1 for row in encoded if isinstance(row, EncodedRow)]
        if len(lengths) >= SAMPLED_ROWS:
            break
    return np.array(lengths or [SHORTEST], dtype=np.int64)


def _sequence_length(lengths: np.ndarray, base: BaseModel) -> int:
    """The length that most examples fit, as a multiple of `STEP`, within the model's context."""
    wanted = int(np.quantile(lengths, LENGTH_SHARE))
    return min(base.spec.context_length, max(SHORTEST, -(-wanted // STEP) * STEP))


def _lines(request: InitRequest, facts: _Facts, name: str) -> Iterator[str]:
    spec = facts.base.spec
    yield "# Written by `entrenar init`. All keys with their defaults: docs/config.md, or `entrenar schema`."
    yield f"#   entrenar validate {name}"
    yield f"#   entrenar train {name} --dry-run   what the run would take, and what is trained on"
    yield f"#   entrenar train {name}"
    yield "version: 1"
    yield ""
    yield "model:"
    shape = f"{spec.architecture}, {spec.num_layers} layers of {spec.hidden_size}, context {spec.context_length}"
    yield f"  path: {_scalar(request.model)} # {shape}"
    yield ""
    yield from _data_lines(request, facts)
    yield ""
    yield "optimizer:"
    yield "  name: adamw"
    yield "  lr: 2e-4 # the peak; a small model takes more"
    yield "  schedule: cosine"
    yield "  warmup: 0.03 # share of all steps"
    yield ""
    yield "lora: # remove this section to train every weight: it takes about four times the memory of the model"
    yield "  rank: 16"
    yield "  alpha: 32"
    yield "  target_modules: all"
    yield ""
    yield "# quantize: {bits: 4} # holds the frozen base in 4 bits: less memory"
    yield ""
    yield from _training_lines(facts, name)


def _data_lines(request: InitRequest, facts: _Facts) -> Iterator[str]:
    one = facts.source
    yield "data:"
    yield f"  train: {_scalar(request.data)} # {one.source.n_rows:,} rows"
    yield f"  task: {one.task}"
    columns = ", ".join(f"{role}: {_scalar(column)}" for role, column in one.columns.columns.items())
    unused = f" # not used: {', '.join(one.unused[:8])}" if one.unused else ""
    yield f"  columns: {{{columns}}}{_comment(unused)}"
    if facts.opened.streaming:
        yield "  streaming: true # too large to be tokenized first"
    elif one.source.n_rows >= ENOUGH_ROWS:
        yield f"  val_fraction: {VAL_FRACTION} # set aside for validation; or val: another file"
    if facts.opened.encoding.template is not None:
        yield "  # chat_template: the model's own; name another one here"
    fits = (
        f"{LENGTH_SHARE:.0%} of the examples fit" if facts.seq_len < facts.base.spec.context_length else "the context"
    )
    yield f"  seq_len: {facts.seq_len} # {fits}"
    yield f"  batch_size: {max(1, min(MOST_ROWS, TOKENS_PER_BATCH // facts.seq_len))}"
    if facts.mean_length < PACKED_SHARE * facts.seq_len and not facts.is_head:
        yield "  packing: true # several short examples in one row, isolated from each other"


def _training_lines(facts: _Facts, name: str) -> Iterator[str]:
    yield "training:"
    yield f"  max_steps: {STREAMED_STEPS}" if facts.opened.streaming else "  epochs: 1"
    yield "  # save_every: 100 # checkpoints for `--resume`; without it there is one at the end, or after Ctrl-C"
    stem = name.rsplit("/", 1)[-1].removesuffix(".yaml").removesuffix(".yml")
    yield f"  output_dir: {_scalar(f'runs/{stem}')}"


def _scalar(text: str) -> str:
    """A text as a YAML scalar: plain where that is safe, else in double quotes, which JSON writes."""
    plain = text.replace("/", "").replace(".", "").replace("_", "").replace("-", "")
    is_word = plain.isascii() and plain.isalnum() and not plain[0].isdigit() and text[0] not in "-."
    return text if is_word and plain.lower() not in ("true", "false", "null") else json.dumps(text, ensure_ascii=True)


def _comment(text: str) -> str:
    """A comment without anything that would end its line."""
    return "".join(character if character.isprintable() else "?" for character in text)
