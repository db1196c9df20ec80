"""A model over rows of tokens: which inputs are measured, and that they are the model's own."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from entrenar_core.autograd.tape import no_grad
from entrenar_core.autograd.tensor import Tensor
from entrenar_core.backend.cpu import CpuBackend
from entrenar_core.backend.reference import ReferenceBackend
from entrenar_core.errors import ModelError
from entrenar_core.lora.inject import LoRASettings, inject_lora
from entrenar_core.model.decoder import LanguageModel
from entrenar_core.quant.calibrate import InputStatistics, calibrate, importance_matrix, linear_layers, real_positions
from entrenar_core.quant.observers import Extremes, MeanSquare, MovingMaximum
from tests.model.tiny import ARCHITECTURE_NAMES, build, lively_weights, pack, tiny_spec, tokens_of

REFERENCE = ReferenceBackend(np.float32)


def batch_of(*lengths: int, width: int = 16):  # type: ignore[no-untyped-def]
    """One row for each number: a document of so many positions, then padding."""
    return pack([[tokens_of(length + 1, seed=length)] for length in lengths], width)


def model_of(architecture: str = "llama", **changes: object) -> LanguageModel:
    return build(tiny_spec(architecture, **changes), backend=REFERENCE, trainable=False)


@pytest.mark.parametrize("architecture", ARCHITECTURE_NAMES)
def test_every_matrix_of_the_blocks_is_measured(architecture: str) -> None:
    model = model_of(architecture)
    found = calibrate(model, [batch_of(9, 16)], MeanSquare)
    matrices = {name: shape for name, shape in _matrices(model).items() if name.startswith("blk.")}
    importance = found.importance()
    assert set(importance) == set(matrices)
    assert all(importance[name].shape == (shape[1],) for name, shape in matrices.items())
    assert {one.inputs for one in found.statistics} == {25}


def _matrices(model: LanguageModel) -> dict[str, tuple[int, ...]]:
    return {name: tensor.shape for name, tensor in model.parameters().items() if len(tensor.shape) == 2}


def test_inputs_that_are_shared_are_measured_once() -> None:
    found = calibrate(model_of(), [batch_of(9), batch_of(5)], MeanSquare)
    shared = [one.weights for one in found.statistics if len(one.weights) > 1 and one.weights[0].startswith("blk.0.")]
    assert shared == [
        ["blk.0.attn_k.weight", "blk.0.attn_q.weight", "blk.0.attn_v.weight"],
        ["blk.0.ffn_gate.weight", "blk.0.ffn_up.weight"],
    ]
    assert len(found.statistics) == 8


def test_the_first_input_is_the_normed_embedding() -> None:
    """Computed by hand: RMS norm of the token embeddings times the norm's weight."""
    spec = tiny_spec()
    weights, batch = lively_weights(spec), batch_of(7, 16)
    found = calibrate(build(spec, weights, REFERENCE, trainable=False), [batch], MeanSquare)
    tokens = np.concatenate([batch.tokens[0, :7], batch.tokens[1]])
    x = weights["token_embd.weight"][tokens].astype(np.float64)
    x *= weights["blk.0.attn_norm.weight"] / np.sqrt(np.square(x).mean(axis=1, keepdims=True) + spec.norm_eps)
    assert np.allclose(found.importance()["blk.0.attn_q.weight"], np.square(x).mean(axis=0), rtol=1e-5)


def test_padding_and_other_rows_change_nothing() -> None:
    """Two rows in one batch, padded, are what they are alone."""
    model = model_of()
    together = calibrate(model, [batch_of(9, 5)], MeanSquare).importance()
    alone = calibrate(model, [batch_of(9, width=9), batch_of(5, width=5)], MeanSquare).importance()
    for name, importance in together.items():
        assert np.allclose(importance, alone[name], rtol=1e-5), name


def test_each_row_is_a_step_of_the_moving_average() -> None:
    model = model_of()
    together = calibrate(model, [batch_of(9, 5)], lambda n: MovingMaximum(n, 0.5)).importance()
    apart = calibrate(model, [batch_of(9), batch_of(5)], lambda n: MovingMaximum(n, 0.5)).importance()
    for name, importance in together.items():
        assert np.allclose(importance, apart[name], rtol=1e-5), name


def test_documents_that_share_a_row_all_count() -> None:
    documents = [tokens_of(5, seed=1), tokens_of(8, seed=2)]
    batch = pack([documents], 16)
    assert real_positions(batch).sum() == 11
    found = calibrate(model_of(), [batch], MeanSquare)
    assert found.statistics[0].inputs == 11


def test_the_output_matrix_is_measured_when_it_is_asked_for() -> None:
    model, batch = model_of(), batch_of(16)
    found = calibrate(model, [batch], MeanSquare, with_output=True).importance()
    with no_grad():
        hidden = model.hidden_states(batch.tokens, batch.positions, batch.starts).numpy()[0]
    assert np.allclose(found["output.weight"], np.square(hidden).mean(axis=0), rtol=1e-5)
    tied = calibrate(model_of(tie_embeddings=True), [batch], MeanSquare, with_output=True).importance()
    assert "token_embd.weight" in tied
    assert "output.weight" not in tied


def test_no_layer_is_watched_afterwards() -> None:
    model = model_of()
    calibrate(model, [batch_of(4)], MeanSquare)
    assert all(layer.observer is None for layer in linear_layers(model))
    broken = replace(batch_of(4), tokens=np.full((1, 16), 999, np.int32))
    with pytest.raises(ModelError, match="token ids"):
        calibrate(model, [broken], MeanSquare)
    assert all(layer.observer is None for layer in linear_layers(model))


