"""Distillation losses against torch in double: values and gradients within 1e-5, for whatever is compared."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="torch is not installed (extra: oracle)")

from entrenar_core.autograd.ops import matching  # noqa: E402
from entrenar_core.autograd.ops.distillation import linear_distillation  # noqa: E402
from entrenar_core.backend.parameters import DistillationParams, DivergenceKind  # noqa: E402
from tests.autograd.distillation_cases import KINDS, DenseTeacher, TopKTeacher, log_softmax, top_k  # noqa: E402
from tests.oracle.op_comparison import BACKENDS, Case, compare, normal  # noqa: E402

functional = torch.nn.functional
Array = np.ndarray

ROWS, WIDTH, VOCAB, TEACHER_VOCAB, K = 13, 8, 41, 37, 5
SCALE = 1 / ROWS
BAR = 1e-5


def kl(log_target: Any, log_input: Any) -> Any:
    """KL(target ‖ input) of each row."""
    return functional.kl_div(log_input, log_target, reduction="none", log_target=True).sum(-1)


def torch_divergence(log_p: Any, log_q: Any, kind: DivergenceKind, beta: float) -> Any:
    if kind == "forward_kl":
        return kl(log_q, log_p)
    if kind == "reverse_kl":
        return kl(log_p, log_q)
    if kind == "symmetric_kl":
        return (kl(log_q, log_p) + kl(log_p, log_q)) / 2
    shares = torch.log(torch.tensor([beta, 1 - beta], dtype=torch.float64))
    log_m = torch.logsumexp(torch.stack([log_q + shares[0], log_p + shares[1]]), dim=0)
    return beta * kl(log_q, log_m) + (1 - beta) * kl(log_p, log_m)


def coarse(log_p: Any, ids: Any) -> Any:
    """Log-probabilities of K tokens and of all others together."""
    others = torch.ones_like(log_p).scatter(-1, ids, 0.0)
    tail = torch.log((log_p.exp() * others).sum(-1, keepdim=True))
    return torch.cat([log_p.gather(-1, ids), tail], dim=-1)


def distillation_case(
    params: DistillationParams, *, sparse: bool = False, columns: Array | None = None, weighted: bool = True
) -> Case:
    labels = np.random.default_rng(0).integers(0, VOCAB, ROWS).astype(np.int32)
    labels[[2, 9]] = -100
    supervised = np.flatnonzero(labels >= 0)
    n, is_mse = TEACHER_VOCAB, params.kind == "logit_mse"
    logits = 2 * normal(len(supervised), n, seed=3)
    values = logits if is_mse else log_softmax(logits, params.temperature)
    weights = np.linspace(0.5, 2.0, len(supervised)) if weighted else None
    ids, few, tail = top_k(values, K, logs=not is_mse)

    def ours(backend: Any, hidden: Any, weight: Any) -> Any:
        if sparse:
            teacher: Any = TopKTeacher(backend, ids, few, tail, n, weights)
        else:
            teacher = DenseTeacher(backend, values, weights)
        return linear_distillation(hidden, weight, labels, teacher, params, SCALE, columns=columns, rows_per_chunk=4)

    def theirs(hidden: Any, weight: Any) -> Any:
        student = (hidden @ weight.T)[torch.tensor(supervised)]
        compared = student[:, :n] if columns is None else student[:, torch.tensor(columns, dtype=torch.int64)]
        known = torch.tensor(ids, dtype=torch.int64)
        log_q = torch.tensor(values)
        if is_mse:
            pair = (compared.gather(-1, known), log_q.gather(-1, known)) if sparse else (compared, log_q)
            divergence = functional.mse_loss(*pair, reduction="none").mean(-1)
        else:
            log_p = functional.log_softmax(compared / params.temperature, dim=-1)
            pair = (coarse(log_p, known), coarse(log_q, known)) if sparse else (log_p, log_q)
            divergence = params.temperature**2 * torch_divergence(*pair, params.kind, params.beta)
        if weights is not None:
            divergence = divergence * torch.tensor(weights)
        targets = torch.tensor(labels[supervised], dtype=torch.int64)
        cross_entropy = functional.cross_entropy(student, targets, reduction="sum")
        return SCALE * (params.alpha * divergence.sum() + (1 - params.alpha) * cross_entropy)

    return Case(ours, theirs, [0.5 * normal(ROWS, WIDTH), normal(VOCAB, WIDTH)], single=BAR)


def hidden_case(kind: matching.HiddenLoss, rows: int, width: int) -> Case:
    target = 2 * normal(rows, width, seed=4)

    def theirs(student: Any) -> Any:
        if kind == "mse":
            return SCALE * functional.mse_loss(student, torch.tensor(target), reduction="none").mean(-1).sum()
        return SCALE * (1 - functional.cosine_similarity(student, torch.tensor(target), dim=-1)).sum()

    return Case(
        lambda backend, student: matching.hidden_match(student, backend.asarray(target), kind, SCALE),
        theirs,
        [normal(rows, width)],
        single=BAR,
    )


def maps(q: Any, k: Any, lower: Array, scale: float) -> Any:
    """Attention maps [B, H, T, T]."""
    time, groups = q.shape[1], q.shape[2] // k.shape[2]
    scores = scale * torch.einsum("bihe,bjhe->bhij", q, k.repeat_interleave(groups, dim=2))
    i, j = np.arange(time)[:, None], np.arange(time)[None, :]
    seen = torch.tensor((j <= i) & (j >= lower[:, :, None]))
    return scores.masked_fill(~seen[:, None], -torch.inf).softmax(-1)


def attention_case(heads: tuple[int, int], teacher_heads: tuple[int, int], time: int = 9, width: int = 4) -> Case:
    lower = np.stack([np.maximum(0, np.arange(time) - 4), np.where(np.arange(time) < 5, 0, 5)]).astype(np.int32)
    rows = np.random.default_rng(1).random((2, time)) < 0.7
    q, k = normal(2, time, teacher_heads[0], 6, seed=5), normal(2, time, teacher_heads[1], 6, seed=6)

    def ours(backend: Any, student_q: Any, student_k: Any) -> Any:
        teacher = backend.asarray(q), backend.asarray(k)
        return matching.attention_match(student_q, student_k, *teacher, lower, rows, 0.5, 0.8, SCALE)

    def theirs(student_q: Any, student_k: Any) -> Any:
        student = maps(student_q, student_k, lower, 0.5)
        teacher = maps(torch.tensor(q), torch.tensor(k), lower, 0.8)
        if heads[0] != teacher_heads[0]:
            student, teacher = student.mean(1, keepdim=True), teacher.mean(1, keepdim=True)
        safe = torch.where(teacher > 0, student, 1.0)
        divergence = (torch.xlogy(teacher, teacher) - teacher * safe.log()).sum(-1).mean(1)
        return SCALE * divergence[torch.tensor(rows)].sum()

    return Case(ours, theirs, [normal(2, time, heads[0], width), normal(2, time, heads[1], width, seed=1)], single=BAR)


def cases() -> Iterator[tuple[str, Callable[[], Case]]]:
    columns = np.random.default_rng(2).permutation(VOCAB)[:TEACHER_VOCAB].astype(np.int32)
    for kind in KINDS:
        for temperature, alpha in ((1.0, 0.3), (1.0, 1.0), (2.0, 0.6), (2.0, 0.0), (0.5, 1.0), (6.0, 0.3), (6.0, 1.0)):
            params = DistillationParams(kind, temperature, alpha, beta=0.3)
            yield f"{kind} {temperature} {alpha}", lambda p=params: distillation_case(p)
            yield f"{kind} {temperature} {alpha} top-k", lambda p=params: distillation_case(p, sparse=True)
        params = DistillationParams(kind, 2.0, 0.7)
        yield f"{kind} unweighted", lambda p=params: distillation_case(p, weighted=False)
        yield f"{kind} columns", lambda p=params: distillation_case(p, columns=columns)
        yield f"{kind} columns top-k", lambda p=params: distillation_case(p, columns=columns, sparse=True)
    for beta in (0.1, 0.5, 0.9):
        params = DistillationParams("jensen_shannon", 1.0, 1.0, beta)
        yield f"jensen_shannon beta {beta}", lambda p=params: distillation_case(p)
    yield "hidden mse", lambda: hidden_case("mse", 7, 33)
    yield "hidden cosine", lambda: hidden_case("cosine", 7, 33)
    yield "attention", lambda: attention_case((4, 4), (4, 2))
    yield "attention grouped", lambda: attention_case((4, 2), (4, 1))
    yield "attention mean maps", lambda: attention_case((2, 1), (6, 3))


CASES = dict(cases())


@pytest.fixture(scope="module", params=BACKENDS)
def backend(request: pytest.FixtureRequest) -> Iterator[Any]:
    made = BACKENDS[request.param]()
    yield made
    made.close()


@pytest.mark.parametrize("name", CASES)
def test_value_and_gradients_are_torchs(name: str, backend: Any) -> None:
    compare(CASES[name](), backend)
