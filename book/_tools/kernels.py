"""Kernels that start at once: forks of a process that has imported already what most pages import.

A page's first seconds go into imports, the same for each page. ``execute.py`` gives a notebook's kernel manager a
``ForkedKernel``; the first one starts this file as a process, which makes the imports, and forks for every kernel.
"""

from __future__ import annotations

import importlib
import json
import os
import signal
import subprocess
import sys
from contextlib import suppress
from functools import cache
from threading import Lock
from typing import IO, Any

from jupyter_client import KernelConnectionInfo, LocalProvisioner

# Nothing of this project: a lab imports it from its own folder.
IMPORTED = ("torch", "torch._dynamo", "torchvision", "pandas", "matplotlib.pyplot", "scipy.stats")
ASKING = Lock()  # one kernel's number at a time


class Child:
    """What Jupyter uses of ``subprocess.Popen``, for a process that another one has started."""

    stdin = stdout = stderr = None

    def __init__(self, number: int) -> None:
        self.pid = number

    def send_signal(self, signal: int) -> None:
        with suppress(ProcessLookupError):  # it has just ended by itself
            os.kill(self.pid, signal)

    def poll(self) -> int | None:
        """None as long as the process runs."""
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return 0
        return None

    wait = poll  # Jupyter asks `poll` first


class ForkedKernel(LocalProvisioner):
    """Starts a kernel by asking for a fork."""

    async def launch_kernel(self, cmd: list[str], **options: Any) -> KernelConnectionInfo:
        with ASKING:
            questions, answers = forks()
            print(json.dumps([self.parent.connection_file, str(options["cwd"])]), file=questions, flush=True)
            self.process = Child(int(answers.readline()))
        return self.connection_info


@cache
def forks() -> tuple[IO[str], IO[str]]:
    """The standard input and output of the process that forks; it ends when this one does."""
    process = subprocess.Popen([sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdin
    assert process.stdout
    return process.stdin, process.stdout


def serve() -> None:
    """For each line of the standard input, a kernel's connection file and folder: forks, and writes the number."""
    os.environ["JPY_PARENT_PID"] = str(os.getpid())  # a kernel ends when this process does
    os.environ["MPLBACKEND"] = "module://matplotlib_inline.backend_inline"  # as in a notebook; read by the import
    from ipykernel.kernelapp import IPKernelApp

    del sys.path[0]  # this folder, which a kernel of its own wouldn't have there
    for name in IMPORTED:
        importlib.import_module(name)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # a kernel that ends leaves no zombie
    for line in sys.stdin:
        connection, folder = json.loads(line)
        if number := os.fork():
            print(number, flush=True)
            continue
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.dup2(2, 1)
        os.chdir(folder)
        IPKernelApp.launch_instance(["-f", connection])
        break


if __name__ == "__main__":
    serve()
