"""A whole run takes the same step with ``packing: true`` and ``packing: false``, and evaluates to the same numbers.

One step over the whole epoch with plain gradient descent: what comes out is the start less the gradient.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from entrenar_core.events import Eval, Step
from entrenar_core.gguf.reader import GGUFFile
from entrenar_core.model.load import load_model
from tests.model.tiny import DOUBLE
from tests.stages import gguf_py
from tests.stages.tiny_base import stories, train, write_base
from tests.train.tiny_model import Listener

pytestmark = pytest.mark.integration

WHOLE_EPOCH = 1000
SEQ_LEN = 48


def chats() -> dict[str, list[Any]]:
    """Conversations of one to four exchanges, some longer than the window."""
    told = stories()
    turns = [[told[(start + more) % len(told)] for more in range(1 + start % 4)] for start in range(len(told))]
    return {
        "messages": [
            [
                {"role": role, "content": text}
                for pair in exchange
                for role, text in zip(("user", "assistant"), pair, strict=True)
            ]
            for exchange in turns
        ]
    }


def texts(**answers: list[Any]) -> dict[str, list[Any]]:
    """Texts of one to twenty words with what is to be found in them."""
    words = " ".join(" ".join(pair) for pair in stories()).split()
    return {"review": [" ".join(words[5 * row : 6 * row + 1]) for row in range(20)], **answers}


DATA: Mapping[str, tuple[dict[str, list[Any]], dict[str, Any]]] = {
    "chat": (chats(), {"chat_template": "chatml", "overlong": "split"}),
    "streamed chat": (chats(), {"chat_template": "chatml", "overlong": "split", "streaming": True}),
    "text": (texts(), {"task": "text", "columns": {"text": "review"}}),
    "classification": (
        texts(mood=[["bad", "good", "so-so"][row % 3] for row in range(20)]),
        {"task": "classification", "columns": {"text": "review", "label": "mood"}},
    ),
    "regression": (
        texts(stars=[1.0 + row % 5 for row in range(20)]),
        {"task": "regression", "columns": {"text": "review", "target": "stars"}},
    ),
}


def run(folder: Path, name: str, *, packing: bool, lora: Any, **training: Any) -> Listener:
    """Train on one of the data sets, which is the validation set as well, to ``packed`` or ``unpacked``."""
    columns, keys = DATA[name]
    path = folder / "train.parquet"
    pq.write_table(pa.table(columns), path)
    _, listener = train(
        folder,
        data={"val": str(path), "seq_len": SEQ_LEN, "batch_size": 2, "packing": packing, **keys},
        optimizer={"name": "sgd", "lr": 0.5, "grad_clip": None},
        lora=lora,
        training={"threads": 2, "output_dir": str(folder / ("packed" if packing else "unpacked")), **training},
    )
    return listener


def parameters(path: Path) -> dict[str, np.ndarray]:
    """The parameters of a model in float64, so that the change of a step is not rounded again."""
    with GGUFFile.open(path) as file:
        return {name: tensor.numpy() for name, tensor in load_model(file, DOUBLE).parameters().items()}


def assert_same_metrics(packed: Listener, unpacked: Listener) -> None:
    (step,), (expected) = packed.of(Step), unpacked.of(Step)[0]
    assert (step.tokens, step.supervised_tokens) == (expected.tokens, expected.supervised_tokens)
    assert step.loss == pytest.approx(expected.loss, rel=1e-5)
    assert step.grad_norm == pytest.approx(expected.grad_norm, rel=1e-4)
    (evaluation,), (expected) = packed.of(Eval), unpacked.of(Eval)[0]
    assert evaluation.supervised_tokens == expected.supervised_tokens
    assert evaluation.loss == pytest.approx(expected.loss, rel=1e-5)
    assert evaluation.metrics == pytest.approx(expected.metrics, rel=1e-4)


@pytest.mark.parametrize("lora", [None, {}], ids=["full", "lora"])
@pytest.mark.parametrize("name", DATA)
def test_a_step_over_the_epoch_is_the_same_with_and_without_packing(name: str, lora: Any, tmp_path: Path) -> None:
    write_base(tmp_path / "base.gguf")
    options = {"lora": lora, "max_steps": 1, "grad_accum": WHOLE_EPOCH}
    assert_same_metrics(*(run(tmp_path, name, packing=packing, **options) for packing in (True, False)))

    start, packed, unpacked = (
        parameters(tmp_path / path) for path in ("base.gguf", "packed/model.gguf", "unpacked/model.gguf")
    )
    for tensor, expected in unpacked.items():
        off, change = np.linalg.norm(packed[tensor] - expected), np.linalg.norm(expected - start[tensor])
        assert off <= 1e-4 * change, tensor
    if name in ("classification", "regression"):
        packed_head, unpacked_head = (
            gguf_py.values(tmp_path / folder / "head.gguf", "cls.output.weight") for folder in ("packed", "unpacked")
        )
        np.testing.assert_allclose(packed_head, unpacked_head, rtol=1e-4, atol=1e-6)


def test_packing_feeds_the_same_tokens_in_fewer_steps(tmp_path: Path) -> None:
    write_base(tmp_path / "base.gguf")
    packed, unpacked = (
        [step.tokens for step in run(tmp_path, "text", packing=packing, lora={}, epochs=1, max_steps=None).of(Step)]
        for packing in (True, False)
    )
    assert sum(packed) == sum(unpacked)
    assert (len(packed), len(unpacked)) == (4, 10)
