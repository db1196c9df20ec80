"""How many entries a density keeps."""

from __future__ import annotations


def check_density(density: float) -> float:
    """The density itself.

    Raises:
        ValueError: it is not above 0.
    """
    if not density > 0:
        raise ValueError(f"density {density} keeps nothing: it must be above 0")
    return density


def kept_count(n_values: int, density: float) -> int:
    """⌊density·n⌋, at least one and at most all.

    Raises:
        ValueError: the density is not above 0.
    """
    return min(n_values, max(1, int(check_density(density) * n_values)))
