"""The sizes that kernels are tried with: on a GPU, odd ones and ones of several waves of blocks; small ones without."""

from __future__ import annotations

from dataclasses import dataclass

Shape = tuple[int, ...]


@dataclass(frozen=True)
class ModelSize:
    """Of a whole model, and the positions of each of two rows that it reads."""

    layers: int
    hidden: int
    heads: int
    kv_heads: int
    ffn: int
    vocab: int
    length: int


@dataclass(frozen=True)
class AttentionSize:
    """B, T queries, keys, H, K, E; the queries are the last ones of the keys."""

    batch: int
    queries: int
    keys: int
    heads: int
    kv_heads: int
    head_dim: int


@dataclass(frozen=True)
class Sizes:
    """What one run tries.

    Attributes:
        rows: [M, D] of kernels over rows.
        flat: shapes of elementwise kernels.
        slow_flat: the same where the truth is slow to compute.
        products: M, inner, N.
        logits: [M, V].
        attention: where the reference, query by query, is quick enough.
        long_attention: where dense formulas are the truth.
        packed: [out, in] of weights in blocks.
        large_tiles: how many tiles of `large_cases` an array of float32 has; on a GPU more than 2^31 bytes.
        model: of the whole model.
        steps: of training, beside the CPU.
    """

    rows: tuple[Shape, ...]
    flat: tuple[Shape, ...]
    slow_flat: tuple[Shape, ...]
    products: tuple[Shape, ...]
    logits: tuple[Shape, ...]
    attention: tuple[AttentionSize, ...]
    long_attention: tuple[AttentionSize, ...]
    packed: tuple[Shape, ...]
    large_tiles: int
    model: ModelSize
    steps: int


GPU = Sizes(
    rows=((1, 1), (3, 7), (301, 250), (2100, 4099), (5003, 2048)),
    flat=((1,), (7, 5), (33, 129), (9_000_017,)),
    slow_flat=((7, 5), (33, 129), (2_000_003,)),
    products=((1, 1, 1), (33, 17, 65), (257, 130, 3), (1000, 2048, 2052), (4099, 512, 2050)),
    logits=((1, 3), (37, 1001), (300, 32003), (70, 128_256)),
    attention=(
        AttentionSize(2, 33, 33, 6, 3, 20),
        AttentionSize(3, 7, 50, 4, 1, 64),
        AttentionSize(1, 1, 40, 8, 4, 128),
        AttentionSize(2, 200, 200, 8, 2, 128),
        AttentionSize(1, 300, 300, 4, 4, 64),
    ),
    long_attention=(AttentionSize(1, 2048, 2048, 4, 2, 128), AttentionSize(2, 1111, 1111, 8, 8, 64)),
    packed=((67, 512), (2051, 2048)),
    large_tiles=3973,
    model=ModelSize(layers=3, hidden=512, heads=8, kv_heads=4, ffn=1536, vocab=2003, length=193),
    steps=50,
)
HOST = Sizes(
    rows=((1, 1), (3, 7), (67, 250)),
    flat=((1,), (33, 129)),
    slow_flat=((7, 5),),
    products=((1, 1, 1), (33, 17, 65)),
    logits=((1, 3), (37, 101)),
    attention=(AttentionSize(2, 19, 19, 4, 2, 16), AttentionSize(1, 3, 20, 2, 1, 8)),
    long_attention=(AttentionSize(1, 70, 70, 2, 1, 16),),
    packed=((67, 256),),
    large_tiles=2,
    model=ModelSize(layers=2, hidden=256, heads=4, kv_heads=2, ffn=256, vocab=120, length=37),
    steps=4,
)
"""For kernels that run on the host, one thread after another."""
