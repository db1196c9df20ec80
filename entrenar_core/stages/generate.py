"""Generates text from a GGUF model, with an adapter if one is given: what a person looks at after training.

The prompt is read in one pass, then one token at a time through the KV cache; temperature and top-p shape the choice.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from entrenar_core.backend.select import Device, DeviceWish
from entrenar_core.errors import ConfigError
from entrenar_core.events import Generated, Reporter
from entrenar_core.gguf.reader import GGUFFile
from entrenar_core.lora.files import attach_adapter, read_adapter
from entrenar_core.model.decoder import LanguageModel
from entrenar_core.model.generation import Sampling, next_tokens
from entrenar_core.model.load import load_model, read_spec
from entrenar_core.model.spec import DecoderSpec
from entrenar_core.stages.device import open_backend, writing_work
from entrenar_core.tokenizer.build import tokenizer_from_metadata
from entrenar_core.tokenizer.tokenizer import Tokenizer


@dataclass(frozen=True)
class SamplingSettings:
    """max_tokens: the most to generate. The others are those of `Sampling`."""

    max_tokens: int = 128
    temperature: float = 0.8
    top_p: float = 0.95
    seed: int = 0

    def __post_init__(self) -> None:
        if self.max_tokens < 1:
            raise ConfigError(f"max-tokens is {self.max_tokens}; it must be at least 1")
        self.sampling()

    def sampling(self) -> Sampling:
        """How tokens are chosen.

        Raises:
            ConfigError: a number is out of range.
        """
        return Sampling(self.temperature, self.top_p, self.seed)


@dataclass(frozen=True)
class Generation:
    """What was generated, and why it ended: a stop token, the length asked for, or a full context."""

    text: str
    token_ids: tuple[int, ...]
    prompt_tokens: int
    stop_reason: str


def run_generate(
    model_path: Path,
    prompt: str,
    *,
    adapter_path: Path | None,
    settings: SamplingSettings,
    threads: int | None,
    reporter: Reporter,
    device: Device = "auto",
) -> Generation:
    """Continue a prompt with a model; pieces of text are reported as they come.

    Raises:
        FormatError, ModelError, TokenizerError: the files cannot be used.
        ConfigError: the prompt is empty for a model without BOS, or longer than the model's context.
    """
    with GGUFFile.open(model_path) as file:
        spec = read_spec(file)
        tokenizer = tokenizer_from_metadata(file.metadata, str(model_path))
        n_prompt = len(prompt_tokens(spec, tokenizer, prompt))
        pairs = None if adapter_path is None else read_adapter(adapter_path, spec.architecture)
        work = writing_work(file, n_prompt, settings.max_tokens)
        backend = open_backend(DeviceWish(device, threads), work, reporter)
        try:
            model = load_model(file, backend)
            if pairs is not None:
                attach_adapter(model, pairs, str(adapter_path))
            return generate(model, tokenizer, prompt, settings, reporter)
        finally:
            backend.close()


def generate(
    model: LanguageModel, tokenizer: Tokenizer, prompt: str, settings: SamplingSettings, reporter: Reporter
) -> Generation:
    """See `run_generate`.

    Raises:
        ModelError: the model computes numbers that are not finite.
    """
    prompt_ids = prompt_tokens(model.spec, tokenizer, prompt)
    decoder = tokenizer.stream_decoder()
    ids: list[int] = []
    pieces: list[str] = []
    reason = "length" if model.spec.context_length - len(prompt_ids) >= settings.max_tokens else "context full"
    for _, token in next_tokens(
        model,
        [prompt_ids],
        max_tokens=settings.max_tokens,
        sampling=settings.sampling(),
        stop_ids=tokenizer.stop_ids,
        vocab_size=tokenizer.vocab_size,
    ):
        if token in tokenizer.stop_ids:
            reason = "stop token"
            break
        ids.append(token)
        pieces.append(decoder.push(token))
        if pieces[-1]:
            reporter.emit(Generated(pieces[-1]))
    pieces.append(decoder.finish())
    if pieces[-1]:
        reporter.emit(Generated(pieces[-1]))
    return Generation("".join(pieces), tuple(ids), len(prompt_ids), reason)


def prompt_tokens(spec: DecoderSpec, tokenizer: Tokenizer, prompt: str) -> list[int]:
    """The ids of a prompt, with BOS where the model wants one.

    Raises:
        ConfigError: there is nothing to read, or no room to write.
    """
    ids = tokenizer.encode(prompt, parse_special=True)
    if tokenizer.add_bos and tokenizer.bos_id is not None:
        ids = [tokenizer.bos_id, *ids]
    if not ids:
        raise ConfigError("the prompt is empty", hint="this model has no BOS token to start from: give some text")
    if len(ids) >= spec.context_length:
        raise ConfigError(
            f"the prompt has {len(ids)} tokens and the model a context of {spec.context_length}",
            hint="shorten the prompt",
        )
    return ids
