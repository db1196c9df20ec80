"""Models with other tokens: which rows of their embeddings are merged with which, and the tokenizer of the result."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest

from entrenar_core.errors import ModelError, TokenizerError
from entrenar_core.gguf.values import MetadataValue, ValueType
from entrenar_core.merge.model_tensors import Entries
from entrenar_core.merge.remapped import remapped
from entrenar_core.merge.vocabulary import MergedVocabulary, map_vocabularies
from entrenar_core.tokenizer.build import tokenizer_from_metadata
from entrenar_core.tokenizer.tokenizer import Tokenizer
from tests.merge.memory_models import MemoryModel
from tests.tokenizer.small import BYTE_TOKENS, CONTROL, UNUSED, byte_level_metadata, score_metadata, spelled

WIDTH = 3


def entries_of(metadata: Mapping[str, object]) -> Entries:
    """Plain metadata as GGUF values."""
    kinds = {str: MetadataValue.string, bool: MetadataValue.bool, int: MetadataValue.uint32}
    entries: Entries = []
    for key, value in metadata.items():
        if isinstance(value, list):
            entries.append((key, MetadataValue.array(ValueType.STRING, value)))
        elif isinstance(value, np.ndarray):
            element = ValueType.FLOAT32 if value.dtype.kind == "f" else ValueType.INT32
            entries.append((key, MetadataValue.array(element, value)))
        else:
            entries.append((key, kinds[type(value)](value)))  # type: ignore[arg-type]
    return entries


def model(name: str, metadata: Mapping[str, object], n_rows: int | None = None, *, tied: bool = False) -> MemoryModel:
    """Row r of the embedding of a model is (r, seed, 0), of the output matrix (r, seed, 1)."""
    tokens: Any = metadata.get("tokenizer.ggml.tokens", [])
    n_rows = len(tokens) if n_rows is None else n_rows
    seed = sum(name.encode())
    embedding = np.array([(row, seed, 0) for row in range(n_rows)], np.float32)
    tensors = {"token_embd.weight": embedding, "blk.0.attn_q.weight": np.ones((2, WIDTH), np.float32)}
    if not tied:
        tensors["output.weight"] = embedding + np.array([0, 0, 1], np.float32)
    general: Entries = [
        ("general.architecture", MetadataValue.string("llama")),
        ("llama.vocab_size", MetadataValue.uint32(n_rows)),
    ]
    made = MemoryModel(name, tensors, [*general, *entries_of(metadata)])
    made.tokens = tokens
    return made


def seed_of(one: MemoryModel) -> float:
    return float(one.tensors["token_embd.weight"][0, 1])


def embedding(one: Any, name: str = "token_embd.weight") -> np.ndarray:
    out = np.empty((one.shapes[name][0], WIDTH), np.float32)
    one.read(name, 0, out)
    return out


def tokenizer_of(vocabulary: MergedVocabulary) -> Tokenizer:
    return tokenizer_from_metadata({key: value.plain for key, value in vocabulary.tokenizer}, "merged")


BASE = byte_level_metadata(["a b", "ab c"], {"<|end|>": CONTROL}, eos_token_id=258)
OTHER = byte_level_metadata(["x y", "a b"], {"<|end|>": CONTROL, "<|new|>": CONTROL}, eos_token_id=258)


def test_equal_vocabularies_are_copied() -> None:
    models = [model("base", BASE), model("one", BASE)]
    vocabulary = map_vocabularies(models, None)
    assert (vocabulary.policy, vocabulary.rows, vocabulary.n_rows) == ("copied", (None, None), 259)
    assert dict(vocabulary.tokenizer) == dict(entries_of(BASE))
    assert vocabulary.notices == ()
    assert [(one.mapped, one.from_base, one.averaged, one.dropped) for one in vocabulary.models] == [(259, 0, 0, 0)] * 2
    assert remapped(models, vocabulary) == models


def test_other_vocabularies_need_a_policy() -> None:
    with pytest.raises(ModelError, match="the tokens differ: it has 260, base 259, both 258") as caught:
        map_vocabularies([model("base", BASE), model("other", OTHER)], None)
    assert caught.value.where == "other"
    assert "merge.tokenizer: union (all tokens), or base" in str(caught.value.hint)


def test_by_base_tokens_are_found_by_their_text_and_others_are_dropped() -> None:
    base, other = model("base", BASE), model("other", OTHER)
    vocabulary = map_vocabularies([base, other], "base")
    assert vocabulary.n_rows == 259
    assert dict(vocabulary.tokenizer) == dict(entries_of(BASE))
    mine, theirs = vocabulary.models
    assert (mine.mapped, mine.dropped) == (259, 0)
    assert (theirs.mapped, theirs.from_base, theirs.averaged, theirs.dropped) == (258, 1, 0, 2)
    assert theirs.examples == ("xy", "<|new|>")
    first, second = remapped([base, other], vocabulary)
    assert first is base
    assert second.shapes["token_embd.weight"] == (259, WIDTH)
    for name in ("token_embd.weight", "output.weight"):
        rows, own, base_rows = embedding(second, name), embedding(other, name), embedding(base, name)
        np.testing.assert_array_equal(rows[:256], own[:256])
        np.testing.assert_array_equal(rows[256], own[257], err_msg="ab")
        np.testing.assert_array_equal(rows[257], base_rows[257], err_msg="abc is the base's")
        np.testing.assert_array_equal(rows[258], own[258], err_msg="<|end|>")


def test_any_piece_of_a_mapped_matrix_is_that_part_of_the_whole() -> None:
    base, other = model("base", BASE), model("other", OTHER)
    second = remapped([base, other], map_vocabularies([base, other], "union"))[1]
    whole = embedding(second)
    for first in range(250, len(whole)):
        for last in range(first + 1, len(whole) + 1):
            out = np.empty((last - first, WIDTH), np.float32)
            second.read("token_embd.weight", first, out)
            np.testing.assert_array_equal(out, whole[first:last])


def test_a_union_has_the_tokens_of_the_base_in_their_places_and_then_the_others() -> None:
    base, other = model("base", BASE), model("other", OTHER)
    vocabulary = map_vocabularies([base, other], "union")
    found = dict(vocabulary.tokenizer)
    assert found["tokenizer.ggml.tokens"].value == [*BASE["tokenizer.ggml.tokens"], "xy", "<|new|>"]  # type: ignore[misc]
    assert found["tokenizer.ggml.token_type"].value[-3:].tolist() == [CONTROL, 1, CONTROL]
    assert found["tokenizer.ggml.merges"].value == ["a b", "ab c", "x y"]
    assert found["tokenizer.ggml.eos_token_id"].value == 258
    mine, theirs = vocabulary.models
    assert (mine.mapped, mine.averaged, mine.from_base) == (259, 2, 0)
    assert (theirs.mapped, theirs.averaged, theirs.from_base, theirs.dropped) == (260, 0, 1, 0)
    first, second = (embedding(one) for one in remapped([base, other], vocabulary))
    np.testing.assert_array_equal(first[:259], embedding(base))
    np.testing.assert_array_equal(first[259:], embedding(other)[[256, 259]], err_msg="what the base lacks")
    np.testing.assert_array_equal(second[257], embedding(base)[257])
    np.testing.assert_array_equal(second[259:], first[259:])


def test_a_token_that_the_base_lacks_is_the_mean_of_those_that_have_it() -> None:
    base, one, two = model("base", BASE), model("one", OTHER), model("three", OTHER)
    vocabulary = map_vocabularies([base, one, two], "union")
    first = embedding(remapped([base, one, two], vocabulary)[0])
    assert first[259].tolist() == [256, (seed_of(one) + seed_of(two)) / 2, 0]
    assert vocabulary.models[0].averaged == 2


def test_the_tokenizer_of_a_union_cuts_what_the_base_knows_as_the_base_does() -> None:
    made = tokenizer_of(map_vocabularies([model("base", BASE), model("other", OTHER)], "union"))
    own = tokenizer_from_metadata(BASE, "base")
    for text in ("abc ab a bc", "cab", "hello <|end|>"):
        assert made.encode(text, parse_special=True) == own.encode(text, parse_special=True)
    assert spelled(made, "xyab<|new|>", parse_special=True) == ["xy", "ab", "<|new|>"]


def test_the_scores_of_what_is_added_are_below_those_of_the_base() -> None:
    base = model("base", score_metadata({"a": -1.0, "b": -2.0, "ab": -3.5}))
    other = model("other", score_metadata({"a": -1.0, "c": -9.0, "ac": -2.0, "ab": -5.0}))
    vocabulary = map_vocabularies([base, other], "union")
    found = dict(vocabulary.tokenizer)
    tokens, scores = found["tokenizer.ggml.tokens"].value, found["tokenizer.ggml.scores"].value
    assert tokens[-2:] == ["c", "ac"]
    assert dict(zip(tokens[-5:], scores[-5:].tolist(), strict=True)) == {
        "a": -1.0, "b": -2.0, "ab": -3.5, "ac": -5.0, "c": -6.0,
    }  # fmt: skip
    assert tokenizer_of(vocabulary).token_text(tokenizer_of(vocabulary).encode("ac")[-1]) == "ac"


def test_a_token_is_known_by_its_bytes_across_kinds_of_tokenizers() -> None:
    base = model("base", score_metadata({"\u2581": -1.0, "a": -1.5, "\u2581a": -2.0, "é": -3.0}))
    other = model("other", byte_level_metadata(["Ġ a", "Ã ©"]))
    vocabulary = map_vocabularies([base, other], "base")
    second = embedding(remapped([base, other], vocabulary)[1])
    tokens = list(base.tokens)
    theirs = list(other.tokens)
    for text, name in (("\u2581a", "Ġa"), ("é", "Ã©"), ("a", "a"), ("<0x0A>", "Ċ"), ("<0x61>", "a")):
        assert second[tokens.index(text), 0] == theirs.index(name), text
    assert second[tokens.index("<s>"), 1] == seed_of(base)
    with pytest.raises(ModelError, match="of kind 'gpt2' cannot be united with one of kind 'llama'"):
        map_vocabularies([base, other], "union")


def padded(metadata: Mapping[str, object], n_rows: int) -> dict[str, object]:
    """With tokens that only fill up rows."""
    tokens: Any = metadata["tokenizer.ggml.tokens"]
    kinds: Any = metadata["tokenizer.ggml.token_type"]
    filling = [f"[PAD{row}]" for row in range(len(tokens), n_rows)]
    return {
        **metadata,
        "tokenizer.ggml.tokens": [*tokens, *filling],
        "tokenizer.ggml.token_type": np.array([*kinds, *[UNUSED] * len(filling)], np.int32),
    }


@pytest.mark.parametrize("named", [True, False])
def test_rows_that_only_fill_up_an_embedding_need_no_policy(named: bool) -> None:
    base = model("base", BASE)
    longer = model("longer", padded(BASE, 264) if named else BASE, 264)
    vocabulary = map_vocabularies([base, longer], None)
    assert (vocabulary.policy, vocabulary.n_rows) == ("base", 259)
    assert (vocabulary.models[1].mapped, vocabulary.models[1].dropped) == (259, 5)
    np.testing.assert_array_equal(embedding(remapped([base, longer], vocabulary)[1]), embedding(longer)[:259])
    kept = map_vocabularies([longer, base], None)
    assert (kept.n_rows, kept.rows[0]) == (264, None)
    second = embedding(remapped([longer, base], kept)[1])
    np.testing.assert_array_equal(second[:259], embedding(base))
    np.testing.assert_array_equal(second[259:], embedding(longer)[259:])


def test_a_union_does_not_add_what_fills_up_rows() -> None:
    other = model("other", padded(OTHER, 270))
    vocabulary = map_vocabularies([model("base", BASE, 262), other], "union")
    assert vocabulary.n_rows == 261
    assert (vocabulary.models[0].dropped, vocabulary.models[1].dropped) == (3, 10)


def test_a_model_that_does_not_say_its_tokens_is_taken_at_its_number_of_rows() -> None:
    base, unknown = model("base", BASE), model("unknown", {}, 259)
    copied = map_vocabularies([base, unknown], None)
    assert (copied.policy, copied.notices) == (
        "copied",
        ("unknown has no tokenizer: its rows are taken for those of base",),
    )
    with pytest.raises(ModelError, match="does not say which tokens its 260 rows belong to"):
        map_vocabularies([base, model("unknown", {}, 260)], "base")


def test_a_result_without_a_tokenizer_is_refused_where_a_model_has_one() -> None:
    unknown = model("unknown", {}, 259)
    with pytest.raises(ModelError, match="the model has no tokenizer, and the result is to have it") as caught:
        map_vocabularies([unknown, model("base", BASE)], None)
    assert caught.value.where == "unknown"
    alone = map_vocabularies([unknown, model("other", {}, 259)], None)
    assert alone.notices == ("unknown has no tokenizer, nor has the result",)


def test_models_that_cut_text_otherwise_are_said() -> None:
    other = byte_level_metadata(["ab c", "a b"], {"<|end|>": CONTROL}, eos_token_id=258)
    other["tokenizer.ggml.tokens"] = BASE["tokenizer.ggml.tokens"]
    (notice,) = map_vocabularies([model("base", BASE), model("other", other)], None).notices
    assert notice == "other: tokenizer.ggml.merges differs from that of base, which the result has"


def test_the_metadata_of_a_mapped_model_are_those_of_the_result() -> None:
    models = [model("base", BASE), model("other", OTHER)]
    vocabulary = map_vocabularies(models, "union")
    for one in remapped(models, vocabulary):
        entries = dict(one.metadata)
        assert entries["llama.vocab_size"].value == 261
        assert {key: value for key, value in entries.items() if key.startswith("tokenizer.")} == dict(
            vocabulary.tokenizer
        )
        assert list(one.tokens) == entries["tokenizer.ggml.tokens"].value
        assert one.type_name("token_embd.weight") == "F32"
        assert one.shapes["blk.0.attn_q.weight"] == (2, WIDTH)


def test_a_tied_model_has_one_matrix_to_map() -> None:
    models = [model("base", BASE, tied=True), model("other", OTHER, tied=True)]
    second = remapped(models, map_vocabularies(models, "union"))[1]
    assert "output.weight" not in second.shapes
    assert embedding(second).shape == (261, WIDTH)


@pytest.mark.parametrize(
    ("metadata", "n_rows", "said"),
    [
        ({**BASE, "tokenizer.ggml.tokens": [*BYTE_TOKENS, "a", "a", "b"]}, 259, "token 'a' has ids 256 and 257"),
        ({**BASE, "tokenizer.ggml.token_type": np.ones(3, np.int32)}, 259, "3 entries for 259 tokens"),
    ],
)
def test_a_broken_vocabulary_is_refused(metadata: dict[str, object], n_rows: int, said: str) -> None:
    with pytest.raises(TokenizerError, match=said):
        map_vocabularies([model("base", BASE), model("bad", metadata, n_rows)], "union")


def test_more_tokens_than_rows_are_refused() -> None:
    with pytest.raises(ModelError, match="the tokenizer has 259 tokens, the embedding only 200 rows"):
        map_vocabularies([model("base", BASE), model("short", BASE, 200)], "union")


def test_an_output_matrix_with_other_rows_than_the_embedding_is_refused() -> None:
    short = model("short", OTHER)
    short.tensors["output.weight"] = short.tensors["output.weight"][:-2]
    with pytest.raises(ModelError, match=r"output\.weight has \d+ rows, token_embd\.weight has \d+") as caught:
        map_vocabularies([model("base", BASE), short], "union")
    assert caught.value.where == "short"


def test_order_does_not_change_what_belongs_together() -> None:
    base, one, two = model("base", BASE), model("one", OTHER), model("two", byte_level_metadata(["p q"]))

    def by_text(models: Sequence[MemoryModel]) -> dict[str, list[float]]:
        vocabulary = map_vocabularies(models, "union")
        rows = embedding(remapped(models, vocabulary)[0])
        texts = dict(vocabulary.tokenizer)["tokenizer.ggml.tokens"].value
        return dict(zip(texts, rows.tolist(), strict=True))

    assert by_text([base, one, two]) == by_text([base, two, one])
