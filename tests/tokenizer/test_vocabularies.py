"""Seven real vocabularies and the ids that llama.cpp's own test files expect of them."""

from __future__ import annotations

import time
from functools import cache
from pathlib import Path

import pytest

from entrenar_core.gguf.reader import GGUFFile
from entrenar_core.tokenizer.build import tokenizer_from_metadata
from entrenar_core.tokenizer.tokenizer import Tokenizer

NAMES = ("deepseek-coder", "gpt-2", "llama-bpe", "llama-spm", "phi-3", "qwen2", "starcoder")


@cache
def build(shared_data: Path, name: str) -> Tokenizer:
    path = shared_data / "vocabs" / f"ggml-vocab-{name}.gguf"
    with GGUFFile.open(path) as file:
        return tokenizer_from_metadata(file.metadata, path.name)


def read_cases(shared_data: Path, name: str) -> list[tuple[str, list[int]]]:
    stem = shared_data / "vocabs" / f"ggml-vocab-{name}.gguf"
    texts = Path(f"{stem}.inp").read_bytes().decode().split("\n__ggml_vocab_test__\n")
    lines = Path(f"{stem}.out").read_text().removesuffix("\n").split("\n")
    assert len(texts) in (len(lines), len(lines) + 1)
    return [(text, [int(word) for word in line.split()]) for text, line in zip(texts, lines, strict=False)]


@pytest.mark.parametrize("name", NAMES)
def test_every_case_of_a_real_vocabulary_gets_the_expected_ids(shared_data: Path, name: str) -> None:
    tokenizer = build(shared_data, name)
    cases = read_cases(shared_data, name)
    assert len(cases) > 40
    assert tokenizer.encode_batch([text for text, _ in cases]) == [ids for _, ids in cases]
    assert [tokenizer.encode(text) for text, _ in cases] == [ids for _, ids in cases]


@pytest.mark.parametrize("name", NAMES)
def test_decoding_gives_every_text_back(shared_data: Path, name: str) -> None:
    tokenizer = build(shared_data, name)
    for text, ids in read_cases(shared_data, name):
        assert tokenizer.decode(ids) == text


def test_bos_and_eos_rules_of_the_real_vocabularies(shared_data: Path) -> None:
    rules = {}
    for name in NAMES:
        tokenizer = build(shared_data, name)
        rules[name] = (tokenizer.bos_id, tokenizer.eos_id, tokenizer.add_bos, tokenizer.add_eos)
    assert rules == {
        "deepseek-coder": (32013, 32014, True, False),
        "gpt-2": (50256, 50256, False, False),
        "llama-bpe": (128000, 128001, True, False),
        "llama-spm": (1, 2, True, False),
        "phi-3": (1, 32000, True, False),
        "qwen2": (151643, 151643, False, False),
        "starcoder": (0, 0, False, False),
    }


def test_special_text_of_a_template_becomes_control_tokens(shared_data: Path) -> None:
    tokenizer = build(shared_data, "llama-bpe")
    ids = tokenizer.encode("<|start_header_id|>user<|end_header_id|>\n\nhi<|eot_id|>", parse_special=True)
    assert ids == [128006, 882, 128007, 271, 6151, 128009]
    assert tokenizer.decode(ids) == "user\n\nhi"
    assert 128009 in tokenizer.stop_ids


def test_white_space_after_a_special_token_of_phi_3_is_swallowed(shared_data: Path) -> None:
    tokenizer = build(shared_data, "phi-3")
    assert tokenizer.encode("<|user|>\n hi", parse_special=True) == tokenizer.encode("<|user|>hi", parse_special=True)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["llama-bpe", "qwen2"])
def test_a_large_vocabulary_is_built_in_one_and_a_half_seconds(shared_data: Path, name: str) -> None:
    start = time.perf_counter()
    build.__wrapped__(shared_data, name)
    assert time.perf_counter() - start < 1.5
