"""Ids against llama.cpp: random text on real vocabularies, every pre type, special tokens, trained vocabularies.

For pre types the vocabulary has a token for every pair of bytes, merged in random order: two neighbouring single bytes
inside one part always merge, so the ids show where text was cut.
"""

from __future__ import annotations

import ctypes
import random
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

llama_cpp = pytest.importorskip("llama_cpp", reason="llama-cpp-python is not installed (extra: oracle)")

from entrenar_core.gguf.reader import GGUFFile  # noqa: E402
from entrenar_core.gguf.values import MetadataValue, ValueType  # noqa: E402
from entrenar_core.gguf.writer import write_gguf  # noqa: E402
from entrenar_core.tokenizer.bpe import BYTE_TO_CHARACTER  # noqa: E402
from entrenar_core.tokenizer.build import tokenizer_from_metadata  # noqa: E402
from entrenar_core.tokenizer.pre_types import PRE_TYPES  # noqa: E402
from entrenar_core.tokenizer.tokenizer import Tokenizer  # noqa: E402
from entrenar_core.tokenizer.train import train_bpe  # noqa: E402
from tests.tokenizer.small import CONTROL, USER_DEFINED, byte_level_metadata, score_metadata  # noqa: E402
from tests.tokenizer.test_vocabularies import NAMES  # noqa: E402

WORDS = """
    the of don't I'll WE'RE it's IT'S = == === -- ---- ... // /* aaa banana ananas anna 000 1234567 3.14 Über été
    中文字符 日本語 한국어 русский العربية ไทย हिन्दी 😀😀 👩‍👩‍👧 return self.x() hahaha ______ ******** ########
    <s> </s> <unk> <|user|> <|end|> <0x41> <|endoftext|> [PAD32011] <fim_prefix> <|im_start|> <|eot_id|> ▁ ▁▁▁ Ġ
"""
SPACES = ["", " ", " ", "  ", "\n", "\n\n", "\r\n", "\t", "\u00a0", "\u3000", " " * 11]
SPLIT_ALPHABET = (
    list(
        "aAzZséÉßǅʰ中的かカ가ㄅ٣Ⅷ१़ֿ̀ \u3000\u00a0\u2028\t\n\r'sStTrReEvVlLmMdD"
        "!.,/-—“。、،$+<=>^~|`_€©😀\u200b\0\x85\xadIMGZ()։0123456789"
    )
    + [" "] * 8
)


@llama_cpp.llama_log_callback
def _be_quiet(level: int, text: bytes, user_data: object) -> None:
    pass


llama_cpp.llama_log_set(_be_quiet, ctypes.c_void_p(0))


class LlamaVocabulary:
    """The vocabulary of a file, as llama.cpp reads it."""

    def __init__(self, path: Path) -> None:
        params = llama_cpp.llama_model_default_params()
        params.vocab_only = True
        self._model = llama_cpp.llama_model_load_from_file(str(path).encode(), params)
        assert self._model, f"llama.cpp cannot load {path}"
        self.handle = llama_cpp.llama_model_get_vocab(self._model)

    def encode(self, text: str, *, add_special: bool = False, parse_special: bool = False) -> list[int]:
        data = text.encode()
        ids = (llama_cpp.llama_token * (4 * len(data) + 16))()
        count = llama_cpp.llama_tokenize(self.handle, data, len(data), ids, len(ids), add_special, parse_special)
        assert count >= 0
        return list(ids[:count])

    def stop_ids(self, vocab_size: int) -> set[int]:
        return {index for index in range(vocab_size) if llama_cpp.llama_vocab_is_eog(self.handle, index)}

    def close(self) -> None:
        llama_cpp.llama_model_free(self._model)


Pair = tuple[Tokenizer, LlamaVocabulary]


def open_pair(path: Path) -> Pair:
    with GGUFFile.open(path) as file:
        return tokenizer_from_metadata(file.metadata, path.name), LlamaVocabulary(path)


def write_metadata(path: Path, metadata: dict[str, object]) -> Path:
    entries = [("general.architecture", MetadataValue.string("llama"))]
    entries += [(key, metadata_value(value)) for key, value in metadata.items()]
    write_gguf(path, entries, [])
    return path


def metadata_value(value: object) -> MetadataValue:
    if isinstance(value, bool):
        return MetadataValue.bool(value)
    if isinstance(value, int):
        return MetadataValue.uint32(value)
    if isinstance(value, str):
        return MetadataValue.string(value)
    if isinstance(value, np.ndarray):
        return MetadataValue.array(ValueType.FLOAT32 if value.dtype.kind == "f" else ValueType.INT32, value)
    assert isinstance(value, list)
    return MetadataValue.array(ValueType.STRING, value)


def assert_same_ids(pair: Pair, text: str, *, parse_special: bool) -> None:
    ours, theirs = pair
    for add_special in (False, True):
        options = {"add_special": add_special, "parse_special": parse_special}
        assert ours.encode(text, **options) == theirs.encode(text, **options), (text, options)


def random_text(generator: random.Random) -> str:
    parts: list[str] = []
    for _ in range(generator.choice([1, 2, 4, 8, 30])):
        kind = generator.random()
        if kind < 0.5:
            parts.append(generator.choice(WORDS.split()))
        elif kind < 0.7:
            parts.append(generator.choice("ab -=.\n\t0▁*#_/\\") * generator.randrange(1, 40))
        else:
            parts.append("".join(generator.choice("abction e") for _ in range(generator.randrange(1, 12))))
        parts.append(generator.choice(SPACES))
    return "".join(parts)


