"""Every kernel and whole models against the reference and the CPU backend: the checks by name, and their process."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

from benchmarks.gpu import attention_cases, kernel_cases, large_cases, loss_cases, model_cases, packed_cases
from benchmarks.gpu.cases import Cases, serve_cases
from benchmarks.gpu.child import Message
from benchmarks.gpu.compare import Check, check_of
from benchmarks.gpu.subject import Subject, open_subject

CHECKS: dict[str, Check] = {
    "elementwise": check_of(kernel_cases.elementwise),
    "casts": kernel_cases.casts,
    "products": check_of(kernel_cases.products),
    "norms": check_of(kernel_cases.norms),
    "activations": check_of(kernel_cases.activations),
    "softmax": check_of(kernel_cases.softmaxes),
    "rope": check_of(kernel_cases.rope),
    "embedding": check_of(kernel_cases.embeddings),
    "dropout": check_of(kernel_cases.dropout),
    "cross-entropy": check_of(loss_cases.cross_entropies, ("float32",)),
    "optimizers": check_of(loss_cases.optimizers, ("float32",)),
    "decoding": packed_cases.decoding,
    "packed products": check_of(packed_cases.products),
    "attention": attention_cases.against_the_reference,
    "long attention": attention_cases.long_sequences,
    **{f"model: {plan.title}": partial(model_cases.whole_model, plan=plan) for plan in model_cases.PLANS},
    "model: deterministic": model_cases.same_bits,
    "training": model_cases.training,
    "distillation": check_of(loss_cases.distillations, ("float32",)),
    "fake quantization": check_of(packed_cases.fake_quantization, ("float32",)),
    "large arrays": large_cases.large_arrays,
}
"""By name; where time is too short, the last ones are left out."""


def cases_of(subject: Subject) -> Cases:
    """The checks of a device."""
    return {name: partial(_messages, subject, check) for name, check in CHECKS.items()}


def _messages(subject: Subject, check: Check) -> Iterator[Message]:
    for finding in check(subject):
        yield finding.message()


def _open() -> tuple[Cases, Callable[[], None]]:
    subject = open_subject()
    return cases_of(subject), subject.runtime.synchronize


if __name__ == "__main__":
    serve_cases(_open)
