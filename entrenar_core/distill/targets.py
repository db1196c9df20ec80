"""The targets that a run learns from, numbered in the order of the data set: what a cached teacher is asked for."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from entrenar_core.data.batch import Batch
from entrenar_core.data.examples import Examples
from entrenar_core.errors import ConfigError

Int64Array = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Targets:
    """The supervised tokens of the examples that are used.

    Attributes:
        examples: int64 [E], which examples of the data set these are, ascending.
        places: int64 [N], the index of each target among the tokens of the data set, ascending.
        borders: int64 [E + 1], the number of the first target of each example, and N.
        digest: hex hash of the data set and of which examples are used.
    """

    examples: Int64Array
    places: Int64Array
    borders: Int64Array
    digest: str

    def __len__(self) -> int:
        return len(self.places)

    @classmethod
    def of(cls, examples: Examples, indices: Int64Array | None = None) -> Targets:
        """The targets of the examples at `indices` (ascending), by default of all.

        Raises:
            ValueError: the indices do not ascend.
        """
        is_used = np.ones(len(examples), np.bool_)
        if indices is not None:
            if (np.diff(indices) <= 0).any():
                raise ValueError("the indices of the examples that are used must ascend")
            is_used[:] = False
            is_used[indices] = True
        used = np.flatnonzero(is_used)
        supervised = examples.supervised
        if len(used) < len(examples):
            supervised = supervised & np.repeat(is_used, np.diff(examples.offsets))
        places = np.flatnonzero(supervised)
        borders = np.append(np.searchsorted(places, examples.offsets[used]), len(places))
        content = hashlib.blake2b(examples.digest().encode(), digest_size=16)
        content.update(used.astype("<i8").data)
        return cls(used, places, borders, content.hexdigest())

    def numbers_of(self, batch: Batch) -> Int64Array:
        """The numbers of the targets of a batch, int64 [M], row by row.

        Raises:
            ConfigError: the batch does not know the places of its targets: the data are streamed.
            ValueError: a label is no target of the examples that are used.
        """
        if batch.places is None:
            raise ConfigError(
                "a cache of the teacher's predictions needs data that are read as a whole",
                where="distill.cache",
                hint="remove distill.cache, or set data.streaming: false",
            )
        places = batch.places[batch.labels >= 0]
        found = np.searchsorted(self.places, places)
        is_other = self.places.take(found, mode="clip") != places
        if is_other.any():
            wrong = int(places[np.argmax(is_other)])
            raise ValueError(f"token {wrong} of the data set is no target of the examples that are used")
        return found

    def examples_of(self, targets: slice) -> Int64Array:
        """The examples, as the data set counts them, of a range of targets that ends where examples do."""
        first, last = np.searchsorted(self.borders, [targets.start, targets.stop])
        return self.examples[first:last]


def ranges_of_examples(borders: Int64Array, most: int) -> tuple[int, ...]:
    """Cut targets into ranges of at most `most` that end where examples do; a longer example is a range of its own.

    Args:
        borders: int64 [E + 1], ascending from 0: the first target of each example, and the number of targets.
        most: at least 1.

    Returns:
        the first target of each range, and the number of targets.
    """
    cuts = [0]
    while cuts[-1] < borders[-1]:
        last = int(np.searchsorted(borders, cuts[-1] + most, side="right")) - 1
        longer = int(np.searchsorted(borders, cuts[-1], side="right"))
        cuts.append(int(borders[max(last, longer)]))
    return tuple(cuts)
