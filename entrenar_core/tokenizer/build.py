"""A `Tokenizer` from the metadata of a GGUF file.

`tokenizer.ggml.model` chooses the builder. What is unknown, missing or contradictory is a TokenizerError that names
file and key; nothing is guessed, because a wrong tokenizer trains a wrong model without a sign.
"""

from __future__ import annotations

from collections.abc import Mapping

from entrenar_core.errors import TokenizerError
from entrenar_core.tokenizer.bpe import build_byte_level, read_pre
from entrenar_core.tokenizer.pre_types import pre_type_named
from entrenar_core.tokenizer.special_names import apply_special_names, ids_that_strip_right
from entrenar_core.tokenizer.spm import build_score_model
from entrenar_core.tokenizer.tokenizer import Tokenizer
from entrenar_core.tokenizer.vocabulary import MetadataReader, Vocabulary, read_kinds, read_tokens

KNOWN_MODELS = ("gpt2", "llama")


def tokenizer_from_metadata(metadata: Mapping[str, object], source: str) -> Tokenizer:
    """Build the tokenizer that `metadata` describes.

    Args:
        metadata: GGUF key -> str, number, bool, list of str or numpy array.
        source: the file, for messages.

    Raises:
        TokenizerError: an unknown model or pre type, a missing array, arrays that do not fit together, a bad id.
    """
    reader = MetadataReader(metadata, source)
    name = reader.string("model")
    if name == "gpt2":
        vocabulary = _read_vocabulary(reader, add_bos=pre_type_named(read_pre(reader), source).adds_bos)
        return Tokenizer(vocabulary, build_byte_level(reader, vocabulary), strips_leading_space=False)
    if name == "llama":
        vocabulary = _read_vocabulary(reader, add_bos=True, default_ids=(1, 2, 0))
        model = build_score_model(reader, vocabulary)
        return Tokenizer(vocabulary, model, strips_leading_space=model.add_space_prefix)
    raise reader.error("model", f"unknown tokenizer model {name!r}", hint="known: " + ", ".join(KNOWN_MODELS))


def _read_vocabulary(
    reader: MetadataReader, *, add_bos: bool, default_ids: tuple[int, int, int] | tuple[None, None, None] = (None,) * 3
) -> Vocabulary:
    """`default_ids`: BOS, EOS and unknown of files that state none."""
    tokens, ids = read_tokens(reader)
    bos_id = reader.token_id("bos_token_id", len(tokens), default_ids[0])
    eos_id = reader.token_id("eos_token_id", len(tokens), default_ids[1])
    kinds, stop_ids = apply_special_names(reader, ids, read_kinds(reader, len(tokens)), eos_id)
    return Vocabulary(
        source=reader.source,
        tokens=tokens,
        ids=ids,
        kinds=kinds,
        bos_id=bos_id,
        eos_id=eos_id,
        pad_id=reader.token_id("padding_token_id", len(tokens)),
        unknown_id=reader.token_id("unknown_token_id", len(tokens), default_ids[2]),
        add_bos=_adds(reader, "bos", bos_id, add_bos),
        add_eos=_adds(reader, "eos", eos_id, False),
        stop_ids=stop_ids,
        strip_right=ids_that_strip_right(reader, ids, kinds),
    )


def _adds(reader: MetadataReader, name: str, token_id: int | None, default: bool) -> bool:
    adds = reader.flag(f"add_{name}_token", default)
    if adds and token_id is None:
        raise TokenizerError(
            f"a {name.upper()} token is to be added, but tokenizer.ggml.{name}_token_id is missing", where=reader.source
        )
    return adds
