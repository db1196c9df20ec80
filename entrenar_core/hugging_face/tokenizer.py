"""The tokenizer of a Hugging Face folder, as GGUF keys.

Two kinds of tokenizer.json can be said in GGUF: byte-level BPE (`gpt2`), and the BPE of SentencePiece with a token for
each byte (`llama`), whose merges become scores.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from entrenar_core.errors import TokenizerError
from entrenar_core.gguf import keys
from entrenar_core.gguf.values import MetadataValue, ValueType
from entrenar_core.hugging_face.chat_templates import MORE_TEMPLATES, TEMPLATE_FILE, read_chat_templates
from entrenar_core.hugging_face.json_object import JsonObject, read_json
from entrenar_core.hugging_face.pre_type import pre_type_of
from entrenar_core.hugging_face.special_tokens import read_special_tokens
from entrenar_core.hugging_face.vocabulary import HuggingFaceVocabulary, read_vocabulary
from entrenar_core.tokenizer.spm import SPACE
from entrenar_core.tokenizer.vocabulary import TokenKind

Entries = list[tuple[str, MetadataValue]]

TOKENIZER, TOKENIZER_CONFIG = "tokenizer.json", "tokenizer_config.json"
_OTHER_TOKENIZERS = ("tokenizer.model", "spiece.model", "vocab.json", "vocab.txt", "tiktoken.model", "tekken.json")
_FILES = (TOKENIZER, TOKENIZER_CONFIG, "special_tokens_map.json", "added_tokens.json", TEMPLATE_FILE)
_ADDED_SCORE = -1000.0
_NOT_MERGED = frozenset((TokenKind.CONTROL, TokenKind.USER_DEFINED, TokenKind.UNUSED))
_HARMLESS_NORMALIZERS = frozenset(("NFC",))  # GGUF's readers leave text as it is, in published models too


@dataclass(frozen=True)
class TokenizerFiles:
    """The parsed tokenizer.json, tokenizer_config.json and config.json of a folder."""

    folder: Path
    tokenizer: JsonObject
    settings: JsonObject
    config: JsonObject

    @property
    def where(self) -> str:
        return self.tokenizer.where


def read_tokenizer(folder: Path, config: JsonObject, n_rows: int) -> Entries:
    """The keys of the folder's tokenizer; none where it has no tokenizer at all.

    Args:
        folder: of the model.
        config: its config.json.
        n_rows: of the embedding.

    Raises:
        TokenizerError: a kind of tokenizer that GGUF has no name for, or one that is only in files of another kind.
        FormatError: a file is damaged.
    """
    if not (folder / TOKENIZER).is_file():
        _refuse_other_tokenizers(folder)
        return []
    settings = folder / TOKENIZER_CONFIG
    files = TokenizerFiles(
        folder,
        read_json(folder / TOKENIZER),
        read_json(settings) if settings.is_file() else JsonObject({}, str(settings)),
        config,
    )
    vocabulary = read_vocabulary(files.tokenizer, n_rows)
    model = files.tokenizer.object("model")
    _refuse_other_models(model)
    describe = _score_entries if model.flag("byte_fallback", False) else _byte_level
    return [
        *describe(files, vocabulary),
        *read_special_tokens(files.tokenizer, files.settings, config, vocabulary.ids),
        *read_chat_templates(files.folder, files.settings),
    ]


def tokenizer_files(folder: Path) -> list[Path]:
    """The files that make up the tokenizer of a folder; none where some are in a folder of their own."""
    if (folder / MORE_TEMPLATES).exists():
        return []
    return [folder / name for name in _FILES if (folder / name).is_file()]


def _byte_level(files: TokenizerFiles, vocabulary: HuggingFaceVocabulary) -> Entries:
    model = files.tokenizer.object("model")
    _refuse_normalizer(files.tokenizer)
    ignore_merges = model.flag("ignore_merges", False)
    pre = pre_type_of(files.tokenizer.get("pre_tokenizer"), ignore_merges=ignore_merges, where=files.where)
    return [
        (keys.TOKENIZER_MODEL, MetadataValue.string("gpt2")),
        (keys.TOKENIZER_PRE, MetadataValue.string(pre)),
        *vocabulary.entries(),
        (keys.TOKENIZER_MERGES, MetadataValue.array(ValueType.STRING, read_merges(model))),
    ]


def _score_entries(files: TokenizerFiles, vocabulary: HuggingFaceVocabulary) -> Entries:
    scores = _scores(read_merges(files.tokenizer.object("model")), vocabulary, files.where)
    return [
        (keys.TOKENIZER_MODEL, MetadataValue.string("llama")),
        (keys.TOKENIZER_PRE, MetadataValue.string("default")),
        *vocabulary.entries(),
        (keys.TOKENIZER_SCORES, MetadataValue.array(ValueType.FLOAT32, scores)),
        (keys.TOKENIZER_ADD_SPACE_PREFIX, MetadataValue.bool(_adds_space(files.tokenizer, files.where))),
    ]


def read_merges(model: JsonObject) -> list[str]:
    """The pairs in order of rank, spelled with a space between, as GGUF has them.

    Raises:
        FormatError: one is no pair, or has a space in a part.
    """
    merges = model.items_of("merges")
    spelled = [" ".join(merge) if _is_pair(merge) else merge for merge in merges]
    for index, merge in enumerate(spelled):
        if not isinstance(merge, str) or merge.count(" ") != 1:
            raise model.error("merges", f"merge {index} is {merges[index]!r}, no pair of parts without spaces")
    return spelled


def _is_pair(merge: Any) -> bool:
    return isinstance(merge, list) and len(merge) == 2 and isinstance(merge[0], str) and isinstance(merge[1], str)


def _scores(merges: Sequence[str], vocabulary: HuggingFaceVocabulary, where: str) -> list[float]:
    """What is merged earlier has a higher score. Pieces that nothing makes come after all that something makes."""
    ranks: dict[str, int] = {}
    last = ""
    for merge in merges:
        made = merge.replace(" ", "")
        if made in ranks and made != last:
            raise TokenizerError(f"the merges that make {made!r} have other ones between them", where=where)
        ranks.setdefault(made, len(ranks))
        last = made
    return [
        _ADDED_SCORE if kind in _NOT_MERGED else -float(ranks.get(text, len(ranks) + index))
        for index, (text, kind) in enumerate(zip(vocabulary.tokens, vocabulary.kinds, strict=True))
    ]


def _adds_space(tokenizer: JsonObject, where: str) -> bool:
    """Whether text gets a space in front. Raises TokenizerError for steps that SentencePiece's BPE does not have."""
    steps = [*_steps_of(tokenizer, "normalizer"), *_steps_of(tokenizer, "pre_tokenizer")]
    prefix = False
    for step in steps:
        kind = step.text("type")
        if kind == "Prepend" and step.get("prepend") == SPACE:
            prefix = True
        elif kind == "Metaspace" and step.get("replacement") == SPACE:
            prefix = prefix or step.get("prepend_scheme", "always") != "never"
        elif not (kind == "Replace" and step.get("pattern") == {"String": " "} and step.get("content") == SPACE):
            raise TokenizerError(
                f"the step {kind!r} has no place in a SentencePiece tokenizer", where=f"{where}: normalizer"
            )
    return prefix


