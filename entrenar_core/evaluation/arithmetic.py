"""The arithmetic of llama.cpp's CPU kernels: what a matrix multiplies is first rounded to a type that goes with it.

A matrix in F16 multiplies activations in F16; one in blocks of 32 values (Q4_0, Q8_0 ...) activations in Q8_0, and one
in blocks of 256 (K and IQ types) activations in Q8_K. Keys and values go through the cache, which is F16 unless
llama.cpp is told otherwise. All else is float32 there as here: products of blocks are summed as whole numbers, so
rounding the inputs is all there is to it, up to the order of float32 sums.

It tells the figures that llama.cpp measures of a file from those of its weights alone. Of a Q8_0 file most of the
divergence from the F16 file is rounding of activations. What each step rounds differs between two programs, or two
builds of llama.cpp, wherever a value lies near a tie, and after some layers the rounding is as good as independent:
figures agree as averages over many tokens, not logit by logit.

Of Q4_1 and Q5_1 llama.cpp also rounds the sum of each block of activations (Q8_1); that is not done here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import numpy as np

from entrenar_core.autograd.tape import current_tape
from entrenar_core.autograd.tensor import Tensor
from entrenar_core.backend.base import Array, Backend
from entrenar_core.codecs.registry import codec_for
from entrenar_core.errors import AutogradError, ModelError
from entrenar_core.model.decoder import LanguageModel
from entrenar_core.model.layers import InputRounding, Linear
from entrenar_core.model.packed import PackedWeight
from entrenar_core.quant.calibrate import linear_layers
from entrenar_core.threads import Threads

ACTIVATION_TYPES: Mapping[str, str] = {
    "F32": "F32",
    "F16": "F16",
    "BF16": "BF16",
    **dict.fromkeys(("Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "IQ4_NL", "MXFP4"), "Q8_0"),
    **dict.fromkeys(("Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "TQ1_0", "TQ2_0", "IQ4_XS"), "Q8_K"),
    **dict.fromkeys(("IQ1_S", "IQ1_M", "IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ3_XXS", "IQ3_S"), "Q8_K"),
}
"""By the type of a matrix, that of what it multiplies (``vec_dot_type`` of ggml-cpu.c; Q8_1 is taken for Q8_0)."""

_GRAIN = 1 << 14
"""Values that are worth a thread of their own."""


class RoundedInputs:
    """Rounds inputs to one type; an `InputRounding`. Layers that share an input share what it becomes.

    Args:
        type_name: F16, BF16, Q8_0 or Q8_K.
        threads: share the blocks out.
    """

    def __init__(self, type_name: str, threads: Threads) -> None:
        self.type_name = type_name
        self._threads = threads
        self._last: tuple[Tensor, Tensor] | None = None

    def rounded(self, x: Tensor) -> Tensor:
        """x [..., n] in the type; n is a whole number of its blocks.

        Raises:
            AutogradError: a tape is recording: rounding has no gradient.
            FormatError: a value is beyond the type.
        """
        if current_tape() is not None:
            raise AutogradError("rounded inputs have no gradient", hint="evaluate inside no_grad()")
        if self._last is None or self._last[0] is not x:
            self._last = (x, Tensor(self._values(x.data, x.backend), x.backend))
        return self._last[1]

    def _values(self, x: Array, backend: Backend) -> Array:
        if self.type_name in ("F16", "BF16"):
            rows = backend.cast(x.reshape(-1, x.shape[-1]), backend.dtype)
            rounded = backend.fake_quantize(rows, codec_for(self.type_name)).reshape(x.shape)
        else:
            rounded = backend.asarray(round_blocks(backend.to_host(x), self.type_name, self._threads))
        return backend.cast(rounded, x.dtype)


def round_blocks(x: np.ndarray, type_name: str, threads: Threads) -> np.ndarray:
    """x float32 [..., n] through blocks of Q8_0 or Q8_K as ggml's x86 code makes them."""
    from entrenar_core.evaluation import arithmetic_kernels as kernels

    kernel: Callable[..., None]
    kernel, size = (
        (kernels.round_q8_0, kernels.Q8_0_BLOCK) if type_name == "Q8_0" else (kernels.round_q8_k, kernels.Q8_K_BLOCK)
    )
    blocks = np.ascontiguousarray(x, np.float32).reshape(-1, size)
    found = np.empty_like(blocks)
    threads.run(kernel, len(blocks), blocks, found, grain=_GRAIN // size)
    return found.reshape(x.shape)


@contextmanager
def llama_cpp_arithmetic(model: LanguageModel, *, cache_type: str = "F16") -> Iterator[None]:
    """Inside, the model computes as llama.cpp's CPU kernels do with the types of its file.

    Args:
        model: from `load_mapped`, so that it knows the types of its matrices.
        cache_type: of the keys and values, llama.cpp's ``--cache-type-k`` and ``-v``: F16, BF16 or F32.

    Raises:
        ModelError: a matrix is not as it lies in a file, or it is not known how llama.cpp multiplies by its type.
    """
    threads = Threads(model.backend.n_threads)
    made: dict[str, RoundedInputs] = {}

    def rounding(type_name: str) -> InputRounding | None:
        return None if type_name == "F32" else made.setdefault(type_name, RoundedInputs(type_name, threads))

    layers = list(linear_layers(model))
    roundings = [rounding(_type_of_inputs(layer)) for layer in layers]
    try:
        for layer, each in zip(layers, roundings, strict=True):
            layer.input_rounding = each
        for block in model.blocks:
            block.attention.cache_rounding = rounding(cache_type)
        yield
    finally:
        for layer in layers:
            layer.input_rounding = None
        for block in model.blocks:
            block.attention.cache_rounding = None
        threads.close()


def check_arithmetic(types: Mapping[str, str]) -> None:
    """See that the arithmetic of matrices is known, from their types by name.

    Raises:
        ModelError: it is not known how llama.cpp multiplies by a type.
    """
    for name, type_name in types.items():
        activation_type(type_name, name)


def activation_type(type_name: str, name: str) -> str:
    """The type of what a matrix of this type multiplies; `name` is the matrix's, for the message.

    Raises:
        ModelError: it is not known.
    """
    found = ACTIVATION_TYPES.get(type_name)
    if found is None:
        raise ModelError(f"it is not known how llama.cpp multiplies by {type_name}", where=f"tensor {name}")
    return found


def _type_of_inputs(layer: Linear) -> str:
    if type(layer) is not Linear or not isinstance(layer.weight, PackedWeight):
        raise ModelError("the arithmetic of llama.cpp is that of a file's matrices", where=f"layer {layer.name}")
    return activation_type(layer.weight.matrix.type_name, layer.weight.name)
