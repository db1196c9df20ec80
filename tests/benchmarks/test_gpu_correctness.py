"""The checks of `benchmarks.gpu_check`, on kernels that run on the host: they pass, and find what is planted."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from benchmarks.gpu import attention_cases, model_cases
from benchmarks.gpu.compare import Activation, Call, Draw, ask, check_of, relative_error
from benchmarks.gpu.correctness import CHECKS
from benchmarks.gpu.random_blocks import FORMS, random_blocks, weight_blocks
from benchmarks.gpu.sizes import HOST, AttentionSize
from benchmarks.gpu.subject import TRUTH, Subject
from entrenar_core.codecs.packed import PackedMatrix
from entrenar_core.codecs.registry import DECODABLE
from tests.cuda_host import host_runtime
from tests.cuda_host.host_sdpa import HostSdpa


@pytest.fixture(scope="module")
def subject() -> Iterator[Subject]:
    if not host_runtime.is_possible():
        pytest.skip(host_runtime.NO_COMPILER)
    made = Subject(host_runtime.HostRuntime(), HOST, HostSdpa())
    yield made
    made.cpu.close()


@pytest.mark.parametrize("name", CHECKS)
def test_every_check_passes_on_the_host(subject: Subject, name: str) -> None:
    findings = list(CHECKS[name](subject))
    assert findings
    assert not [finding for finding in findings if not finding.ok]


def with_kernel(subject: Subject, name: str, kernel: Any) -> Subject:
    """The subject with another kernel in its float32 backend."""
    spoilt = Subject(subject.runtime, HOST, subject.sdpa)
    setattr(spoilt.backends["float32"], name, kernel)
    return spoilt


def test_a_wrong_result_is_found(subject: Subject) -> None:
    right = subject.backends["float32"].swiglu
    spoilt = with_kernel(subject, "swiglu", lambda gate, up: right(gate, right(gate, up)))
    call = Call("swiglu", (Activation(np.ones((3, 5))), Activation(np.full((3, 5), 2.0))))
    assert ask(subject, call, "float32").ok
    assert not ask(spoilt, call, "float32").ok


def test_a_changed_argument_is_found(subject: Subject) -> None:
    right = subject.backends["float32"].add

    def add(a: Any, b: Any) -> Any:
        return right(a, b, out=b)

    call = Call("add", (Activation(np.ones((3, 5))), Activation(np.ones((3, 5)))))
    assert ask(with_kernel(subject, "add", add), call, "float32").faults == ("argument 1 was changed",)


def test_results_that_differ_from_call_to_call_are_found(subject: Subject) -> None:
    backend, calls = subject.backends["float32"], []

    def scale(a: Any, factor: float) -> Any:
        calls.append(factor)
        return backend.multiply(a, backend.asarray(np.full(a.shape, factor * (1 + 1e-6 * len(calls)))))

    spoilt = with_kernel(subject, "scale", scale)
    found = ask(spoilt, Call("scale", (Activation(np.ones((3, 5))), 2.0)), "float32")
    assert found.error < found.tolerance
    assert found.faults == ("a second call gave other bits",)


def test_a_result_that_should_not_be_there_is_found(subject: Subject) -> None:
    spoilt = with_kernel(subject, "softmax", lambda x: None)
    found = ask(spoilt, Call("softmax", (Activation(np.ones((3, 5))),)), "float32")
    assert found.faults == ("result 0 is None",)


def test_calls_with_one_label_are_one_line_of_each_type(subject: Subject) -> None:
    def calls(draw: Draw) -> Iterator[Call]:
        for size in (3, 5):
            yield Call("scale", (draw.activation(size, 4), 2.0), label="twice")

    found = list(check_of(calls)(subject))
    assert [(one.name, one.dtype, one.tried) for one in found] == [("twice", "float32", 2), ("twice", "bfloat16", 2)]


def test_attention_is_tried_by_the_library_too(subject: Subject) -> None:
    names = {one.name for one in CHECKS["attention"](subject)} | {one.name for one in CHECKS["long attention"](subject)}
    for kind in ("attention, causal", "attention, documents", "long attention, causal", "long attention, documents"):
        for way in ("from products", "by the library", "by the library, same bits"):
            assert {f"{kind}, {way}", f"{kind}, backward, {way}"} <= names
    assert not [name for name in names if "soft cap" in name and "library" in name]


def test_a_wrong_library_is_found(subject: Subject) -> None:
    class Wrong(HostSdpa):
        def run(self, shape: Any, backward: bool, *arguments: Any) -> None:
            super().run(replace(shape, scale=1.2 * shape.scale), backward, *arguments)

    found = list(CHECKS["long attention"](Subject(subject.runtime, HOST, Wrong())))
    assert {one.ok for one in found if "products" in one.name} == {True}
    assert {one.ok for one in found if "library" in one.name} == {False}


def test_without_a_library_it_is_not_measured(subject: Subject) -> None:
    found = [one for one in CHECKS["attention"](Subject(subject.runtime, HOST, "no cuDNN")) if one.not_measured]
    assert [one.not_measured for one in found] == ["no cuDNN", "no cuDNN"]


@pytest.mark.parametrize("mask", attention_cases.MASKS)
def test_dense_formulas_are_the_reference(mask: str) -> None:
    draw = Draw("float32", HOST, np.random.default_rng(1))
    one = attention_cases.case_of(AttentionSize(2, 11, 17, 4, 2, 6), mask, draw)
    out, lse = TRUTH.attention(one.q, one.k, one.v, one.lower, one.params)
    gradients = TRUTH.attention_backward(one.dout, one.q, one.k, one.v, out, lse, one.lower, one.params)
    dense = attention_cases.dense_attention(one)
    for found, truth in zip((dense.out, dense.lse, *dense.gradients), (out, lse, *gradients), strict=True):
        assert relative_error(found, truth) < 1e-12


def test_masks_hide_keys_and_leave_each_query_its_own() -> None:
    size = AttentionSize(3, 60, 90, 1, 1, 4)
    lower = {mask: attention_cases.lower_of(size, mask, np.random.default_rng(2)) for mask in attention_cases.MASKS}
    own = np.arange(60) + 30
    for mask, seen in lower.items():
        assert ((seen >= 0) & (seen <= own)).all()
        assert (seen.max() > 0) == (mask != "causal")
    assert (np.diff(lower["documents"], axis=1) >= 0).all()
    assert (own - lower["documents and window"] < 18).all()


def test_a_packed_batch_isolates_its_documents() -> None:
    batch = model_cases.packed_batch(HOST.model)
    assert batch.n_supervised == (batch.labels >= 0).sum() > 0
    inside = batch.labels >= 0
    np.testing.assert_array_equal(batch.labels[:, :-1][inside[:, :-1]], batch.tokens[:, 1:][inside[:, :-1]])
    assert not inside[:, -1].any()
    index = np.arange(HOST.model.length)
    np.testing.assert_array_equal(batch.positions, np.where(batch.starts == index, 0, index - batch.starts))
    assert len(np.unique(batch.starts[0])) == 3


def test_the_error_of_gradients_is_that_of_the_worst_tensor() -> None:
    truth = model_cases.Gradient(1.0, {"a": np.array([3.0, 4.0]), "b": np.array([1.0])})
    near = model_cases.Gradient(1.0, {"a": np.array([3.0, 4.5]), "b": np.array([1.01])})
    assert near.distance(truth) == pytest.approx(0.1)
    assert np.isnan(model_cases.Gradient(1.0, {"a": np.ones(2)}).distance(truth))
    lost = model_cases.Gradient(1.0, {"a": np.array([np.nan, 4.0]), "b": np.array([1.0])})
    assert np.isnan(lost.distance(truth))
    assert truth.equals(truth)
    assert not near.equals(truth)


def test_a_wrong_gradient_of_a_whole_model_is_found(subject: Subject) -> None:
    backend = subject.backends["float32"]
    right = backend.swiglu_backward

    def swiglu_backward(dy: Any, gate: Any, up: Any) -> Any:
        dgate, dup = right(dy, gate, up)
        return backend.scale(dgate, 1.001), dup

    spoilt = with_kernel(subject, "swiglu_backward", swiglu_backward)
    spoilt.cpu = subject.cpu
    found = {(one.name, one.dtype): one.ok for one in model_cases.whole_model(spoilt, model_cases.PLANS[0])}
    assert found["full: loss", "float32"]
    assert not found["full: gradients", "float32"]
    assert found["full: gradients", "bfloat16"]


@pytest.mark.parametrize("type_name", sorted(DECODABLE))
def test_random_blocks_decode_to_numbers(type_name: str) -> None:
    values = random_blocks(type_name, (5, 512)).values()
    assert np.isfinite(values).all()
    assert values.any()


@pytest.mark.parametrize("type_name", FORMS)
def test_blocks_for_models_have_the_spread_that_is_asked_for(type_name: str) -> None:
    matrix = PackedMatrix(weight_blocks(type_name, 256 * 400, 0.02, seed=3).reshape(400, -1), type_name)
    values = matrix.values()
    assert matrix.shape == (400, 256)
    assert values.std() == pytest.approx(0.02, rel=0.03)
    assert abs(values.mean()) < 0.002


def test_losses_of_training_fall(subject: Subject) -> None:
    size = replace(HOST.model, length=20)
    losses = model_cases.losses_of_training(subject.cpu, size, model_cases.Plan("full"), 24)
    assert np.mean(losses[-4:]) < np.mean(losses[:4]) - 0.1
