"""What a teacher's answers depend on besides the data: two runs with an equal key may share a cache.

It takes the teachers' files by their digests, so that no teacher is opened to find that a cache fits. What is done with
the answers (the divergence, alpha) is left out.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from entrenar_core.backend.parameters import DistillationParams
from entrenar_core.distill.teachers import Combination
from entrenar_core.distill.vocabulary import SharedVocabulary


def teacher_key(
    digests: Sequence[str],
    shares: Sequence[float],
    vocabulary: SharedVocabulary,
    params: DistillationParams,
    combine: Combination = "mean",
) -> dict[str, Any]:
    """JSON values by name.

    Args:
        digests: of each teacher's file.
        shares: of each teacher; only their ratios matter.
        vocabulary: what their tokens have in common with the student's.
        params: of the objective.
        combine: how several speak as one.
    """
    key: dict[str, Any] = {"files": list(digests), "tokens": _digest(vocabulary)}
    if len(digests) > 1:
        key |= {"shares": [round(share / sum(shares), 12) for share in shares], "combine": combine}
    if params.kind == "logit_mse":
        return {**key, "values": "logits"}
    return {**key, "values": "log-probabilities", "temperature": params.temperature}


def gives_weights(vocabulary: SharedVocabulary) -> bool:
    """Whether some predictions cannot be compared, because a teacher lacks a token: then targets have weights."""
    return any(one.shared < one.n_tokens for one in vocabulary.maps)


def _digest(vocabulary: SharedVocabulary) -> str:
    """Hex hash of the tokens that are compared, and of what each teacher reads for a token of the student."""
    content = hashlib.blake2b(digest_size=16)
    for one in vocabulary.maps:
        for ids in (one.ids, one.read_as):
            content.update(ids.astype("<i4").tobytes())
    columns = np.arange(vocabulary.n) if vocabulary.columns is None else vocabulary.columns
    content.update(columns.astype("<i4").tobytes())
    return content.hexdigest()
