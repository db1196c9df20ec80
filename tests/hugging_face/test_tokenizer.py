"""A tokenizer.json as GGUF keys and back: the same ids for any text, the same special tokens and templates."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import tokenizers

from entrenar_core.errors import EntrenarError, FormatError, TokenizerError
from entrenar_core.gguf.reader import GGUFFile
from entrenar_core.hugging_face.json_object import JsonObject
from entrenar_core.hugging_face.tokenizer import read_tokenizer
from entrenar_core.hugging_face.write_tokenizer import tokenizer_config_json, tokenizer_json
from entrenar_core.tokenizer.build import tokenizer_from_metadata
from tests.tokenizer.small import (
    BYTE,
    CONTROL,
    NORMAL,
    UNKNOWN,
    UNUSED,
    USER_DEFINED,
    byte_level_metadata,
    score_metadata,
)
from tests.tokenizer.test_vocabularies import read_cases

SMALL = byte_level_metadata(["a b", "ab c", "Ġ a"], {"<s>": CONTROL, "<tool>": USER_DEFINED}, bos_token_id=259)
PIECES = {"\u2581": -1.0, "a": -20.0, "b": -21.0, "ab": -2.0, "\u2581a": -3.0, "\u2581ab": -4.0}


def write(folder: Path, metadata: Mapping[str, Any], **settings: Any) -> Path:
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer_json(metadata, "small")))
    (folder / "tokenizer_config.json").write_text(json.dumps({**tokenizer_config_json(metadata, 512), **settings}))
    return folder


def change(folder: Path, **parts: Any) -> None:
    path = folder / "tokenizer.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **parts}))


def read(folder: Path, n_rows: int, **config: Any) -> dict[str, Any]:
    return {key: value.plain for key, value in read_tokenizer(folder, JsonObject(config, "config.json"), n_rows)}


@pytest.mark.parametrize("name", ["gpt-2", "deepseek-coder", "llama-bpe", "llama-spm"])
def test_real_vocabularies_give_the_same_ids_in_both_worlds(name: str, shared_data: Path, tmp_path: Path) -> None:
    with GGUFFile.open(shared_data / "vocabs" / f"ggml-vocab-{name}.gguf") as file:
        metadata = dict(file.metadata)
        write(tmp_path, metadata)
    theirs = tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    theirs.encode_special_tokens = True
    back = read(tmp_path, len(metadata["tokenizer.ggml.tokens"]))
    ours = tokenizer_from_metadata(back, name)
    for text, ids in read_cases(shared_data, name):
        assert theirs.encode(text, add_special_tokens=False).ids == ids, text
        assert ours.encode(text) == ids, text
    for key in ("model", "tokens", "merges", "bos_token_id", "eos_token_id"):
        assert back.get(f"tokenizer.ggml.{key}") == metadata.get(f"tokenizer.ggml.{key}"), key


def test_a_byte_level_vocabulary_comes_back(tmp_path: Path) -> None:
    found = read(write(tmp_path, SMALL), 261)
    for key in ("model", "pre", "tokens", "merges", "bos_token_id"):
        assert found[f"tokenizer.ggml.{key}"] == SMALL[f"tokenizer.ggml.{key}"], key
    assert found["tokenizer.ggml.token_type"].tolist() == [NORMAL] * 259 + [CONTROL, USER_DEFINED]
    assert found["tokenizer.ggml.add_bos_token"] is False


def test_a_vocabulary_with_scores_comes_back_in_the_same_order(tmp_path: Path) -> None:
    metadata = score_metadata(PIECES, {"<tool>": USER_DEFINED}, bos_token_id=1, eos_token_id=2, unknown_token_id=0)
    found = read(write(tmp_path, metadata), 266)
    tokens = found["tokenizer.ggml.tokens"]
    assert tokens == metadata["tokenizer.ggml.tokens"]
    kinds = dict(zip(tokens, found["tokenizer.ggml.token_type"].tolist(), strict=True))
    assert [kinds[one] for one in ("<unk>", "<s>", "<0x41>", "ab", "<tool>")] == [
        UNKNOWN, CONTROL, BYTE, NORMAL, USER_DEFINED,
    ]  # fmt: skip
    scores = dict(zip(tokens, found["tokenizer.ggml.scores"].tolist(), strict=True))
    assert scores["ab"] > scores["\u2581a"] > scores["\u2581ab"] > scores["a"]
    assert (found["tokenizer.ggml.add_space_prefix"], found["tokenizer.ggml.add_bos_token"]) == (True, True)
    ours, theirs = tokenizer_from_metadata(found, "back"), tokenizer_from_metadata(metadata, "small")
    rust = tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    for text in ("ab ab", "a b\nab", "  baé <tool>x"):
        assert ours.encode(text) == theirs.encode(text)
        assert rust.encode(text).ids == theirs.encode(text, add_special=True)


@pytest.mark.parametrize("prefix", [True, False])
def test_the_space_in_front_is_kept(prefix: bool, tmp_path: Path) -> None:
    found = read(write(tmp_path, score_metadata(PIECES, add_space_prefix=prefix)), 265)
    assert found["tokenizer.ggml.add_space_prefix"] is prefix


@pytest.mark.parametrize("scheme", ["always", "first", "never"])
def test_metaspace_says_the_same(scheme: str, tmp_path: Path) -> None:
    change(
        write(tmp_path, score_metadata(PIECES)),
        normalizer=None,
        pre_tokenizer={"type": "Metaspace", "replacement": "\u2581", "prepend_scheme": scheme, "split": False},
    )
    assert read(tmp_path, 265)["tokenizer.ggml.add_space_prefix"] is (scheme != "never")


def test_rows_without_a_token_get_one_that_no_text_spells(tmp_path: Path) -> None:
    found = read(write(tmp_path, SMALL), 264)
    assert found["tokenizer.ggml.tokens"][261:] == ["[PAD261]", "[PAD262]", "[PAD263]"]
    assert found["tokenizer.ggml.token_type"][261:].tolist() == [UNUSED] * 3
    (tmp_path / "again").mkdir()
    assert (
        "[PAD261]"
        not in json.loads((write(tmp_path / "again", found) / "tokenizer.json").read_text())["model"]["vocab"]
    )


def test_merges_may_be_lists(tmp_path: Path) -> None:
    model = json.loads((write(tmp_path, SMALL) / "tokenizer.json").read_text())["model"]
    change(tmp_path, model={**model, "merges": [merge.split(" ") for merge in model["merges"]]})
    assert read(tmp_path, 261)["tokenizer.ggml.merges"] == SMALL["tokenizer.ggml.merges"]


def test_a_token_of_the_form_of_a_marker_is_one(tmp_path: Path) -> None:
    metadata = byte_level_metadata([], {"<|im_end|>": USER_DEFINED, "<think>": USER_DEFINED})
    kinds = read(write(tmp_path, metadata), 258)["tokenizer.ggml.token_type"]
    assert kinds[-2:].tolist() == [CONTROL, USER_DEFINED]


def test_special_tokens_are_named_by_text_or_by_id(tmp_path: Path) -> None:
    write(tmp_path, SMALL, bos_token={"content": "<s>"}, pad_token="<tool>", eos_token=None)
    found = read(tmp_path, 261, bos_token_id=5, eos_token_id=[260, 259], pad_token_id=3)
    ids = {key: found.get(f"tokenizer.ggml.{key}_token_id") for key in ("bos", "eos", "padding", "unknown")}
    assert ids == {"bos": 259, "eos": 260, "padding": 260, "unknown": None}
    write(tmp_path, SMALL, eos_token="<gone>")
    with pytest.raises(FormatError, match="the tokenizer has no token '<gone>'") as caught:
        read(tmp_path, 261)
    assert caught.value.where == f"{tmp_path / 'tokenizer_config.json'}: eos_token"


@pytest.mark.parametrize(("add_bos", "add_eos"), [(True, True), (True, False), (False, False)])
def test_what_goes_around_a_text_comes_back(add_bos: bool, add_eos: bool, tmp_path: Path) -> None:
    metadata = {
        **SMALL,
        "tokenizer.ggml.eos_token_id": 260,
        "tokenizer.ggml.add_bos_token": add_bos,
        "tokenizer.ggml.add_eos_token": add_eos,
    }
    found = read(write(tmp_path, metadata), 261)
    assert found["tokenizer.ggml.add_bos_token"] is add_bos
    assert found.get("tokenizer.ggml.add_eos_token", False) is add_eos
    rust = tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    assert rust.encode("ab").ids == tokenizer_from_metadata(metadata, "small").encode("ab", add_special=True)


def test_a_setting_goes_before_the_template(tmp_path: Path) -> None:
    found = read(write(tmp_path, SMALL, add_bos_token=True), 261)
    assert found["tokenizer.ggml.add_bos_token"] is True


def test_chat_templates_come_back(tmp_path: Path) -> None:
    metadata = {
        **SMALL,
        "tokenizer.chat_template": "{{ a }}",
        "tokenizer.chat_templates": ["tool_use"],
        "tokenizer.chat_template.tool_use": "{{ b }}",
    }
    found = read(write(tmp_path, metadata), 261)
    assert {key: value for key, value in found.items() if "chat" in key} == {
        key: value for key, value in metadata.items() if "chat" in key
    }
    (tmp_path / "chat_template.jinja").write_text("{{ c }}")
    assert read(tmp_path, 261)["tokenizer.chat_template"] == "{{ c }}"


def test_a_folder_without_a_tokenizer_has_none(tmp_path: Path) -> None:
    assert read(tmp_path, 10) == {}
    (tmp_path / "tokenizer.model").touch()
    with pytest.raises(TokenizerError, match=r"tokenizer\.model cannot be read") as caught:
        read(tmp_path, 10)
    assert "save_pretrained" in str(caught.value.hint)


def model_of(**changes: Any) -> dict[str, Any]:
    return {**tokenizer_json(SMALL, "small")["model"], **changes}


@pytest.mark.parametrize(
    ("parts", "said"),
    [
        ({"model": model_of(type="Unigram")}, "tokenizers of type 'Unigram' are not supported"),
        ({"model": model_of(end_of_word_suffix="</w>")}, "end_of_word_suffix is not supported"),
        ({"model": model_of(vocab={"a": 0, "b": 0})}, "'a' and 'b' have the same id, 0"),
        ({"model": model_of(vocab={"a": 500})}, "the token 'a' has id 500, the embedding only 261 rows"),
        ({"model": model_of(vocab={"a": -1})}, "the id of 'a' is -1"),
        ({"model": model_of(vocab={"a": 1.5})}, "the id of 'a' is 1.5"),
        ({"model": model_of(vocab={"[PAD3]": 4})}, "called like an empty row"),
        ({"model": model_of(vocab=[1])}, "expected an object"),
        ({"model": model_of(merges=["a b c"])}, "merge 0 is 'a b c', no pair"),
        ({"model": model_of(merges=[["a", "b c"]])}, "no pair of parts without spaces"),
        ({"model": model_of(merges=[["a"]])}, "no pair"),
        ({"model": model_of(merges="a b")}, "expected a list"),
        ({"normalizer": {"type": "Lowercase"}}, "the step 'Lowercase' has no place in a byte-level tokenizer"),
        ({"normalizer": {"type": ["NFC"]}}, "expected a text"),
        ({"normalizer": {"type": "Sequence", "normalizers": 7}}, "expected a list, found 7"),
        ({"pre_tokenizer": {"type": "Sequence", "pretokenizers": 7}}, "the pre-tokenizer is broken"),
        ({"post_processor": {"type": "TemplateProcessing", "single": 7}}, "expected a list, found 7"),
        ({"post_processor": {"type": "Sequence", "processors": 7}}, "expected a list, found 7"),
        ({"added_tokens": [{"content": "x"}]}, "the id of 'x' is None"),
        ({"added_tokens": [7]}, "the key is missing"),
        ({"pre_tokenizer": {"type": "Whitespace"}}, "a way of its own"),
    ],
)  # fmt: skip
def test_what_gguf_cannot_say_is_refused(parts: dict[str, Any], said: str, tmp_path: Path) -> None:
    change(write(tmp_path, SMALL), **parts)
    with pytest.raises(EntrenarError, match=said) as caught:
        read(tmp_path, 261)
    assert str(caught.value.where).startswith(str(tmp_path / "tokenizer.json"))


def test_unicode_normalization_is_left_out_as_llama_cpp_does(tmp_path: Path) -> None:
    change(write(tmp_path, SMALL), normalizer={"type": "Sequence", "normalizers": [{"type": "NFC"}]})
    assert read(tmp_path, 261)["tokenizer.ggml.model"] == "gpt2"


def test_scores_cannot_stand_for_merges_in_any_order(tmp_path: Path) -> None:
    model = json.loads((write(tmp_path, score_metadata(PIECES)) / "tokenizer.json").read_text())["model"]
    mixed = ["a b", "\u2581 a", "\u2581a b", "\u2581 ab"]
    change(tmp_path, model={**model, "merges": [*mixed[:3], "a b"]})
    with pytest.raises(TokenizerError, match="the merges that make 'ab' have other ones between them"):
        read(tmp_path, 265)
    change(tmp_path, model=model, normalizer={"type": "NFKC"})
    with pytest.raises(TokenizerError, match="the step 'NFKC' has no place in a SentencePiece tokenizer"):
        read(tmp_path, 265)


def test_a_token_that_is_no_text_cannot_be_written() -> None:
    metadata = {**SMALL, "tokenizer.ggml.tokens": [*SMALL["tokenizer.ggml.tokens"][:-1], "\udcff"]}  # type: ignore[index]
    with pytest.raises(TokenizerError, match="token 260 is no valid text"):
        tokenizer_json(metadata, "small")
    with pytest.raises(TokenizerError, match="tokenizers of kind 't5' cannot be written"):
        tokenizer_json({**SMALL, "tokenizer.ggml.model": "t5"}, "small")


def test_kinds_may_be_missing_in_a_gguf() -> None:
    metadata = {key: value for key, value in SMALL.items() if not key.endswith("token_type")}
    assert tokenizer_json(metadata, "small")["added_tokens"] == []
