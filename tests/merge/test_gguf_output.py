"""A GGUF that several threads fill is the file that the ordinary writer makes, or there is none."""

from __future__ import annotations

import random
import threading
from pathlib import Path

import numpy as np
import pytest

from entrenar_core.codecs.registry import codec_for
from entrenar_core.errors import FormatError, OutputError
from entrenar_core.gguf.values import MetadataValue
from entrenar_core.gguf.writer import encode_tensor, write_gguf
from entrenar_core.merge.gguf_output import GGUFOutput
from entrenar_core.merge.output import Sink

VALUES = {
    "a": np.arange(128, dtype=np.float32).reshape(4, 32),
    "b": np.arange(5, dtype=np.float32),
    "c": np.arange(192, dtype=np.float32).reshape(2, 3, 32),
}
TYPES = {"a": "Q8_0", "b": "F32", "c": "F16"}
METADATA = [("general.architecture", MetadataValue.string("llama"))]


def output(path: Path) -> GGUFOutput:
    return GGUFOutput(path, METADATA, [(name, values.shape, TYPES[name]) for name, values in VALUES.items()])


def write_row(sink: Sink, name: str, row: int) -> None:
    matrix = VALUES[name].reshape(-1, VALUES[name].shape[-1])
    sink.write(name, row, codec_for(TYPES[name]).encode(matrix[row : row + 1]))


def test_rows_from_any_thread_in_any_order_make_the_file(tmp_path: Path) -> None:
    expected = tmp_path / "expected.gguf"
    write_gguf(expected, METADATA, [encode_tensor(name, values, TYPES[name]) for name, values in VALUES.items()])
    rows = [(name, row) for name, values in VALUES.items() for row in range(values.size // values.shape[-1])]
    random.Random(1).shuffle(rows)
    made = output(tmp_path / "m.gguf")
    with made.opened() as sink:
        with sink.reserved():
            pass
        halves = [rows[::2], rows[1::2]]
        threads = [
            threading.Thread(target=lambda part=part: [write_row(sink, *row) for row in part]) for part in halves
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not (tmp_path / "m.gguf").exists()
    assert (tmp_path / "m.gguf").read_bytes() == expected.read_bytes()
    assert made.n_bytes == expected.stat().st_size


def test_an_error_leaves_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "m.gguf"
    path.write_bytes(b"old")
    with pytest.raises(RuntimeError), output(path).opened() as sink:
        write_row(sink, "a", 0)
        raise RuntimeError
    assert [(file.name, file.read_bytes()) for file in tmp_path.iterdir()] == [("m.gguf", b"old")]


def test_a_full_disk_is_an_error_with_the_path(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="No space left") as caught, output(tmp_path / "m.gguf").opened():
        raise OSError(28, "No space left on device")
    assert caught.value.where == str(tmp_path / "m.gguf")
    assert list(tmp_path.iterdir()) == []


def test_a_tensor_that_does_not_fit_its_type_is_refused_before_there_is_a_file(tmp_path: Path) -> None:
    with pytest.raises(FormatError, match="do not divide into Q8_0 blocks"):
        GGUFOutput(tmp_path / "m.gguf", METADATA, [("w", (4, 33), "Q8_0")])
    assert list(tmp_path.iterdir()) == []
