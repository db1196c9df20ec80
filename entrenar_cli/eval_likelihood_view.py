"""How `entrenar eval` shows perplexity, and what a model's predictions differ by from those of a reference."""

from __future__ import annotations

from entrenar_cli.quantities import exact_count
from entrenar_cli.sections import Facts, Section, Table
from entrenar_core.evaluation.divergence import CHANGE_SHARES, KL_SHARES, Divergence
from entrenar_core.evaluation.statistics import Estimate
from entrenar_core.stages.evaluate_perplexity import LikelihoodResult
from entrenar_core.stages.evaluation_settings import Arithmetic

_SHARE_NAMES: dict[float, str] = {100: "largest", 50: "median", 0: "smallest"}


def likelihood_sections(title: str, result: LikelihoodResult) -> list[Section]:
    """The perplexity, and beside a reference the figures of ``llama-perplexity --kl-divergence``."""
    cost = result.cost
    per_byte = cost.bits_per_byte
    facts = [
        ("perplexity", plus_minus(cost.estimate)),
        ("loss", f"{plus_minus(cost.mean_nll)} nats a token"),
        ("bits per byte", "" if per_byte is None else f"{per_byte:.4f}"),
        ("tokens", f"{exact_count(cost.tokens)} scored"),
        ("read as", result.reading),
        ("arithmetic", "" if result.arithmetic is Arithmetic.EXACT else f"that of {result.arithmetic}"),
    ]
    sections: list[Section] = [Facts(title, facts)]
    if result.divergence is not None:
        found = result.divergence
        sections += [Facts(f"beside {result.reference}", _divergence_facts(found)), _percentiles(found)]
    return sections


def plus_minus(estimate: Estimate, digits: int = 4, unit: str = "", scale: float = 1) -> str:
    """A figure and its standard error."""
    return f"{scale * estimate.value:.{digits}f} ± {scale * estimate.standard_error:.{digits}f}{unit}"


def _divergence_facts(found: Divergence) -> list[tuple[str, str]]:
    correlation = "" if found.correlation is None else f"{100 * found.correlation:.2f} %"
    return [
        ("KL divergence", plus_minus(found.kl, 6, " nats")),
        ("same top token", plus_minus(found.same_top, 3, " %", 100)),
        ("mean Δp", plus_minus(found.change, 3, " %", 100)),
        ("RMS Δp", plus_minus(found.change_rms, 3, " %", 100)),
        ("its perplexity", plus_minus(found.reference_cost.estimate)),
        ("ratio of perplexities", plus_minus(found.ratio, 6)),
        ("ln of the ratio", plus_minus(found.log_ratio, 6)),
        ("difference", plus_minus(found.difference, 6)),
        ("correlation of ln", correlation),
    ]


def _percentiles(found: Divergence) -> Table:
    """Δp is the change of the probability of the right token."""
    rows = [
        (
            _SHARE_NAMES.get(share, f"{share:g} %"),
            f"{found.kl_percentiles[share]:.6f}" if share in KL_SHARES else "",
            f"{100 * found.change_percentiles[share]:.3f} %",
        )
        for share in CHANGE_SHARES
    ]
    return Table("", ("percentile", "KL", "Δp"), rows, frozenset({1, 2}))
