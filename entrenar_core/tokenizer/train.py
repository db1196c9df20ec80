"""Trains a byte-level BPE vocabulary on texts, for models that start from random weights.

The library's trainer does the counting. The result is GGUF metadata from which `tokenizer_from_metadata` and llama.cpp
build the same tokenizer: model `gpt2`, pre type `gpt-2`, one control token `<|endoftext|>` that is BOS and EOS.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator

from entrenar_core.errors import DataError, TokenizerError
from entrenar_core.gguf import keys
from entrenar_core.gguf.values import MetadataValue, ValueType
from entrenar_core.tokenizer.bpe import BYTE_TO_CHARACTER
from entrenar_core.tokenizer.pre_types import PRE_TYPES
from entrenar_core.tokenizer.vocabulary import TokenKind

END_OF_TEXT = "<|endoftext|>"
PRE = "gpt-2"
SMALLEST_VOCABULARY = 1 + len(BYTE_TO_CHARACTER)


def train_bpe(texts: Iterable[str], vocab_size: int) -> list[tuple[str, MetadataValue]]:
    """A vocabulary of at most `vocab_size` tokens (fewer when the texts hold no more pairs) as metadata entries.

    Ids: 0 is `<|endoftext|>`, then the 256 bytes, then merges in order of frequency. The same texts give the same
    vocabulary, whatever the number of threads.

    Raises:
        TokenizerError: `vocab_size` leaves no room for the 256 bytes and the control token.
        DataError: there is no text at all.
    """
    if vocab_size < SMALLEST_VOCABULARY:
        raise TokenizerError(
            f"a vocabulary of {vocab_size} tokens cannot hold the 256 bytes and {END_OF_TEXT}",
            hint=f"at least {SMALLEST_VOCABULARY}",
        )
    tokens, merges = _train(texts, vocab_size)
    kinds = [TokenKind.CONTROL] + [TokenKind.NORMAL] * (len(tokens) - 1)
    return [
        (keys.TOKENIZER_MODEL, MetadataValue.string("gpt2")),
        (keys.TOKENIZER_PRE, MetadataValue.string(PRE)),
        (keys.TOKENIZER_TOKENS, MetadataValue.array(ValueType.STRING, tokens)),
        (keys.TOKENIZER_TOKEN_TYPE, MetadataValue.array(ValueType.INT32, [int(kind) for kind in kinds])),
        (keys.TOKENIZER_MERGES, MetadataValue.array(ValueType.STRING, merges)),
        (keys.TOKENIZER_BOS_ID, MetadataValue.uint32(0)),
        (keys.TOKENIZER_EOS_ID, MetadataValue.uint32(0)),
        (keys.TOKENIZER_ADD_BOS, MetadataValue.bool(False)),
    ]


def _train(texts: Iterable[str], vocab_size: int) -> tuple[list[str], list[str]]:
    """Tokens by id and merges by rank, as GGUF spells them."""
    from tokenizers import Regex, Tokenizer, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    splits = [pre_tokenizers.Split(Regex(pattern), "isolated") for pattern in PRE_TYPES[PRE].patterns]
    to_bytes = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([*splits, to_bytes])
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[END_OF_TEXT],
        initial_alphabet=list(BYTE_TO_CHARACTER.values()),
        show_progress=False,
    )
    seen = _Seen(texts)
    tokenizer.train_from_iterator(seen, trainer)
    if not seen.any_text:
        raise DataError("there is no text to train a tokenizer on", hint="name the text column, or check the data")
    model = json.loads(tokenizer.to_str())["model"]
    tokens = sorted(model["vocab"], key=model["vocab"].__getitem__)
    return tokens, [" ".join(pair) for pair in model["merges"]]


class _Seen:
    """Hands texts on and remembers whether one was not empty."""

    def __init__(self, texts: Iterable[str]) -> None:
        self._texts = texts
        self.any_text = False

    def __iter__(self) -> Iterator[str]:
        for text in self._texts:
            self.any_text = self.any_text or bool(text)
            yield text
