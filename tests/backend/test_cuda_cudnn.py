"""cuDNN has a plan for every launch that it is asked for, on every kind of GPU: it compiles them here, without one.

Whether the numbers are right only a GPU can tell; `gpu_check` asks it.
"""

from __future__ import annotations

import builtins
import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from entrenar_core.backend.cuda_cudnn import open_cudnn
from entrenar_core.backend.cuda_sdpa import MOST_SCRATCH, AttentionSizes, SdpaShape, refusal
from entrenar_core.backend.documents import HostLower
from entrenar_core.backend.parameters import AttentionParams
from tests.cuda_host import deviceless_cudnn

needs_cudnn = pytest.mark.skipif(not deviceless_cudnn.is_possible(), reason=deviceless_cudnn.MISSING)

LLAMA, QWEN, GEMMA = (32, 8, 128), (14, 2, 64), (8, 1, 256)
"""Heads, kv heads and the width of a head."""

ROWS, PACKED = (2, 4096, False), (64, 128, True)
"""Sequences, tokens of each, and whether they are packed."""

LAUNCHES = [(ROWS, LLAMA), (PACKED, LLAMA), ((256, 64, True), QWEN), ((3, 1000, False), QWEN), (PACKED, GEMMA)]


def asked_for(shape: SdpaShape, capability: int) -> bool:
    """Whether an attention that makes this launch is left to cuDNN."""
    lengths = [shape.length - 1, 1] if shape.packed else [shape.length]
    starts = np.repeat([0, shape.length - 1][: len(lengths)], lengths)
    sizes = AttentionSizes(1, shape.length, shape.length, shape.n_kv, shape.n_heads // shape.n_kv, shape.width)
    params = AttentionParams(shape.scale, host_lower=HostLower(starts[None, :]))
    return refusal("bfloat16", sizes, params, capability, shape.deterministic) is None


@needs_cudnn
@pytest.mark.parametrize("capability", [80, 90, 100, 120])
def test_every_launch_that_is_asked_for_has_a_plan(capability: int, tmp_path: Path) -> None:
    shapes = [SdpaShape(n, length, *model, 0.1, packed) for (n, length, packed), model in LAUNCHES]
    questions = [(capability, shape, backward) for shape in shapes for backward in (False, True)]
    deterministic = SdpaShape(1, 2048, *LLAMA, 0.1, packed=capability in (90, 100), deterministic=True)
    questions = [each for each in (*questions, (capability, deterministic, True)) if asked_for(each[1], capability)]
    found = deviceless_cudnn.answers(questions, tmp_path)
    refused = [(question, reason) for question, (reason, _) in zip(questions, found, strict=True) if reason is not None]
    assert len(questions) >= 9 and not refused
    for (_, shape, backward), (_, n_bytes) in zip(questions, found, strict=True):
        queries = shape.n * shape.length * shape.n_heads * shape.width
        a_query = 50 if shape.deterministic else 12
        assert n_bytes <= (a_query * queries if backward else 0) + (2 << 20), (shape, n_bytes)


@needs_cudnn
def test_deterministic_gradients_of_long_sequences_take_more_scratch_than_is_given(tmp_path: Path) -> None:
    shapes = [SdpaShape(1, length, *LLAMA, 0.1, packed=False, deterministic=True) for length in (4096, 8192)]
    (_, short), (_, long) = deviceless_cudnn.answers([(90, shape, True) for shape in shapes], tmp_path)
    assert short < MOST_SCRATCH < long


@needs_cudnn
def test_what_is_not_asked_for_cudnn_refuses_too(tmp_path: Path) -> None:
    shapes = [
        (80, SdpaShape(4, 2048, 8, 1, 256, 0.1, packed=True)),
        (120, SdpaShape(2, 2048, 8, 1, 256, 0.1, packed=False)),
        (100, SdpaShape(2, 2048, 8, 1, 192, 0.1, packed=False)),
        (90, SdpaShape(2, 2048, 8, 1, 100, 0.1, packed=False)),
        (89, SdpaShape(4, 2048, 8, 1, 128, 0.1, packed=True, deterministic=True)),
    ]
    assert not any(asked_for(shape, capability) for capability, shape in shapes)
    found = deviceless_cudnn.answers([(capability, shape, True) for capability, shape in shapes], tmp_path)
    assert all(reason for reason, _ in found), found


@pytest.fixture
def front_end(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A module in the place of cuDNN's front end, as far as its opening goes."""
    module = types.ModuleType("cudnn")
    monkeypatch.setitem(sys.modules, "cudnn", module)
    yield module


def raising(message: str) -> Any:
    def call(*_: Any, **__: Any) -> None:
        raise RuntimeError(message)

    return call


def test_without_the_front_end_a_reason_comes_back(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *rest: Any, **more: Any) -> Any:
        if name == "cudnn":
            raise ImportError("No module named 'cudnn'")
        return real(name, *rest, **more)

    monkeypatch.setattr(builtins, "__import__", without)
    assert open_cudnn(90, 0) == "nvidia-cudnn-frontend cannot be imported (No module named 'cudnn')"


def test_without_the_library_a_reason_comes_back(front_end: Any) -> None:
    front_end.backend_version = raising("Unable to find symbol cudnnGetVersion")
    assert open_cudnn(90, 0) == "cuDNN's library is not found (Unable to find symbol cudnnGetVersion)"


def test_an_old_library_is_not_used(front_end: Any) -> None:
    front_end.backend_version = lambda: 90701
    assert open_cudnn(90, 0) == "cuDNN 9.7.1 is older than 9.18.0"


def test_a_library_that_does_not_start_is_not_used(front_end: Any) -> None:
    front_end.backend_version = lambda: 92801
    front_end.create_handle = raising("no driver")
    assert open_cudnn(90, 0) == "cuDNN 9.28.1 does not start (no driver)"
