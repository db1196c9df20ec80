"""A GGUF file as an input of a merge: any rows of any type, on any thread, and damage is named."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import gguf
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from entrenar_core.errors import FormatError, ModelError
from entrenar_core.gguf.reader import GGUFFile
from entrenar_core.gguf.values import MetadataValue
from entrenar_core.gguf.writer import encode_tensor, write_gguf
from entrenar_core.merge.models import ModelTensors, open_model
from tests.gguf.build_small import SmallGGUF
from tests.model.tiny import lively, lively_weights
from tests.stages.tiny_base import base_spec, vocab_size, write_base

Q = "blk.0.attn_q.weight"
TYPES = ["F32", "F16", "BF16", "Q4_0", "Q8_0", "Q5_0"]


def rows_of(model: ModelTensors, name: str, first: int, count: int, columns: int) -> np.ndarray:
    out = np.full((count, columns), 7, np.float32)
    model.read(name, first, out)
    return out


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, ModelTensors]]:
    folder = tmp_path_factory.mktemp("models")
    opened = {name: open_model(write_base(folder / f"{name}.gguf", type_name=name)) for name in TYPES}
    yield opened
    for model in opened.values():
        model.close()


@given(type_name=st.sampled_from(TYPES), first=st.integers(0, 31), count=st.integers(1, 32))
def test_any_rows_are_what_the_reference_decodes(
    models: dict[str, ModelTensors], type_name: str, first: int, count: int
) -> None:
    model, count = models[type_name], min(count, 32 - first)
    reader_type = gguf.GGMLQuantizationType[type_name]
    packed = gguf.quants.quantize(lively_weights(base_spec())[Q], reader_type)
    expected = gguf.quants.dequantize(packed, reader_type)[first : first + count]
    np.testing.assert_array_equal(rows_of(model, Q, first, count, 32), expected)
    assert model.type_name(Q) == type_name


def test_a_vector_is_one_row(models: dict[str, ModelTensors]) -> None:
    values = rows_of(models["Q4_0"], "output_norm.weight", 0, 1, 32)
    np.testing.assert_array_equal(values[0], lively("output_norm.weight", (32,)))
    assert models["Q4_0"].type_name("output_norm.weight") == "F32"


def test_it_tells_what_the_file_says(models: dict[str, ModelTensors], tmp_path: Path) -> None:
    path = write_base(tmp_path / "m.gguf")
    with closing(open_model(path)) as model, GGUFFile.open(path) as file:
        assert (model.path, model.architecture) == (str(path), "llama")
        assert model.shapes == {name: weight.shape for name, weight in lively_weights(base_spec()).items()}
        assert model.metadata == file.metadata_entries()
        assert list(model.tokens) == file.metadata["tokenizer.ggml.tokens"]
        assert len(model.tokens) == vocab_size()
        assert model.n_bytes == path.stat().st_size


def test_threads_do_not_disturb_one_another(models: dict[str, ModelTensors]) -> None:
    model = models["F16"]
    expected = {name: rows_of(model, name, 0, *shape) for name, shape in model.shapes.items() if len(shape) == 2}
    wrong: list[str] = []

    def read(seed: int) -> None:
        rng = np.random.default_rng(seed)
        for _ in range(200):
            name = str(rng.choice(list(expected)))
            first = int(rng.integers(len(expected[name])))
            part = expected[name][first : first + 9]
            if not np.array_equal(rows_of(model, name, first, *part.shape), part):
                wrong.append(name)

    threads = [threading.Thread(target=read, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


@pytest.mark.parametrize("type_name", ["F32", "F16", "BF16"])
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_value_that_is_not_finite_is_named(type_name: str, bad: float, tmp_path: Path) -> None:
    values = lively(Q, (32, 32))
    values[21, 5] = bad
    path = write_base(tmp_path / "m.gguf", type_name=type_name, replaced={Q: values})
    with closing(open_model(path)) as model:
        rows_of(model, Q, 22, 10, 32)
        with pytest.raises(FormatError, match=r"row 21, column 5 is -?(nan|inf)") as caught:
            rows_of(model, Q, 16, 10, 32)
    assert caught.value.where == f"{path}: tensor {Q}"


def test_a_damaged_scale_of_a_block_is_found(tmp_path: Path) -> None:
    path = write_base(tmp_path / "m.gguf", type_name="Q8_0")
    with GGUFFile.open(path) as file:
        offset = file.tensors[Q].offset
    with path.open("r+b") as stream:
        stream.seek(offset + 34 * 3)
        stream.write(np.float16(np.inf).tobytes())
    with closing(open_model(path)) as model, pytest.raises(FormatError, match="row 3, column 0"):
        rows_of(model, Q, 0, 32, 32)


def test_a_model_in_shards_is_one_model(tmp_path: Path) -> None:
    names = ["token_embd.weight", Q]
    for number, name in enumerate(names):
        small = SmallGGUF().string("general.architecture", b"llama")
        small.entry("split.no", 2, small.pack("H", number)).entry("split.count", 2, small.pack("H", 2))
        small.entry("split.tensors.count", 5, small.pack("i", 2))
        small.tensor(name, (4, 3), 0, (np.arange(12, dtype=np.float32) + number).tobytes())
        small.write(tmp_path / f"m-{number + 1:05}-of-00002.gguf")
    with closing(open_model(tmp_path / "m-00002-of-00002.gguf")) as model:
        assert list(model.shapes) == names
        for number, name in enumerate(names):
            expected = np.arange(12, dtype=np.float32).reshape(3, 4) + number
            np.testing.assert_array_equal(rows_of(model, name, 1, 2, 4), expected[1:])
        assert [key for key, _ in model.metadata] == ["general.architecture"]
        assert model.n_bytes == sum(path.stat().st_size for path in tmp_path.iterdir())


def test_a_big_endian_file_gives_the_same_values(tmp_path: Path) -> None:
    values = np.arange(12, dtype=np.float32).reshape(3, 4) - 5
    small = SmallGGUF(order=">").string("general.architecture", b"llama")
    small.tensor("token_embd.weight", (4, 3), 1, values.astype(">f2").tobytes())
    with closing(open_model(small.write(tmp_path / "big.gguf"))) as model:
        np.testing.assert_array_equal(rows_of(model, "token_embd.weight", 1, 2, 4), values[1:])


def test_rows_that_a_tensor_does_not_have_are_not_those_of_the_next(models: dict[str, ModelTensors]) -> None:
    with pytest.raises(ValueError, match=f"rows 30 to 33 of {Q}, which has 32"):
        rows_of(models["F16"], Q, 30, 3, 32)


def test_what_is_no_model_is_refused(tmp_path: Path) -> None:
    model = [("general.architecture", MetadataValue.string("llama"))]
    write_gguf(tmp_path / "a.gguf", [*model, ("general.type", MetadataValue.string("adapter"))], [])
    with pytest.raises(ModelError, match="this is an adapter, not a model") as caught:
        open_model(tmp_path / "a.gguf")
    assert caught.value.hint == f"name its base too: --base BASE --adapter {tmp_path / 'a.gguf'}"
    write_gguf(tmp_path / "v.gguf", model, [])
    with pytest.raises(ModelError, match="the file has no tensors"):
        open_model(tmp_path / "v.gguf")
    write_gguf(tmp_path / "n.gguf", model, [encode_tensor("output_norm.weight", np.ones(4, np.float32), "F32")])
    with pytest.raises(ModelError, match=r"there is no matrix token_embd\.weight"):
        open_model(tmp_path / "n.gguf")


def test_a_type_that_nobody_decodes_is_refused_with_its_tensor(tmp_path: Path) -> None:
    small = SmallGGUF().string("general.architecture", b"llama")
    small.tensor("token_embd.weight", (4, 3), 26, np.zeros(12, np.int32).tobytes())
    with pytest.raises(FormatError, match="I32 cannot be decoded") as caught:
        open_model(small.write(tmp_path / "m.gguf"))
    assert caught.value.where == f"{tmp_path / 'm.gguf'}: tensor token_embd.weight"
