"""Small vocabularies as GGUF metadata, written out so that a test can say what it expects."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from entrenar_core.tokenizer.bpe import BYTE_TO_CHARACTER
from entrenar_core.tokenizer.build import tokenizer_from_metadata
from entrenar_core.tokenizer.tokenizer import Tokenizer

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = 1, 2, 3, 4, 5, 6
BYTE_TOKENS = [f"<0x{byte:02X}>" for byte in range(256)]


def byte_level_metadata(
    merges: Sequence[str] = (),
    special: Mapping[str, int] | None = None,
    pre: str = "gpt-2",
    **keys: object,
) -> dict[str, object]:
    """Ids: the 256 bytes, the results of the merges, then `special` (text -> type); `keys` are tokenizer.ggml.*."""
    special = special or {}
    made = list(dict.fromkeys(merge.replace(" ", "") for merge in merges))
    tokens = [*BYTE_TO_CHARACTER.values(), *made, *special]
    kinds = [NORMAL] * (256 + len(made)) + list(special.values())
    return {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": pre,
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": np.array(kinds, dtype=np.int32),
        "tokenizer.ggml.merges": list(merges),
        **{f"tokenizer.ggml.{key}": value for key, value in keys.items()},
    }


def score_metadata(
    pieces: Mapping[str, float], special: Mapping[str, int] | None = None, **keys: object
) -> dict[str, object]:
    """Ids: <unk>, <s>, </s>, the 256 bytes, `pieces` (text -> score), `special` (text -> type)."""
    special = special or {}
    tokens = ["<unk>", "<s>", "</s>", *BYTE_TOKENS, *pieces, *special]
    kinds = [UNKNOWN, CONTROL, CONTROL, *[BYTE] * 256, *[NORMAL] * len(pieces), *special.values()]
    scores = [0.0] * 259 + list(pieces.values()) + [-1000.0] * len(special)
    return {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.scores": np.array(scores, dtype=np.float32),
        "tokenizer.ggml.token_type": np.array(kinds, dtype=np.int32),
        **{f"tokenizer.ggml.{key}": value for key, value in keys.items()},
    }


def byte_level(*args: object, **keys: object) -> Tokenizer:
    return tokenizer_from_metadata(byte_level_metadata(*args, **keys), "small.gguf")  # type: ignore[arg-type]


def by_score(*args: object, **keys: object) -> Tokenizer:
    return tokenizer_from_metadata(score_metadata(*args, **keys), "small.gguf")  # type: ignore[arg-type]


def spelled(tokenizer: Tokenizer, text: str, **options: bool) -> list[str]:
    """The tokens of `text` as the vocabulary spells them."""
    return [tokenizer.token_text(token_id) for token_id in tokenizer.encode(text, **options)]
