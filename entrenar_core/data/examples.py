"""The tokenized data set: all examples in one flat array of ids, with a flag per token that says whether it is trained.

`ExampleStore` collects examples in growing buffers (4 bytes an id, 1 a flag, no Python object an example) and `finish`
turns them into `Examples`. An example of n tokens fills n - 1 positions of a batch: ``tokens[:-1]`` are inputs and
``tokens[1:]`` their targets, so its first token is never a target, and seq_len positions hold seq_len + 1 tokens.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt

from entrenar_core.data.growing import GrowingArray, map_array

Int32Array = npt.NDArray[np.int32]
Int64Array = npt.NDArray[np.int64]
Float64Array = npt.NDArray[np.float64]
BoolArray = npt.NDArray[np.bool_]

FILES = ("tokens.bin", "supervised.bin", "offsets.bin", "values.bin")
"""Names of the arrays of a data set on disk: int32, bool, int64 and float64; the last one is there for regression."""


@dataclass(frozen=True)
class ExampleStats:
    """What became of the rows of a file.

    Attributes:
        examples: examples kept (a split row gives several).
        total_tokens: positions of all examples: what one epoch feeds to the model.
        supervised_tokens: targets of all examples: what one epoch learns from.
        rows: rows read.
        overlong_rows: kept rows that were longer than seq_len and cut or split.
        truncated_tokens: targets that were cut off from kept rows and are in no example.
        refused: rows left out, by reason.
    """

    examples: int
    total_tokens: int
    supervised_tokens: int
    rows: int
    overlong_rows: int = 0
    truncated_tokens: int = 0
    refused: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Example:
    """One document: int32 ids [n] and, for each, whether it is a target that is trained (never the first)."""

    tokens: Int32Array
    supervised: BoolArray


@dataclass(frozen=True)
class Examples:
    """A sequence of examples. Example i is ``tokens[offsets[i]:offsets[i + 1]]``; each has at least one target.

    Attributes:
        tokens: int32 [N], the ids of all examples, one after another.
        supervised: bool [N], False for the first token of each example.
        offsets: int64 [len + 1].
        values: float64 [len], the target of each example, for regression.
    """

    tokens: Int32Array
    supervised: BoolArray
    offsets: Int64Array
    stats: ExampleStats
    values: Float64Array | None = None

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, index: int) -> Example:
        if not 0 <= index < len(self):
            raise IndexError(f"example {index} of {len(self)}")
        part = slice(int(self.offsets[index]), int(self.offsets[index + 1]))
        return Example(self.tokens[part], self.supervised[part])

    @property
    def lengths(self) -> Int64Array:
        """int64 [len]: the positions each example fills in a row, its tokens less one."""
        return np.diff(self.offsets) - 1

    def digest(self) -> str:
        """A hex hash of ids, flags, borders and values: equal exactly when two data sets train the same."""
        return self._digest

    @cached_property
    def _digest(self) -> str:
        content = hashlib.blake2b(digest_size=16)
        for part in (self.tokens, self.supervised, self.offsets, self.values):
            if part is not None:
                content.update(np.ascontiguousarray(part).data)
        return content.hexdigest()


class ExampleStore:
    """Collects examples one by one; `finish` gives the data set.

    Args:
        folder: for the files of a data set that is mapped from the disk; None: it stays in memory.
    """

    def __init__(self, folder: Path | None = None) -> None:
        paths = [None if folder is None else folder / name for name in FILES]
        self._tokens = GrowingArray(np.int32, paths[0])
        self._supervised = GrowingArray(np.bool_, paths[1])
        self._offsets = GrowingArray(np.int64, paths[2])
        self._values = GrowingArray(np.float64, paths[3])
        self._n_supervised = 0
        self._offsets.extend([0])

    def __len__(self) -> int:
        return len(self._offsets) - 1

    def add(self, tokens: Sequence[int], supervised: bytes, value: float | None = None) -> int:
        """Append an example; `supervised` holds 0 or 1 for each token, and the first one is taken as 0.

        `value` is the target of a regression; all examples of a store have one, or none has. Returns the number of
        targets; an example that has none is not kept.
        """
        targets = supervised.count(1, 1)
        if targets:
            self._tokens.extend(tokens)
            self._supervised.extend(b"\0" + supervised[1:])
            self._offsets.extend([len(self._tokens)])
            self._n_supervised += targets
            if value is not None:
                self._values.extend([value])
        return targets

    def finish(
        self,
        *,
        rows: int,
        overlong_rows: int = 0,
        truncated_tokens: int = 0,
        refused: Mapping[str, int] | None = None,
    ) -> Examples:
        """The data set, and its stats with what the caller counted. The store must not be used after it.

        Raises:
            ValueError: some examples have a value and others have none.
        """
        if len(self._values) not in (0, len(self)):
            raise ValueError(f"{len(self._values)} of {len(self)} examples have a value")
        stats = ExampleStats(
            examples=len(self),
            total_tokens=len(self._tokens) - len(self),
            supervised_tokens=self._n_supervised,
            rows=rows,
            overlong_rows=overlong_rows,
            truncated_tokens=truncated_tokens,
            refused=dict(refused or {}),
        )
        values = self._values.finish() if len(self._values) else None
        return Examples(self._tokens.finish(), self._supervised.finish(), self._offsets.finish(), stats, values)


def map_examples(folder: Path, stats: ExampleStats) -> Examples:
    """The data set whose files a store has written to `folder`.

    Raises:
        OSError, ValueError: a file is missing, or has not the size that the others ask for.
    """
    tokens, supervised, offsets = (
        map_array(folder / name, dtype) for name, dtype in zip(FILES, (np.int32, np.bool_, np.int64), strict=False)
    )
    values = map_array(folder / FILES[3], np.float64) if (folder / FILES[3]).exists() else None
    fits = len(offsets) == stats.examples + 1 and len(tokens) == len(supervised) == offsets[-1]
    if not fits or (values is not None and len(values) != stats.examples):
        raise ValueError("the files of the data set do not fit together")
    return Examples(tokens, supervised, offsets, stats, values)
