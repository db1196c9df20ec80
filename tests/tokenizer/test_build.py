"""What `tokenizer_from_metadata` refuses, and what it fills in."""

from __future__ import annotations

import numpy as np
import pytest

from entrenar_core.errors import TokenizerError
from entrenar_core.tokenizer.build import tokenizer_from_metadata
from tests.tokenizer.small import CONTROL, by_score, byte_level, byte_level_metadata, score_metadata

KEY = "tokenizer.ggml."


def refusal(metadata: dict[str, object]) -> str:
    with pytest.raises(TokenizerError) as caught:
        tokenizer_from_metadata(metadata, "model.gguf")
    return str(caught.value)


def test_an_unknown_model_is_named_with_the_known_ones() -> None:
    message = refusal(byte_level_metadata() | {KEY + "model": "bert"})
    assert "model.gguf: tokenizer.ggml.model: unknown tokenizer model 'bert'" in message
    assert "gpt2, llama" in message


def test_an_unknown_pre_type_is_named_with_the_known_ones() -> None:
    message = refusal(byte_level_metadata(pre="gpt-9"))
    assert "model.gguf: tokenizer.ggml.pre: unknown pre-tokenizer type 'gpt-9'" in message
    assert "llama-bpe" in message
    assert "qwen2" in message


@pytest.mark.parametrize("key", ["model", "pre", "tokens", "merges"])
def test_a_byte_level_vocabulary_needs(key: str) -> None:
    metadata = byte_level_metadata()
    del metadata[KEY + key]
    assert f"model.gguf: tokenizer.ggml.{key}: the key is missing" in refusal(metadata)


@pytest.mark.parametrize("key", ["tokens", "scores"])
def test_a_score_vocabulary_needs(key: str) -> None:
    metadata = score_metadata({"a": -1.0})
    del metadata[KEY + key]
    assert f"tokenizer.ggml.{key}: the key is missing" in refusal(metadata)


def test_without_token_types_all_tokens_are_normal() -> None:
    metadata = byte_level_metadata(special={"<|x|>": CONTROL})
    del metadata[KEY + "token_type"]
    tokenizer = tokenizer_from_metadata(metadata, "model.gguf")
    assert tokenizer.decode([256]) == "<|x|>"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"token_type": np.array([1, 1], dtype=np.int32)}, "token_type: 2 entries for 256 tokens"),
        ({"token_type": np.full(256, 9, dtype=np.int32)}, "token_type: token 0 has type 9"),
        ({"token_type": "normal"}, "token_type: expected an array of numbers, found str"),
        ({"tokens": 7}, "tokens: expected an array of strings, found int"),
        ({"tokens": []}, "tokens: the vocabulary is empty"),
        ({"tokens": ["a", "b", "a"]}, "tokens: token 'a' has ids 0 and 2"),
        ({"merges": ["a b"]}, "merges: merge 0, 'a b', needs 'ab', which is no token"),
        ({"merges": ["a"]}, "merges: merge 0, 'a', needs '', which is no token"),
        ({"eos_token_id": 256}, "eos_token_id: token id 256 is outside the vocabulary of 256 tokens"),
        ({"eot_token_id": -1}, "eot_token_id: token id -1 is outside"),
        ({"bos_token_id": "1"}, "bos_token_id: expected a token id, found '1'"),
        ({"add_bos_token": 1}, "add_bos_token: expected true or false, found 1"),
        ({"add_eos_token": True}, "tokenizer.ggml.eos_token_id is missing"),
        ({"pre": 3}, "pre: expected a string, found int"),
    ],
)
def test_a_contradiction_is_named(changes: dict[str, object], message: str) -> None:
    assert message in refusal(byte_level_metadata() | {KEY + key: value for key, value in changes.items()})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"scores": np.zeros(3, dtype=np.float32)}, "scores: 3 entries for 260 tokens"),
        ({"scores": np.full(260, np.nan, dtype=np.float32)}, "scores: the score of token 0 is not a number"),
    ],
)
def test_scores_have_to_fit(changes: dict[str, object], message: str) -> None:
    metadata = score_metadata({"a": -1.0}) | {KEY + key: value for key, value in changes.items()}
    assert message in refusal(metadata)


def test_a_score_vocabulary_without_byte_tokens_is_refused() -> None:
    metadata = score_metadata({"a": -1.0})
    tokens = list(metadata[KEY + "tokens"])  # type: ignore[call-overload]
    tokens[3 + 0x41] = "no byte"
    assert "1 of the 256 byte tokens are missing, the first is <0x41>" in refusal(metadata | {KEY + "tokens": tokens})


def test_a_byte_without_a_token_is_an_error_of_the_text_that_needs_it() -> None:
    metadata = byte_level_metadata()
    metadata[KEY + "tokens"] = ["[gone]" if text == "b" else text for text in metadata[KEY + "tokens"]]  # type: ignore[attr-defined]
    tokenizer = tokenizer_from_metadata(metadata, "model.gguf")
    assert tokenizer.decode(tokenizer.encode("ac")) == "ac"
    with pytest.raises(TokenizerError, match="no token for byte 0x62"):
        tokenizer.encode("abc")


def test_score_vocabularies_have_llama_ids_unless_they_say_otherwise() -> None:
    tokenizer = by_score({"a": -1.0})
    assert (tokenizer.bos_id, tokenizer.eos_id, tokenizer.pad_id) == (1, 2, None)
    assert (tokenizer.add_bos, tokenizer.add_eos) == (True, False)
    stated = by_score({"a": -1.0}, bos_token_id=2, eos_token_id=1, padding_token_id=0, add_bos_token=False)
    assert (stated.bos_id, stated.eos_id, stated.pad_id, stated.add_bos) == (2, 1, 0, False)


@pytest.mark.parametrize(("pre", "adds"), [("gpt-2", False), ("llama-bpe", True), ("tekken", True), ("qwen2", False)])
def test_the_pre_type_decides_whether_bos_is_added(pre: str, adds: bool) -> None:
    assert byte_level(pre=pre, bos_token_id=0).add_bos is adds
    assert byte_level(pre=pre, bos_token_id=0, add_bos_token=not adds).add_bos is not adds


def test_byte_level_vocabularies_have_no_bos_unless_they_say_so() -> None:
    tokenizer = byte_level()
    assert (tokenizer.bos_id, tokenizer.eos_id, tokenizer.pad_id, tokenizer.stop_ids) == (None, None, None, frozenset())


def test_a_token_that_is_no_utf8_is_kept_as_bytes() -> None:
    tokenizer = byte_level(special={"\udcff\udcfe": CONTROL})
    assert tokenizer.token_bytes(256, skip_special=False) == b"\xff\xfe"
    assert tokenizer.decode(tokenizer.encode("plain")) == "plain"
