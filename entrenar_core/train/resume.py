"""Going on from a checkpoint: is it the same run, and if so, put everything back.

The configuration must be equal but for keys that do not change what has been computed so far; anything else is an error
that names the keys. A changed environment is only said: the run goes on, equal to rounding instead of bit by bit.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from entrenar_core.autograd.tensor import Tensor
from entrenar_core.errors import ConfigError
from entrenar_core.events import Notice, Reporter
from entrenar_core.optim.arrays import require_same_arrays
from entrenar_core.optim.base import Optimizer
from entrenar_core.train.checkpoint import Checkpoint, RunRecord
from entrenar_core.train.state import TrainState

FREE_KEYS = (
    "output",
    "data.cache",
    "data.cache_dir",
    "distill.cache.path",
    "training.max_steps",
    "training.epochs",
    "training.eval_every",
    "training.save_every",
    "training.log_every",
    "training.keep_last",
    "training.output_dir",
    "training.activation_checkpointing",
    "training.device",
    "training.deterministic",
    "training.threads",
)
"""Keys, or whole sections, that may change when a run is resumed."""

LENGTH_KEYS = ("training.max_steps", "training.epochs")

Change = tuple[str, Any, Any]
"""A dotted key, its old and its new value."""


def resume(checkpoint: Checkpoint, optimizer: Optimizer, record: RunRecord, reporter: Reporter) -> TrainState:
    """Put parameters and optimizer back as they were, and return the state to train on from.

    Args:
        checkpoint: where to go on.
        optimizer: made anew for the same model; its parameters are overwritten.
        record: of the run that goes on.
        reporter: hears what changed but may.

    Raises:
        ConfigError: the configuration or an input is another one; the message names what changed.
        FormatError: a tensor does not fit.
    """
    require_same_run(checkpoint.record, record, where=str(checkpoint.path))
    for message in _notices(checkpoint.record, record):
        reporter.emit(Notice("warning", message))
    restore_parameters(checkpoint, optimizer.parameters)
    optimizer.load_state(checkpoint.optimizer_state(), where=f"{checkpoint.path}: optimizer state")
    return checkpoint.state


def restore_parameters(checkpoint: Checkpoint, parameters: Mapping[str, Tensor]) -> None:
    """Give the trainable parameters their values at the checkpoint.

    Raises:
        FormatError: a tensor is missing, unknown, or of another shape or type; nothing has been changed then.
    """
    arrays = checkpoint.parameters()
    expected = {name: parameter.numpy() for name, parameter in parameters.items()}
    require_same_arrays(arrays, expected, f"{checkpoint.path}: parameters")
    for name, parameter in parameters.items():
        parameter.assign(arrays[name])


def require_same_run(old: RunRecord, new: RunRecord, where: str) -> None:
    """Refuse to go on with another configuration or other inputs.

    Raises:
        ConfigError: naming every key that changed, with both values.
    """
    changes = [(f"{name} (content)", a, b) for name, a, b in changed(old.inputs, new.inputs)]
    changes += [change for change in changed(old.config, _as_read(new.config)) if not _is_free(change[0])]
    if changes:
        listed = "; ".join(f"{key}: {_show(a)} -> {_show(b)}" for key, a, b in changes)
        raise ConfigError(
            f"the checkpoint belongs to another run: {listed}",
            where=where,
            hint="set them back to go on, or start a new run with another training.output_dir",
        )


def require_same_config(checkpoint: Checkpoint, config: Mapping[str, Any]) -> None:
    """The part of `require_same_run` that can be known before anything is read.

    Raises:
        ConfigError: naming every key that changed, with both values.
    """
    require_same_run(checkpoint.record, replace(checkpoint.record, config=config), where=str(checkpoint.path))


def changed(old: Mapping[str, Any], new: Mapping[str, Any], prefix: str = "") -> Iterator[Change]:
    """The keys that differ, dotted, sorted; a missing key counts as None."""
    for key in sorted(old.keys() | new.keys()):
        a, b = old.get(key), new.get(key)
        if isinstance(a, Mapping) and isinstance(b, Mapping):
            yield from changed(a, b, f"{prefix}{key}.")
        elif a != b:
            yield f"{prefix}{key}", a, b


def _as_read(content: Mapping[str, Any]) -> dict[str, Any]:
    """What JSON makes of `content`: tuples become lists."""
    plain: dict[str, Any] = json.loads(json.dumps(content))
    return plain


def _is_free(key: str) -> bool:
    return any(key == free or key.startswith(f"{free}.") for free in FREE_KEYS)


def _notices(old: RunRecord, new: RunRecord) -> Iterator[str]:
    for key, a, b in changed(old.config, _as_read(new.config)):
        if key in LENGTH_KEYS:
            yield f"{key} changed from {_show(a)} to {_show(b)}; learning rates follow the new length from here on"
    differing = [f"{key} {_show(a)} -> {_show(b)}" for key, a, b in changed(old.environment, _as_read(new.environment))]
    if differing:
        yield f"the run goes on elsewhere, so it may not be bit-exact: {'; '.join(differing)}"


def _show(value: object) -> str:
    return "none" if value is None else str(value)
