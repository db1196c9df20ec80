"""Tensors of a file written anew: the bytes of the codecs at their places, errors of the whole, refusals by place."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from entrenar_core.codecs.base import Codec
from entrenar_core.codecs.ggml_types import TYPE_BY_NAME
from entrenar_core.codecs.registry import codec_for
from entrenar_core.errors import FormatError
from entrenar_core.gguf.reader import GGUFFile
from entrenar_core.gguf.tensor_info import TensorInfo, tensor_bytes
from entrenar_core.gguf.writer import encode_tensor, write_gguf
from entrenar_core.quant.convert import Conversion, Progress, convert
from entrenar_core.quant.error_sums import ErrorSums, measure
from entrenar_core.quant.granularity import RowScaleEncoder, tensor_encoder
from entrenar_core.quant.plan import PlannedTensor
from entrenar_core.quant.shared_scales import ShareOptions, shared_codecs
from entrenar_core.quant.source import RowSource
from entrenar_core.quant.workers import WATCH_SECONDS

SHAPES = {"first": (5, 64), "stack": (2, 3, 32), "norm": (64,), "last": (4, 64)}


def drawn() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(5)
    return {name: rng.standard_normal(shape).astype(np.float32) for name, shape in SHAPES.items()}


@pytest.fixture
def make_file(tmp_path: Path) -> Iterator[Callable[[Mapping[str, np.ndarray]], GGUFFile]]:
    """Writes F32 tensors and opens the file."""
    opened: list[GGUFFile] = []

    def make(tensors: Mapping[str, np.ndarray]) -> GGUFFile:
        raw = [encode_tensor(name, values, "F32") for name, values in tensors.items()]
        write_gguf(tmp_path / "source.gguf", [], raw)
        opened.append(GGUFFile.open(tmp_path / "source.gguf"))
        return opened[-1]

    yield make
    for file in opened:
        file.close()


def plan_of(file: GGUFFile, types: Mapping[str, str]) -> list[PlannedTensor]:
    return [PlannedTensor(info, types.get(name, "F32")) for name, info in file.tensors.items()]


def places(plan: list[PlannedTensor], start: int = 96) -> list[TensorInfo]:
    """Places one after the other with gaps of 32 bytes."""
    found = []
    for one in plan:
        n_bytes = tensor_bytes(one.info.shape, TYPE_BY_NAME[one.type_name])
        found.append(TensorInfo(one.name, one.info.shape, one.type_name, n_bytes, start))
        start += n_bytes + 32
    return found


def converted(
    file: GGUFFile,
    types: Mapping[str, str],
    target: Path,
    *,
    piece_values: int = 130,
    n_workers: int = 2,
    **options: object,
) -> tuple[dict[str, bytes], list[ErrorSums | None], list[Progress]]:
    plan = plan_of(file, types)
    targets = places(plan)
    conversion = Conversion(plan, targets, piece_values, n_workers, **options)  # type: ignore[arg-type]
    watched: list[Progress] = []
    descriptor = os.open(target, os.O_RDWR | os.O_CREAT)
    try:
        with RowSource(file) as source:
            errors = convert(conversion, source, descriptor, watched.append)
    finally:
        os.close(descriptor)
    data = target.read_bytes()
    assert not any(data[:96]), "nothing is written before the first place"
    for info in targets[:-1]:
        assert not any(data[info.offset + info.n_bytes : info.offset + info.n_bytes + 32]), "or between two"
    return {info.name: data[info.offset : info.offset + info.n_bytes] for info in targets}, errors, watched


TYPES = {"first": "Q4_0", "stack": "Q8_0", "last": "F16"}


@pytest.mark.parametrize("piece_values", [1, 130, 1 << 18])
@pytest.mark.parametrize("n_workers", [1, 3])
def test_every_tensor_is_at_its_place_as_its_codec_makes_it(
    piece_values: int, n_workers: int, make_file: Callable[..., GGUFFile], tmp_path: Path
) -> None:
    values = drawn()
    found, errors, _ = converted(
        make_file(values), TYPES, tmp_path / "out", piece_values=piece_values, n_workers=n_workers
    )
    for name, data in found.items():
        assert data == codec_for(TYPES.get(name, "F32")).encode(values[name]).tobytes(), name
    assert errors == [None] * 4


def test_a_system_that_writes_little_at_a_time_is_asked_again(
    make_file: Callable[..., GGUFFile], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, values = os.pwrite, drawn()
    monkeypatch.setattr(os, "pwrite", lambda descriptor, data, offset: real(descriptor, data[:7], offset))
    found, _, _ = converted(make_file(values), TYPES, tmp_path / "out")
    for name, data in found.items():
        assert data == codec_for(TYPES.get(name, "F32")).encode(values[name]).tobytes(), name


class Slow(RowScaleEncoder):
    """Takes longer than a watcher sleeps."""

    def encode(self, values: Any, importance: Any = None, out: Any = None) -> Any:
        time.sleep(1.5 * WATCH_SECONDS)
        return super().encode(values, importance, out)


def test_progress_counts_the_bytes_of_the_source(make_file: Callable[..., GGUFFile], tmp_path: Path) -> None:
    codecs = {"stack": Slow("Q8_0"), "last": Slow("Q4_0")}
    types = {**TYPES, "last": "Q4_0"}
    _, _, watched = converted(
        make_file(drawn()), types, tmp_path / "out", codecs=codecs, n_workers=1, piece_values=1 << 18
    )
    sizes = [4 * 5 * 64, 4 * 2 * 3 * 32, 4 * 64, 4 * 4 * 64]
    assert Progress(sizes[0], 0) in watched
    assert Progress(sum(sizes[:3]), 2) in watched
    assert watched[-1] == Progress(sum(sizes), 3)


def test_errors_are_those_of_whole_tensors_and_copies_have_none(
    make_file: Callable[..., GGUFFile], tmp_path: Path
) -> None:
    values, weights = drawn(), np.linspace(0.1, 3, 64, dtype=np.float32)
    _, errors, _ = converted(make_file(values), TYPES, tmp_path / "out", measures=True, importance={"last": weights})
    for (name, whole), found in zip(values.items(), errors, strict=True):
        if name == "norm":
            assert found is None
            continue
        codec = codec_for(TYPES[name])
        rows = whole.reshape(-1, whole.shape[-1])
        expected = measure(rows, codec.decode(codec.encode(rows)), weights if name == "last" else None)
        assert found is not None
        assert (found.count, found.largest) == (expected.count, expected.largest)
        for part in ("squared", "power", "weighted", "weight"):
            assert getattr(found, part) == pytest.approx(getattr(expected, part), rel=1e-12)


def test_each_matrix_of_a_stack_has_its_own_importance(make_file: Callable[..., GGUFFile], tmp_path: Path) -> None:
    values = drawn()
    weights = np.random.default_rng(2).random((2, 32)).astype(np.float32) ** 4
    types = {"stack": "Q4_0", "first": "Q4_0"}
    importance = {"stack": weights, "first": np.repeat(weights[0], 2)}
    found, _, _ = converted(make_file(values), types, tmp_path / "out", importance=importance)
    codec = codec_for("Q4_0")
    expected = b"".join(codec.encode(values["stack"][n], weights[n]).tobytes() for n in (0, 1))
    assert found["stack"] == expected
    assert found["stack"] != codec.encode(values["stack"]).tobytes()
    assert found["first"] == codec.encode(values["first"], importance["first"]).tobytes()


def test_an_encoder_of_a_tensor_goes_before_that_of_its_type(
    make_file: Callable[..., GGUFFile], tmp_path: Path
) -> None:
    values, codecs = drawn(), {"first": RowScaleEncoder("Q4_0")}
    found, errors, _ = converted(make_file(values), TYPES, tmp_path / "out", codecs=codecs, measures=True)
    expected = codecs["first"].encode(values["first"])
    assert found["first"] == expected.tobytes()
    assert errors[0] is not None
    assert errors[0].largest == np.abs(codec_for("Q4_0").decode(expected) - values["first"]).max()


@pytest.mark.parametrize("type_name", ["Q4_0", "F16", "F32"])
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_value_that_is_not_finite_is_named_by_row_and_column(
    type_name: str, bad: float, make_file: Callable[..., GGUFFile], tmp_path: Path
) -> None:
    values = drawn()
    values["last"][3, 17] = bad
    with pytest.raises(FormatError) as error:
        converted(make_file(values), {"last": type_name}, tmp_path / "out")
    assert error.value.message == f"the value in row 3, column 17 is {bad:g}"
    assert error.value.where == f"{tmp_path / 'source.gguf'}: tensor last"
    assert error.value.hint is not None


def test_a_value_that_its_type_cannot_hold_is_named(make_file: Callable[..., GGUFFile], tmp_path: Path) -> None:
    values = drawn()
    values["last"][3, 17] = 1e7
    file = make_file(values)
    with pytest.raises(FormatError, match=r"1e\+07 does not fit a block of Q4_0 \(row 3, column 17\)") as error:
        converted(file, {"last": "Q4_0"}, tmp_path / "out")
    assert error.value.where == f"{tmp_path / 'source.gguf'}: tensor last"
    with pytest.raises(FormatError, match="tensor last"):
        converted(file, {"last": "F16"}, tmp_path / "out")


def shared(
    file: GGUFFile, options: ShareOptions, importance: Mapping[str, np.ndarray] | None = None
) -> dict[str, Codec]:
    plan = plan_of(file, {**TYPES, "first": "Q4_1"})
    with RowSource(file) as source:
        return shared_codecs(plan, options, source, importance or {}, 130, 2)


def test_blocks_have_encoders_of_their_own(make_file: Callable[..., GGUFFile]) -> None:
    assert shared(make_file(drawn()), ShareOptions("block")) == {}


def test_rows_share_a_scale_where_the_type_allows_it(make_file: Callable[..., GGUFFile]) -> None:
    found = shared(make_file(drawn()), ShareOptions("per_channel", 99.0))
    assert {name: type(one) for name, one in found.items()} == {"first": RowScaleEncoder, "stack": RowScaleEncoder}
    assert {(one.type_name, one.percentile) for one in found.values()} == {("Q4_1", 99.0), ("Q8_0", 99.0)}  # type: ignore[attr-defined]


@pytest.mark.parametrize("percentile", [None, 95.0])
@pytest.mark.parametrize("weighed", [False, True])
def test_the_scale_of_a_tensor_is_found_over_all_its_pieces(
    percentile: float | None, weighed: bool, make_file: Callable[..., GGUFFile]
) -> None:
    values, rng = drawn(), np.random.default_rng(1)
    importance = {"first": rng.random(64).astype(np.float32), "stack": rng.random((2, 32)).astype(np.float32)}
    importance = importance if weighed else {}
    found = shared(make_file(values), ShareOptions("per_tensor", percentile), importance)
    assert found.keys() == {"first", "stack"}
    for name, type_name in (("first", "Q4_1"), ("stack", "Q8_0")):
        rows, weights = values[name].reshape(-1, values[name].shape[-1]), importance.get(name)
        columns = weights if weights is None or weights.ndim == 1 else (weights[0] + weights[1]) / 2
        expected = tensor_encoder(type_name, lambda work, rows=rows: [work(rows)], columns, percentile)
        one = found[name]
        assert (one.scale, one.minimum) == (expected.scale, expected.minimum)  # type: ignore[attr-defined]


def test_a_value_without_a_scale_is_named_while_it_is_looked_for(
    make_file: Callable[..., GGUFFile], tmp_path: Path
) -> None:
    values = drawn()
    values["stack"][1, 2, 7] = np.nan
    with pytest.raises(FormatError, match="the value in row 5, column 7 is nan") as error:
        shared(make_file(values), ShareOptions("per_tensor"))
    assert error.value.where == f"{tmp_path / 'source.gguf'}: tensor stack"
