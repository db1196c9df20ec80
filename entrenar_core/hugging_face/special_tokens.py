"""Which tokens begin and end a text, as tokenizer_config.json, config.json and the post-processor say, as GGUF keys."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from entrenar_core.gguf import keys
from entrenar_core.gguf.values import MetadataValue
from entrenar_core.hugging_face.json_object import JsonObject

Entries = list[tuple[str, MetadataValue]]

ROLES: Mapping[str, str] = {
    "bos": keys.TOKENIZER_BOS_ID,
    "eos": keys.TOKENIZER_EOS_ID,
    "unk": keys.TOKENIZER_UNKNOWN_ID,
    "pad": keys.TOKENIZER_PADDING_ID,
}
"""As in ``{role}_token`` and ``{role}_token_id``, and the key that holds the id."""


def read_special_tokens(
    tokenizer: JsonObject, settings: JsonObject, config: JsonObject, ids: Mapping[str, int]
) -> Entries:
    """The ids of special tokens, and which of them every text gets.

    Args:
        tokenizer: tokenizer.json.
        settings: tokenizer_config.json, which names tokens by their text and goes before config.json.
        config: config.json, which has their ids.
        ids: of all tokens, by text.

    Raises:
        FormatError: a token is named that the tokenizer does not have.
    """
    found = {role: _id_of(role, settings, config, ids) for role in ROLES}
    entries = [(ROLES[role], MetadataValue.uint32(index)) for role, index in found.items() if index is not None]
    begins, ends = _frame(tokenizer, ids)
    adds_bos = found["bos"] is not None and settings.flag("add_bos_token", found["bos"] in begins)
    adds_eos = found["eos"] is not None and settings.flag("add_eos_token", found["eos"] in ends)
    entries.append((keys.TOKENIZER_ADD_BOS, MetadataValue.bool(adds_bos)))
    if adds_eos:
        entries.append((keys.TOKENIZER_ADD_EOS, MetadataValue.bool(True)))
    return entries


def _id_of(role: str, settings: JsonObject, config: JsonObject, ids: Mapping[str, int]) -> int | None:
    text = settings.get(f"{role}_token")
    if isinstance(text, dict):
        text = text.get("content")
    if isinstance(text, str):
        if text not in ids:
            raise settings.error(f"{role}_token", f"the tokenizer has no token {text!r}")
        return ids[text]
    index = config.get(f"{role}_token_id")
    if isinstance(index, list) and index:  # several end a text; the first one is what the model was trained with
        index = index[0]
    return index if type(index) is int and index in ids.values() else None


def _frame(tokenizer: JsonObject, ids: Mapping[str, int]) -> tuple[set[int], set[int]]:
    """Ids of the tokens that the post-processor puts in front of a single text, and after it."""
    before: set[int] = set()
    after: set[int] = set()
    for step in _templates(tokenizer.object("post_processor")):
        place = before
        for item in step.items_of("single"):
            special = item.get("SpecialToken") if isinstance(item, dict) else None
            if special is None:
                place = after
            elif isinstance(special, dict) and str(special.get("id")) in ids:
                place.add(ids[str(special.get("id"))])
    return before, after


def _templates(processor: JsonObject) -> Iterator[JsonObject]:
    if processor.get("type") == "TemplateProcessing":
        yield processor
    for inner in processor.items_of("processors"):
        if isinstance(inner, dict):
            yield from _templates(JsonObject(inner, processor.where))
