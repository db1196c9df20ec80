"""The tokens of one model of a merge."""

from __future__ import annotations

from entrenar_core.errors import ModelError
from entrenar_core.gguf import keys
from entrenar_core.gguf.names import OUTPUT, TOKEN_EMBD
from entrenar_core.merge.model_tensors import ModelTensors
from entrenar_core.model.token_texts import Tokens, read_tokens

_READ = (keys.TOKENIZER_MODEL, keys.TOKENIZER_TOKEN_TYPE)


def read_model_tokens(model: ModelTensors) -> Tokens:
    """The tokens that a model's metadata describe.

    Raises:
        ModelError: there is no embedding, or it has fewer rows than there are tokens, or others than the output matrix.
        TokenizerError: two tokens have one text, or their kinds are not theirs.
    """
    shape = model.shapes.get(TOKEN_EMBD, ())
    if len(shape) != 2:
        raise ModelError(f"there is no matrix {TOKEN_EMBD}", where=model.path)
    head = model.shapes.get(OUTPUT, shape)
    if head[0] != shape[0]:
        raise ModelError(f"{OUTPUT} has {head[0]} rows, {TOKEN_EMBD} has {shape[0]}", where=model.path)
    n_tokens = len(model.tokens)
    if n_tokens > shape[0]:
        raise ModelError(f"the tokenizer has {n_tokens} tokens, the embedding only {shape[0]} rows", where=model.path)
    known: dict[str, object] = {key: value.plain for key, value in model.metadata if key in _READ}
    return read_tokens({**known, keys.TOKENIZER_TOKENS: model.tokens}, shape[0], model.path)
