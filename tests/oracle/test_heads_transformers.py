"""Models with a head against transformers' models for sequence classification: outputs, loss and gradients.

Both are double throughout. transformers reads each document alone; ours come packed.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="torch is not installed (extra: oracle)")
transformers = pytest.importorskip("transformers", reason="transformers is not installed (extra: oracle)")

from entrenar_core.autograd.tape import Tape  # noqa: E402
from entrenar_core.backend.reference import ReferenceBackend  # noqa: E402
from entrenar_core.data.batch import Batch  # noqa: E402
from entrenar_core.data.examples import ExampleStore  # noqa: E402
from entrenar_core.data.pack import Rows, fill  # noqa: E402
from entrenar_core.data.tasks import Task  # noqa: E402
from entrenar_core.model.heads import HeadSpec, SequenceModel, attach_head  # noqa: E402
from tests.oracle.hugging_face import VOCAB_SIZE, Pair, make_pair  # noqa: E402

CLASSES = HeadSpec(Task.CLASSIFICATION, ("a", "b", "c"), "text", "label")
NUMBER = HeadSpec(Task.REGRESSION, (), "text", "target", mean=2.0, std=0.5)
CLASSIFIERS = {
    "llama": transformers.LlamaForSequenceClassification,
    "qwen2": transformers.Qwen2ForSequenceClassification,
    "qwen3 tied": transformers.Qwen3ForSequenceClassification,
}
RNG = np.random.default_rng(0)
DOCUMENTS = [RNG.integers(0, VOCAB_SIZE, n) for n in (9, 4, 13)]
LABELS, NUMBERS = [2, 0, 1], [2.5, 1.0, 2.25]


def with_head(pair: Pair, case: str, spec: HeadSpec) -> tuple[SequenceModel, Any]:
    """Ours and theirs with the same weights; their head has no bias, so ours is zero."""
    config = pair.hf.config
    config.num_labels = spec.n_outputs
    theirs = CLASSIFIERS[case](config).double().eval()
    theirs.model = pair.hf.model
    weight = RNG.standard_normal(tuple(theirs.score.weight.shape))
    theirs.score.weight.data = torch.tensor(weight)
    ours = attach_head(pair.ours(ReferenceBackend(np.float64)), spec, weight, np.zeros(spec.n_outputs))
    return ours, theirs


def packed(spec: HeadSpec) -> Batch:
    """The first two documents in one row, the third in another."""
    store = ExampleStore()
    for tokens, label, number in zip(DOCUMENTS, LABELS, NUMBERS, strict=True):
        target, value = (label, None) if spec is CLASSES else (0, number)
        store.add([*tokens.tolist(), target], bytes(len(tokens)) + b"\1", value)
    return fill(store.finish(rows=3), Rows(np.arange(3), np.array([0, 2, 3])), seq_len=16, pad_id=0)


def their_loss(outputs: Any, spec: HeadSpec) -> Any:
    """transformers' own losses, as sums."""
    if spec is CLASSES:
        return torch.nn.functional.cross_entropy(outputs, torch.tensor(LABELS), reduction="sum")
    targets = (torch.tensor(NUMBERS, dtype=torch.float64) - spec.mean) / spec.std
    return torch.nn.functional.mse_loss(outputs[:, 0], targets, reduction="sum")


@pytest.mark.parametrize("spec", [CLASSES, NUMBER], ids=["classes", "number"])
@pytest.mark.parametrize("case", CLASSIFIERS)
def test_outputs_loss_and_gradients_are_those_of_transformers(case: str, spec: HeadSpec) -> None:
    pair = make_pair(case, torch.float64)
    ours, theirs = with_head(pair, case, spec)
    outputs = torch.cat([theirs(torch.tensor(tokens)[None], use_cache=False).logits for tokens in DOCUMENTS])
    total = their_loss(outputs, spec)
    total.backward()

    np.testing.assert_allclose(ours.outputs(packed(spec)).numpy(), outputs.detach().numpy(), rtol=1e-9, atol=1e-11)
    with Tape() as tape:
        found = ours.loss(packed(spec), 1.0, None)
    tape.backward(found)
    assert float(found.data) == pytest.approx(total.item(), rel=1e-10)

    without_output = [each for each in pair.hf.parameters() if each.grad is None]
    for parameter in without_output:
        parameter.grad = torch.zeros_like(parameter)
    expected = pair.gradients() | {"cls.output.weight": theirs.score.weight.grad.numpy()}
    assert len(without_output) == (0 if pair.spec.tie_embeddings else 1)
    for name, tensor in ours.trainable().items():
        if name != "cls.output.bias":
            np.testing.assert_allclose(tensor.grad, expected[name], rtol=1e-7, atol=1e-10, err_msg=name)
