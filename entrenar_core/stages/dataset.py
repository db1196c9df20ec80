"""From the `data` section to loaders: open, choose the task, tokenize or stream, hold out a validation set, batch."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from entrenar_core.config.root import Config
from entrenar_core.data.cache import TokenCache, default_cache_folder
from entrenar_core.data.encoders import Encoding, ExampleFormat
from entrenar_core.data.examples import Examples
from entrenar_core.data.fingerprint import quick_fingerprint
from entrenar_core.data.labels import Labels, fit_labels
from entrenar_core.data.load import DataSet, load_data
from entrenar_core.data.loader import Loader
from entrenar_core.data.opening import HEAD_TASKS, OpenedSource, open_sources
from entrenar_core.data.split import split_validation
from entrenar_core.data.stream import StreamLoader
from entrenar_core.data.task_columns import TARGET_ROLES
from entrenar_core.data.tasks import Task
from entrenar_core.errors import ConfigError
from entrenar_core.events import Notice, Reporter
from entrenar_core.gguf.keys import CHAT_TEMPLATE
from entrenar_core.stages.base_model import BaseModel
from entrenar_core.tokenizer.chat_template import ChatTemplate, choose_template
from entrenar_core.tokenizer.tokenizer import Tokenizer

DEFAULT_SEQ_LEN = 1024
"""The longest example, in positions, when neither `data.seq_len` nor a shorter context says otherwise."""

STREAM_FROM_BYTES = 2 << 30
"""Data files that are larger than this together are streamed, unless data.streaming says otherwise."""

TOKENIZER_THREADS = "RAYON_NUM_THREADS"
"""The variable by which the tokenizer's Rust threads, which live in a pool of their own, keep to the budget."""

NO_TEMPLATE = "none"
"""The value of data.chat_template that asks for plain text."""


@dataclass(frozen=True)
class OpenedData:
    """What is known before anything is tokenized."""

    train: tuple[OpenedSource, ...]
    val: tuple[OpenedSource, ...]
    encoding: Encoding
    streaming: bool

    @property
    def head_task(self) -> Task | None:
        """The task of the head that is trained; None for a language model."""
        return self.train[0].task if self.train[0].task in HEAD_TASKS else None

    def files(self) -> list[Path]:
        """Every file that is read."""
        return [file for one in (*self.train, *self.val) for file in one.source.files]


@dataclass(frozen=True)
class DataSets:
    """Loaders, and the tokenized examples behind them; `train` is None where the data are streamed."""

    opened: OpenedData
    train: DataSet | None
    val: DataSet | None
    train_loader: Loader | StreamLoader
    val_loader: Loader | None

    @property
    def train_examples(self) -> int:
        """Examples of the training set; rows, where it is streamed."""
        return sum(one.source.n_rows for one in self.opened.train) if self.train is None else len(self.train)

    @property
    def val_examples(self) -> int:
        return 0 if self.val is None else len(self.val)

    def first_examples(self) -> Examples:
        """The training set, or the first segment of a stream."""
        if self.train is not None:
            return self.train.examples
        assert isinstance(self.train_loader, StreamLoader)
        return self.train_loader.first_examples()

    def digests(self) -> dict[str, str]:
        """A hash of each set, for the record of a run."""
        train = (
            quick_fingerprint([one.source for one in self.opened.train]) if self.train is None else self.train.digest()
        )
        found = {"data.train": train}
        return found if self.val is None else {**found, "data.val": self.val.digest()}

    def close(self) -> None:
        """Close the files of a stream."""
        if isinstance(self.train_loader, StreamLoader):
            self.train_loader.close()


