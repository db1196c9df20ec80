"""The optimizer section of a configuration becomes an optimizer and a schedule."""

from __future__ import annotations

import pytest

from entrenar_core.config.optimizer import Optimizer as OptimizerConfig
from entrenar_core.optim.adam import Adam, AdamW
from entrenar_core.optim.build import build_optimizer, build_schedule
from entrenar_core.optim.schedule import Schedule
from entrenar_core.optim.sgd import SGD
from tests.optim.test_optimizers import parameter


def test_adamw_is_the_default() -> None:
    optimizer = build_optimizer(OptimizerConfig(), {"w": parameter("w", [[1.0]])})
    assert type(optimizer) is AdamW
    assert (optimizer.betas, optimizer.eps, optimizer.weight_decay) == ((0.9, 0.999), 1e-8, 0.01)


@pytest.mark.parametrize(("name", "kind"), [("adam", Adam), ("adamw", AdamW)])
def test_adam_keys_arrive(name: str, kind: type[Adam]) -> None:
    config = OptimizerConfig(name=name, betas=(0.8, 0.95), eps=1e-6, weight_decay=0.2)
    optimizer = build_optimizer(config, {"w": parameter("w", [[1.0]])})
    assert type(optimizer) is kind
    assert (optimizer.betas, optimizer.eps, optimizer.weight_decay) == ((0.8, 0.95), 1e-6, 0.2)


def test_sgd_keys_arrive() -> None:
    config = OptimizerConfig(name="sgd", momentum=0.9, nesterov=True, weight_decay=0.1)
    optimizer = build_optimizer(config, {"w": parameter("w", [[1.0]])})
    assert type(optimizer) is SGD
    assert (optimizer.momentum, optimizer.nesterov, optimizer.weight_decay) == (0.9, True, 0.1)


def test_the_schedule_counts_a_fraction_of_warm_up_in_steps() -> None:
    config = OptimizerConfig(lr=0.5, schedule="cosine", warmup=0.1, min_lr_ratio=0.2)
    expected = Schedule("cosine", peak=0.5, total_steps=50, warmup_steps=5, min_lr_ratio=0.2)
    assert build_schedule(config, total_steps=50) == expected