def _refuse_normalizer(tokenizer: JsonObject) -> None:
    for step in _steps_of(tokenizer, "normalizer"):
        kind = step.text("type")
        if kind not in _HARMLESS_NORMALIZERS:
            raise TokenizerError(
                f"the step {kind!r} has no place in a byte-level tokenizer of GGUF",
                where=f"{tokenizer.where}: normalizer",
            )


def _steps_of(tokenizer: JsonObject, key: str) -> list[JsonObject]:
    """A normalizer or pre-tokenizer as the list of its steps."""
    part = tokenizer.object(key)
    return _steps(part) if part else []


def _steps(part: JsonObject) -> list[JsonObject]:
    if part.get("type") != "Sequence":
        return [part]
    inner = part.items_of("normalizers") or part.items_of("pretokenizers")
    return [step for one in inner for step in _steps(JsonObject(one if isinstance(one, dict) else {}, part.where))]


def _refuse_other_models(model: JsonObject) -> None:
    kind = model.text("type", "BPE")
    if kind != "BPE":
        raise TokenizerError(f"tokenizers of type {kind!r} are not supported", where=model.where, hint="known: BPE")
    for key in ("dropout", "continuing_subword_prefix", "end_of_word_suffix"):
        if model.get(key):
            raise TokenizerError(f"{key} is not supported", where=model.where)


def _refuse_other_tokenizers(folder: Path) -> None:
    found = next((name for name in _OTHER_TOKENIZERS if (folder / name).is_file()), None)
    if found is not None:
        raise TokenizerError(
            f"there is no {TOKENIZER}, and {found} cannot be read",
            where=str(folder),
            hint=f"make one with transformers: AutoTokenizer.from_pretrained({str(folder)!r}).save_pretrained(...)",
        )
