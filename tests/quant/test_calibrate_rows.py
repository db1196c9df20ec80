"""Rows of tokens to calibrate on: whole texts in order, equal shares of each source, no more of them than is needed."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from entrenar_core.config.data import Data
from entrenar_core.data.encoders import Encoding, ExampleFormat
from entrenar_core.data.opening import open_sources
from entrenar_core.errors import DataError
from entrenar_core.quant import calibrate_rows
from entrenar_core.quant.calibrate_rows import TokenRows, token_rows
from entrenar_core.tokenizer.build import tokenizer_from_metadata
from entrenar_core.tokenizer.tokenizer import Tokenizer
from entrenar_core.tokenizer.train import train_bpe

LONG = "the quick brown fox jumps over the lazy dog and says hello to the world " * 6
Find = Callable[..., TokenRows]


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    metadata = {key: value.plain for key, value in train_bpe([LONG] * 20, 280)}
    return tokenizer_from_metadata(metadata, "trained in the test")


@pytest.fixture
def find(tmp_path: Path, tokenizer: Tokenizer) -> Find:
    """Rows of 16 tokens out of files that have these rows."""

    def found(*files: list[dict[str, Any]], rows: int = 4, pad_id: int = 7, **data: Any) -> TokenRows:
        paths = []
        for index, content in enumerate(files):
            paths.append(str(tmp_path / f"{index}.jsonl"))
            Path(paths[-1]).write_text("".join(json.dumps(row) + "\n" for row in content))
        section = Data.model_validate({"train": paths, **data})
        encoding = Encoding(tokenizer, ExampleFormat(16, add_bos=False, add_eos=False))
        return token_rows(open_sources(section, section.train), encoding, rows, pad_id)

    return found


def tokens_of(found: TokenRows) -> list[list[int]]:
    """Of each row, without padding; the last token of a text is only a target."""
    return [
        row[: int((labels >= 0).sum())].tolist()
        for batch in found.batches
        for row, labels in zip(batch.tokens, batch.labels, strict=True)
    ]


def encoded(tokenizer: Tokenizer, text: str) -> list[int]:
    return list(tokenizer.encode_batch([text])[0])


def texts(*contents: str) -> list[dict[str, Any]]:
    return [{"text": content} for content in contents]


def test_a_long_text_is_cut_into_windows_that_go_on(find: Find, tokenizer: Tokenizer) -> None:
    found = find(texts(LONG, LONG))
    assert found.count == 4
    assert [token for row in tokens_of(found) for token in row] == encoded(tokenizer, LONG)[:64]
    assert found.seen == 1, "the second text is not needed"
    assert found.refused == {}


def test_every_token_but_the_first_is_a_target(find: Find, tokenizer: Tokenizer) -> None:
    found = find(texts(LONG), rows=1)
    labels = [int(label) for batch in found.batches for label in batch.labels.reshape(-1)]
    assert labels == encoded(tokenizer, LONG)[1:17]


def test_short_texts_share_a_row_and_padding_has_its_token(find: Find, tokenizer: Tokenizer) -> None:
    found = find(texts("the fox", "the dog says"), rows=3)
    first, second = encoded(tokenizer, "the fox"), encoded(tokenizer, "the dog says")
    (batch,) = found.batches
    assert (found.count, found.seen) == (1, 2)
    assert sorted(tokens_of(found)[0]) == sorted(first[:-1] + second[:-1])
    assert (batch.tokens[batch.labels < 0] == 7).all()
    assert (batch.labels < 0).any()


def test_sources_have_equal_shares(find: Find, tokenizer: Tokenizer) -> None:
    found = find(texts(LONG), texts("and " + LONG))
    flat = [token for row in tokens_of(found) for token in row]
    assert sorted(flat) == sorted(encoded(tokenizer, LONG)[:32] + encoded(tokenizer, "and " + LONG)[:32])
    assert found.seen == 2


def test_what_a_short_source_lacks_comes_from_later_ones(find: Find, tokenizer: Tokenizer) -> None:
    found = find(texts("the fox"), texts(LONG), texts("and " + LONG))
    short = len(encoded(tokenizer, "the fox")) - 1
    assert (found.seen, found.count) == (3, 4)
    half = (64 - short) // 2
    windows = [
        encoded(tokenizer, text)[start : min(start + 16, half)] for text in (LONG, "and " + LONG) for start in (0, 16)
    ]
    assert sum(window in windows for window in tokens_of(found)) == 3, "and one row has the short text"


@pytest.mark.parametrize(("tokens", "sizes"), [(32, [2, 2, 1]), (47, [2, 2, 1]), (1, [1] * 5), (2048, [5])])
def test_batches_have_about_so_many_tokens(
    tokens: int, sizes: list[int], find: Find, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(calibrate_rows, "BATCH_TOKENS", tokens)
    found = find(texts(LONG), rows=5)
    assert [len(batch.tokens) for batch in found.batches] == sizes
    assert found.count == 5


def test_a_labelled_text_counts_without_its_label(find: Find, tokenizer: Tokenizer) -> None:
    rows = [{"text": LONG, "label": "good"}, {"text": "the dog says", "label": "bad"}]
    found = find(rows, rows=1, task="classification", columns={"text": "text", "label": "label"})
    assert tokens_of(found) == [encoded(tokenizer, LONG)[:16]]


def test_rows_that_cannot_be_used_are_counted(find: Find) -> None:
    found = find(texts("", "the fox jumps"), text="text", task="text")
    assert found.seen == 2
    assert sum(found.refused.values()) == 1


def test_data_without_a_token_are_refused_with_the_reason(find: Find, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"there are no tokens to calibrate on: 3 rows were refused \(.+\)") as error:
        find(texts("t", "h"), texts("e"), rows=1, task="text", text="text")
    assert error.value.where == f"{tmp_path / '0.jsonl'}, {tmp_path / '1.jsonl'}"
    assert error.value.hint == "check that the chosen columns hold the text"
