"""Attention on the CUDA backend: by a library where it serves a call, by a kernel of our own for the few queries of
tokens that are written, and from matrix products elsewhere.

Which of these it was is counted, with the reason why a library was not asked.
"""

from __future__ import annotations

from entrenar_core.backend.base import Array
from entrenar_core.backend.cuda_blocked_attention import CudaBlockedAttention
from entrenar_core.backend.cuda_document_attention import DocumentAttention
from entrenar_core.backend.cuda_few_queries import CudaFewQueries, are_few
from entrenar_core.backend.cuda_sdpa import AttentionSizes, Sdpa
from entrenar_core.backend.parameters import AttentionParams

NO_LIBRARY = "no library was opened"
TOKEN_BY_TOKEN = "token by token"


class CudaAttention(CudaBlockedAttention, CudaFewQueries):
    """The part of `Backend` that attends.

    Attributes:
        attention_paths: how often attention, forward or backward, went each way: by the library's name, as
            `TOKEN_BY_TOKEN`, or by "blocked: " and why.
    """

    attention_paths: dict[str, int]
    _library: DocumentAttention | str = NO_LIBRARY

    def attend_with(self, sdpa: Sdpa | str, deterministic: bool = False) -> None:
        """Leave to a library what it serves from now on; or the reason why there is none.

        Args:
            deterministic: whether gradients shall have the same bits each time.
        """
        self.attention_paths = {}
        self._library = sdpa if isinstance(sdpa, str) else DocumentAttention(self, sdpa, deterministic)

    def attention(self, q: Array, k: Array, v: Array, lower: Array, params: AttentionParams) -> tuple[Array, Array]:
        sizes = _sizes(q, k, v, lower, params)
        if params.q_offset != 0 and are_few(sizes):
            self._count(TOKEN_BY_TOKEN)
            return self.attend_few(q, k, v, lower, sizes, params)
        library = self._chosen(q.dtype.name, sizes, params, False)
        if library is None:
            return self.attend_in_blocks(q, k, v, lower, sizes, params)
        return library.attend(q, k, v, sizes, params)

    def attention_backward(
        self, dout: Array, q: Array, k: Array, v: Array, out: Array, lse: Array, lower: Array, params: AttentionParams
    ) -> tuple[Array, Array, Array]:
        sizes = _sizes(q, k, v, lower, params)
        library = self._chosen(q.dtype.name, sizes, params, True)
        if library is None:
            return self.attend_in_blocks_backward(dout, q, k, v, out, lse, lower, sizes, params)
        return library.attend_backward(dout, q, k, v, out, lse, sizes, params)

    def notes(self) -> tuple[str, ...]:
        """How attention was computed, the most frequent way first."""
        total = sum(self.attention_paths.values())
        ways = sorted(self.attention_paths.items(), key=lambda way: -way[1])
        shares = (path if count == total else f"{path} ({count / total:.0%})" for path, count in ways)
        return (f"attention: {'; '.join(shares)}",) if total else ()

    def _chosen(
        self, element: str, sizes: AttentionSizes, params: AttentionParams, backward: bool
    ) -> DocumentAttention | None:
        library = self._library
        if isinstance(library, str):
            reason: str | None = library
        else:
            reason = library.refusal(element, sizes, params, backward)
            if reason is None:
                self._count(library.sdpa.name)
                return library
        self._count(f"blocked: {reason}")
        return None

    def _count(self, path: str) -> None:
        self.attention_paths[path] = self.attention_paths.get(path, 0) + 1


def _sizes(q: Array, k: Array, v: Array, lower: Array, params: AttentionParams) -> AttentionSizes:
    """The sizes of an attention.

    Raises:
        ValueError: shapes that do not fit, or too few keys.
    """
    params.check_shapes(q, k, v, lower)
    batch, n_queries, n_heads, width = (int(each) for each in q.shape)
    n_keys, n_kv = int(k.shape[1]), int(k.shape[2])
    return AttentionSizes(batch, n_queries, n_keys, n_kv, n_heads // n_kv, width)
