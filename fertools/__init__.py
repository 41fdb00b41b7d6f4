"""Facial expression recognition with the multi-scale feature fusion network of Wang et al.

``network`` reads beside the paper; ``data`` reads the sets; ``recipes``, ``augment`` and ``trainer``
train; ``evaluate`` measures, ``records`` keeps, ``plots`` draws; ``predict`` labels the faces in a picture
or a film; ``cli`` is the command ``fertools``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fertools.network import MultiScaleFusionNet, NetworkConfig

__all__ = ["MultiScaleFusionNet", "NetworkConfig"]


def __getattr__(name: str) -> Any:
    """The network's names, on first use: reading a data set does not have to import PyTorch."""
    if name in __all__:
        from fertools import network

        return getattr(network, name)
    raise AttributeError(f"module 'fertools' has no attribute {name!r}")
