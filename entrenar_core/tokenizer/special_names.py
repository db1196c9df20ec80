"""Well-known special tokens: files often mark them wrongly, so their names decide.

Names that end a turn become control tokens and stop a generation; the first token of each fill-in-the-middle role
becomes a control token; a few tokens of gpt-oss are always shown. These are llama.cpp's rules, so that both agree.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from entrenar_core.tokenizer.vocabulary import MetadataReader, TokenKind

_END_NAMES = (
    "<|eot_id|> <|im_end|> <|end|> <|return|> <|call|> <|flush|> <|calls|> <end_of_turn> <|endoftext|> </s> <|eom_id|> "
    "<EOT> _<EOT> [EOT] [EOS] <|end_of_text|> <end_of_utterance> <eos> <turn|> <|tool_response> "
    "<｜end▁of▁sentence｜> [e~["
)
_ALWAYS_SHOWN = ("<|channel|>", "<|message|>", "<|start|>", "<|constrain|>")
_NOT_STRIPPING = frozenset({"<unk>", "<s>", "<|endoftext|>"})

# Metadata keys (the first is current, the second an old spelling) and names of each fill-in-the-middle role.
_MIDDLE_ROLES: tuple[tuple[tuple[str, ...], str], ...] = (
    (
        ("fim_pre_token_id", "prefix_token_id"),
        "<|fim_prefix|> <fim-prefix> <fim_prefix> <｜fim▁begin｜> <PRE> ▁<PRE> <|code_prefix|> <|prefix|>",
    ),
    (
        ("fim_suf_token_id", "suffix_token_id"),
        "<|fim_suffix|> <fim-suffix> <fim_suffix> <｜fim▁hole｜> <SUF> ▁<SUF> <|code_suffix|> <|suffix|>",
    ),
    (
        ("fim_mid_token_id", "middle_token_id"),
        "<|fim_middle|> <fim-middle> <fim_middle> <｜fim▁end｜> <MID> ▁<MID> <|code_middle|> <|middle|>",
    ),
)
# These roles also end a generation.
_STOPPING_ROLES: tuple[tuple[tuple[str, ...], str], ...] = (
    (("fim_pad_token_id",), "<|fim_pad|> <fim-pad> <fim_pad> <PAD> [PAD]"),
    (("fim_rep_token_id",), "<|fim_repo|> <|repo_name|> <fim-repo> <REPO> <reponame>"),
    (("fim_sep_token_id",), "<|file_sep|>"),
)


def apply_special_names(
    reader: MetadataReader, ids: Mapping[str, int], kinds: npt.NDArray[np.uint8], eos_id: int | None
) -> tuple[npt.NDArray[np.uint8], frozenset[int]]:
    """The corrected kinds (uint8 [V], a copy) and the ids that end a generation."""
    kinds = kinds.copy()
    stops: set[int] = set()
    for keys, names in _MIDDLE_ROLES:
        _role_id(reader, ids, kinds, keys, names)
    for keys, names in _STOPPING_ROLES:
        stops.update(_role_id(reader, ids, kinds, keys, names))
    for name in ids.keys() & _END_NAMES.split():
        stops.add(ids[name])
        kinds[ids[name]] = TokenKind.CONTROL
    for name in _ALWAYS_SHOWN:
        if name in ids:
            kinds[ids[name]] = TokenKind.USER_DEFINED
    stated = (reader.token_id(key, len(kinds)) for key in ("eot_token_id", "eom_token_id"))
    stops.update(token_id for token_id in (eos_id, *stated) if token_id is not None)
    _drop_false_ends(ids, kinds, stops)
    return kinds, frozenset(stops)


def ids_that_strip_right(
    reader: MetadataReader, ids: Mapping[str, int], kinds: npt.NDArray[np.uint8]
) -> frozenset[int]:
    """Phi-3 was trained with special tokens that swallow the white space after them; only its name tells."""
    name = reader.model_name()
    if "phi-3" not in name and "phi3" not in name:
        return frozenset()
    special = np.isin(kinds, [TokenKind.CONTROL, TokenKind.USER_DEFINED, TokenKind.UNKNOWN])
    stripping = {int(index) for index in np.flatnonzero(special)}
    stripping.update(ids[text] for text in ("</s>",) if text in ids)
    return frozenset(stripping - {ids[text] for text in _NOT_STRIPPING if text in ids})


def _role_id(
    reader: MetadataReader,
    ids: Mapping[str, int],
    kinds: npt.NDArray[np.uint8],
    keys: tuple[str, ...],
    names: str,
) -> list[int]:
    """The id that a key states, else the lowest id with a name of the role (it becomes control); or nothing."""
    for key in keys:
        stated = reader.token_id(key, len(kinds))
        if stated is not None:
            return [stated]
    found = [ids[name] for name in names.split() if name in ids]
    if not found:
        return []
    kinds[min(found)] = TokenKind.CONTROL
    return [min(found)]


def _drop_false_ends(ids: Mapping[str, int], kinds: npt.NDArray[np.uint8], stops: set[int]) -> None:
    """Beside a call and `<|return|>` or `<|flush|>`, `<|end|>` ends no turn; in Gemma 4 `</s>` is text."""

    def stopping(name: str) -> bool:
        return ids.get(name) in stops

    calls = stopping("<|call|>") or stopping("<|calls|>")
    if calls and (stopping("<|return|>") or stopping("<|flush|>")) and stopping("<|end|>"):
        stops.discard(ids["<|end|>"])
        kinds[ids["<|end|>"]] = TokenKind.USER_DEFINED
    if stopping("<|tool_response>") and stopping("</s>"):
        stops.discard(ids["</s>"])
        kinds[ids["</s>"]] = TokenKind.NORMAL
