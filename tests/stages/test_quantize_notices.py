"""What `entrenar quantize` says of what is not as it was asked for: shared scales and importance without effect."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from entrenar_core.events import Notice
from entrenar_core.gguf.reader import GGUFFile
from entrenar_core.quant.imatrix import ImportanceEntry, ImportanceMatrix, write_imatrix
from tests.stages.quantized import WIDE, quantize, write_wide
from tests.train.tiny_model import Listener


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return write_wide(tmp_path / "source.gguf")


def test_types_with_scales_of_their_own_keep_them_and_it_is_said(source: Path, tmp_path: Path) -> None:
    heard = Listener()
    quantize(source, tmp_path / "out.gguf", heard, type="q4_0", granularity="per_channel")
    (notice,) = heard.of(Notice)
    assert notice.message == "1 tensor of Q6_K cannot share scales and keeps those of its blocks"


def test_copies_that_keep_the_scales_of_their_blocks_are_said(tmp_path: Path) -> None:
    heard = Listener()
    path = write_wide(tmp_path / "q8.gguf", type_name="Q8_0")
    quantize(path, tmp_path / "out.gguf", heard, type="q8_0", granularity="per_channel")
    (notice,) = heard.of(Notice)
    assert notice.message == "14 tensors of Q8_0 are copied with the scales that their blocks have"


@pytest.mark.parametrize("keys", [{"target_size": "1GB"}, {"type": "f16"}])
def test_a_mere_copy_is_said(keys: dict[str, object], source: Path, tmp_path: Path) -> None:
    heard = Listener()
    quantize(source, tmp_path / "out.gguf", heard, **keys)
    (notice,) = heard.of(Notice)
    assert notice.message == "nothing becomes smaller: every tensor keeps the type that it has, and is copied"


@pytest.mark.parametrize(
    ("layers", "says"),
    [
        (1, "1 tensor gets Q4_0 instead of Q3_K: rows do not divide into its blocks"),
        (2, "2 tensors get Q4_0 instead of Q3_K: rows do not divide into its blocks"),
    ],
)
def test_types_that_do_not_fit_are_said_of_one_tensor_and_of_several(layers: int, says: str, tmp_path: Path) -> None:
    path = write_wide(tmp_path / "narrow.gguf", columns=64, layers=layers)
    heard = Listener()
    quantize(path, tmp_path / "out.gguf", heard, type="q8_0", tensor_types={"attn_v": "q3_k"})
    assert [notice.message for notice in heard.of(Notice)] == [says]


@pytest.mark.parametrize(
    ("keys", "says"),
    [
        ({"type": "q8_0"}, ["the importance changes nothing: Q8_0 has no choice to make"]),
        ({"type": "bf16"}, ["the importance changes nothing: BF16 has no choice to make"]),
        ({"type": "q8_0", "output_type": "q6_k"}, []),
        ({"type": "q8_0", "granularity": "per_channel"}, []),
        ({"type": "q4_0"}, []),
    ],
)
def test_an_importance_without_effect_is_said(
    keys: dict[str, str], says: list[str], source: Path, tmp_path: Path
) -> None:
    with GGUFFile.open(source) as file:
        names = [name for name, info in file.tensors.items() if len(info.shape) == 2]
    entry = ImportanceEntry(np.ones((1, WIDE), np.float32), np.ones(1, np.float32))
    write_imatrix(tmp_path / "im.gguf", ImportanceMatrix(dict.fromkeys(names, entry), ("x",), 1, 32))
    heard = Listener()
    quantize(source, tmp_path / "out.gguf", heard, quantize__calibration__imatrix=str(tmp_path / "im.gguf"), **keys)
    assert [notice.message for notice in heard.of(Notice)] == says
