"""The `distill` section with its files open: teachers, what their tokens have in common with the student's, and the
learner that is made of them.

Everything that can be known without running a model is looked at first: vocabularies, block numbers, contexts.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from signal import SIGINT

import numpy as np

from entrenar_core.backend.base import Backend
from entrenar_core.backend.parameters import DistillationParams
from entrenar_core.config.distill import Distill, Hidden
from entrenar_core.config.root import Config
from entrenar_core.data.examples import Examples
from entrenar_core.distill.cache import CachedTeacher, CacheRequest, open_or_build
from entrenar_core.distill.cache_key import gives_weights, teacher_key
from entrenar_core.distill.layers import LayerMatching, LayerPair, MatchingSettings, layer_pairs
from entrenar_core.distill.learner import DistilledModel
from entrenar_core.distill.on_policy import OnPolicy
from entrenar_core.distill.teachers import Teacher, Teachers, TeacherSignal
from entrenar_core.distill.vocabulary import SharedVocabulary, TokenMap, map_tokens, share_vocabulary
from entrenar_core.errors import ConfigError
from entrenar_core.events import Notice, Reporter
from entrenar_core.gguf.keys import TOKENIZER_TOKENS
from entrenar_core.gguf.reader import GGUFFile
from entrenar_core.model.decoder import LanguageModel
from entrenar_core.model.load import load_mapped, read_spec
from entrenar_core.model.spec import DecoderSpec
from entrenar_core.model.token_texts import Tokens, read_tokens
from entrenar_core.stages.base_model import BaseModel, file_digest
from entrenar_core.stages.dataset import DataSets
from entrenar_core.stages.kernels import compiling_said
from entrenar_core.tokenizer.build import tokenizer_from_metadata
from entrenar_core.tokenizer.tokenizer import Tokenizer
from entrenar_core.train.interrupt import Interrupted, StopSignal

DIVERGENCES = {
    "forward_kl": "forward KL",
    "reverse_kl": "reverse KL",
    "symmetric_kl": "symmetric KL",
    "jensen_shannon": "Jensen-Shannon divergence",
    "logit_mse": "squared error of logits",
}
"""What a person calls each of them."""

LEAST_KEPT = 0.9
"""Share of the teachers' probability below which a cache is called poor."""

_MATRIX_AXES = 2


@dataclass(frozen=True)
class OpenedTeacher:
    """A teacher that is known but does not run. share: of all teachers, which together are 1."""

    file: GGUFFile
    spec: DecoderSpec
    share: float

    @cached_property
    def digest(self) -> str:
        """Hex SHA-256 of its file."""
        return file_digest(self.file)

    @property
    def path(self) -> str:
        return str(self.file.paths[0])

    @property
    def file_bytes(self) -> int:
        """Of all shards: what its weights take in memory, for they are used where they lie."""
        return sum(path.stat().st_size for path in self.file.paths)

    @property
    def main_type(self) -> str:
        """The type that most of its values in matrices have."""
        values: Counter[str] = Counter()
        for info in self.file.tensors.values():
            if len(info.shape) == _MATRIX_AXES:
                values[info.type_name] += info.n_values
        return values.most_common(1)[0][0]


