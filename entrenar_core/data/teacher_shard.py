"""One file of a teacher's cache: what the teacher says of a run of targets, as an Arrow IPC file.

It has one record batch, not compressed, so that the columns of a file that is mapped into memory are NumPy arrays as
they lie there: `ids` and `values`, lists of K for each target, `log_tail`, and `weights` where targets have them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from entrenar_core.errors import FormatError
from entrenar_core.gguf.atomic import atomic_file

if TYPE_CHECKING:
    import pyarrow as pa

CacheDtype = Literal["float32", "float16"]

SHARD_OVERHEAD = 2048
"""Bytes of a shard that are not columns, at most: schema, footer and padding."""

_LARGEST_SMALL = 1 << 16
_STAMP = "entrenar.shard"


@dataclass(frozen=True)
class TeacherLayout:
    """How a target is stored.

    Attributes:
        top_k: K, tokens of each target.
        n_tokens: those that the teacher chooses from; ids are below it.
        dtype: of the values.
        weighted: whether each target has a weight.
    """

    top_k: int
    n_tokens: int
    dtype: CacheDtype = "float32"
    weighted: bool = False

    def __post_init__(self) -> None:
        if not 1 <= self.top_k <= self.n_tokens:
            raise ValueError(f"top_k {self.top_k} is not within 1 ... {self.n_tokens}")

    @property
    def id_dtype(self) -> np.dtype[Any]:
        return np.dtype(np.uint16 if self.n_tokens <= _LARGEST_SMALL else np.uint32)

    @property
    def row_bytes(self) -> int:
        """Bytes of one target."""
        return self.top_k * (self.id_dtype.itemsize + np.dtype(self.dtype).itemsize) + (8 if self.weighted else 4)


@dataclass(frozen=True)
class TopTokens:
    """What is known of m targets.

    Attributes:
        ids: [m, K] integers, ascending in each row.
        values: float [m, K], the log-probability (or logit) of each of these tokens.
        log_tail: float32 [m], the log of the probability of all other tokens together; -inf where there are none.
        weights: float32 [m], or None.
    """

    ids: npt.NDArray[Any]
    values: npt.NDArray[Any]
    log_tail: npt.NDArray[np.float32]
    weights: npt.NDArray[np.float32] | None = None

    def __len__(self) -> int:
        return len(self.ids)

    def arrays(self) -> Iterator[tuple[str, npt.NDArray[Any]]]:
        """The arrays that are there, with the names of their columns."""
        for field in fields(self):
            array = getattr(self, field.name)
            if array is not None:
                yield field.name, array

    @classmethod
    def empty(cls, layout: TeacherLayout, n_rows: int) -> TopTokens:
        """Uninitialised arrays for the targets of a shard, in the types in which they are stored."""
        shape = (n_rows, layout.top_k)
        weights = np.empty(n_rows, np.float32) if layout.weighted else None
        values = np.empty(shape, np.dtype(layout.dtype))
        return cls(np.empty(shape, layout.id_dtype), values, np.empty(n_rows, np.float32), weights)


def write_shard(path: Path, rows: TopTokens, stamp: str) -> None:
    """Write a shard under a temporary name, bring it to disk, and give it its name.

    Args:
        path: of the file.
        rows: in the types of the layout.
        stamp: says which shard of which cache it is.

    Raises:
        OutputError: it cannot be written, or the disk is full.
    """
    import pyarrow as pa

    schema = _schema(rows, stamp)
    columns = [_column(array, schema.field(name).type) for name, array in rows.arrays()]
    with atomic_file(path) as file, pa.ipc.new_file(file, schema) as writer:
        writer.write_batch(pa.record_batch(columns, schema=schema))


def map_shard(path: Path, layout: TeacherLayout, n_rows: int, stamp: str) -> TopTokens:
    """A shard as arrays that are mapped into memory and cannot be written to. The file is not held open.

    Raises:
        FileNotFoundError: there is none.
        FormatError: it is not the whole shard that the layout, the number of targets and the stamp ask for.
    """
    import pyarrow as pa

    expected = _schema(TopTokens.empty(layout, 0), stamp)
    try:
        batch = _only_batch(path, expected)
        if batch.num_rows != n_rows:
            raise ValueError(f"{batch.num_rows} targets where {n_rows} are expected")
        columns = {name: _array(batch.column(name), n_rows, layout.top_k) for name in expected.names}
    except FileNotFoundError:
        raise
    except (OSError, ValueError, pa.ArrowException) as error:
        raise FormatError(f"this is no whole file of a teacher's cache: {error}", where=str(path)) from error
    return TopTokens(**columns)


def _only_batch(path: Path, expected: pa.Schema) -> pa.RecordBatch:
    import pyarrow as pa

    with pa.memory_map(str(path)) as file:
        reader = pa.ipc.open_file(file)
        if not reader.schema.equals(expected):
            raise ValueError(f"its columns are {_described(reader.schema)}, not {_described(expected)}")
        if reader.schema.metadata != expected.metadata:
            raise ValueError("it belongs to another cache, or to another place of this one")
        if reader.num_record_batches != 1:
            raise ValueError(f"{reader.num_record_batches} record batches where one is expected")
        batch = reader.get_batch(0)
        batch.validate()  # that the buffers are as long as the columns
        return batch


def _schema(rows: TopTokens, stamp: str) -> pa.Schema:
    import pyarrow as pa

    types = []
    for name, array in rows.arrays():
        item = pa.from_numpy_dtype(array.dtype)
        if array.ndim == 2:
            item = pa.list_(pa.field("item", item, nullable=False), array.shape[1])
        types.append(pa.field(name, item, nullable=False))
    return pa.schema(types, metadata={_STAMP: stamp})


def _described(schema: pa.Schema) -> str:
    return ", ".join(f"{field.name} {field.type}" for field in schema)


def _column(array: npt.NDArray[Any], column_type: pa.DataType) -> pa.Array:
    import pyarrow as pa

    flat = pa.array(np.ascontiguousarray(array).reshape(-1))
    return flat if array.ndim == 1 else pa.FixedSizeListArray.from_arrays(flat, type=column_type)


def _array(column: pa.Array, n_rows: int, top_k: int) -> npt.NDArray[Any]:
    import pyarrow as pa

    if column.null_count:
        raise ValueError(f"{column.null_count} entries are missing")
    if not pa.types.is_fixed_size_list(column.type):
        return np.asarray(column.to_numpy(zero_copy_only=True))
    return np.asarray(column.flatten().to_numpy(zero_copy_only=True)).reshape(n_rows, top_k)
