"""What the folder of a PEFT adapter says about itself; the weights are only listed, never loaded."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from entrenar_core.errors import FormatError
from entrenar_core.lora.peft_config import PEFT_CONFIG

WEIGHTS = "adapter_model.safetensors"


@dataclass(frozen=True)
class PeftFacts:
    """A PEFT adapter; None where its config does not say, `tensors` None where there is no weight file."""

    kind: str
    path: str
    n_bytes: int
    type: str | None
    rank: int | None
    alpha: float | None
    targets: tuple[str, ...]
    base_model: str | None
    uses_rslora: bool
    uses_dora: bool
    tensors: int | None


def is_peft(path: Path) -> bool:
    """A folder with an adapter_config.json."""
    return (path / PEFT_CONFIG).is_file()


def inspect_peft(path: Path) -> PeftFacts:
    """Read the config and count the tensors.

    Raises:
        FormatError: a file is broken.
    """
    config = _read_config(path / PEFT_CONFIG)
    rank, alpha, targets = config.get("r"), config.get("lora_alpha"), config.get("target_modules")
    return PeftFacts(
        kind="peft adapter",
        path=str(path),
        n_bytes=sum(file.stat().st_size for file in path.iterdir() if file.is_file()),
        type=_text(config.get("peft_type")),
        rank=rank if isinstance(rank, int) else None,
        alpha=alpha if isinstance(alpha, int | float) else None,
        targets=(targets,) if isinstance(targets, str) else tuple(sorted(str(one) for one in targets or ())),
        base_model=_text(config.get("base_model_name_or_path")),
        uses_rslora=config.get("use_rslora") is True,
        uses_dora=config.get("use_dora") is True,
        tensors=_count_tensors(path / WEIGHTS),
    )


def _read_config(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise FormatError(f"cannot be read as JSON: {error}", where=str(path)) from error
    if not isinstance(content, dict) or not isinstance(content.get("target_modules"), list | str | None):
        raise FormatError("is not the config of a PEFT adapter", where=str(path))
    return content


def _count_tensors(path: Path) -> int | None:
    if not path.is_file():
        return None
    try:
        with safe_open(path, framework="numpy") as file:
            return len(list(file.keys()))
    except (OSError, SafetensorError) as error:
        raise FormatError(f"cannot be read: {error}", where=str(path), hint="copy or download it again") from error


def _text(value: object) -> str | None:
    return value if isinstance(value, str) else None
