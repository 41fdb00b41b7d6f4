"""Facial expression recognition with the multi-scale feature fusion network of Wang et al.

The listing of this folder is the story of the library:

- ``network``: the paper's network, one class for each of its figures; ``models``: what it is compared with.
- ``recipes``: the settings of a training run and the named recipes; ``config`` checks them.
- ``data``: data sets, faces, splits, and the audit; ``render`` draws the synthetic faces.
- ``training``: trainer, augmentation, checkpoints, sweeps; ``records``: what a finished run writes.
- ``evaluation``: metrics, calibration, statistics, tables, plots.
- ``inference``: from a photo to a label, explanations, export.
- ``cli``: the command ``fertools``; ``paths``: where it finds data sets and runs.

CONTRIBUTING.md has a drawing of what may import what.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fertools.data import load
    from fertools.inference.predictor import Predictor
    from fertools.network import MultiScaleFusionNet, NetworkConfig
    from fertools.training.trainer import train

__version__ = "0.2.0"
__all__ = ["MultiScaleFusionNet", "NetworkConfig", "Predictor", "__version__", "load", "train"]

IMAGE_SIZE = 48  # pixels; section 3.2: "The resolution of 48x48 is selected as the final image input"

_HOME = {
    "MultiScaleFusionNet": "network",
    "NetworkConfig": "network",
    "Predictor": "inference.predictor",
    "load": "data",
    "train": "training.trainer",
}


def __getattr__(name: str) -> Any:
    """Imports a public name when it is first used: reading a data set doesn't need PyTorch."""
    if name in _HOME:
        return getattr(import_module(f"fertools.{_HOME[name]}"), name)
    raise AttributeError(f"module 'fertools' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
