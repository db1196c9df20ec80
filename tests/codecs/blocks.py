"""Values that quantizers get wrong: ties, signs, steps at a rounding border, the smallest and the largest numbers."""

from __future__ import annotations

import numpy as np

LARGEST = 8 * 65504.0
"""The largest magnitude that Q4_0, Q5_0 and Q8_0 all hold."""

LARGEST_MINIMUM = 65504.0
"""The largest magnitude that Q4_1 and Q5_1 hold on either side of 0."""


def largest_of(type_name: str) -> float:
    """The largest magnitude that a test may give to a type."""
    return LARGEST_MINIMUM if type_name.endswith("_1") else LARGEST


def random_rows(n_rows: int, row: int, seed: int = 0) -> np.ndarray:
    """float32 rows whose blocks differ in size by many powers of two."""
    rng = np.random.default_rng(seed)
    sizes = 2.0 ** rng.integers(-20, 12, (n_rows, row // 32))
    return (rng.standard_normal((n_rows, row)) * np.repeat(sizes, 32, axis=1)).astype(np.float32)


def adversarial_blocks(largest: float = LARGEST) -> np.ndarray:
    """float32 [N, 32], of magnitudes up to `largest`."""
    rng = np.random.default_rng(7)
    ramp = np.arange(32, dtype=np.float32)
    blocks = [
        np.zeros(32),
        -np.zeros(32),
        np.where(ramp % 3 == 1, -0.0, 0.0),
        np.where(ramp % 3 == 0, -0.0, 0.0),
        np.where(ramp < 20, -0.0, ramp),
        np.where(ramp == 9, -0.0, np.maximum(ramp - 5, 0.0)),
        np.where(ramp < 2, -0.0, -ramp),
        ramp - 16,
        16 - ramp,
        np.where(ramp % 2 == 0, 1.0, -1.0),
        np.where(ramp % 2 == 0, -1.0, 1.0),
        np.full(32, largest),
        np.full(32, -largest),
        np.where(ramp == 31, -127.0, ramp + 0.5),
        np.where(ramp == 0, 127.0, -ramp - 0.5),
        np.where(ramp == 5, -8.0, ramp / 4 - 4),
        np.where(ramp == 5, 8.0, ramp / 4 - 4),
        *(np.where(ramp == 3, top, 0.5) for top in (-8.0, 8.0, 127.0, -127.0)),
        *(np.where(ramp == 31, size, size * (ramp - 15) / 16) for size in 2.0 ** np.arange(-149, 16, 3)),
        *(rng.standard_normal((64, 32)) * 10.0 ** rng.uniform(-44, 5, (64, 1))),
        *(rng.integers(-254, 255, (64, 32)) / 2.0),
        *(rng.integers(-16, 17, (64, 32)) / 2.0),
        *(np.nextafter(np.float32(0.5), np.float32(side)) * np.where(ramp == 0, 254, ramp) for side in (0, 1)),
    ]
    return np.clip(np.array(blocks, np.float64), -largest, largest).astype(np.float32)


def ten_million_values(largest: float, seed: int = 11) -> np.ndarray:
    """float32 [20,000, 512]: a fifth each of five kinds of block, of all sizes from 2^-149 up to `largest`."""
    rng = np.random.default_rng(seed)
    shape = (4000, 16, 32)
    normal = rng.standard_normal(shape, np.float32)
    grid = rng.integers(-254, 255, shape).astype(np.float32) / 8  # codes and halves between codes, often tied
    signs = rng.choice(np.array([-1.0, -0.0, 0.0, 1.0], np.float32), shape)
    outlier = np.where(np.arange(32) == rng.integers(0, 32, (*shape[:2], 1)), 2.0**7, 2.0**-5) * normal
    nudged = np.nextafter(grid, rng.choice(np.array([-np.inf, np.inf], np.float32), shape))
    blocks = np.concatenate([normal, grid, signs, outlier.astype(np.float32), nudged])
    exponents = np.where(rng.random((*blocks.shape[:2], 1)) < 0.5, -8, rng.integers(-150, 17, (*blocks.shape[:2], 1)))
    scaled = np.ldexp(blocks, exponents.astype(np.int32))
    return np.clip(scaled, -largest, largest).reshape(-1, 512).astype(np.float32)
