"""What kernels are told besides arrays: attention's scores, dropout's key, an optimizer's step, a loss's mix."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, Literal

from entrenar_core.backend.documents import HostLower


@dataclass(frozen=True)
class AttentionParams:
    """What shapes the scores besides q, k and v.

    scale: factor on q·k. softcap: scores become softcap·tanh(score/softcap); 0 turns it off.
    q_offset: index in k of the first query (the number of cached keys when generating).
    host_lower: the values of `lower`, if the host has them: they save time, and change no more than the order of sums.
    """

    scale: float
    softcap: float = 0.0
    q_offset: int = 0
    host_lower: HostLower | None = field(default=None, compare=False, repr=False)

    def check_shapes(self, q: Any, k: Any, v: Any, lower: Any) -> None:
        """Refuse arrays of shapes that are no attention's.

        Raises:
            ValueError: shapes that do not fit, or too few keys.
        """
        shapes = f"q {q.shape}, k {k.shape}, v {v.shape}, lower {lower.shape}"
        if not (is_attention_shape(q.shape, k.shape) and k.shape == v.shape and lower.shape == q.shape[:2]):
            raise ValueError(f"attention: {shapes} do not fit")
        n_queries = q.shape[1]
        if not 0 <= self.q_offset <= k.shape[1] - n_queries:
            raise ValueError(f"attention: {shapes}: {n_queries} queries from {self.q_offset} on need as many keys")


def is_attention_shape(q: tuple[int, ...], k: tuple[int, ...]) -> bool:
    """q [B, Tq, H, E] and k [B, Tk, K, E] with H a multiple of K."""
    return len(q) == len(k) == 4 and (q[0], q[3]) == (k[0], k[3]) and q[2] % k[2] == 0


@dataclass(frozen=True)
class DropoutKey:
    """Names one dropout mask: the same key always draws the same mask, on every backend and thread count."""

    seed: int
    step: int
    micro_batch: int
    module: int

    def mixed(self) -> int:
        """The key as one 64-bit number (splitmix64 finaliser over the fields, in order)."""
        state = 0
        for part in (self.seed, self.step, self.micro_batch, self.module):
            state = splitmix64((state ^ (part & _MASK64)) + 0x9E3779B97F4A7C15)
        return state


_MASK64 = (1 << 64) - 1


def splitmix64(value: int) -> int:
    """The finaliser of Steele, Lea & Flood's SplitMix generator: 64 well-mixed bits."""
    value &= _MASK64
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & _MASK64
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & _MASK64
    return value ^ (value >> 31)


@dataclass(frozen=True)
class AdamParams:
    """One Adam or AdamW update (Kingma & Ba 2015; Loshchilov & Hutter 2019).

    p -= lr·m̂/(√v̂ + eps) with m̂ = m/(1-beta1^step), v̂ = v/(1-beta2^step); step is 1 for the first update.
    decoupled: AdamW's weight decay (p -= lr·wd·p, before the update) instead of Adam's L2 (g += wd·p).
    """

    lr: float
    beta1: float
    beta2: float
    eps: float
    weight_decay: float
    decoupled: bool
    step: int

    @property
    def coefficients(self) -> tuple[float, ...]:
        """The numbers of a step as kernels want them: L2 decay, what is kept of p, beta1 and beta2 each with its
        complement to 1, lr over the correction of m, one over the root of the correction of v, and eps."""
        return (
            0.0 if self.decoupled else self.weight_decay,
            1 - self.lr * self.weight_decay if self.decoupled else 1.0,
            self.beta1,
            1 - self.beta1,
            self.beta2,
            1 - self.beta2,
            self.lr / (1 - self.beta1**self.step),
            1 / math.sqrt(1 - self.beta2**self.step),
            self.eps,
        )


@dataclass(frozen=True)
class SGDParams:
    """One SGD update: g = grad + wd·p; buf = momentum·buf + g (buf = g on the first step);
    p -= lr·(g + momentum·buf if nesterov else buf). Without a buffer, p -= lr·g."""

    lr: float
    momentum: float
    nesterov: bool
    weight_decay: float
    first_step: bool


DivergenceKind = Literal["forward_kl", "reverse_kl", "symmetric_kl", "jensen_shannon", "logit_mse"]


@dataclass(frozen=True)
class DistillationParams:
    """alpha·D + (1-alpha)·cross-entropy, with D how far a student S is from its teacher T (Hinton et al. 2015).

    S and T are softmaxes of logits/temperature, and D carries temperature² so that the size of its gradient stays.
    forward_kl is KL(T‖S), reverse_kl KL(S‖T), symmetric_kl their mean. jensen_shannon is β·KL(T‖M) + (1-β)·KL(S‖M) with
    M = β·T + (1-β)·S (Agarwal et al. 2024). logit_mse is the mean of (student's logit - teacher's logit)².

    Raises:
        ValueError: temperature ≤ 0, alpha outside 0 ... 1, or beta outside 0 < beta < 1.
    """

    kind: DivergenceKind = "forward_kl"
    temperature: float = 1.0
    alpha: float = 1.0
    beta: float = 0.5

    def __post_init__(self) -> None:
        if not (self.temperature > 0 and 0 <= self.alpha <= 1 and 0 < self.beta < 1):
            raise ValueError(f"{self}: temperature > 0, 0 ≤ alpha ≤ 1 and 0 < beta < 1 are needed")
