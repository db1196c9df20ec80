"""A model with a LoRA adapter on top as an input of a merge: s·B·A is added to the rows that are read.

Of the adapter the matrices of a few weights are in memory at a time; the base is only read. While such a model is open
BLAS runs on one thread.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from threadpoolctl import threadpool_limits

from entrenar_core.codecs.finite import all_finite, non_finite_value
from entrenar_core.errors import ModelError
from entrenar_core.gguf.keys import HEAD_COUNT, HEAD_COUNT_KV, architecture_key
from entrenar_core.gguf.names import OUTPUT, PERMUTED_ARCHITECTURES, TOKEN_EMBD
from entrenar_core.lora.adapter import Adapter, check_adapter, open_adapter
from entrenar_core.lora.files import AdapterPair
from entrenar_core.merge.model_tensors import Entries, Floats, ModelTensors, PackedRows, Shape
from entrenar_core.merge.stored_rows import Scratch

_PAIRS_KEPT = 8
"""Weights whose A and B are kept: those that threads are at, and the next."""


class AdaptedModel:
    """See `ModelTensors`. The base and the adapter belong to the model, which closes them.

    Args:
        base: the model below.
        adapter: see `with_adapter`.
        source: the adapter's path, for messages.

    Raises:
        ModelError: the adapter is for another model.
    """

    def __init__(self, base: ModelTensors, adapter: Adapter, source: str) -> None:
        check_adapter(adapter, base.shapes, source)
        if TOKEN_EMBD in adapter.shapes and OUTPUT not in base.shapes:
            raise ModelError(
                f"the adapter changes {TOKEN_EMBD}, which is the output matrix of this model too", where=source
            )
        self.path = f"{base.path} with {source}"
        self._base = base
        self._adapter = adapter
        self._source = source
        self._pairs: OrderedDict[str, AdapterPair] = OrderedDict()
        self._lock = threading.Lock()
        self._changes = Scratch()
        self._blas_limit = threadpool_limits(limits=1, user_api="blas")  # several threads read, each multiplies

    @property
    def architecture(self) -> str:
        return self._base.architecture

    @property
    def shapes(self) -> Mapping[str, Shape]:
        return self._base.shapes

    @property
    def metadata(self) -> Entries:
        return self._base.metadata

    @property
    def tokens(self) -> Sequence[str]:
        return self._base.tokens

    @property
    def n_bytes(self) -> int:
        return self._base.n_bytes + sum(path.stat().st_size for path in self._adapter.paths)

    def type_name(self, name: str) -> str:
        return self._base.type_name(name)

    def read(self, name: str, first_row: int, out: Floats) -> None:
        self._base.read(name, first_row, out)
        if name in self._adapter.shapes:
            pair = self._pair(name)
            change = self._changes.rows(len(out), out.shape[1] * out.itemsize).view(np.float32)
            np.matmul(pair.b[first_row : first_row + len(out)], pair.a, out=change)
            out += change

    def packed(self, name: str) -> PackedRows | None:
        return None if name in self._adapter.shapes else self._base.packed(name)

    def close(self) -> None:
        self._blas_limit.restore_original_limits()
        self._adapter.close()
        self._base.close()

    def _pair(self, name: str) -> AdapterPair:
        """A and B with the scale in B, checked; the least recently used of those in memory goes."""
        with self._lock:
            pair = self._pairs.pop(name, None) or self._load(name)
            self._pairs[name] = pair
            if len(self._pairs) > _PAIRS_KEPT:
                self._pairs.popitem(last=False)
            return pair

    def _load(self, name: str) -> AdapterPair:
        pair = self._adapter.pair(name)
        for part, values in (("A", pair.a), ("B", pair.b)):
            if not all_finite(np.ascontiguousarray(values)):
                raise non_finite_value(values, range(len(values)), f"{self._source}: {part} of {name}")
        return AdapterPair(np.ascontiguousarray(pair.a), np.float32(pair.scale) * pair.b, 1.0)


def with_adapter(base: ModelTensors, path: Path) -> AdaptedModel:
    """A model with the LoRA adapter of a PEFT folder or a GGUF file.

    Raises:
        FormatError: the adapter is damaged, or of a kind that cannot be put on a model exactly.
        ModelError: it is for another model.
    """
    n_heads = _heads(base, HEAD_COUNT, path)
    n_kv_heads = _heads(base, HEAD_COUNT_KV, path)
    adapter = open_adapter(path, base.architecture, n_heads or 0, n_heads or 0 if n_kv_heads is None else n_kv_heads)
    try:
        return AdaptedModel(base, adapter, str(path))
    except ModelError:
        adapter.close()
        raise


def _heads(base: ModelTensors, key: str, adapter: Path) -> int | None:
    """Heads of the queries, or of keys and values; None where the model does not say.

    Raises:
        ModelError: layers have different numbers, and the rows of a PEFT adapter are sorted by them.
    """
    wanted = architecture_key(base.architecture, key)
    value = next((value.plain for name, value in base.metadata if name == wanted), None)
    numbers = set(np.asarray(value).reshape(-1).tolist()) if isinstance(value, np.ndarray | list) else {value}
    if len(numbers) > 1 and base.architecture in PERMUTED_ARCHITECTURES and adapter.is_dir():
        message = f"{wanted} differs from layer to layer, so the order of the adapter's rows is not known"
        raise ModelError(message, where=str(adapter), hint="convert the adapter to GGUF with llama.cpp")
    number = numbers.pop() if len(numbers) == 1 else None
    return number if isinstance(number, int) else None
