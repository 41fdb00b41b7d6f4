"""The random numbers of a run: a stopped run draws them again, and the caller's stay as they are."""

from __future__ import annotations

from contextlib import AbstractContextManager
from enum import IntEnum

import numpy as np
import torch
from torch import Tensor


class Purpose(IntEnum):
    """What random numbers are for."""

    INITIALIZATION = 0
    STEP = 1  # augmentation and dropout of one step
    ORDER = 2  # of the training images in one epoch


def derive_seed(seed: int, purpose: Purpose, index: int = 0) -> int:
    """The seed, 32 bits, of one purpose and one step or epoch of the run with ``seed``.

    The purpose is a *spawn key*: as plain entropy, ``SeedSequence([7])`` equals ``SeedSequence([7, 0])``.
    """
    return int(np.random.SeedSequence(seed, spawn_key=(purpose, index)).generate_state(1)[0])


def epoch_order(seed: int, epoch: int, n: int) -> Tensor:
    """The order of ``n`` training images in an epoch, int64 (n,)."""
    generator = torch.Generator().manual_seed(derive_seed(seed, Purpose.ORDER, epoch))
    return torch.randperm(n, generator=generator)


def fork_rng(device: torch.device) -> AbstractContextManager[None]:
    """Inside, PyTorch's global generators may be seeded; afterwards they are as before."""
    return torch.random.fork_rng([device] if device.type == "cuda" else [])
