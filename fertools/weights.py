"""Weights on disk: safetensors, which cannot run code, with their configuration in the header."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from fertools.errors import WeightsError
from fertools.files import whole_file
from fertools.network import MultiScaleFusionNet, NetworkConfig
from fertools.recipes import config_from_dict


def save_weights(path: Path, tensors: dict[str, Tensor], about: dict[str, Any]) -> None:
    """Writes tensors and a JSON description, whole or not at all.

    Raises:
        OSError: the file cannot be written; an older one is still there.
    """
    plain = {name: t.detach().cpu().contiguous() for name, t in tensors.items()}
    with whole_file(path) as part:
        try:
            save_file(plain, part, {"fertools": json.dumps(about)})
        except SafetensorError as error:  # how the library reports a full disk
            raise OSError(f"{path}: {error}") from error


def load_weights(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors and description of a file that :func:`save_weights` wrote.

    Raises:
        WeightsError: not a whole safetensors file, or without a description.
    """
    if not path.exists():
        raise WeightsError(f"there are no weights at {path}")
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not iterable)
            metadata = file.metadata() or {}
        about = json.loads(metadata["fertools"])
    except SafetensorError as error:
        raise WeightsError(
            f"{path} is not a safetensors file, or is cut short ({error}). Pickled weights (.pt, .pth) are "
            "never loaded, since opening one can run any code; ask for safetensors, or train anew."
        ) from None
    except (KeyError, json.JSONDecodeError):
        raise WeightsError(f"{path} holds tensors but not fertools' description of them in its header") from None
    return tensors, about


def save_network(path: Path, net: MultiScaleFusionNet, about: dict[str, Any]) -> None:
    """Writes a network's weights, its configuration, and ``about`` (class names, pixel statistics)."""
    save_weights(path, net.state_dict(), {"network": dataclasses.asdict(net.config), **about})


def load_network(path: Path) -> tuple[MultiScaleFusionNet, dict[str, Any]]:
    """The network in a file that :func:`save_network` wrote, in evaluation mode, and its description.

    Raises:
        WeightsError: see :func:`load_weights`; or the weights do not fit the configuration beside them.
    """
    tensors, about = load_weights(path)
    try:
        net = MultiScaleFusionNet(config_from_dict(NetworkConfig, about["network"]))
    except (KeyError, TypeError, ValueError) as error:
        raise WeightsError(f"{path} describes no network that fertools can build: {error}") from None
    fit(net, tensors, path)
    return net.eval(), about


def fit(net: nn.Module, tensors: dict[str, Tensor], path: Path) -> None:
    """Copies tensors into a network of exactly their names and shapes.

    Raises:
        WeightsError: naming what is missing, unknown or of another shape.
    """
    wanted = net.state_dict()
    wrong = [f"{name} is missing" for name in wanted.keys() - tensors.keys()]
    wrong += [f"{name} is not part of the network" for name in tensors.keys() - wanted.keys()]
    wrong += [
        f"{name} has shape {tuple(tensors[name].shape)}, the network wants {tuple(wanted[name].shape)}"
        for name in wanted.keys() & tensors.keys()
        if wanted[name].shape != tensors[name].shape
    ]
    if wrong:
        raise WeightsError(f"{path} does not fit the network: " + "; ".join(sorted(wrong)[:5]) + _more(wrong))
    with torch.no_grad():
        for name, value in wanted.items():
            value.copy_(tensors[name])


def _more(wrong: list[str]) -> str:
    return f"; and {len(wrong) - 5} more" if len(wrong) > 5 else ""
