"""What a GGUF file holds: a model, a LoRA adapter, a task head, or something else that only has keys and tensors.

Only the header is read. A file is looked at even when this release could not train it; then `obstacle` says why.
Texts come from the file as they are: whoever shows them has to make them harmless.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence, Sized

from entrenar_core.errors import EntrenarError
from entrenar_core.gguf import keys
from entrenar_core.gguf.reader import GGUFFile
from entrenar_core.gguf.tensor_info import TensorInfo
from entrenar_core.model.head_file import read_head_spec
from entrenar_core.model.load import read_spec
from entrenar_core.stages.gguf_facts import (
    AdapterFacts,
    HeadFacts,
    ModelFacts,
    OtherGGUF,
    Sizes,
    SpecialToken,
    TemplateFacts,
    TensorType,
    TokenizerFacts,
)

PROVENANCE = "entrenar."
"""How the keys begin that say what this program made the file from."""

SPECIAL_IDS: Mapping[str, str] = {
    "bos": keys.TOKENIZER_BOS_ID,
    "eos": keys.TOKENIZER_EOS_ID,
    "eot": keys.TOKENIZER_EOT_ID,
    "eom": keys.TOKENIZER_EOM_ID,
    "unknown": keys.TOKENIZER_UNKNOWN_ID,
    "separator": keys.TOKENIZER_SEPARATOR_ID,
    "padding": keys.TOKENIZER_PADDING_ID,
}


def inspect_gguf(path: str) -> ModelFacts | AdapterFacts | HeadFacts | OtherGGUF:
    """Read the header of a GGUF file.

    Raises:
        FormatError: it is none, or a damaged one.
    """
    with GGUFFile.open(path) as file:
        kind = file.metadata.get(keys.GENERAL_TYPE)
        if kind == "adapter":
            return _adapter(path, file)
        if kind == "head":
            return _head(path, file)
        if kind not in (None, "model") or not _is_model(file):
            return OtherGGUF(
                "gguf", path, _n_bytes(file), _text(file, keys.GENERAL_TYPE), _plain_keys(file, ""), _types(file)
            )
        return _model(path, file)


def _is_model(file: GGUFFile) -> bool:
    return "token_embd.weight" in file.tensors or keys.TOKENIZER_TOKENS in file.metadata


def _model(path: str, file: GGUFFile) -> ModelFacts:
    infos = file.tensors
    return ModelFacts(
        kind="model" if infos else "vocabulary",
        path=path,
        files=tuple(str(one) for one in file.paths),
        n_bytes=_n_bytes(file),
        version=file.version,
        name=_text(file, keys.GENERAL_NAME),
        architecture=_text(file, keys.GENERAL_ARCHITECTURE),
        parameters=sum(info.n_values for info in infos.values()),
        sizes=_sizes(file),
        tied_embeddings=bool(infos) and "output.weight" not in infos,
        obstacle=_obstacle(file),
        tensor_types=_types(file),
        tokenizer=_tokenizer(file),
        chat_templates=_templates(file),
        provenance=_plain_keys(file, PROVENANCE),
    )


def _adapter(path: str, file: GGUFFile) -> AdapterFacts:
    pairs = {name: info for name, info in file.tensors.items() if name.endswith(".lora_a") and len(info.shape) == 2}
    alpha = file.metadata.get(keys.ADAPTER_LORA_ALPHA)
    return AdapterFacts(
        kind="adapter",
        path=path,
        n_bytes=_n_bytes(file),
        name=_text(file, keys.GENERAL_NAME),
        architecture=_text(file, keys.GENERAL_ARCHITECTURE),
        ranks=tuple(sorted({info.shape[0] for info in pairs.values()})),
        alpha=alpha if isinstance(alpha, float) else None,
        targets=targets_of(pairs),
        parameters=sum(info.n_values for info in file.tensors.values()),
        tensor_types=_types(file),
        provenance=_plain_keys(file, PROVENANCE),
    )


def targets_of(lora_a: Sequence[str] | Mapping[str, TensorInfo]) -> dict[str, int]:
    """From names like ``blk.3.attn_q.weight.lora_a`` to how many layers have an adapter on each module."""
    parts = [name.removesuffix(".lora_a").removesuffix(".weight").split(".") for name in lora_a]
    return dict(sorted(Counter(part[-1] for part in parts).items()))


def _head(path: str, file: GGUFFile) -> HeadFacts:
    spec = read_head_spec(path)
    return HeadFacts(
        kind="head",
        path=path,
        n_bytes=_n_bytes(file),
        architecture=_text(file, keys.GENERAL_ARCHITECTURE),
        task=spec.task.value,
        classes=spec.classes,
        text_column=spec.text_column,
        target_column=spec.target_column,
        mean=spec.mean,
        std=spec.std,
        tensor_types=_types(file),
        provenance=_plain_keys(file, PROVENANCE),
    )


def _sizes(file: GGUFFile) -> Sizes:
    def size(suffix: str) -> int | None:
        value = file.metadata.get(keys.architecture_key(_text(file, keys.GENERAL_ARCHITECTURE) or "", suffix))
        return value if isinstance(value, int) and not isinstance(value, bool) else None

    hidden, heads = size(keys.EMBEDDING_LENGTH), size(keys.HEAD_COUNT)
    implied = hidden // heads if hidden and heads else None
    return Sizes(
        layers=size(keys.BLOCK_COUNT),
        hidden_size=hidden,
        heads=heads,
        kv_heads=size(keys.HEAD_COUNT_KV) or heads,
        head_dim=size(keys.KEY_LENGTH) or implied,
        intermediate_size=size(keys.FEED_FORWARD_LENGTH),
        context_length=size(keys.CONTEXT_LENGTH),
    )


def _obstacle(file: GGUFFile) -> str | None:
    try:
        read_spec(file)
    except EntrenarError as error:
        return error.message if error.hint is None else f"{error.message}; {error.hint}"
    return None


def _types(file: GGUFFile) -> tuple[TensorType, ...]:
    """Types with the most bytes first."""
    found: dict[str, list[TensorInfo]] = {}
    for info in file.tensors.values():
        found.setdefault(info.type_name, []).append(info)
    types = [
        TensorType(name, len(infos), sum(info.n_values for info in infos), sum(info.n_bytes for info in infos))
        for name, infos in found.items()
    ]
    return tuple(sorted(types, key=lambda one: (-one.n_bytes, one.type)))


def _tokenizer(file: GGUFFile) -> TokenizerFacts | None:
    tokens = file.metadata.get(keys.TOKENIZER_TOKENS)
    if not isinstance(tokens, list):
        return None
    return TokenizerFacts(
        model=_text(file, keys.TOKENIZER_MODEL),
        pre=_text(file, keys.TOKENIZER_PRE),
        vocab_size=len(tokens),
        special=_special_tokens(file, tokens),
        add_bos=_flag(file, keys.TOKENIZER_ADD_BOS),
        add_eos=_flag(file, keys.TOKENIZER_ADD_EOS),
    )


def _special_tokens(file: GGUFFile, tokens: Sequence[object]) -> tuple[SpecialToken, ...]:
    special = []
    for use, key in SPECIAL_IDS.items():
        token_id = file.metadata.get(key)
        if isinstance(token_id, int) and not isinstance(token_id, bool):
            text = str(tokens[token_id]) if 0 <= token_id < len(tokens) else None
            special.append(SpecialToken(use, token_id, text))
    return tuple(special)


def _templates(file: GGUFFile) -> tuple[TemplateFacts, ...]:
    prefix = keys.chat_template_key("")
    found = []
    for key, text in file.metadata.items():
        if isinstance(text, str) and (key == keys.CHAT_TEMPLATE or key.startswith(prefix)):
            name = "default" if key == keys.CHAT_TEMPLATE else key.removeprefix(prefix)
            first = next((line for line in text.splitlines() if line.strip()), "")
            found.append(TemplateFacts(name, first, len(text)))
    return tuple(found)


def _plain_keys(file: GGUFFile, prefix: str) -> dict[str, str]:
    """Keys that begin so and hold one text or number; of a list, how long it is."""
    found = {key: value for key, value in file.metadata.items() if key.startswith(prefix)}
    return {
        key: f"list of {len(value)}" if isinstance(value, Sized) and not isinstance(value, str) else str(value)
        for key, value in found.items()
    }


def _n_bytes(file: GGUFFile) -> int:
    return sum(path.stat().st_size for path in file.paths)


def _text(file: GGUFFile, key: str) -> str | None:
    value = file.metadata.get(key)
    return value if isinstance(value, str) else None


def _flag(file: GGUFFile, key: str) -> bool | None:
    value = file.metadata.get(key)
    return value if isinstance(value, bool) else None