def open_data(config: Config, base: BaseModel, reporter: Reporter) -> OpenedData:
    """Find the files, infer types and task, and choose template and labels; nothing is tokenized.

    Raises:
        DataError: files, columns or labels that cannot be used.
        ConfigError: `data.seq_len` is longer than the model's context, or a stream has no max_steps.
        TokenizerError: the chat template cannot be used.
    """
    data = config.data
    fmt = ExampleFormat(
        seq_len=sequence_length(config, base.spec.context_length, base.name),
        separator=data.separator,
        train_on_prompt=data.train_on_prompt,
        train_turns=data.train_turns,
        add_bos=data.add_bos,
        add_eos=data.add_eos,
        overlong=data.overlong,
    )
    train = open_sources(data, data.train)
    _check_head(config, train[0].task)
    val = open_sources(data, data.val or (), like=train)
    for one in (*train, *val):
        if one.columns.inferred:
            reporter.emit(Notice("info", f"{one.source.name}: columns inferred: {one.columns}"))
        for note in one.columns.notes:
            reporter.emit(Notice("warning", f"{one.source.name}: {note}"))
    _say_what_is_shared(train, val, reporter)
    choice, metadata = data.chat_template, base.plain_metadata()
    templated = templated_tasks(choice, metadata)
    template = template_of(choice, templated, (*train, *val), base.tokenizer, metadata, base.name)
    labels = _labels(train, val)
    return OpenedData(
        train, val, Encoding(base.tokenizer, fmt, template, templated, labels), _is_streamed(config, train)
    )


def _say_what_is_shared(train: Sequence[OpenedSource], val: Sequence[OpenedSource], reporter: Reporter) -> None:
    files, others = ({file.resolve() for one in sources for file in one.source.files} for sources in (train, val))
    for file in sorted(files & others):
        message = "is trained on and validated on: the validation loss says nothing about new data"
        reporter.emit(Notice("warning", f"{file} {message}"))


def _check_head(config: Config, task: Task) -> None:
    """A head fits the very weights that it was trained with, and teachers say which word comes next, not which class.

    Raises:
        ConfigError: the weights would not be in the result, or there are teachers.
    """
    if task in HEAD_TASKS and config.distill is not None:
        raise ConfigError(
            f"the data are for {task}, and teachers say which token comes next",
            where="distill",
            hint="remove the distill section, or set data.task: text",
        )
    if task in HEAD_TASKS and config.merge is not None:
        raise ConfigError(
            f"the data are for {task}, and a head does not fit weights that are merged after training",
            where="merge",
            hint="remove the merge section",
        )


def load_datasets(config: Config, base: BaseModel, opened: OpenedData, reporter: Reporter) -> DataSets:
    """Tokenize what was opened, unless it is streamed, and make the loaders.

    Raises:
        DataError: rows cannot be used, or no row has anything to learn.
        OutputError: the token cache cannot be written.
    """
    if config.training.threads is not None:
        os.environ.setdefault(TOKENIZER_THREADS, str(config.training.threads))
    cache = token_cache(config)
    digest = base.tokenizer_digest()
    val = load_data(opened.val, opened.encoding, cache, digest, reporter) if opened.val else None
    if opened.streaming:
        stream = _stream(config, base, opened, reporter)
        return DataSets(opened, None, val, stream, _val_loader(val, config, base, opened))
    train = load_data(opened.train, opened.encoding, cache, digest, reporter)
    if config.data.val_fraction is not None:
        train, val = split_validation(train, config.data.val_fraction, config.training.seed)
    shuffle = config.data.shuffle
    loader = _loader(train, config, base, opened, shuffle=shuffle, by_length=shuffle)
    return DataSets(opened, train, val, loader, _val_loader(val, config, base, opened))


def token_cache(config: Config) -> TokenCache | None:
    """Where tokenized data are kept; None where the config says nowhere."""
    if not config.data.cache:
        return None
    if config.data.cache_dir is not None:
        return TokenCache(Path(os.path.expanduser(config.data.cache_dir)))
    folder = default_cache_folder()
    return None if folder is None else TokenCache(folder, is_asked_for=False)


def sequence_length(config: Config, context: int, model: str) -> int:
    """The longest example in positions, for a model that was made for `context` of them.

    Raises:
        ConfigError: the config asks for more.
    """
    wanted = config.data.seq_len
    if wanted is None:
        return min(context, DEFAULT_SEQ_LEN)
    if wanted > context:
        raise ConfigError(
            f"data.seq_len is {wanted}, but {model} was made for {context} tokens",
            hint=f"set data.seq_len to {context} or less",
        )
    return wanted


