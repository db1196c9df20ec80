"""What a dry run of `entrenar quantize` shows, and the errors of each tensor."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from entrenar_cli.quantities import exact_count, rate, short_count, size
from entrenar_cli.sections import Facts, Section, Table
from entrenar_core.quant.error_sums import ErrorSums
from entrenar_core.quant.plan import PlannedTensor
from entrenar_core.quant.report import TensorReport, total_errors
from entrenar_core.stages.quantize import QuantizeResult
from entrenar_core.stages.quantize_plan import QuantizePlan


def plan_sections(plan: QuantizePlan) -> list[Section]:
    """Sizes in all and by type, and what did not fit."""
    total, before = plan.layout.total, plan.source_bytes
    facts = [
        ("source", f"{plan.file.paths[0]} ({size(before)})"),
        ("output", f"{plan.path or 'not named'} (nothing is written in a dry run)"),
        ("size", f"{size(total)}, {rate(100 * total, before):.0f} % ({exact_count(total)} bytes)"),
        ("weights", f"{plan.bits_per_weight:.2f} bits each"),
    ]
    columns = ("written as", "from", "tensors", "values", "before", "after")
    return [
        Facts("plan", facts),
        Table("tensors by type", columns, [_group_row(group) for group in _groups(plan)], frozenset({2, 3, 4, 5})),
        Facts("warnings", [(f"{number}.", text) for number, text in enumerate(plan.notices(), start=1)]),
    ]


def plan_document(plan: QuantizePlan) -> dict[str, object]:
    """The plan for ``--json``."""
    return {
        "source": plan.file.paths[0],
        "output": plan.path,
        "source_bytes": plan.source_bytes,
        "n_bytes": plan.layout.total,
        "bits_per_weight": plan.bits_per_weight,
        "types": [
            {
                "type": group.type_name,
                "source_type": group.source_type,
                "tensors": group.tensors,
                "values": group.values,
                "source_bytes": group.before,
                "n_bytes": group.after,
            }
            for group in _groups(plan)
        ],
        "tensors": [
            {
                "name": one.name,
                "shape": list(one.info.shape),
                "source_type": one.info.type_name,
                "type": one.type_name,
                "wanted": one.wanted or one.type_name,
                "n_bytes": one.n_bytes,
            }
            for one in plan.tensors
        ],
        "warnings": list(plan.notices()),
    }


def report_sections(result: QuantizeResult) -> list[Section]:
    """One row a tensor, and one for all. Shapes and sizes are in the JSON: a row shall fit in 80 columns."""
    total = total_errors(result.tensors)
    weighted = total.weighted_rmse is not None
    columns = ["tensor", "type", "RMSE", "max error", "SQNR"]
    rows = [_tensor_row(one, weighted=weighted) for one in result.tensors]
    rows.append(["all rounded", "", *_error_cells(total if total.count else None, weighted=weighted)])
    if weighted:
        columns.append("weighted")
    return [Table("errors", columns, rows, frozenset(range(2, len(columns))))]


@dataclass
class _Group:
    type_name: str
    source_type: str
    tensors: int = 0
    values: int = 0
    before: int = 0
    after: int = 0

    def add(self, one: PlannedTensor) -> None:
        self.tensors += 1
        self.values += one.info.n_values
        self.before += one.info.n_bytes
        self.after += one.n_bytes


def _groups(plan: QuantizePlan) -> list[_Group]:
    found: dict[tuple[str, str], _Group] = {}
    for one in plan.tensors:
        key = (one.type_name, one.info.type_name)
        found.setdefault(key, _Group(*key)).add(one)
    return sorted(found.values(), key=lambda group: -group.after)


def _group_row(group: _Group) -> Sequence[str]:
    source = "copied" if group.type_name == group.source_type else group.source_type
    return (
        group.type_name,
        source,
        exact_count(group.tensors),
        short_count(group.values),
        size(group.before),
        size(group.after),
    )


def _tensor_row(one: TensorReport, *, weighted: bool) -> list[str]:
    return [one.name, one.type_name, *_error_cells(one.errors, weighted=weighted)]


def _error_cells(errors: ErrorSums | None, *, weighted: bool) -> list[str]:
    if errors is None:
        return ["copied", "", "", *([""] if weighted else [])]
    sqnr = "exact" if errors.sqnr is None else f"{errors.sqnr:.1f} dB"
    cells = [f"{errors.rmse:.3g}", f"{errors.largest:.3g}", sqnr]
    if weighted:
        cells.append("" if errors.weighted_rmse is None else f"{errors.weighted_rmse:.3g}")
    return cells