@pytest.fixture(scope="module", params=NAMES)
def real(request: pytest.FixtureRequest, shared_data: Path) -> Iterator[Pair]:
    pair = open_pair(shared_data / "vocabs" / f"ggml-vocab-{request.param}.gguf")
    yield pair
    pair[1].close()


@pytest.mark.parametrize("parse_special", [False, True])
def test_made_up_text_gets_the_same_ids(real: Pair, parse_special: bool) -> None:
    generator = random.Random(7)
    for _ in range(250):
        assert_same_ids(real, random_text(generator), parse_special=parse_special)


@pytest.mark.property
@pytest.mark.parametrize("parse_special", [False, True])
@settings(max_examples=60)
@given(text=st.text(st.characters(exclude_categories=("Cs", "Cn")), max_size=60))
def test_any_text_gets_the_same_ids(real: Pair, parse_special: bool, text: str) -> None:
    assert_same_ids(real, text, parse_special=parse_special)


def test_special_ids_and_rules_are_the_same(real: Pair) -> None:
    ours, theirs = real
    assert ours.stop_ids == theirs.stop_ids(ours.vocab_size)
    assert (ours.bos_id, ours.eos_id) == (
        llama_cpp.llama_vocab_bos(theirs.handle),
        llama_cpp.llama_vocab_eos(theirs.handle),
    )
    assert ours.add_bos is bool(llama_cpp.llama_vocab_get_add_bos(theirs.handle))
    assert ours.add_eos is bool(llama_cpp.llama_vocab_get_add_eos(theirs.handle))


@pytest.mark.parametrize("pre", sorted(PRE_TYPES))
def test_a_pre_type_cuts_in_the_same_places(tmp_path: Path, pre: str) -> None:
    generator = random.Random(5)
    used = sorted({byte for character in SPLIT_ALPHABET for byte in character.encode()})
    pairs = [f"{BYTE_TO_CHARACTER[left]} {BYTE_TO_CHARACTER[right]}" for left in used for right in used]
    generator.shuffle(pairs)
    metadata = byte_level_metadata(pairs, {"<|endoftext|>": CONTROL}, pre=pre, bos_token_id=0, eos_token_id=0)
    ours, theirs = open_pair(write_metadata(tmp_path / "pairs.gguf", metadata))
    assert ours.add_bos is bool(llama_cpp.llama_vocab_get_add_bos(theirs.handle))
    for _ in range(300):
        text = "".join(generator.choice(SPLIT_ALPHABET) for _ in range(generator.choice([1, 2, 3, 5, 8, 20])))
        assert ours.encode(text) == theirs.encode(text), text
    theirs.close()


def test_overlapping_special_tokens_are_cut_out_alike(tmp_path: Path) -> None:
    special = {"ab": USER_DEFINED, "bcd": USER_DEFINED, "da": CONTROL, "aaaa": CONTROL, "<|im_end|>": USER_DEFINED}
    special |= {"<|end|>": CONTROL, "<|return|>": CONTROL, "<|call|>": CONTROL, "<|channel|>": CONTROL}
    metadata = byte_level_metadata(["a a", "c d"], special, bos_token_id=0, eos_token_id=0)
    pair = open_pair(write_metadata(tmp_path / "special.gguf", metadata))
    assert pair[0].stop_ids == pair[1].stop_ids(pair[0].vocab_size)
    generator = random.Random(3)
    parts = ["a", "b", "c", "d", "<|im_end|>", "<|end|>", "<|channel|>"]
    for index in range(300):
        text = "".join(generator.choice(parts) for _ in range(12))
        assert_same_ids(pair, text, parse_special=index % 2 == 0)
    pair[1].close()


@pytest.mark.parametrize("seed", range(12))
def test_pieces_with_awkward_scores_merge_alike(tmp_path: Path, seed: int) -> None:
    generator = random.Random(seed)
    pieces = list("ab▁")
    for _ in range(12):
        glued = generator.choice(pieces) + generator.choice(pieces)
        if glued not in pieces and len(glued) < 9:
            pieces.append(glued)
    scores = {piece: -float(generator.randrange(5 if seed % 2 else 1000)) for piece in pieces}
    metadata = score_metadata(scores, {"<u>": USER_DEFINED}, add_space_prefix=seed % 3 != 0)
    pair = open_pair(write_metadata(tmp_path / "scores.gguf", metadata))
    for index in range(100):
        text = "".join(generator.choice(["a", "b", " ", "é", "<u>", "<s>"][: 3 + index % 4]) for _ in range(24))
        assert_same_ids(pair, text, parse_special=index % 2 == 0)
    pair[1].close()


def test_a_trained_vocabulary_gives_the_same_ids_in_llama_cpp(tmp_path: Path) -> None:
    generator = random.Random(11)
    texts = [random_text(generator) for _ in range(60)]
    path = tmp_path / "trained.gguf"
    write_gguf(path, [("general.architecture", MetadataValue.string("llama")), *train_bpe(texts, 600)], [])
    pair = open_pair(path)
    assert pair[0].stop_ids == pair[1].stop_ids(pair[0].vocab_size) == {0}
    for text in [*texts, *(random_text(generator) for _ in range(100))]:
        assert_same_ids(pair, text, parse_special=False)
    pair[1].close()
