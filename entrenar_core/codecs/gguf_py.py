"""Decode-only codecs for the block types that we do not encode ourselves, on the `gguf` package.

The package is imported at the first decode: that takes 0.1 s and most runs never need it. Rows are decoded in pieces,
because gguf-py keeps several copies of what it decodes.
"""

from __future__ import annotations

import numpy as np

from entrenar_core.codecs.base import Bytes, Floats, decoded_shape, output_array
from entrenar_core.codecs.ggml_types import GGMLType
from entrenar_core.errors import FormatError

# fmt: off
DECODABLE_BY_GGUF_PY: frozenset[str] = frozenset((
    "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0",
    "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K",
    "TQ1_0", "TQ2_0", "MXFP4", "NVFP4",
    "IQ2_XXS", "IQ2_XS", "IQ2_S",
    "IQ3_XXS", "IQ3_S", "IQ1_S", "IQ1_M",
    "IQ4_NL", "IQ4_XS",
))
# fmt: on
"""Checked against gguf-py's own table by a test."""

_PIECE_VALUES = 1 << 20


class GgufPyCodec:
    """Decodes one block type with `gguf.quants.dequantize`."""

    def __init__(self, ggml_type: GGMLType) -> None:
        self.type_name = ggml_type.name
        self.block_size = ggml_type.block_size
        self.block_bytes = ggml_type.block_bytes

    def decode(self, raw: Bytes, out: Floats | None = None) -> Floats:
        from gguf.constants import GGMLQuantizationType
        from gguf.quants import dequantize

        values = output_array(decoded_shape(self, raw), out)
        if self.type_name not in GGMLQuantizationType.__members__:
            raise FormatError(
                f"the installed gguf package does not know {self.type_name}", hint="pip install --upgrade gguf"
            )
        qtype = GGMLQuantizationType[self.type_name]
        blocks = np.ascontiguousarray(raw).reshape(-1, self.block_bytes)
        targets = values.reshape(-1, self.block_size)
        step = _PIECE_VALUES // self.block_size
        with np.errstate(all="ignore"):
            for start in range(0, len(blocks), step):
                targets[start : start + step] = dequantize(blocks[start : start + step], qtype)
        return values

    def encode(self, values: Floats, importance: Floats | None = None, out: Bytes | None = None) -> Bytes:
        del values, importance, out
        raise FormatError(
            f"{self.type_name} can be read but not written",
            hint="write F16, BF16 or F32",
        )
