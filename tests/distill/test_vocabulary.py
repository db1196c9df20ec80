"""Which tokens two models share, and what a teacher reads for a token that it lacks."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from entrenar_core.distill.vocabulary import LACKING, map_tokens, share_vocabulary
from entrenar_core.errors import ConfigError, TokenizerError
from entrenar_core.model.token_texts import Tokens
from entrenar_core.tokenizer.vocabulary import TokenKind

NORMAL, BYTE, UNUSED = int(TokenKind.NORMAL), int(TokenKind.BYTE), int(TokenKind.UNUSED)


def tokens(
    texts: Sequence[str], *, rows: int | None = None, model: str = "gpt2", kinds: Sequence[int] | None = None
) -> Tokens:
    return Tokens("model.gguf", model, rows or len(texts), list(texts), kinds or [NORMAL] * len(texts))


class Letters:
    """Cuts a text into its letters, which have the ids of `alphabet`."""

    def __init__(self, alphabet: str) -> None:
        self.alphabet = alphabet

    def encode(self, text: str, **_: bool) -> list[int]:
        return [self.alphabet.index(letter) for letter in text if letter in self.alphabet]


def test_equal_vocabularies_need_no_map() -> None:
    one = map_tokens(tokens("abc"), tokens("abc"), None, 1.0)
    assert one.is_prefix and one.coverage == 1.0 and one.ids.tolist() == one.read_as.tolist() == [0, 1, 2]
    shared = share_vocabulary([one])
    assert (shared.n, shared.columns, shared.teacher_columns) == (3, None, (None,))


def test_rows_of_padding_are_not_shared_and_do_not_count() -> None:
    padded = tokens(["a", "b", "[PAD2]", "[PAD3]"], rows=6, kinds=[NORMAL, NORMAL, UNUSED, UNUSED])
    one = map_tokens(padded, tokens("abc"), None, 1.0)
    assert one.is_prefix and one.coverage == 1.0 and one.n_tokens == 2
    assert one.ids.tolist() == [0, 1] + [LACKING] * 4
    shared = share_vocabulary([one])
    assert shared.n == 2 and shared.columns is None
    assert map_tokens(tokens("abc"), padded, None, 0.5).shared == 2, "the other way round"


def test_tokens_in_another_order_are_mapped_by_their_text() -> None:
    one = map_tokens(tokens("abcd"), tokens("dba"), Letters("dba"), 0.7)  # type: ignore[arg-type]
    assert not one.is_prefix and one.ids.tolist() == [2, 1, LACKING, 0]
    assert (one.shared, one.n_tokens, one.examples) == (3, 4, ("c",))
    shared = share_vocabulary([one])
    assert shared.n == 3 and shared.columns is not None and shared.columns.tolist() == [0, 1, 3]
    (of_teacher,) = shared.teacher_columns
    assert of_teacher is not None and of_teacher.tolist() == [2, 1, 0]


def test_a_teacher_reads_the_first_part_of_a_token_that_it_lacks() -> None:
    one = map_tokens(tokens(["a", "b", "ba"]), tokens("ab"), Letters("ab"), 0.5)  # type: ignore[arg-type]
    assert one.ids.tolist() == [0, 1, LACKING] and one.read_as.tolist() == [0, 1, 1]


def test_what_a_token_stands_for_is_cut_and_not_how_it_is_spelled() -> None:
    one = map_tokens(tokens(["a", "b", "Ġb"]), tokens("ab"), Letters(" ab"), 0.5)  # type: ignore[arg-type]
    assert one.read_as.tolist() == [0, 1, 0], "a space, the first letter of this alphabet"


def test_a_teacher_that_cannot_cut_a_token_reads_its_first() -> None:
    class Strict:
        def encode(self, text: str) -> list[int]:
            raise TokenizerError(f"no token for {text!r}")

    one = map_tokens(tokens(["a", "b", "c"]), tokens("ab"), Strict(), 0.5)  # type: ignore[arg-type]
    assert one.read_as.tolist() == [0, 1, 0]


def test_kinds_of_tokenizers_are_compared_by_the_bytes_they_stand_for() -> None:
    student = tokens(["<0x41>", "▁a", "A", "</s>"], model="llama", kinds=[BYTE, NORMAL, NORMAL, 3])
    teacher = tokens(["Ġa", "A", "</s>"], kinds=[NORMAL, NORMAL, 3])
    one = map_tokens(student, teacher, None, 0.5)
    assert one.ids.tolist() == [LACKING, 0, 1, 2], "the byte is the same as the letter, which goes first"
    assert one.read_as.tolist()[0] == 1


def test_several_teachers_share_what_all_of_them_have() -> None:
    first = map_tokens(tokens("abcd"), tokens("abc"), None, 0.1)
    second = map_tokens(tokens("abcd"), tokens("dcb"), None, 0.1)
    shared = share_vocabulary([first, second])
    assert shared.n == 2 and shared.columns is not None and shared.columns.tolist() == [1, 2]
    assert [None if ids is None else ids.tolist() for ids in shared.teacher_columns] == [[1, 2], [2, 1]]


@pytest.mark.parametrize(("least", "hint"), [(0.76, "min_coverage: 0.75"), (1.0, "min_coverage: 0.75")])
def test_too_few_shared_tokens_are_refused_with_what_is_lacking(least: float, hint: str) -> None:
    with pytest.raises(ConfigError) as caught:
        map_tokens(tokens("abcd"), tokens("abd"), None, least)
    assert "has 3 of the 4 tokens of model.gguf (75.0%" in caught.value.message and "lacks 'c'" in caught.value.message
    assert caught.value.hint is not None and hint in caught.value.hint


def test_hardly_any_shared_token_is_no_matter_of_a_setting() -> None:
    with pytest.raises(ConfigError) as caught:
        map_tokens(tokens("abcd"), tokens("axyz"), None, 0.9)
    assert caught.value.hint == "choose a teacher with the tokenizer of the student"


@pytest.mark.property
@given(st.permutations("abcdefgh"), st.integers(2, 8))
def test_the_columns_of_both_sides_are_the_same_tokens(order: list[str], kept: int) -> None:
    student, teacher = tokens("abcdefgh"), tokens(order[:kept])
    one = map_tokens(student, teacher, None, 0.1)
    shared = share_vocabulary([one])
    columns = np.arange(shared.n) if shared.columns is None else shared.columns
    of_teacher = np.arange(shared.n) if shared.teacher_columns[0] is None else shared.teacher_columns[0]
    assert shared.n == kept
    assert [student.texts[column] for column in columns] == [teacher.texts[column] for column in of_teacher]
    assert one.share_of(np.arange(8, dtype=np.int32)) == kept / 8
