"""Embedding: rows of a table by token id."""

from __future__ import annotations

from collections.abc import Sequence

from entrenar_core.autograd.op import Context, Op, apply
from entrenar_core.autograd.tensor import Tensor
from entrenar_core.backend.base import Array, Backend, WeightHandle


class Embedding(Op):
    name = "embedding"

    @staticmethod
    def forward(context: Context, table: Array, ids: Array) -> Array:
        context.params.update(ids=ids.reshape(-1), shape=table.shape)
        return context.backend.embedding(table, ids.reshape(-1)).reshape(*ids.shape, table.shape[1])

    @staticmethod
    def backward(context: Context, grad: Array) -> Sequence[Array | None]:
        table_grad = context.grad_buffer(0)
        if table_grad is None:
            table_grad = context.backend.zeros(context.params["shape"])
        context.backend.embedding_backward(grad.reshape(-1, grad.shape[-1]), context.params["ids"], table_grad)
        return (table_grad,)


def embedding(table: Tensor, ids: Array) -> Tensor:
    """Rows of table [V, D] for ids int32 [...] -> [..., D]."""
    return apply(Embedding, table, ids=ids)


def packed_embedding(backend: Backend, table: WeightHandle, ids: Array) -> Tensor:
    """Rows of a frozen table [V, D] in blocks for ids int32 [...] -> [..., D]; no gradient flows into it."""
    rows = backend.embedding_packed(table, ids.reshape(-1))
    return Tensor(rows.reshape(*ids.shape, table.shape[1]), backend)
