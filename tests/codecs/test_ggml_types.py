"""Our table of tensor types is gguf-py's."""

from __future__ import annotations

from gguf.constants import GGML_QUANT_SIZES

from entrenar_core.codecs.ggml_types import GGML_TYPES, REMOVED_TYPES, TYPE_BY_ID


def test_the_table_equals_the_one_of_gguf_py() -> None:
    ours = {entry.id: (entry.name, entry.block_size, entry.block_bytes) for entry in GGML_TYPES}
    theirs = {int(kind): (kind.name, *sizes) for kind, sizes in GGML_QUANT_SIZES.items()}
    assert ours == theirs


def test_a_removed_type_is_not_in_the_table() -> None:
    assert not REMOVED_TYPES.keys() & TYPE_BY_ID.keys()


def test_a_row_takes_whole_blocks() -> None:
    assert TYPE_BY_ID[12].row_bytes(512) == 288
