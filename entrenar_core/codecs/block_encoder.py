"""The block types that are also written: what their encoders share."""

from __future__ import annotations

from abc import abstractmethod

import numpy as np

from entrenar_core.codecs.base import Bytes, Floats, checked_importance, encoded_shape, output_bytes
from entrenar_core.codecs.block_codec import BlockCodec
from entrenar_core.codecs.refusal import unfit_block


class EncodingBlockCodec(BlockCodec):
    """A block type: what a subclass encodes is a matrix of whole blocks."""

    def encode(self, values: Floats, importance: Floats | None = None, out: Bytes | None = None) -> Bytes:
        packed = output_bytes(encoded_shape(self, values), out)
        importance = checked_importance(self, importance, values.shape[-1])
        if packed.size:
            rows = np.ascontiguousarray(values).reshape(-1, values.shape[-1])
            unfit = self._encode_rows(rows, importance, packed.reshape(-1, packed.shape[-1]))
            if unfit is not None:
                raise unfit_block(self, rows, unfit)
        return packed

    @abstractmethod
    def _encode_rows(self, rows: Floats, importance: Floats | None, packed: Bytes) -> int | None:
        """rows float32 [R, C], importance float32 [C] -> packed uint8 [R, B], all C-contiguous.

        Returns the number of the first block, counted through all rows, that the type cannot hold.
        """
