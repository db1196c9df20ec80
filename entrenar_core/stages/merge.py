"""The stage of `entrenar merge`: several models in, one out."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from entrenar_core.config.merge_file import MergeConfig
from entrenar_core.events import Merged, Merging, Notice, Reporter, Saved
from entrenar_core.merge.execute import Work, execute, n_pieces, workers_within
from entrenar_core.merge.fit import check_fit, facts_of
from entrenar_core.merge.models import ModelTensors, open_model
from entrenar_core.merge.output import Output, Sink
from entrenar_core.merge.passes import merge_arrays
from entrenar_core.merge.plan import MergePlan, plan_merge
from entrenar_core.merge.registry import method_entry
from entrenar_core.merge.remapped import remapped
from entrenar_core.merge.types import MergedTypes
from entrenar_core.merge.vocabulary import MergedVocabulary, map_vocabularies
from entrenar_core.stages.kernels import compiling_said, load_codecs
from entrenar_core.stages.memory_taken import memory_taken, say_fewer_threads
from entrenar_core.stages.merge_output import check_merge_output, merge_output, types_of_output
from entrenar_core.stages.output_file import named_output, save_report
from entrenar_core.threads import available_cores
from entrenar_core.train.memory import peak_memory_bytes

_FEW = 8


@dataclass(frozen=True)
class OpenedMerge:
    """A merge whose inputs are open and which is planned to the byte.

    Attributes:
        config: what was asked for.
        plan: tensors, what they are made of, and the metadata.
        vocabulary: of the result, and what became of the tokens of each model.
        types: of the tensors.
        output: the files that will be written.
        differences: between the models, which do not matter.
    """

    config: MergeConfig
    plan: MergePlan
    vocabulary: MergedVocabulary
    types: MergedTypes
    output: Output
    differences: tuple[str, ...] = ()

    @property
    def source_bytes(self) -> int:
        """Size of the files that are read."""
        return sum(model.n_bytes for model in self.plan.models)

    def notices(self) -> Iterator[str]:
        """What is not as one might expect."""
        yield from self.differences
        yield from self.vocabulary.notices
        yield from self.plan.notices
        yield from self.types.notices()

    def type_counts(self) -> dict[str, int]:
        """Tensors by type, the most frequent first."""
        return dict(Counter(self.types.types.values()).most_common())


@dataclass(frozen=True)
class MergeResult:
    """What was written; `tensors` has what became of each, where that was measured."""

    summary: Merged
    vocabulary: Mapping[str, object]
    tensors: Sequence[Mapping[str, object]]

    def document(self) -> dict[str, object]:
        """For JSON: the whole and each tensor."""
        summary = self.summary
        return {
            "path": str(summary.path),
            "method": summary.method,
            "models": summary.models,
            "over_base": summary.over_base,
            "source_bytes": summary.source_bytes,
            "n_bytes": summary.n_bytes,
            "types": dict(summary.types),
            "vocabulary": dict(self.vocabulary),
            "tensors": list(self.tensors),
        }


@contextmanager
def opened_merge(config: MergeConfig, *, overwrite: bool = False) -> Iterator[OpenedMerge]:
    """Open the models, see that they fit each other, and plan all of the result; the models are open inside the block.

    Args:
        config: what is merged.
        overwrite: whether files that are there may be replaced.

    Raises:
        FormatError, ModelError, TokenizerError: a model cannot be read, or not be merged with the others.
        ConfigError: parameters, layers or types do not fit the models.
        OutputError: the output cannot be written where it should be.
    """
    check_merge_output(config, overwrite=overwrite)
    with ExitStack() as opened:
        models = []
        for files in config.files:
            models.append(open_model(files.path, files.adapter))
            opened.callback(models[-1].close)
        differences = _differences(models, same_depth=config.merge.slices is None)
        vocabulary = map_vocabularies(models, config.merge.tokenizer)
        plan = plan_merge(config, remapped(models, vocabulary), tokenizer=vocabulary.tokenizer)
        types = types_of_output(config, plan)
        output = merge_output(config, plan, types.types)
        yield OpenedMerge(config, plan, vocabulary, types, output, tuple(differences))


def run_merge(
    config: MergeConfig, reporter: Reporter, *, overwrite: bool = False, measures: bool = False
) -> MergeResult:
    """Write the merged model.

    Args:
        config: what is merged, and the output.
        reporter: hears of progress, of what is not as one might expect, and of the files.
        overwrite: whether files that are there may be replaced.
        measures: whether it is measured what became of each tensor; a report in the config has it measured too.

    Raises:
        EntrenarError: see `opened_merge` and `execute.execute`; nothing is left behind.
    """
    started = time.monotonic()
    path = named_output(config.output.path)
    measures = measures or config.output.report is not None
    memory_taken(config.run.memory)
    with opened_merge(config, overwrite=overwrite) as merge:
        for message in merge.notices():
            reporter.emit(Notice("warning", message))
        tensors = _write(merge, reporter, measures=measures)
        result = MergeResult(_summary(merge, path, time.monotonic() - started), merge.vocabulary.document(), tensors)
    reporter.emit(Saved("model", path, merge.output.n_bytes))
    if config.output.report is not None:
        reporter.emit(save_report(Path(config.output.report), result.document()))
    reporter.emit(result.summary)
    return result


def _differences(models: Sequence[ModelTensors], *, same_depth: bool) -> list[str]:
    """What differs between the models and does not matter. Raises ModelError where it does, tokens left out."""
    first, *others = [facts_of(model) for model in models]
    return [
        difference
        for other in others
        for difference in check_fit(other, first, same_depth=same_depth, same_tokens=False)
    ]


def _write(merge: OpenedMerge, reporter: Reporter, *, measures: bool) -> list[dict[str, object]]:
    plan, run = merge.plan, merge.config.run
    total = n_pieces(plan.tensors)

    def watch(pieces: int, tensors: int) -> None:
        reporter.emit(Merging(pieces, total, tensors, len(plan.tensors)))

    with merge.output.opened() as sink:
        with sink.reserved():
            _load_kernels(merge, reporter)
        threads = run.threads or available_cores()
        workers = workers_within(plan.tensors, merge.types.types, threads, run.memory - memory_taken(run.memory))
        say_fewer_threads(workers, threads, reporter)
        measured = execute(_work(merge, sink, measures=measures), workers, watch)
    return [
        {"name": tensor.name, "method": tensor.method, "type": merge.types.types[tensor.name], **measured[tensor.name]}
        for tensor in plan.tensors
        if tensor.name in measured
    ]


def _work(merge: OpenedMerge, sink: Sink, *, measures: bool) -> Work:
    plan = merge.plan
    return Work(
        plan.tensors, merge.types.types, plan.models, sink, measures=measures, is_task_vector=plan.is_task_vector
    )


def _load_kernels(merge: OpenedMerge, reporter: Reporter) -> None:
    """Call every codec and every method once, so that no compilation happens on threads that nobody hears of."""
    plan = merge.plan
    read = {
        plan.models[one.model].type_name(one.name)
        for tensor in plan.tensors
        for one in (*tensor.inputs, *([tensor.base] if tensor.base else []))
    }
    load_codecs(read, set(merge.types.types.values()), reporter)
    ways = {(tensor.method, tensor.parameters, tensor.base is None): tensor for tensor in plan.tensors}
    with compiling_said("merging", reporter):
        for tensor in ways.values():
            base, *models = [np.arange(_FEW, dtype=np.float32)[None] * (1 + i) for i in range(len(tensor.inputs) + 1)]
            over = None if tensor.base is None else base
            merge_arrays(method_entry(tensor.method).run, models, tensor.parameters, base=over)


def _summary(merge: OpenedMerge, path: Path, seconds: float) -> Merged:
    return Merged(
        path=path,
        method=merge.config.merge.method,
        models=len({one.model for tensor in merge.plan.tensors for one in tensor.inputs}),
        source_bytes=merge.source_bytes,
        n_bytes=merge.output.n_bytes,
        types=merge.type_counts(),
        seconds=seconds,
        peak_memory_bytes=peak_memory_bytes(),
        over_base=any(tensor.base is not None for tensor in merge.plan.tensors),
    )
