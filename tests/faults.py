"""The command in a process of its own, and what can be made to go wrong in it. For tests/test_faults.py.

A process is forked from a server that has imported PyTorch, so that it takes a moment and not seconds.
"""

from __future__ import annotations

import errno
import multiprocessing
import os
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PRELOAD = [
    *("torch", "torch._dynamo", "torchvision", "sklearn.metrics", "scipy.stats", "pandas", "PIL.Image"),
    *("fertools.cli", "fertools.training.trainer", "fertools.evaluation.runs", "fertools.data.synthetic"),
]
ERRORS = {"disk full": errno.ENOSPC, "disk fails": errno.EIO, "no permission": errno.EACCES}


@dataclass
class Ended:
    code: int | str  # an exit code, or "killed"
    out: str
    err: str


def run(words: list[str], folder: Path, fault: str = "") -> Ended:
    """``fertools`` with these words, in ``folder``; the fault is one of :func:`inject`."""
    context: Any = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOAD)
    out, err = folder / "stdout.txt", folder / "stderr.txt"
    process = context.Process(target=_child, args=(words, str(folder), fault, str(out), str(err)))
    process.start()
    process.join(120)
    if process.exitcode is None:
        process.kill()
        raise TimeoutError(f"fertools {' '.join(words)} with the fault {fault!r} takes longer than two minutes")
    code = "killed" if process.exitcode == -signal.SIGKILL else process.exitcode
    ended = Ended(code, out.read_text(), err.read_text())
    out.unlink()
    err.unlink()
    return ended


def _child(words: list[str], folder: str, fault: str, out: str, err: str) -> None:
    for number, path in ((1, out), (2, err)):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), number)
    os.chdir(folder)
    os.environ.update(COLUMNS="300", NO_COLOR="1")
    sys.argv = ["fertools", *words]
    sys.stdout, sys.stderr = os.fdopen(1, "w", closefd=False), os.fdopen(2, "w", closefd=False)
    import torch

    torch.set_num_threads(1)
    inject(fault)
    from fertools.cli import main

    main()


def inject(fault: str) -> None:
    """Makes this process meet a fault: ``killed at write 3``, ``disk full at write 1``, ``signal SIGTERM``..."""
    kind, _, number = fault.partition(" at write ")
    if number:
        _at_call(
            os, "replace" if kind == "killed" else "fsync", int(number), _kill if kind == "killed" else _fail(kind)
        )
    elif fault.startswith("signal "):
        from fertools.training.trainer import Trainer

        sent = getattr(signal, fault.removeprefix("signal "))
        # As a terminal leaves it: under nohup or in the background the tests inherit one that is, and stays, ignored.
        signal.signal(sent, signal.default_int_handler if sent == signal.SIGINT else signal.SIG_DFL)
        _at_call(Trainer, "step", 5, lambda: os.kill(os.getpid(), sent))


def _kill() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _fail(kind: str) -> Callable[[], None]:
    def fail() -> None:
        raise OSError(ERRORS[kind], os.strerror(ERRORS[kind]))

    return fail


def _at_call(owner: Any, name: str, number: int, action: Callable[[], None]) -> None:
    """Before a function's call of this number, counted from 1, does something else."""
    original, calls = getattr(owner, name), [0]

    def counting(*args: Any, **kwargs: Any) -> Any:
        calls[0] += 1
        if calls[0] == number:
            action()
        return original(*args, **kwargs)

    setattr(owner, name, counting)
