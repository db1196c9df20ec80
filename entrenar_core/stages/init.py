"""`entrenar init`: a commented YAML for a model and a data set, with everything decided that the two files tell.

Task and columns come from the data, the length of the examples from a sample of them, and whether a chat template is at
hand from the model. The draft is a configuration like any other and is checked as one before it is handed out.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np

from entrenar_core.config.load import config_from_text
from entrenar_core.config.root import Config
from entrenar_core.data.opening import HEAD_TASKS, OpenedSource
from entrenar_core.data.row_encoders import EncodedRow
from entrenar_core.errors import TokenizerError
from entrenar_core.events import SilentReporter
from entrenar_core.gguf.reader import GGUFFile
from entrenar_core.model.load import read_spec
from entrenar_core.stages.base_model import BaseModel, open_base
from entrenar_core.stages.dataset import OpenedData, open_data
from entrenar_core.tokenizer.builtin_templates import BUILTIN_TEMPLATES, TURN_ENDINGS
from entrenar_core.tokenizer.chat_template import template_for_vocabulary, template_names

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

TEMPLATE = "chatml"
"""The built-in chat template that is proposed where the model has none and none ends with a stop token of it."""

PACKED_SHARE = 0.6
"""Examples that fill less than this share of a row on average are packed."""


@dataclass(frozen=True)
class InitRequest:
    """What a person said; all else is found out. `columns` by role, and `task`, where the data leave them open.
    `teacher`: a larger model to learn from."""

    model: str
    data: str
    task: str | None = None
    columns: Mapping[str, str] = field(default_factory=dict)
    teacher: str | None = None


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
    template: str | None
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
    config = _smallest(request)
    base = open_base(config, SilentReporter())
    try:
        opened, template = _open(request, config, base)
        lengths = _sampled_lengths(opened)
        facts = _Facts(base, opened, template, _sequence_length(lengths, base), float(lengths.mean()))
        text = "\n".join(_lines(request, facts, name)) + "\n"
    finally:
        base.close()
    return Draft(text, config_from_text(text, name))


def _smallest(request: InitRequest, **data: str) -> Config:
    """The configuration with what was said, and `data` as further keys of that section."""
    lines = ["model:", f"  path: {_scalar(request.model)}", "data:"]
    lines += [f"  {key}: {value}" for key, value in (_data_keys(request) | data).items()]
    return config_from_text("\n".join(lines), "entrenar init", ["training.max_steps=1"])


def _open(request: InitRequest, config: Config, base: BaseModel) -> tuple[OpenedData, str | None]:
    """The data, and the name of the template that a chat gets from a model that brings none."""
    try:
        return open_data(config, base, SilentReporter()), None
    except TokenizerError:
        if template_names(base.plain_metadata()):
            raise
    template, _ = template_for_vocabulary(base.tokenizer) or (TEMPLATE, "")
    return open_data(_smallest(request, chat_template=template), base, SilentReporter()), template


def _data_keys(request: InitRequest) -> dict[str, str]:
    """Keys of the data section, and their values as YAML."""
    keys = {"train": _scalar(request.data)}
    if request.task is not None:
        keys["task"] = _scalar(request.task)
    if request.columns:
        keys["columns"] = _columns(request.columns)
    return keys


def _columns(columns: Mapping[str, str]) -> str:
    return f"{{{', '.join(f'{_scalar(role)}: {_scalar(column)}' for role, column in columns.items())}}}"


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
    typed = _comment(shlex.quote(name))
    yield f"#   entrenar validate {typed}"
    command = "train" if request.teacher is None else "distill"
    yield f"#   entrenar {command} {typed} --dry-run   what the run would take, and what is trained on"
    yield f"#   entrenar {command} {typed}"
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
    if request.teacher is not None:
        yield from _teacher_lines(request.teacher)
        yield ""
    yield from _training_lines(facts, name)


def _data_lines(request: InitRequest, facts: _Facts) -> Iterator[str]:
    one = facts.source
    yield "data:"
    yield f"  train: {_scalar(request.data)} # {one.source.n_rows:,} rows"
    yield f"  task: {one.task}"
    unused = f" # not used: {', '.join(one.unused[:8])}" if one.unused else ""
    yield f"  columns: {_columns(one.columns.columns)}{_comment(unused)}"
    if facts.opened.streaming:
        yield "  streaming: true # too large to be tokenized first"
    elif one.source.n_rows >= ENOUGH_ROWS:
        yield f"  val_fraction: {VAL_FRACTION} # set aside for validation; or val: another file"
    if facts.template is not None:
        yield f"  chat_template: {facts.template} # {_comment(_why(facts))}; others: {', '.join(BUILTIN_TEMPLATES)}"
    elif facts.opened.encoding.template is not None:
        yield "  # chat_template: the model's own; name another one here"
    fits = (
        f"{LENGTH_SHARE:.0%} of the examples fit" if facts.seq_len < facts.base.spec.context_length else "the context"
    )
    yield f"  seq_len: {facts.seq_len} # {fits}"
    yield f"  batch_size: {max(1, min(MOST_ROWS, TOKENS_PER_BATCH // facts.seq_len))}"
    if facts.mean_length < PACKED_SHARE * facts.seq_len and not facts.is_head:
        yield "  packing: true # several short examples in one row, isolated from each other"


def _teacher_lines(teacher: str) -> Iterator[str]:
    """What is learned from a larger model."""
    with GGUFFile.open(teacher) as file:
        spec = read_spec(file)
    yield "distill: # learn the predictions of a larger model too; docs/distill.md"
    yield f"  teacher: {_scalar(teacher)} # {spec.architecture}, {spec.num_layers} layers of {spec.hidden_size}"
    yield "  loss: forward_kl # or reverse_kl, symmetric_kl, jensen_shannon, logit_mse"
    yield "  temperature: 2.0 # above 1: what is unlikely counts more"
    yield "  alpha: 0.5 # share of the teacher's loss; the rest is that of the data"
    yield "  # student: {layers: 6} # instead of model: a new model, made of the teacher's blocks (without lora)"


def _why(facts: _Facts) -> str:
    """Why a chat gets the template that it gets."""
    fitting = template_for_vocabulary(facts.base.tokenizer)
    if fitting is not None:
        return f"the model has none; its turns end with {fitting[1]}, a stop token of the vocabulary"
    text = f"its turns end with {TURN_ENDINGS[TEMPLATE]}, which is text here"
    return f"the model has none; {text}: no template ends with a stop token"


def _training_lines(facts: _Facts, name: str) -> Iterator[str]:
    yield "training:"
    yield f"  max_steps: {STREAMED_STEPS}" if facts.opened.streaming else "  epochs: 1"
    yield "  # save_every: 100 # checkpoints for `--resume`; without it there is one at the end, or after Ctrl-C"
    stem = name.rsplit("/", 1)[-1].removesuffix(".yaml").removesuffix(".yml")
    yield f"  output_dir: {_scalar(f'runs/{stem}')}"


def _scalar(text: str) -> str:
    """A text as a YAML scalar: plain where that is safe, else in double quotes."""
    plain = text.replace("/", "").replace(".", "").replace("_", "").replace("-", "")
    is_word = plain.isascii() and plain.isalnum() and not plain[0].isdigit() and text[0] not in "-."
    return text if is_word and plain.lower() not in ("true", "false", "null") else _quoted(text)


def _quoted(text: str) -> str:
    """In double quotes, with YAML's escapes; `${` stands for itself and is no variable."""
    return f'"{"".join(map(_escaped, text.replace("${", "$${")))}"'


def _escaped(character: str) -> str:
    if character in '"\\':
        return f"\\{character}"
    code = ord(character)
    return character if character.isprintable() else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def _comment(text: str) -> str:
    """A comment without anything that would end its line."""
    return "".join(character if character.isprintable() else "?" for character in text)
