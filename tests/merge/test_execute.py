"""Tensors of a plan are read, merged, encoded and written; what comes out does not depend on threads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pytest

from entrenar_core.codecs.base import Floats
from entrenar_core.codecs.registry import codec_for
from entrenar_core.errors import ConfigError, FormatError
from entrenar_core.merge import execute as executing
from entrenar_core.merge.execute import Work, execute, n_pieces, workers_within
from entrenar_core.merge.passes import Parameters, merge_arrays
from entrenar_core.merge.plan import Input, MergedTensor
from entrenar_core.merge.registry import method_entry
from tests.merge.memory_models import MemoryModel
from tests.merge.memory_sink import MemorySink

HALVES = Parameters((0.5, 0.5), (0.3, 0.3), (0.01, 0.01), (0.1, 0.1), (1.0, 1.0), normalize=True)
ALONE = Parameters((1.0,), (1.0,), (0.01,), (0.1,), (1.0,))


def random_models(shapes: Mapping[str, tuple[int, ...]], count: int = 3) -> list[MemoryModel]:
    random = np.random.default_rng(5)
    start = {name: random.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}
    models = [MemoryModel("base.gguf", start, [])]
    for number in range(1, count):
        changed = {
            name: values + 0.1 * random.standard_normal(values.shape).astype(np.float32)
            for name, values in start.items()
        }
        models.append(MemoryModel(f"{number}.gguf", changed, []))
    return models


def over_base(name: str, shape: tuple[int, ...], method: str = "ties", offset: float = 0.0) -> MergedTensor:
    return MergedTensor(name, shape, method, HALVES, (Input(1, name), Input(2, name)), Input(0, name), offset)


def merged(
    models: Sequence[MemoryModel], tensors: Sequence[MergedTensor], kind: str = "F32", n_workers: int = 2
) -> MemorySink:
    types = {tensor.name: kind for tensor in tensors}
    sink = MemorySink(types)
    execute(Work(tensors, types, models, sink), n_workers)
    return sink


def expected(models: Sequence[MemoryModel], tensor: MergedTensor) -> Floats:
    entry = method_entry(tensor.method)
    arrays = [models[one.model].tensors[one.name] - np.float32(tensor.offset) for one in tensor.inputs]
    base = None if tensor.base is None else models[tensor.base.model].tensors[tensor.base.name] - tensor.offset
    return merge_arrays(entry.run, arrays, tensor.parameters, base=base, name=tensor.name) + np.float32(tensor.offset)


SHAPES = {"matrix": (40, 32), "vector": (32,), "stack": (2, 3, 32)}


@pytest.mark.parametrize("method", ["ties", "dare_ties", "task_arithmetic"])
@pytest.mark.parametrize("piece_values", [32, 100, 1 << 17])
def test_tensors_in_pieces_are_those_in_memory(method: str, piece_values: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(executing, "PIECE_VALUES", piece_values)
    models = random_models(SHAPES)
    tensors = [over_base(name, shape, method) for name, shape in SHAPES.items()]
    sink = merged(models, tensors)
    for tensor in tensors:
        np.testing.assert_allclose(
            sink.values(tensor.name).reshape(tensor.shape), expected(models, tensor), rtol=1e-6, atol=1e-7
        )


@pytest.mark.parametrize("method", ["ties", "dare_ties", "dare_linear", "slerp"])
def test_the_bytes_do_not_depend_on_the_number_of_threads(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(executing, "PIECE_VALUES", 96)
    models = random_models(SHAPES)
    tensors = [over_base(name, shape, method) for name, shape in SHAPES.items()]
    if method == "slerp":
        tensors = [MergedTensor(t.name, t.shape, method, t.parameters, t.inputs, None) for t in tensors]
    first, second = (merged(models, tensors, n_workers=n) for n in (1, 5))
    for tensor in tensors:
        np.testing.assert_array_equal(first.packed(tensor.name), second.packed(tensor.name))


def test_rows_are_written_in_the_type_asked_for() -> None:
    models, tensor = random_models(SHAPES), over_base("matrix", SHAPES["matrix"])
    sink = merged(models, [tensor], "Q4_0")
    codec = codec_for("Q4_0")
    np.testing.assert_array_equal(sink.values("matrix"), codec.decode(codec.encode(expected(models, tensor))))


def test_an_offset_is_no_part_of_what_is_merged() -> None:
    """(1 + x)² is not 1 + x²: spherical interpolation has to see the weights themselves."""
    models = random_models({"norm.weight": (16,)})
    inputs = (Input(1, "norm.weight"), Input(2, "norm.weight"))
    plain = MergedTensor("norm.weight", (16,), "slerp", HALVES, inputs, None)
    shifted = MergedTensor("norm.weight", (16,), "slerp", HALVES, inputs, None, offset=1.0)
    values = merged(models, [shifted]).values("norm.weight")[0]
    np.testing.assert_allclose(values, expected(models, shifted), rtol=1e-6)
    assert np.abs(values - merged(models, [plain]).values("norm.weight")[0]).max() > 1e-4


def test_a_task_vector_is_the_result_without_its_base() -> None:
    models, tensor = random_models(SHAPES), over_base("matrix", SHAPES["matrix"], offset=1.0)
    sink = MemorySink({"matrix": "F32"})
    execute(Work([tensor], {"matrix": "F32"}, models, sink, is_task_vector=True), 1)
    change = expected(models, tensor) - models[0].tensors["matrix"]
    np.testing.assert_allclose(sink.values("matrix"), change, atol=1e-6)


def test_what_became_of_a_tensor_is_measured_when_asked_for() -> None:
    models, tensor = random_models(SHAPES), over_base("matrix", SHAPES["matrix"])
    types = {"matrix": "F32"}
    assert execute(Work([tensor], types, models, MemorySink(types)), 1) == {}
    found = execute(Work([tensor], types, models, MemorySink(types), measures=True), 2)["matrix"]
    lengths = [float(np.linalg.norm(model.tensors["matrix"] - models[0].tensors["matrix"])) for model in models[1:]]
    assert found["norms"] == pytest.approx(lengths, rel=1e-5)
    assert found["kept"] == [int(0.3 * 40 * 32) / (40 * 32)] * 2, "the density of TIES"


@pytest.mark.parametrize("value", [np.inf, np.nan, 1e6], ids=str)
def test_a_merged_value_that_does_not_fit_is_named(value: float) -> None:
    models = random_models(SHAPES)
    models[1].tensors["matrix"][7, 3] = value
    tensor = MergedTensor("matrix", SHAPES["matrix"], "passthrough", ALONE, (Input(1, "matrix"),), None)
    with pytest.raises(FormatError) as caught:
        merged(models, [tensor], "F16")
    assert "row 7" in caught.value.message
    assert caught.value.where == "merged tensor matrix"


def test_threads_whose_buffers_do_not_fit_do_not_work() -> None:
    tensors = [over_base("matrix", (40, 32))]
    one = 4 * (2 + 2) * 40 * 32 + 40 * 32 * 4
    assert workers_within(tensors, {"matrix": "F32"}, 8, 3 * one + 1) == 3
    assert workers_within(tensors, {"matrix": "F32"}, 2, 3 * one) == 2
    with pytest.raises(ConfigError, match="1 MiB more are needed"):
        workers_within(tensors, {"matrix": "F32"}, 2, one - 1)


def test_pieces_are_counted_over_all_tensors() -> None:
    rows = executing.PIECE_VALUES // 32
    assert n_pieces([over_base("matrix", (rows + 1, 32)), over_base("vector", (32,))]) == 3
