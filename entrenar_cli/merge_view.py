"""What a dry run of `entrenar merge` shows, and what became of each tensor."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from entrenar_cli.merge_groups import groups_of, parameters_of, short_names
from entrenar_cli.quantities import exact_count, size
from entrenar_cli.quantize_summary import types_text
from entrenar_cli.sections import Facts, Section, Table
from entrenar_core.merge.plan import Input
from entrenar_core.stages.merge import MergeResult, OpenedMerge


def plan_sections(merge: OpenedMerge) -> list[Section]:
    """Models, sizes, what the tensors are made of, and what is not as one might expect."""
    config = merge.config
    path = config.output.path or "not named"
    threads = "one for each core" if config.run.threads is None else exact_count(config.run.threads)
    n_bytes, names = merge.output.n_bytes, _names(merge)
    short = short_names(names)
    facts = [
        ("method", config.merge.method),
        ("base", "" if config.merge.base is None else config.merge.base.name),
        ("output", f"{path} (nothing is written in a dry run)"),
        ("size", f"{size(merge.source_bytes)} to {size(n_bytes)} ({exact_count(n_bytes)} bytes)"),
        ("types", types_text(merge.type_counts())),
        ("memory", f"{size(config.run.memory)}, threads: {threads}"),
        ("writes", "the change against the base" if merge.plan.is_task_vector else ""),
    ]
    opened = zip(names, merge.plan.models, strict=True)
    models = [[name, model.architecture, size(model.n_bytes)] for name, model in opened]
    groups = [
        [group.place, exact_count(len(group.tensors)), group.made_of(short), group.parameters()]
        for group in groups_of(merge.plan.tensors)
    ]
    return [
        Facts("plan", facts),
        Table("models", ("model", "architecture", "size"), models, frozenset({2})),
        Facts("tokens", list(_token_facts(merge))),
        Table("what it is made of", ("part", "tensors", "made of", "parameters"), groups, frozenset({1})),
        Facts("warnings", [(f"{number}.", text) for number, text in enumerate(merge.notices(), start=1)]),
    ]


def plan_document(merge: OpenedMerge) -> dict[str, object]:
    """The plan for ``--json``."""
    names = _names(merge)

    def written(one: Input) -> dict[str, object]:
        return {"model": names[one.model], "tensor": one.name}

    return {
        "method": merge.config.merge.method,
        "models": [
            {"path": name, "n_bytes": model.n_bytes} for name, model in zip(names, merge.plan.models, strict=True)
        ],
        "output": merge.config.output.path,
        "source_bytes": merge.source_bytes,
        "n_bytes": merge.output.n_bytes,
        "types": merge.type_counts(),
        "task_vector": merge.plan.is_task_vector,
        "vocabulary": merge.vocabulary.document(),
        "tensors": [
            {
                "name": one.name,
                "shape": list(one.shape),
                "type": merge.types.types[one.name],
                "method": one.method,
                "inputs": [written(each) for each in one.inputs],
                "base": None if one.base is None else written(one.base),
                "parameters": parameters_of(one),
            }
            for one in merge.plan.tensors
        ],
        "warnings": list(merge.notices()),
    }


def report_sections(result: MergeResult) -> list[Section]:
    """One row a tensor: norms of the changes and of the merged one, agreement, and how close the result is to each.

    What is kept of each change is known for methods that drop some of it. The JSON has more.
    """
    columns = ("tensor", "norms", "merged", "agree", "kept", "cosines")
    rows = [_report_row(one) for one in result.tensors]
    return [Table("what became of the tensors", columns, rows, frozenset({2, 3, 4}))]


def _token_facts(merge: OpenedMerge) -> Iterator[tuple[str, str]]:
    """What becomes of the tokens of each model, where they differ."""
    vocabulary = merge.vocabulary
    if not vocabulary.changes_rows:
        return
    yield "result", f"{exact_count(vocabulary.n_rows)} ({vocabulary.policy})"
    for name, one in zip(_names(merge), vocabulary.models, strict=True):
        counts = {"from the base": one.from_base, "averaged": one.averaged, "dropped": one.dropped}
        others = "".join(f", {exact_count(count)} {what}" for what, count in counts.items() if count)
        examples = f" ({', '.join(map(repr, one.examples))})" if one.examples else ""
        yield name, f"{exact_count(one.n_tokens)}: {exact_count(one.mapped)} mapped{others}{examples}"


def _report_row(one: Mapping[str, Any]) -> list[str]:
    return [
        one["name"],
        " / ".join(f"{norm:.3g}" for norm in one["norms"]),
        f"{one['merged_norm']:.3g}",
        _percent(one["sign_agreement"]),
        _kept(one),
        " / ".join("-" if cosine is None else f"{cosine:.2f}" for cosine in one["cosines"]),
    ]


def _kept(one: Mapping[str, Any]) -> str:
    """The share of each change that was kept; of no change nothing can be."""
    if one["kept"] is None:
        return "-"
    kept = zip(one["norms"], one["kept"], strict=True)
    return " / ".join(_percent(share) if norm else "-" for norm, share in kept)


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.0f} %"


def _names(merge: OpenedMerge) -> list[str]:
    """How the models were named, in the order of the plan."""
    return [files.name for files in merge.config.files]