@dataclass(frozen=True)
class Distillation:
    """What a run learns from. `layer_map` is empty where no hidden states are matched."""

    section: Distill
    teachers: tuple[OpenedTeacher, ...]
    vocabulary: SharedVocabulary
    layer_map: tuple[LayerPair, ...]

    @property
    def params(self) -> DistillationParams:
        section = self.section
        return DistillationParams(section.loss, section.temperature, section.alpha, section.beta)

    @property
    def coverage(self) -> float:
        """The least share of the student's tokens that a teacher has."""
        return min(one.coverage for one in self.vocabulary.maps)

    def describe(self) -> str:
        """The objective on one line: ``0.5 × forward KL at temperature 2 from big.gguf (Q4_K) + 0.5 × …``."""
        section = self.section
        names = " and ".join(f"{Path(one.path).name} ({one.main_type})" for one in self.teachers)
        at = "" if section.loss == "logit_mse" else f" at temperature {section.temperature:g}"
        parts = [f"{section.alpha:g} × {DIVERGENCES[section.loss]}{at} from {names}"]
        if section.alpha < 1:
            parts.append(f"{1 - section.alpha:g} × cross-entropy")
        if self.layer_map:
            parts += self._matched(section.hidden)
        return " + ".join(parts)

    def _matched(self, hidden: Hidden) -> Iterator[str]:
        what = {"mse": "squared error", "cosine": "cosine distance"}[hidden.loss]
        if hidden.weight:
            yield f"{hidden.weight:g} × {what} of {len(self.layer_map)} hidden states"
        if hidden.attention:
            yield f"{hidden.attention:g} × divergence of their attention"

    def digests(self) -> dict[str, str]:
        """What the result depends on, by name: the content of each teacher."""
        return {f"distill.teachers.{index}": one.digest for index, one in enumerate(self.teachers)}

    def check_length(self, seq_len: int) -> None:
        """See that every teacher can read the longest example.

        Raises:
            ConfigError: one was made for less.
        """
        for one in self.teachers:
            if seq_len > one.spec.context_length:
                raise ConfigError(
                    f"data.seq_len is {seq_len}, but the teacher {one.path} was made for {one.spec.context_length}"
                    " tokens",
                    where="distill",
                    hint=f"set data.seq_len to {one.spec.context_length} or less",
                )

    def _say_what_is_shared(self, examples: Examples, reporter: Reporter) -> None:
        """Tell what share of the training tokens each teacher knows, where it lacks any token of the student."""
        for one in self.vocabulary.maps:
            if one.shared < one.n_tokens:
                share = one.share_of(np.asarray(examples.tokens))
                reporter.emit(Notice("info", f"{one.path} has {share:.2%} of the tokens of the training data"))

    def cache_request(self) -> CacheRequest | None:
        """Which cache the config asks for; None: the teachers run."""
        section = self.section.cache
        if section is None:
            return None
        key = teacher_key(
            [one.digest for one in self.teachers],
            [one.share for one in self.teachers],
            self.vocabulary,
            self.params,
            self.section.combine,
        )
        weighted = gives_weights(self.vocabulary)
        return CacheRequest(Path(section.path), key, self.vocabulary.n, section.top_k, section.dtype, weighted)

    def signal(self, backend: Backend, data: DataSets, reporter: Reporter) -> TeacherSignal:
        """What the student learns from: teachers that run, or their cache, which is made first where it is missing.

        Raises:
            ConfigError: the data are streamed, and there is to be a cache.
            Interrupted: a stop was requested while the cache was made.
            OutputError, FormatError: the cache cannot be made or read.
        """
        self._say_what_is_shared(data.first_examples(), reporter)
        request = self.cache_request()
        if request is None:
            return self.running(backend)
        if data.train is None:
            raise ConfigError(
                "a cache of the teachers needs data that are read whole, and these are streamed",
                where="distill.cache",
                hint="set data.streaming: false, or remove the cache",
            )
        with compiling_said("the teachers", reporter), StopSignal() as stop:
            cached = open_or_build(
                request,
                data.train.examples,
                data.train.indices,
                backend=backend,
                teachers=lambda: self.running(backend),
                reporter=reporter,
                should_stop=lambda: stop.requested is not None,
            )
        if cached is None or stop.requested is not None:
            raise Interrupted(
                f"stopped while the cache of the teachers was made, in {request.folder}",
                signal_number=stop.requested or SIGINT,
                hint="run the same command: it goes on where this one stopped",
            )
        self._say_what_is_kept(cached, reporter)
        return cached

    def _say_what_is_kept(self, cached: CachedTeacher, reporter: Reporter) -> None:
        """Tokens that are not kept count as one outcome, which teaches less the more of the mass they have."""
        if self.section.loss == "logit_mse":
            return
        mass, level = cached.kept_mass(), "info"
        message = f"the cache keeps {mass:.1%} of the teachers' probability"
        if mass < LEAST_KEPT:
            level, message = "warning", f"{message}; a larger distill.cache.top_k or a lower temperature keeps more"
        reporter.emit(Notice(level, message))

    def running(self, backend: Backend) -> Teachers:
        """The teachers, running from their mapped files."""
        models = [Teacher(one.path, load_mapped(one.file, backend), one.share) for one in self.teachers]
        return Teachers(models, self.vocabulary, self.params, self.section.combine)

    def learner(
        self, student: LanguageModel, signal: TeacherSignal, config: Config, tokenizer: Tokenizer
    ) -> DistilledModel:
        """The student with what it learns from, for the training loop."""
        return DistilledModel(
            student,
            signal,
            self.vocabulary,
            self.params,
            matching=self._matching(student, config.training.seed),
            on_policy=self.on_policy(tokenizer),
        )

    def _matching(self, student: LanguageModel, seed: int) -> LayerMatching | None:
        if not self.layer_map:
            return None
        hidden = self.section.hidden
        settings = MatchingSettings(hidden.loss, hidden.weight, hidden.attention, hidden.progressive)
        return LayerMatching(self.layer_map, settings, student.spec, self.teachers[0].spec, student.backend, seed)

    def on_policy(self, tokenizer: Tokenizer) -> OnPolicy | None:
        """When the student writes what it learns from; None: never."""
        section = self.section.on_policy
        if section is None:
            return None
        return OnPolicy(
            fraction=section.fraction,
            max_tokens=section.max_tokens,
            prompt_tokens=section.prompt_tokens,
            temperature=section.temperature,
            top_p=section.top_p,
            stop_ids=tokenizer.stop_ids,
            vocab_size=tokenizer.vocab_size,
            pad_id=tokenizer.pad_id or 0,
            context_length=min(one.spec.context_length for one in self.teachers),
        )

    def close(self) -> None:
        """Let go of the files."""
        for one in self.teachers:
            one.file.close()


