"""Whether two models read the same ids."""

from __future__ import annotations

from collections.abc import Sequence

from entrenar_core.errors import ModelError


def shared_tokens(tokens: Sequence[str], reference: Sequence[str], name: str, reference_name: str) -> int:
    """How many tokens two vocabularies share from the first one on: all of the smaller one.

    The larger one may be the same, padded.

    Args:
        tokens, reference: the texts of the tokens, by id.
        name, reference_name: of the models, for the message.

    Raises:
        ModelError: they differ before one of them ends.
    """
    pairs = list(zip(tokens, reference, strict=False))
    differing = [token_id for token_id, (token, other) in enumerate(pairs) if token != other]
    if differing:
        first = differing[0]
        raise ModelError(
            f"its vocabulary is not that of {reference_name}: {len(differing)} of {len(pairs)} tokens differ"
            f" (token {first} is {tokens[first]!r}, not {reference[first]!r})",
            where=name,
            hint="divergence is between models that read the same tokens; compare bits per byte instead",
        )
    return len(pairs)
