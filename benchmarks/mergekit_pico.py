"""Runs in mergekit's environment: writes pico models with transformers, in float32, with a small byte-level tokenizer.

Usage: python -m benchmarks.mergekit_pico FOLDER. For each architecture the folder gets

    base                      random weights, norms around one
    dense, sparse, low_rank   fine-tunes: what each changes has that form
    far                       other random weights, in another direction

llama's have no prefix, the others that of their architecture (``qwen3-base``); ``tied-base`` and its fine-tunes are
llamas whose output matrix is the embedding.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

END = "<|endoftext|>"
MERGES = (("t", "h"), ("th", "e"), ("a", "n"), ("an", "d"), ("i", "n"), ("in", "g"), ("o", "f"))
SIZES = {
    "hidden_size": 128,
    "intermediate_size": 256,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "initializer_range": 0.1,
    "bos_token_id": 0,
    "eos_token_id": 0,
}
CHANGE = 0.02
"""Standard deviation of what a fine-tune changes; that of the weights is 0.1."""


def main() -> None:
    """Write every model."""
    folder = Path(sys.argv[1])
    transformers.logging.set_verbosity_error()
    _write_family(folder, "", transformers.LlamaConfig, {})
    _write_family(folder, "tied-", transformers.LlamaConfig, {"tie_word_embeddings": True})
    _write_family(folder, "qwen2-", transformers.Qwen2Config, {})
    _write_family(folder, "qwen3-", transformers.Qwen3Config, {"head_dim": 32})


def _write_family(folder: Path, prefix: str, kind: type[transformers.PretrainedConfig], options: dict) -> None:
    tokenizer = _tokenizer()
    config = kind(vocab_size=len(tokenizer), **{"tie_word_embeddings": False, **SIZES, **options})
    base = _random_weights(config, seed=0)
    members = {
        "base": base,
        "dense": _changed(base, 1, torch.randn),
        "sparse": _changed(base, 2, lambda shape: torch.randn(shape) * (torch.rand(shape) < 0.3)),
        "low_rank": _changed(base, 3, _low_rank),
        "far": _random_weights(config, seed=4),
    }
    for name, weights in members.items():
        model = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float32)
        model.load_state_dict(weights, strict=not config.tie_word_embeddings)
        model.save_pretrained(folder / f"{prefix}{name}")
        tokenizer.save_pretrained(folder / f"{prefix}{name}")


def _random_weights(config: transformers.PretrainedConfig, seed: int) -> dict[str, torch.Tensor]:
    """Of the first initialisation nothing but matrices is random; vectors get noise here."""
    torch.manual_seed(seed)
    model = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    state = {name: value.clone() for name, value in model.state_dict().items()}
    for name in (name for name, value in state.items() if value.ndim == 1):
        state[name] += 0.1 * torch.randn(state[name].shape)
    return _tied(state) if config.tie_word_embeddings else state


def _changed(base: dict[str, torch.Tensor], seed: int, change: object) -> dict[str, torch.Tensor]:
    torch.manual_seed(seed)
    return {name: value + CHANGE * change(value.shape) for name, value in base.items()}


def _low_rank(shape: torch.Size) -> torch.Tensor:
    """Of rank 4 and standard deviation 1."""
    if len(shape) == 1:
        return torch.randn(shape)
    return torch.randn(shape[0], 4) @ torch.randn(4, shape[1]) / 2


def _tied(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: value for name, value in state.items() if name != "lm_head.weight"}


def _tokenizer() -> transformers.PreTrainedTokenizerFast:
    symbols = [END, *sorted(pre_tokenizers.ByteLevel.alphabet()), *(left + right for left, right in MERGES)]
    vocabulary = {text: index for index, text in enumerate(symbols)}
    tokenizer = Tokenizer(models.BPE(vocabulary, list(MERGES)))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token=END, eos_token=END)


if __name__ == "__main__":
    main()