def open_distillation(config: Config, base: BaseModel, reporter: Reporter) -> Distillation | None:
    """Open the teachers of a config and compare them with the student; None without a `distill` section.

    Raises:
        FormatError, ModelError, TokenizerError: a teacher cannot be used.
        ConfigError: its tokens are too different, or a block does not exist.
    """
    section = config.distill
    if section is None:
        return None
    student = read_tokens(base.plain_metadata(), base.spec.vocab_size, base.name)
    total = sum(one.weight for one in section.all_teachers)
    with ExitStack() as opened:
        teachers, maps = [], []
        for entry in section.all_teachers:
            file = opened.enter_context(GGUFFile.open(entry.path))
            one = OpenedTeacher(file, read_spec(file), entry.weight / total)
            maps.append(_token_map(student, one, section.min_coverage))
            teachers.append(one)
        pairs: Sequence[LayerPair] = ()
        if section.layers is not None:
            pairs = layer_pairs(section.layers, base.spec.num_layers, teachers[0].spec.num_layers)
        vocabulary = share_vocabulary(maps)
        _check_shared(vocabulary)
        opened.pop_all()
    for one_map in maps:
        _say_what_differs(one_map, reporter)
    return Distillation(section, tuple(teachers), vocabulary, tuple(pairs))


def _token_map(student: Tokens, teacher: OpenedTeacher, min_coverage: float) -> TokenMap:
    metadata, path = teacher.file.metadata, teacher.path
    if TOKENIZER_TOKENS not in metadata:
        raise ConfigError("the teacher has no tokenizer", where=path, hint="choose a GGUF file that has one")
    tokens = read_tokens(metadata, teacher.spec.vocab_size, path)
    return map_tokens(student, tokens, tokenizer_from_metadata(metadata, path), min_coverage)


def _check_shared(vocabulary: SharedVocabulary) -> None:
    """There may be nothing that all of several teachers have."""
    if vocabulary.n < 2:
        raise ConfigError(
            "the student and its teachers have no tokens in common",
            where="distill",
            hint="choose teachers with the tokenizer of the student",
        )


def _say_what_differs(one: TokenMap, reporter: Reporter) -> None:
    if one.shared == one.n_tokens and one.is_prefix:
        return
    how = "the first ids are the same" if one.is_prefix else "mapped by their text"
    lacks = f"; it lacks {', '.join(map(repr, one.examples))}" if one.examples else ""
    message = f"{one.path} has {one.shared} of {one.n_tokens} tokens of the student ({one.coverage:.1%}), {how}{lacks}"
    reporter.emit(Notice("info" if one.shared == one.n_tokens else "warning", message))
