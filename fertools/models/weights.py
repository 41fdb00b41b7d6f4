"""Weights on disk: safetensors, which cannot run code, with all that a prediction needs in the header."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from fertools.config import config_from_dict
from fertools.errors import WeightsError
from fertools.files import atomic_write
from fertools.models.registry import AnyNetworkConfig, build


@dataclass(frozen=True)
class ModelMetadata:
    """What a trained network needs besides its weights, as the header of its file stores it.

    Attributes:
        network: its configuration.
        classes: the label names, in the order of the logits.
        mean, std: of the training images, in gray levels (0 to 255).
        temperature: the logits are divided by it before the softmax; 1 where none was fitted.
        threshold: the confidence below which to abstain; 0 where none was chosen.
    """

    network: AnyNetworkConfig
    classes: tuple[str, ...]
    mean: float
    std: float
    temperature: float = 1.0
    threshold: float = 0.0

    def __post_init__(self) -> None:
        if len(self.classes) != self.network.classes or not all(isinstance(name, str) for name in self.classes):
            raise ValueError(f"classes={self.classes!r}, but the network has {self.network.classes} classes")
        for name, low in (("mean", 0.0), ("std", math.ulp(0.0)), ("temperature", math.ulp(0.0)), ("threshold", 0.0)):
            value = getattr(self, name)
            if not isinstance(value, int | float) or not math.isfinite(value) or value < low:
                raise ValueError(f"{name}={value!r} is not a number {'above' if low else 'from'} 0")

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> ModelMetadata:
        """The inverse of :meth:`to_dict`.

        Raises:
            ValueError: a field is missing, unknown, or not what it should be.
        """
        try:
            network = config_from_dict(AnyNetworkConfig, values["network"])
            return cls(**{**values, "network": network, "classes": tuple(values["classes"])})
        except (KeyError, TypeError) as error:
            raise ValueError(f"incomplete or unknown metadata: {error}") from None


def save_weights(path: Path, tensors: dict[str, Tensor], metadata: dict[str, Any]) -> None:
    """Writes tensors and a JSON description, completely or not at all.

    Raises:
        OSError: the file cannot be written; an older one is still there.
    """
    plain = {name: t.detach().cpu().contiguous() for name, t in tensors.items()}
    with atomic_write(path) as part:
        try:
            save_file(plain, part, {"fertools": json.dumps(metadata, allow_nan=False)})
        except SafetensorError as error:  # how the library reports a full disk
            raise OSError(f"{path}: {error}") from error


def load_weights(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors and description of a file that :func:`save_weights` wrote.

    Raises:
        WeightsError: not a complete safetensors file, unreadable, or without a description.
    """
    if not path.is_file():
        raise WeightsError(f"there are no weights at {path}" + (", which is a folder" if path.is_dir() else ""))
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not iterable)
            header = file.metadata() or {}
        metadata = json.loads(header["fertools"])
    except SafetensorError as error:
        raise WeightsError(
            f"{path} is not a safetensors file, or is cut short ({error}). Pickled weights (.pt, .pth) are "
            "never loaded, since opening one can run any code; ask for safetensors, or train again."
        ) from None
    except (OSError, RuntimeError) as error:  # the latter where the file has vanished meanwhile
        raise WeightsError(f"{path} cannot be read: {error}") from None
    except (KeyError, json.JSONDecodeError):
        raise WeightsError(f"{path} contains tensors but not fertools' description of them in its header") from None
    return tensors, metadata


def save_network(path: Path, net: nn.Module, metadata: ModelMetadata) -> None:
    """Writes a network's weights and all that a prediction needs."""
    save_weights(path, net.state_dict(), metadata.to_dict())


def load_network(path: Path) -> tuple[nn.Module, ModelMetadata]:
    """The network in a file that :func:`save_network` wrote, in evaluation mode, and its metadata.

    Raises:
        WeightsError: see :func:`load_weights`; or the weights do not fit the configuration in the header, or
            are not finite.
    """
    tensors, values = load_weights(path)
    try:
        metadata = ModelMetadata.from_dict(values)
    except ValueError as error:
        raise WeightsError(f"{path} describes no network that fertools can build: {error}") from None
    with torch.device("meta"):  # shapes without memory: a small file can describe a huge network
        shapes = build(metadata.network).state_dict()
    _refuse_misfits(shapes, tensors, path)
    net = build(metadata.network)
    load_state_dict(net, tensors, path)
    if damaged := [name for name, value in net.state_dict().items() if not value.isfinite().all()]:
        raise WeightsError(f"{path} has values that are not finite, in {', '.join(damaged[:5])}: train again")
    return net.eval(), metadata


def load_state_dict(net: nn.Module, tensors: dict[str, Tensor], path: Path) -> None:
    """Copies tensors into a network of exactly their names and shapes.

    Like ``net.load_state_dict(tensors)``, with an error for people.

    Raises:
        WeightsError: naming what is missing, unknown, or of another shape.
    """
    wanted = net.state_dict()
    _refuse_misfits(wanted, tensors, path)
    with torch.no_grad():
        for name, value in wanted.items():
            value.copy_(tensors[name])


def _refuse_misfits(wanted: dict[str, Tensor], tensors: dict[str, Tensor], path: Path) -> None:
    wrong = [f"{name} is missing" for name in wanted.keys() - tensors.keys()]
    wrong += [f"{name} is not part of the network" for name in tensors.keys() - wanted.keys()]
    wrong += [
        f"{name} has shape {tuple(tensors[name].shape)}, the network wants {tuple(wanted[name].shape)}"
        for name in wanted.keys() & tensors.keys()
        if wanted[name].shape != tensors[name].shape
    ]
    if wrong:
        more = f"; and {len(wrong) - 5} more" if len(wrong) > 5 else ""
        raise WeightsError(f"{path} does not fit the network: " + "; ".join(sorted(wrong)[:5]) + more)


def initialize_from(net: nn.Module, path: Path, classes: Sequence[str]) -> None:
    """Copies the weights in a file into a network in place, to fine-tune it.

    The last linear layer keeps its random weights if the file's network was trained on other classes,
    even if on as many.

    Args:
        net: of the file's architecture, except for the number of classes.
        path: a file that :func:`save_network` wrote.
        classes: the label names that ``net`` is to learn.

    Raises:
        WeightsError: see :func:`load_weights`; or the weights do not fit the network.
    """
    tensors, metadata = load_weights(path)
    if metadata.get("classes") != list(classes):
        *_, last = (name for name, module in net.named_modules() if isinstance(module, nn.Linear))
        tensors |= {name: own for name, own in net.state_dict().items() if name.startswith(f"{last}.")}
    load_state_dict(net, tensors, path)
