"""What the machine can do, and how a long run is asked to stop."""

from __future__ import annotations

import ctypes
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch


def pick_device(name: str | None = None) -> torch.device:
    """The device of that name, or an accelerator where there is one, or the CPU.

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
        raise ValueError(f"there is no device {name!r} here ({reason}); use cpu, or leave the choice to us") from None
    return device


def computes_bf16(device: torch.device) -> bool:
    """Whether the device has bf16 arithmetic; without, it is emulated and slower than fp32."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    return device.type == "cpu" and torch.cpu._is_avx512_bf16_supported()


def keep_freed_memory() -> None:
    """Makes glibc keep freed memory for the next step instead of returning it to the system.

    By default every large tensor is fresh, zeroed memory: on two CPU cores, a third of a training
    step was spent on page faults. This holds for the whole process, so that it is the command line
    that calls it, not the trainer; call it yourself before a long training on a CPU.
    """
    if sys.platform == "linux":
        try:
            mallopt = ctypes.CDLL("libc.so.6").mallopt
        except (OSError, AttributeError):  # another C library
            return
        mallopt(-3, 1 << 30)  # M_MMAP_THRESHOLD: allocate up to 1 GiB on the heap
        mallopt(-1, (1 << 31) - 1)  # M_TRIM_THRESHOLD: never shrink the heap


@contextmanager
def stop_signals() -> Iterator[Callable[[], bool]]:
    """Turns SIGINT, SIGTERM, and SIGHUP into a question that a loop asks; a second one stops at once."""
    came: list[int] = []

    def note(number: int, frame: object) -> None:
        if came:
            raise KeyboardInterrupt
        came.append(number)

    if threading.current_thread() is not threading.main_thread():  # only it may handle signals
        yield lambda: False
        return
    numbers = [signal.SIGINT, signal.SIGTERM]
    if hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # nohup ignores it
        numbers.append(signal.SIGHUP)
    before = {number: signal.signal(number, note) for number in numbers}
    try:
        yield lambda: bool(came)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
