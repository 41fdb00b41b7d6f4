"""What the machine can compute with: devices, number formats, cores."""

from __future__ import annotations

import os
from pathlib import Path

import torch

_TOPOLOGY = Path("/sys/devices/system/cpu")  # Linux: one folder for each logical core


def pick_device(name: str | None = None) -> torch.device:
    """The device of that name; without a name, an NVIDIA GPU if there is one, or else the CPU.

    Raises:
        ValueError: there is no such device here.
    """
    if name is None:
        found = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
        return torch.device(found.type) if found and found.type == "cuda" else torch.device("cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(
            f"there is no device {name!r} here ({reason}); use 'cpu', or leave it out to use the best that is available"
        ) from None
    return device


def computes_bf16(device: torch.device) -> bool:
    """Whether the device has bf16 arithmetic; without it, bf16 is emulated and slower than fp32."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    return device.type == "cpu" and torch.cpu._is_avx512_bf16_supported()


def physical_cores() -> int:
    """The physical cores that this process may use: two hardware threads of one core count once.

    >>> physical_cores() >= 1
    True
    """
    if not hasattr(os, "sched_getaffinity"):
        return os.cpu_count() or 1
    logical = os.sched_getaffinity(0)
    try:
        siblings = {(_TOPOLOGY / f"cpu{i}/topology/thread_siblings_list").read_text().strip() for i in logical}
    except OSError:  # not every system tells
        return len(logical)
    return len(siblings)
