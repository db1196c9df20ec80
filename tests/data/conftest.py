"""A real byte-level BPE tokenizer, trained on a few sentences when the tests run."""

from __future__ import annotations

import pytest
import tokenizers
from tokenizers import decoders, models, pre_tokenizers, trainers

SENTENCES = [
    "the quick brown fox jumps over the lazy dog and says hello to the world",
    "a question asks and an answer says what the question asks",
]


class ByteLevelBPE:
    """The interface of the engine's tokenizer over a `tokenizers.Tokenizer`."""

    def __init__(self, special_id: int | None) -> None:
        inner = tokenizers.Tokenizer(models.BPE())
        inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        inner.decoder = decoders.ByteLevel()
        trainer = trainers.BpeTrainer(
            vocab_size=320,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            special_tokens=["<|endoftext|>"],
            show_progress=False,
        )
        inner.train_from_iterator(SENTENCES * 20, trainer)
        inner.encode_special_tokens = True
        self._inner = inner
        self.bos_id = self.eos_id = special_id
        self.add_bos = False

    def encode(self, text: str) -> list[int]:
        return self._inner.encode(text, add_special_tokens=False).ids

    def encode_batch(self, texts: list[str], *, add_special: bool, parse_special: bool) -> list[list[int]]:
        assert not add_special
        assert not parse_special
        return [encoding.ids for encoding in self._inner.encode_batch(texts, add_special_tokens=False)]

    def decode(self, ids: list[int], *, skip_special: bool = True) -> str:
        return self._inner.decode(ids, skip_special_tokens=skip_special)


@pytest.fixture(scope="session")
def tokenizer() -> ByteLevelBPE:
    """BOS and EOS are both <|endoftext|>, id 0."""
    return ByteLevelBPE(0)


@pytest.fixture(scope="session")
def tokenizer_without_specials() -> ByteLevelBPE:
    """Neither BOS nor EOS."""
    return ByteLevelBPE(None)