def test_adapters_are_part_of_the_model() -> None:
    model = model_of()
    before = calibrate(model, [batch_of(16)], Extremes).importance()
    inject_lora(model, LoRASettings(2, 4.0, 0.0, ("v_proj",), False), 0)
    for name, tensor in model.trainable().items():
        if name.endswith("lora_b"):
            tensor.assign(np.full(tensor.shape, 0.3, np.float32))
    after = calibrate(model, [batch_of(16)], Extremes).importance()
    assert set(before) == set(after)
    assert np.array_equal(before["blk.0.attn_v.weight"], after["blk.0.attn_v.weight"])
    assert not np.allclose(before["blk.0.attn_output.weight"], after["blk.0.attn_output.weight"], rtol=1e-2)


def test_inputs_that_are_not_finite_name_the_weight() -> None:
    weights = lively_weights(tiny_spec())
    weights["blk.1.ffn_norm.weight"][3] = np.inf
    model = build(tiny_spec(), weights, REFERENCE, trainable=False)
    with pytest.raises(ModelError, match="inputs are not finite") as error, np.errstate(all="ignore"):
        calibrate(model, [batch_of(4)], MeanSquare)
    assert error.value.where == "tensor blk.1.ffn_gate.weight"


def test_progress_is_told_in_rows() -> None:
    told: list[int] = []
    calibrate(model_of(), [batch_of(4, 5), batch_of(6)], MeanSquare, after_rows=told.append)
    assert told == [2, 3]


def test_the_report_has_the_range_of_all_inputs() -> None:
    model, batch = model_of(), batch_of(16)
    found = calibrate(model, [batch], MeanSquare, with_output=True)
    with no_grad():
        hidden = model.hidden_states(batch.tokens, batch.positions, batch.starts).numpy()
    report = found.by_weight["output.weight"].report()
    assert (report.low, report.high) == (hidden.min(), hidden.max())
    exact = np.sort(np.abs(hidden).reshape(-1))[int(np.ceil(0.999 * hidden.size)) - 1]
    assert exact <= report.percentile <= exact * (1 + 1 / 128)
    assert report.as_json()["weights"] == ["output.weight"]
    assert (report.columns, report.inputs) == (16, 16)


def test_a_file_holds_sums_and_counts() -> None:
    found = calibrate(model_of(), [batch_of(9, 5)], MeanSquare)
    matrix = importance_matrix(found, ("a.jsonl",), 4)
    assert list(matrix.entries) == sorted(matrix.entries)
    assert (matrix.chunk_count, matrix.chunk_size, matrix.datasets) == (4, 4, ("a.jsonl",))
    for name, entry in matrix.entries.items():
        assert entry.counts.tolist() == [14]
        assert np.allclose(entry.importance()[0], found.importance()[name], rtol=1e-6)


def test_threads_do_not_matter() -> None:
    spec = tiny_spec()
    found = []
    for threads in (1, 2):
        backend = CpuBackend(threads)
        model = build(spec, backend=backend, trainable=False)
        found.append(calibrate(model, [batch_of(9, 16)], MeanSquare).importance())
        backend.close()
    for name, importance in found[0].items():
        assert np.allclose(importance, found[1][name], rtol=1e-5), name


def test_an_observer_sees_the_very_input_of_a_layer() -> None:
    seen: list[tuple[str, np.ndarray]] = []

    class Watcher:
        def see(self, weight: str, x: Tensor) -> None:
            seen.append((weight, x.numpy().copy()))

    layer = next(linear_layers(model_of()))
    x = Tensor(np.ones((1, 2, 16), np.float32), REFERENCE)
    with no_grad():
        layer.forward(x, None)
        layer.observer = Watcher()
        layer.forward(x, None)
    assert [name for name, _ in seen] == ["blk.0.attn_q.weight"]
    assert np.array_equal(seen[0][1], x.numpy())


def test_a_report_is_of_all_rows_and_of_both_signs() -> None:
    one = InputStatistics(MeanSquare(4))
    one.weights = ["b", "a"]
    rng = np.random.default_rng(0)
    rows = rng.uniform(-1, 1, (3, 500, 4)).astype(np.float32)
    rows[0, 7, 2], rows[1, 3, 1] = -90.0, 80.0  # two of 6000 values are beyond the percentile
    for row in rows:
        one.add(row)
    found = one.report()
    assert (found.weights, found.columns, found.inputs) == (("b", "a"), 4, 1500)
    assert (found.low, found.high) == (-90.0, 80.0)
    exact = float(np.percentile(np.abs(rows), 99.9, method="inverted_cdf"))
    assert exact <= found.percentile <= exact * (1 + 1 / 128)
    assert found.as_json()["weights"] == ["b", "a"]


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_inputs_that_are_not_finite_name_their_weight(bad: float) -> None:
    one = InputStatistics(MeanSquare(4))
    one.weights = ["blk.0.attn_q.weight", "blk.0.attn_k.weight"]
    with pytest.raises(ModelError, match="its inputs are not finite") as error:
        one.add(np.array([[0, 1, bad, 2]], np.float32))
    assert (error.value.where, error.value.hint) == ("tensor blk.0.attn_q.weight", "the model's weights are broken")
