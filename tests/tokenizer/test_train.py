"""A vocabulary trained on texts: deterministic, complete, and the same tokenizer when read back."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from entrenar_core.errors import DataError, TokenizerError
from entrenar_core.gguf.reader import GGUFFile
from entrenar_core.gguf.values import MetadataValue
from entrenar_core.gguf.writer import write_gguf
from entrenar_core.tokenizer.build import tokenizer_from_metadata
from entrenar_core.tokenizer.tokenizer import Tokenizer
from entrenar_core.tokenizer.train import train_bpe

TEXTS = ["low lower lowest", "new newer newest", "wide wider widest", "aabbccddeeff" * 3, "été 12 123 1234"]


def tokenizer_of(entries: list[tuple[str, MetadataValue]]) -> Tokenizer:
    return tokenizer_from_metadata({key: value.value for key, value in entries}, "trained")


@pytest.fixture(scope="module")
def trained() -> Tokenizer:
    return tokenizer_of(train_bpe(TEXTS, 290))


def test_ids_are_the_control_token_the_bytes_and_the_merges(trained: Tokenizer) -> None:
    assert trained.vocab_size == 290
    assert trained.token_text(0) == "<|endoftext|>"
    assert sorted(trained.token_bytes(token_id) for token_id in range(1, 257)) == [bytes([byte]) for byte in range(256)]
    assert (trained.bos_id, trained.eos_id, trained.add_bos, trained.add_eos) == (0, 0, False, False)
    assert trained.stop_ids == {0}


def test_frequent_words_become_one_token(trained: Tokenizer) -> None:
    assert len(trained.encode("low")) == 1
    assert trained.encode("<|endoftext|>", parse_special=True) == [0]
    assert 0 not in trained.encode("<|endoftext|>")


@pytest.mark.property
@given(text=st.text(st.characters(exclude_categories=("Cs",)), max_size=40))
def test_any_text_comes_back(trained: Tokenizer, text: str) -> None:
    assert trained.decode(trained.encode(text)) == text


def test_a_vocabulary_ends_where_the_texts_do() -> None:
    assert tokenizer_of(train_bpe(["ab"], 1000)).vocab_size == 258


def test_texts_may_come_from_a_generator() -> None:
    assert train_bpe((text for text in TEXTS), 290) == train_bpe(TEXTS, 290)


@pytest.mark.parametrize("threads", ["1", "3"])
def test_other_processes_and_thread_counts_give_the_same_vocabulary(project_root: Path, threads: str) -> None:
    script = (
        "import hashlib, sys\n"
        "from entrenar_core.tokenizer.train import train_bpe\n"
        f"entries = train_bpe({TEXTS!r}, 320)\n"
        "print(hashlib.sha256(b''.join(bytes(value.encode()) for _, value in entries)).hexdigest())\n"
    )
    printed = subprocess.run(
        [sys.executable, "-c", script],
        check=True,
        capture_output=True,
        text=True,
        cwd=project_root,
        env={"RAYON_NUM_THREADS": threads, "PATH": ""},
    ).stdout.strip()
    here = hashlib.sha256(b"".join(bytes(value.encode()) for _, value in train_bpe(TEXTS, 320)))
    assert printed == here.hexdigest()


def test_a_file_with_the_entries_gives_the_same_tokenizer(tmp_path: Path, trained: Tokenizer) -> None:
    path = tmp_path / "trained.gguf"
    write_gguf(path, [("general.architecture", MetadataValue.string("llama")), *train_bpe(TEXTS, 290)], [])
    with GGUFFile.open(path) as file:
        again = tokenizer_from_metadata(file.metadata, path.name)
    assert again.encode_batch(TEXTS) == trained.encode_batch(TEXTS)


def test_a_vocabulary_without_room_for_the_bytes_is_refused() -> None:
    with pytest.raises(TokenizerError, match="a vocabulary of 256 tokens cannot hold the 256 bytes"):
        train_bpe(TEXTS, 256)


def test_no_text_is_refused() -> None:
    with pytest.raises(DataError, match="no text to train a tokenizer on"):
        train_bpe(["", ""], 300)
