"""Finds the codec of a GGML type by name."""

from __future__ import annotations

from entrenar_core.codecs.base import Codec
from entrenar_core.codecs.floats import BF16Codec, F16Codec, F32Codec
from entrenar_core.codecs.ggml_types import TYPE_BY_NAME
from entrenar_core.codecs.iq_quants import (
    IQ1_MCodec,
    IQ1_SCodec,
    IQ2_SCodec,
    IQ2_XSCodec,
    IQ2_XXSCodec,
    IQ3_SCodec,
    IQ3_XXSCodec,
)
from entrenar_core.codecs.k_quants import Q2_KCodec, Q3_KCodec, Q4_KCodec, Q5_KCodec, Q6_KCodec
from entrenar_core.codecs.legacy import Q4_0Codec, Q4_1Codec, Q5_0Codec, Q5_1Codec, Q8_0Codec
from entrenar_core.codecs.level_quants import IQ4_NLCodec, IQ4_XSCodec, MXFP4Codec, NVFP4Codec
from entrenar_core.codecs.ternary import Q1_0Codec, TQ1_0Codec, TQ2_0Codec
from entrenar_core.errors import FormatError

# fmt: off
_FLOATS: tuple[Codec, ...] = (F32Codec(), F16Codec(), BF16Codec())
_LEGACY: tuple[Codec, ...] = (Q4_0Codec(), Q4_1Codec(), Q5_0Codec(), Q5_1Codec(), Q8_0Codec())
_K_TYPES: tuple[Codec, ...] = (Q2_KCodec(), Q3_KCodec(), Q4_KCodec(), Q5_KCodec(), Q6_KCodec())
_IQ4: tuple[Codec, ...] = (IQ4_NLCodec(), IQ4_XSCodec())
_WRITTEN: tuple[Codec, ...] = (*_FLOATS, *_LEGACY, *_K_TYPES, *_IQ4)
_READ_ONLY: tuple[Codec, ...] = (
    MXFP4Codec(), NVFP4Codec(),
    IQ1_SCodec(), IQ1_MCodec(), IQ2_XXSCodec(), IQ2_XSCodec(), IQ2_SCodec(), IQ3_XXSCodec(), IQ3_SCodec(),
    TQ1_0Codec(), TQ2_0Codec(), Q1_0Codec(),
)
# fmt: on
_CODECS: dict[str, Codec] = {codec.type_name: codec for codec in (*_WRITTEN, *_READ_ONLY)}

ENCODABLE: frozenset[str] = frozenset(codec.type_name for codec in _WRITTEN)
"""The types that tensors can be written in."""

DECODABLE: frozenset[str] = frozenset(_CODECS)
"""The types that tensors can be read in."""


def codec_for(type_name: str) -> Codec:
    """The codec of a type in `DECODABLE`.

    Raises FormatError for an unknown name and for a type whose values nobody decodes (``Q8_K``, ``I32``).
    """
    if type_name in _CODECS:
        return _CODECS[type_name]
    if type_name in TYPE_BY_NAME:
        raise FormatError(
            f"tensors of type {type_name} cannot be decoded to floating point",
            hint="convert the model to F16 or Q8_0 with llama.cpp's llama-quantize",
        )
    raise FormatError(f"unknown tensor type {type_name!r}", hint=f"known types: {', '.join(sorted(TYPE_BY_NAME))}")