def templated_tasks(choice: str | None, metadata: Mapping[str, object]) -> frozenset[Task]:
    """The tasks whose data go through a chat template: chats always, instructions if the model has one or the config
    names one, prompts and completions if the config names one. It does not depend on what else is trained."""
    if choice is not None:
        return frozenset(
            (Task.CHAT,) if choice == NO_TEMPLATE else (Task.CHAT, Task.INSTRUCTION, Task.PROMPT_COMPLETION)
        )
    return frozenset((Task.CHAT, Task.INSTRUCTION) if CHAT_TEMPLATE in metadata else (Task.CHAT,))


def template_of(
    choice: str | None,
    templated: frozenset[Task],
    sources: Sequence[OpenedSource],
    tokenizer: Tokenizer,
    metadata: Mapping[str, object],
    model: str,
) -> ChatTemplate | None:
    """The chat template, if any of the data go through it.

    Args:
        choice: what `data.chat_template` says.
        templated: see `templated_tasks`.
        sources: the data.
        tokenizer, metadata: of the model called `model`.

    Raises:
        ConfigError: the data are chats, and no template is wanted.
        TokenizerError: the template cannot be used.
    """
    tasks = {one.task for one in sources}
    if choice == NO_TEMPLATE and Task.CHAT in tasks:
        raise ConfigError(
            "the data are chats, which need a template",
            where="data.chat_template",
            hint="name one, such as chatml, or remove the key for the model's own",
        )
    if not tasks & templated:
        return None
    bos, eos = (
        "" if token_id is None else tokenizer.token_text(token_id) for token_id in (tokenizer.bos_id, tokenizer.eos_id)
    )
    return choose_template(choice, metadata, model, bos=bos, eos=eos)


def _labels(train: Sequence[OpenedSource], val: Sequence[OpenedSource]) -> Labels | None:
    """Labels of the training data, in which those of the validation data are found."""
    task = train[0].task
    if task not in TARGET_ROLES:
        return None
    role = TARGET_ROLES[task]
    where = ", ".join(f"{one.source.name}: column {one.columns.columns[role]}" for one in train)
    labels = fit_labels(task, (label for one in train for label in one.labels()), where)
    for one in val:
        for value, place in one.labels():
            labels.target_of(value, place)
    return labels


def _is_streamed(config: Config, train: Sequence[OpenedSource]) -> bool:
    n_bytes = sum(one.source.n_bytes for one in train)
    streaming = config.data.streaming
    if streaming is None:
        streaming = n_bytes > STREAM_FROM_BYTES
    if not streaming:
        return False
    size = f"the training data have {n_bytes / 2**30:.1f} GiB and are streamed"
    if config.training.max_steps is None:
        raise ConfigError(
            f"{size}, so the number of steps of an epoch is not known",
            where="training.max_steps",
            hint="set it, or set data.streaming: false to tokenize all data first",
        )
    if config.data.val_fraction is not None:
        raise ConfigError(
            f"{size}, so no share of them can be set aside",
            where="data.val_fraction",
            hint="name validation files in data.val, or set data.streaming: false to tokenize all data first",
        )
    if config.training.early_stopping is not None and config.training.eval_every is None:
        raise ConfigError(
            f"{size}, so there is no end of an epoch to evaluate at",
            where="training.early_stopping",
            hint="set training.eval_every",
        )
    return True


def _stream(config: Config, base: BaseModel, opened: OpenedData, reporter: Reporter) -> StreamLoader:
    return StreamLoader(
        opened.train,
        opened.encoding,
        batch_size=config.data.batch_size,
        packing=config.data.packing,
        shuffle=config.data.shuffle,
        seed=config.training.seed,
        pad_id=base.tokenizer.pad_id or 0,
        grad_accum=config.training.grad_accum,
        reporter=reporter,
    )


def _loader(
    data: DataSet, config: Config, base: BaseModel, opened: OpenedData, *, shuffle: bool, by_length: bool
) -> Loader:
    return Loader(
        data.examples,
        indices=data.indices,
        batch_size=config.data.batch_size,
        seq_len=opened.encoding.fmt.seq_len,
        packing=config.data.packing,
        shuffle=shuffle,
        seed=config.training.seed,
        pad_id=base.tokenizer.pad_id or 0,
        group_by_length=by_length,
        bounds=data.bounds,
        weights=data.weights,
    )


def _val_loader(val: DataSet | None, config: Config, base: BaseModel, opened: OpenedData) -> Loader | None:
    return None if val is None else _loader(val, config, base, opened, shuffle=False, by_length=True)
