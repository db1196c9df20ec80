"""The one error hierarchy: what was wrong, where, and what to do about it.

A subclass states the kind; `exit_code` is what the command line returns for it (2: the input was wrong, 1: the run
failed). `where` is a file, key, line, column or tensor; `hint` is the next thing a person should try.
"""

from __future__ import annotations


class EntrenarError(Exception):
    """An error that a person can act on; the command line prints it without a traceback.

    Args:
        message: what was wrong, with the offending value in it.
        where: the place: ``file.yaml:3:7``, ``model.gguf: tensor blk.0.attn_q.weight`` ...
        hint: what to do next.
    """

    exit_code = 2

    def __init__(self, message: str, *, where: str | None = None, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.where = where
        self.hint = hint

    def __str__(self) -> str:
        head = f"{self.where}: {self.message}" if self.where else self.message
        return f"{head}\n  hint: {self.hint}" if self.hint else head


class ConfigError(EntrenarError):
    """A YAML file, a ``--set`` override or a combination of keys is wrong."""


class FormatError(EntrenarError):
    """A file is not what its format promises (GGUF, checkpoint, adapter)."""


class DataError(EntrenarError):
    """A data set cannot be read or has nothing to learn."""


class TokenizerError(EntrenarError):
    """The tokenizer described by a file is unknown or broken."""


class ModelError(EntrenarError):
    """A model cannot be built: unknown architecture, missing tensor, impossible shape."""


class OutputError(EntrenarError):
    """A result cannot be written."""


class MissingExtraError(EntrenarError):
    """An optional dependency is not installed; the hint names the extra."""


class DeviceError(EntrenarError):
    """A GPU that was asked for cannot be used; the hint says what it needs."""


class DeviceMemoryError(DeviceError):
    """A GPU has too little memory for what is computed."""

    exit_code = 1


class AutogradError(EntrenarError):
    """The tape was misused: freed twice, changed in place, asked for a frozen gradient."""

    exit_code = 1


class TrainingError(EntrenarError):
    """Training cannot go on (a loss that is not finite, a checkpoint that does not fit)."""

    exit_code = 1
