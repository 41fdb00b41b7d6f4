"""What a long run asks of its process: to keep freed memory, and to listen to signals."""

from __future__ import annotations

import ctypes
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager


def keep_freed_memory() -> None:
    """Makes glibc keep freed memory for the next step instead of returning it to the system.

    By default every large tensor is fresh, zeroed memory: on two CPU cores, a third of a training
    step was spent on page faults. The setting affects the whole process, so the command line makes it
    and the trainer does not. Call this yourself before a long training run on a CPU.
    """
    if sys.platform == "linux":
        try:
            mallopt = ctypes.CDLL("libc.so.6").mallopt
        except (OSError, AttributeError):  # another C library
            return
        mallopt(-3, 1 << 30)  # M_MMAP_THRESHOLD: allocate up to 1 GiB on the heap
        mallopt(-1, (1 << 31) - 1)  # M_TRIM_THRESHOLD: never shrink the heap


_GRACE = 2.0  # seconds; Slurm, torchrun and terminals send a signal to a process and to its parent, which passes it on
_asked: list[Callable[[], bool]] = []  # the question of the block that handles signals, if there is one


@contextmanager
def stop_signals() -> Iterator[Callable[[], bool]]:
    """Turns SIGINT, SIGTERM, and SIGHUP into a question that a loop asks: has one come?

    Another one, two seconds later or more, raises KeyboardInterrupt at once. What the process ignores
    stays ignored. A block inside another asks the same question, so no signal is lost between them.
    """
    if _asked or threading.current_thread() is not threading.main_thread():  # only the main thread may handle signals
        yield _asked[0] if _asked else lambda: False
        return
    came: list[float] = []

    def note(number: int, frame: object) -> None:
        now = time.monotonic()
        if came and now - came[0] >= _GRACE:
            raise KeyboardInterrupt
        came.append(now)

    numbers = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]
    before = {
        number: signal.signal(number, note)
        for number in numbers
        if signal.getsignal(number) is not signal.SIG_IGN  # nohup ignores SIGHUP
    }
    _asked.append(lambda: bool(came))
    try:
        yield _asked[0]
    finally:
        _asked.clear()
        for number, handler in before.items():
            signal.signal(number, handler)
