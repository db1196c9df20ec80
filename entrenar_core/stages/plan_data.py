"""The data side of a plan: columns and their use, token counts, and a few examples as the model will see them."""

from __future__ import annotations

from collections.abc import Iterator

from entrenar_core.data.examples import Examples
from entrenar_core.data.labels import Labels
from entrenar_core.data.opening import OpenedSource
from entrenar_core.stages.dataset import DataSets
from entrenar_core.stages.plan_types import ColumnUse, SamplePreview, SourcePlan, TokenCounts
from entrenar_core.stages.preview import Segment, segments_of
from entrenar_core.tokenizer.tokenizer import Tokenizer

PREVIEWS = 3
"""Examples that are shown, from different sources where there are several."""


def source_plan(one: OpenedSource) -> SourcePlan:
    """A source, and what each of its columns is used for."""
    roles = {name: role for role, name in one.columns.columns.items()}
    columns = tuple(
        ColumnUse(name, str(found.kind), found.reason, roles.get(name)) for name, found in one.types.items()
    )
    return SourcePlan(
        path=one.source.name,
        rows=one.source.n_rows,
        n_bytes=one.source.n_bytes,
        weight=one.weight,
        task=str(one.task),
        reason=one.origin,
        columns=columns,
    )


def token_counts(data: DataSets, *, validation: bool = False) -> TokenCounts:
    """What becomes of the rows of the training or the validation set in one epoch.

    Where validation is a share of the training data, rows that were cut or refused count to the training set.
    """
    chosen = data.val if validation else data.train
    if chosen is None:
        return _of_stream(data)
    samples, total, supervised = (round(count) for count in chosen.counts().tolist())
    if validation and chosen.indices is not None:
        return TokenCounts(samples, total, supervised, refused={})
    stats = chosen.examples.stats
    return TokenCounts(
        samples, total, supervised, stats.overlong_rows, stats.truncated_tokens, refused=dict(stats.refused)
    )


def _of_stream(data: DataSets) -> TokenCounts:
    """Scaled up from the first segment that is read."""
    examples = data.first_examples()
    rows = sum(one.source.n_rows * one.weight for one in data.opened.train)
    stats, factor = examples.stats, rows / max(1, examples.stats.rows)
    return TokenCounts(
        samples=round(stats.examples * factor),
        total_tokens=round(stats.total_tokens * factor),
        supervised_tokens=round(stats.supervised_tokens * factor),
        overlong_samples=round(stats.overlong_rows * factor),
        truncated_tokens=round(stats.truncated_tokens * factor),
        refused={reason: round(count * factor) for reason, count in stats.refused.items()},
        is_estimate=True,
    )


def preview_samples(data: DataSets, tokenizer: Tokenizer) -> Iterator[SamplePreview]:
    """A few examples of the training set, cut where training begins and ends."""
    examples = data.first_examples()
    labels = data.opened.encoding.labels
    for index, source in _chosen(data, examples):
        yield _preview(examples, index, source, labels, tokenizer)


def _chosen(data: DataSets, examples: Examples) -> list[tuple[int, str]]:
    """Indices of the examples to show, with their source: the first ones of each source in turn."""
    names = [one.source.name for one in data.opened.train]
    if data.train is None:
        return [(index, names[0] if len(names) == 1 else "stream") for index in range(min(PREVIEWS, len(examples)))]
    bounds, members = data.train.bounds, data.train.members()
    turns = [
        (place, index)
        for index in range(len(names))
        for place in range(min(PREVIEWS, int(bounds[index + 1] - bounds[index])))
    ]
    return [(int(members[bounds[index] + place]), names[index]) for place, index in sorted(turns)[:PREVIEWS]]


def _preview(examples: Examples, index: int, source: str, labels: Labels | None, tokenizer: Tokenizer) -> SamplePreview:
    example = examples[index]
    supervised = int(example.supervised.sum())
    if labels is None:
        segments = segments_of(example.tokens, example.supervised, tokenizer)
    else:
        segments = (
            *segments_of(example.tokens[:-1], example.supervised[:-1], tokenizer),
            Segment(f" → {_answer(examples, index, labels)}", is_trained=True),
        )
    return SamplePreview(source, len(example.tokens) - 1, supervised, segments)


def _answer(examples: Examples, index: int, labels: Labels) -> str:
    """The class or the number that the head shall say."""
    if labels.classes:
        return labels.classes[int(examples[index].tokens[-1])]
    assert examples.values is not None
    return f"{float(examples.values[index]):.10g}"
