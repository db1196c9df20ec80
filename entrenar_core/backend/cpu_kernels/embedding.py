"""Rows of an embedding table by id, and the sum of their gradients; columns of logits by id, and sums into them."""

from __future__ import annotations

from entrenar_core.jit import kernel


@kernel()
def embedding(table, ids, y, start, stop):
    for m in range(start, stop):
        row = table[ids[m]]
        out = y[m]
        for i in range(row.size):
            out[i] = row[i]


@kernel(exact=True)
def embedding_backward(dy, ids, out, start, stop):
    """Columns start ... stop of every row: an id may occur in any row, so threads share out columns, not rows."""
    for m in range(ids.size):
        grad = dy[m, start:stop]
        row = out[ids[m], start:stop]
        for i in range(grad.size):
            row[i] += grad[i]


@kernel()
def take_columns(x, columns, taken, start, stop):
    for m in range(start, stop):
        for i in range(columns.size):
            taken[m, i] = x[m, columns[i]]


@kernel()
def add_to_columns(x, columns, values, start, stop):
    for m in range(start, stop):
        for i in range(columns.size):
            x[m, columns[i]] += values[m, i]
