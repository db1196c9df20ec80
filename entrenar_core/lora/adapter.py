"""LoRA adapters in files: which weights they change and by how much, whatever the form of the file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

from entrenar_core.errors import FormatError, ModelError
from entrenar_core.lora.files import AdapterPair, GGUFAdapter
from entrenar_core.lora.peft_config import PEFT_CONFIG
from entrenar_core.lora.peft_files import PeftAdapter

TRAINED_ADAPTER = "adapter.gguf"
"""What a training run calls its adapter."""

_OTHER_BASE = "name the model that it was trained on as its base"


class Adapter(Protocol):
    """An adapter that is open; its matrices are read when they are asked for. Names and row order are GGUF's."""

    @property
    def shapes(self) -> Mapping[str, tuple[int, int]]:
        """[out, in] of each weight that is changed, by name."""
        ...

    @property
    def paths(self) -> Sequence[Path]:
        """The files."""
        ...

    def pair(self, name: str) -> AdapterPair:
        """A and B of a weight. Raises FormatError when they cannot be read."""
        ...

    def close(self) -> None:
        """Let go of the files."""
        ...


def open_adapter(path: Path, architecture: str, n_heads: int, n_kv_heads: int) -> Adapter:
    """Open a GGUF file, a PEFT folder, or the output folder of a training run.

    Args:
        path: of one of them.
        architecture: of the model that the adapter is for.
        n_heads, n_kv_heads: of that model, whose rows of attn_q and attn_k may stand in another order.

    Raises:
        FormatError: it is no LoRA adapter, or damaged, or of a kind that cannot be put on a model exactly.
        ModelError: it is for another architecture.
    """
    if not path.is_dir():
        if path.suffix in (".safetensors", ".bin", ".json"):
            raise FormatError("this is a part of an adapter", where=str(path), hint=f"give its folder: {path.parent}")
        return GGUFAdapter.open(path, architecture)
    if (path / PEFT_CONFIG).is_file():
        return PeftAdapter.open(path, architecture, n_heads, n_kv_heads)
    if (path / TRAINED_ADAPTER).is_file():
        return GGUFAdapter.open(path / TRAINED_ADAPTER, architecture)
    raise FormatError(
        f"there is no {PEFT_CONFIG} and no {TRAINED_ADAPTER}",
        where=str(path),
        hint="an adapter is a GGUF file, a folder of PEFT, or the output folder of a training with lora",
    )


def check_adapter(adapter: Adapter, shapes: Mapping[str, tuple[int, ...]], source: str) -> None:
    """See that a model has the weights that an adapter changes.

    Args:
        adapter: what is put on it.
        shapes: of the model's tensors.
        source: the adapter, for messages.

    Raises:
        ModelError: it has no such weight, or one of another shape.
    """
    for name, shape in adapter.shapes.items():
        if name not in shapes:
            raise ModelError(f"the adapter has {name}, the model does not", where=source, hint=_OTHER_BASE)
        if shape != shapes[name]:
            raise ModelError(
                f"the adapter of {name} is for {list(shape)}, the model has {list(shapes[name])}",
                where=source,
                hint=_OTHER_BASE,
            )
