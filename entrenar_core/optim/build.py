"""From the `optimizer` section of a configuration to the optimizer and the schedule it describes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from entrenar_core.autograd.tensor import Tensor
from entrenar_core.optim.adam import Adam, AdamW
from entrenar_core.optim.base import Optimizer
from entrenar_core.optim.schedule import Schedule, warmup_steps
from entrenar_core.optim.sgd import SGD

if TYPE_CHECKING:
    from entrenar_core.config.optimizer import Optimizer as OptimizerConfig


def build_optimizer(config: OptimizerConfig, parameters: Mapping[str, Tensor]) -> Optimizer:
    """The optimizer that `config` names, over `parameters`."""
    if config.name == "sgd":
        return SGD(parameters, momentum=config.momentum, nesterov=config.nesterov, weight_decay=config.weight_decay)
    kind = AdamW if config.name == "adamw" else Adam
    return kind(parameters, betas=config.betas, eps=config.eps, weight_decay=config.weight_decay)


def build_schedule(config: OptimizerConfig, total_steps: int) -> Schedule:
    """The learning rates that `config` describes, for a run of `total_steps`."""
    return Schedule(
        config.schedule, config.lr, total_steps, warmup_steps(config.warmup, total_steps), config.min_lr_ratio
    )
