"""From the `data` section to loaders: read, tokenize, hold out a validation set, and batch."""

from __future__ import annotations

import os
from dataclasses import dataclass

from entrenar_core.config.root import Config
from entrenar_core.data.examples import Examples
from entrenar_core.data.load import load_examples
from entrenar_core.data.loader import Loader
from entrenar_core.data.split import split_validation
from entrenar_core.errors import ConfigError
from entrenar_core.events import Reporter
from entrenar_core.stages.base_model import BaseModel

DEFAULT_SEQ_LEN = 1024
"""The longest example, in positions, when neither `data.seq_len` nor a shorter context says otherwise."""

TOKENIZER_THREADS = "RAYON_NUM_THREADS"
"""The variable by which the tokenizer's Rust threads, which live in a pool of their own, keep to the budget."""


@dataclass(frozen=True)
class DataSets:
    """Tokenized examples and their loaders; `val` and `val_loader` are None without a validation set."""

    train: Examples
    val: Examples | None
    train_loader: Loader
    val_loader: Loader | None

    def digests(self) -> dict[str, str]:
        """A hash of each set, for the record of a run."""
        found = {"data.train": self.train.digest()}
        return found if self.val is None else {**found, "data.val": self.val.digest()}


def open_data(config: Config, base: BaseModel, reporter: Reporter) -> DataSets:
    """Load what `config.data` names, tokenized for `base`.

    Raises:
        DataError: files, columns or rows that cannot be used.
        ConfigError: `data.seq_len` is longer than the model's context.
    """
    data, seed = config.data, config.training.seed
    if config.training.threads is not None:
        os.environ.setdefault(TOKENIZER_THREADS, str(config.training.threads))
    seq_len = sequence_length(config, base)
    val: Examples | None = None
    train = load_examples(data.train[0].path, data, base.tokenizer, seq_len=seq_len, reporter=reporter)
    if data.val is not None:
        val = load_examples(data.val[0].path, data, base.tokenizer, seq_len=seq_len, reporter=reporter)
    elif data.val_fraction is not None:
        train, val = split_validation(train, data.val_fraction, seed)
    return DataSets(
        train, val, _loader(train, config, base, seq_len, data.shuffle), _val_loader(val, config, base, seq_len)
    )


def sequence_length(config: Config, base: BaseModel) -> int:
    """The longest example in positions."""
    context = base.spec.context_length
    wanted = config.data.seq_len
    if wanted is None:
        return min(context, DEFAULT_SEQ_LEN)
    if wanted > context:
        raise ConfigError(
            f"data.seq_len is {wanted}, but {base.name} was made for {context} tokens",
            hint=f"set data.seq_len to {context} or less",
        )
    return wanted


def _loader(examples: Examples, config: Config, base: BaseModel, seq_len: int, shuffle: bool) -> Loader:
    return Loader(
        examples,
        batch_size=config.data.batch_size,
        seq_len=seq_len,
        packing=config.data.packing,
        shuffle=shuffle,
        seed=config.training.seed,
        pad_id=base.tokenizer.pad_id or 0,
        group_by_length=True,
    )


def _val_loader(examples: Examples | None, config: Config, base: BaseModel, seq_len: int) -> Loader | None:
    return None if examples is None else _loader(examples, config, base, seq_len, shuffle=False)
