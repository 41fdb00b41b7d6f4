"""The optimizer of section 3.2: SGD with momentum and weight decay."""

from __future__ import annotations

import torch
from torch import nn

from fertools.recipes import TrainConfig


def make_optimizer(net: nn.Module, config: TrainConfig) -> torch.optim.SGD:
    """SGD over all of a network's parameters, some of them without weight decay.

    Never decayed are the parameters that the network names: ``net.no_weight_decay()``, if it has that
    method, is a set of parameter names, as in timm. ``config.decay_norm_and_bias`` decides about biases
    and normalization, which are the parameters with one dimension.
    """
    never: set[str] = getattr(net, "no_weight_decay", set)()
    decayed: list[nn.Parameter] = []
    others: list[nn.Parameter] = []
    for name, p in net.named_parameters():
        decays = name not in never and (config.decay_norm_and_bias or p.dim() > 1)
        (decayed if decays else others).append(p)
    return torch.optim.SGD(
        [{"params": decayed, "weight_decay": config.weight_decay}, {"params": others, "weight_decay": 0.0}],
        lr=config.learning_rate,
        momentum=config.momentum,
        nesterov=config.nesterov,
    )
