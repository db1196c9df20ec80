"""What `generate` promises: the same text for the same seed, draws from the right distribution, and clear ends."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from entrenar_core.errors import ConfigError, EntrenarError, FormatError, ModelError
from entrenar_core.events import Generated
from entrenar_core.gguf.values import MetadataValue
from entrenar_core.model.decoder import LanguageModel
from entrenar_core.stages.generate import Generation, SamplingSettings, generate, run_generate
from entrenar_core.tokenizer.build import tokenizer_from_metadata
from entrenar_core.tokenizer.tokenizer import Tokenizer
from tests.model.tiny import lively_weights
from tests.stages.tiny_base import (
    CONTEXT,
    base_spec,
    model_on_cpu,
    tokenizer_entries,
    train,
    vocab_size,
    write_base,
)
from tests.train.tiny_model import Listener

GREEDY = SamplingSettings(max_tokens=20, temperature=0.0)
PROMPT = "Ada saw a"


def tokenizer(**changes: MetadataValue) -> Tokenizer:
    entries = {key: value.plain for key, value in tokenizer_entries()}
    entries |= {f"tokenizer.ggml.{key}": value.plain for key, value in changes.items()}
    return tokenizer_from_metadata(entries, "tiny")


def write(prompt: str = PROMPT, model: LanguageModel | None = None, **settings: Any) -> Generation:
    wanted = SamplingSettings(**{"max_tokens": 20, "temperature": 0.0, **settings})
    return generate(model_on_cpu() if model is None else model, tokenizer(), prompt, wanted, Listener())


def silent_model() -> LanguageModel:
    """All its logits are zero, so the likeliest token is the first, which is end-of-text."""
    weights = lively_weights(base_spec())
    weights["output.weight"][:] = 0
    return model_on_cpu(weights=weights)


# settings


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"max_tokens": 0}, "max-tokens is 0"),
        ({"temperature": -0.1}, "temperature is -0.1"),
        ({"temperature": float("nan")}, "temperature is nan"),
        ({"temperature": float("inf")}, "temperature is inf"),
        ({"top_p": 0.0}, "top-p is 0.0"),
        ({"top_p": 1.1}, "top-p is 1.1"),
        ({"top_p": float("nan")}, "top-p is nan"),
    ],
)
def test_settings_out_of_range_are_refused(setting: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        SamplingSettings(**setting)


# generating


def test_greedy_text_is_what_the_model_without_a_cache_finds_likeliest() -> None:
    model, ids = model_on_cpu(), tokenizer().encode(PROMPT)
    found = write(model=model, max_tokens=12).token_ids
    for token in found:
        assert int(model.logits(np.asarray([ids], np.int32))[0, -1].argmax()) == token
        ids.append(token)
    assert len(found) == 12


def test_the_same_seed_gives_the_same_text_and_another_seed_another() -> None:
    first, again, other = (write(temperature=1.0, seed=seed) for seed in (3, 3, 4))
    assert first == again
    assert first.token_ids != other.token_ids


def test_the_pieces_that_are_reported_make_up_the_text() -> None:
    listener = Listener()
    found = generate(model_on_cpu(), tokenizer(), PROMPT, GREEDY, listener)
    assert "".join(event.text for event in listener.of(Generated)) == found.text
    assert found.prompt_tokens == len(tokenizer().encode(PROMPT))
    assert found.stop_reason == "length"
    assert len(found.token_ids) == GREEDY.max_tokens


def test_a_character_that_was_not_finished_is_shown_as_such() -> None:
    weights = lively_weights(base_spec())
    (first_byte, *_) = tokenizer().encode("é")
    weights["output.weight"][:] = 0
    weights["output.weight"][first_byte] = (
        model_on_cpu(weights=weights)
        .hidden_states(
            np.asarray([tokenizer().encode(PROMPT)], np.int32),
            np.arange(len(tokenizer().encode(PROMPT)), dtype=np.int32)[None],
            np.zeros((1, len(tokenizer().encode(PROMPT))), np.int32),
        )
        .numpy()[0, -1]
    )
    assert write(model=model_on_cpu(weights=weights), max_tokens=1).text == "\ufffd"


def test_a_stop_token_ends_the_text_and_is_not_part_of_it() -> None:
    found = write(model=silent_model())
    assert (found.text, found.token_ids, found.stop_reason) == ("", (), "stop token")


def test_a_full_context_ends_the_text() -> None:
    found = write(max_tokens=1000)
    assert found.stop_reason == "context full"
    assert found.prompt_tokens + len(found.token_ids) == CONTEXT


def test_the_last_token_that_fits_can_be_asked_for() -> None:
    prompt_tokens = len(tokenizer().encode(PROMPT))
    found = write(max_tokens=CONTEXT - prompt_tokens)
    assert (found.stop_reason, len(found.token_ids)) == ("length", CONTEXT - prompt_tokens)


def test_a_prompt_as_long_as_the_context_is_refused() -> None:
    prompt = "b" * CONTEXT
    assert len(tokenizer().encode(prompt)) == CONTEXT
    with pytest.raises(ConfigError, match=f"the prompt has {CONTEXT} tokens and the model a context of {CONTEXT}"):
        write(prompt)
    assert len(write(prompt[:-1]).token_ids) == 1


def test_an_empty_prompt_is_refused_unless_the_model_begins_with_bos() -> None:
    with pytest.raises(ConfigError, match="the prompt is empty"):
        write("")
    with_bos = tokenizer(add_bos_token=MetadataValue.bool(True))
    found = generate(model_on_cpu(), with_bos, "", GREEDY, Listener())
    assert found.prompt_tokens == 1


def test_rows_of_the_embedding_without_a_token_are_never_chosen() -> None:
    spec = base_spec(vocab_size=vocab_size() + 50)
    weights = lively_weights(spec)
    weights["output.weight"][vocab_size() :] *= 100
    found = write(model=model_on_cpu(spec, weights))
    assert max(found.token_ids) < vocab_size()


def test_a_model_with_nan_weights_says_so() -> None:
    weights = lively_weights(base_spec())
    weights["blk.1.ffn_up.weight"][0, 0] = np.nan
    with pytest.raises(ModelError, match="not finite"):
        write(model=model_on_cpu(weights=weights))


# files


@pytest.mark.integration
def test_the_adapter_on_the_base_writes_what_the_merged_model_writes(folder: Path) -> None:
    train(folder, training={"max_steps": 40}, output={"type": "f32"})
    base, run = folder / "base.gguf", folder / "run"
    before = from_files(base)
    adapted, merged = from_files(base, run / "adapter.gguf"), from_files(run / "model.gguf")
    assert adapted.token_ids == merged.token_ids
    assert adapted.token_ids != before.token_ids


@pytest.mark.integration
def test_a_trained_model_answers_and_stops(folder: Path) -> None:
    train(folder, lora=None, training={"max_steps": 120}, data={"batch_size": 10})
    found = from_files(folder / "run" / "model.gguf", prompt="Cleo saw a old key.\n")
    assert (found.text, found.stop_reason) == ("It was Cleo's old key.", "stop token")


def from_files(model: Path, adapter: Path | None = None, prompt: str = PROMPT) -> Generation:
    return run_generate(model, prompt, adapter_path=adapter, settings=GREEDY, threads=1, reporter=Listener())


def test_a_file_that_is_no_adapter_is_refused(folder: Path) -> None:
    with pytest.raises(FormatError, match="not a LoRA adapter"):
        from_files(folder / "base.gguf", folder / "base.gguf")


@pytest.mark.integration
def test_an_adapter_for_another_architecture_or_size_is_refused(folder: Path) -> None:
    train(folder)
    for changes in ({"architecture": "qwen2"}, {"num_layers": 1}, {"intermediate_size": 96}):
        other = write_base(folder / "other.gguf", base_spec(**changes))
        with pytest.raises(EntrenarError, match="adapter"):
            from_files(other, folder / "run" / "adapter.gguf")


def test_the_prompt_is_looked_at_before_other_files_are_read(folder: Path) -> None:
    with pytest.raises(ConfigError, match="the prompt is empty"):
        from_files(folder / "base.gguf", folder / "absent.gguf", prompt="")
