"""The engine's own tokenizer, trained on a few sentences when the tests run."""

from __future__ import annotations

import pytest

from entrenar_core.tokenizer.build import tokenizer_from_metadata
from entrenar_core.tokenizer.tokenizer import Tokenizer
from entrenar_core.tokenizer.train import train_bpe

SENTENCES = [
    "the quick brown fox jumps over the lazy dog and says hello to the world",
    "a question asks and an answer says what the question asks",
]


def _tokenizer(*, with_specials: bool) -> Tokenizer:
    metadata = {key: value.plain for key, value in train_bpe(SENTENCES * 20, 320)}
    if not with_specials:
        metadata = {key: value for key, value in metadata.items() if not key.endswith(("bos_token_id", "eos_token_id"))}
    return tokenizer_from_metadata(metadata, "trained in the test")


@pytest.fixture(scope="session")
def tokenizer() -> Tokenizer:
    """BOS and EOS are both <|endoftext|>, id 0."""
    return _tokenizer(with_specials=True)


@pytest.fixture(scope="session")
def tokenizer_without_specials() -> Tokenizer:
    """Neither BOS nor EOS."""
    return _tokenizer(with_specials=False)
