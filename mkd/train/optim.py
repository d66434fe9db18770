"""Optimizer and the poly schedule."""

from typing import Any

import torch
from torch import nn


def make_optimizer(
    name: str,
    model: nn.Module,
    head: set[str],
    *,
    lr: float,
    head_factor: float,
    momentum: float,
    weight_decay: float,
) -> torch.optim.Optimizer:
    """Return SGD or AdamW over the parameters that require a gradient.

    Args:
        name: ``sgd`` or ``adamw``.
        model: the network.
        head: names of the parameters that learn with ``head_factor`` x lr.
        lr: base learning rate.
        head_factor: of the head, in units of lr.
        momentum: SGD's; AdamW's beta1.
        weight_decay: L2 (SGD) or decoupled (AdamW).
    """
    named = [(n, p) for n, p in model.named_parameters() if p.requires_grad]
    groups: list[dict[str, Any]] = [
        {"params": [p for n, p in named if n not in head], "factor": 1.0},
        {"params": [p for n, p in named if n in head], "factor": head_factor},
    ]
    groups = [{**g, "lr": lr * g["factor"]} for g in groups if g["params"]]
    if name == "adamw":
        return torch.optim.AdamW(groups, lr=lr, betas=(momentum, 0.999), weight_decay=weight_decay)
    return torch.optim.SGD(groups, lr=lr, momentum=momentum, weight_decay=weight_decay)


def set_poly_lr(optimizer: torch.optim.Optimizer, lr: float, step: int, total: int, power: float) -> float:
    """Set and return the base learning rate ``lr (1 - step / total)^power``.

    Args:
        optimizer: made by `make_optimizer`; each group gets its factor of it.
        lr: at the first step.
        step: 0 <= step < total, the step to be made.
        total: steps of the phase.
        power: > 0; 1 is linear.
    """
    now = float(lr * (1 - step / total) ** power)
    for group in optimizer.param_groups:
        group["lr"] = now * group["factor"]
    return now
