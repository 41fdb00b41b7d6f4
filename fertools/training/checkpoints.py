"""The resumable state of a run in one file, and the question whether it may continue.

``checkpoint.safetensors`` has the tensors by group (``net.``, ``average.``, ``momentum.``, ``best.``)
and, in its header, the run's identity and its progress.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fertools.errors import WeightsError
from fertools.models.weights import load_state_dict, load_weights, save_weights

NAME = "checkpoint.safetensors"


@dataclass
class Progress:
    """What a checkpoint keeps besides its tensors."""

    step: int = 0  # steps done over the whole run
    history: list[dict[str, Any]] = field(default_factory=list)  # one entry for each finished epoch
    loss_sum: float = 0.0  # over the images of the current epoch
    correct: float = 0  # likewise; fractional where a prediction can be partly right
    epoch_seconds: float = 0.0  # likewise
    resumed: int = 0  # how often the run was continued

    @property
    def seconds(self) -> float:
        """Spent training, over all interruptions."""
        return sum(entry["seconds"] for entry in self.history) + self.epoch_seconds


def save_checkpoint(
    path: Path,
    net: nn.Module,
    average: nn.Module | None,
    optimizer: torch.optim.Optimizer,
    best: dict[str, Tensor],
    identity: dict[str, Any],
    progress: Progress,
) -> None:
    """Writes all that a run needs to continue, completely or not at all.

    Args:
        path: the file.
        net, average: the network and, if the recipe has one, the moving average of its weights.
        optimizer: SGD; its momentum is kept by parameter name.
        best: the selected epoch's weights.
        identity: what the run depends on; see :func:`fertools.records.differences`.
        progress: how far it is.

    Raises:
        OSError: the file cannot be written; an older one is still there.
    """
    tensors = {f"net.{name}": t for name, t in net.state_dict().items()}
    tensors |= {f"best.{name}": t for name, t in best.items()}
    if average is not None:
        tensors |= {f"average.{name}": t for name, t in average.state_dict().items()}
    for name, p in net.named_parameters():
        if "momentum_buffer" in optimizer.state[p]:
            tensors[f"momentum.{name}"] = optimizer.state[p]["momentum_buffer"]
    path.parent.mkdir(parents=True, exist_ok=True)
    save_weights(path, tensors, {"identity": identity, "progress": dataclasses.asdict(progress)})


def load_checkpoint(
    path: Path, net: nn.Module, average: nn.Module | None, optimizer: torch.optim.Optimizer
) -> tuple[dict[str, Tensor], Progress]:
    """Restores the network, its average, and the optimizer; returns the best weights and the progress.

    Raises:
        WeightsError: the file is damaged, or does not fit the network.
    """
    tensors, metadata = load_weights(path)

    def group(prefix: str) -> dict[str, Tensor]:
        start = f"{prefix}."
        return {name.removeprefix(start): t for name, t in tensors.items() if name.startswith(start)}

    load_state_dict(net, group("net"), path)
    if average is not None:
        load_state_dict(average, group("average"), path)
    momentum = group("momentum")
    parameters = dict(net.named_parameters())
    if momentum and (missing := sorted(parameters.keys() - momentum.keys())):
        raise WeightsError(f"{path} is incomplete: the momentum of {missing[0]} is missing")
    for name, buffer in momentum.items():
        p = parameters[name]
        optimizer.state[p]["momentum_buffer"] = torch.empty_like(p).copy_(buffer)
    progress = Progress(**metadata["progress"])
    progress.resumed += 1
    return group("best"), progress


def checkpoint_identity(path: Path) -> dict[str, Any]:
    """The identity of the run that a checkpoint belongs to."""
    return load_weights(path)[1]["identity"]
