"""The history of a run, as TensorBoard shows it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from fertools.errors import require


@contextmanager
def epoch_log(folder: Path, wanted: bool = True) -> Iterator[Callable[[dict[str, Any]], None]]:
    """A function that writes one epoch's entry of the history to ``folder``, or does nothing if not ``wanted``.

    Raises:
        MissingExtraError: TensorBoard is not installed.
    """
    if not wanted:
        yield lambda entry: None
        return
    require("tensorboard", "tensorboard")
    from torch.utils.tensorboard import SummaryWriter

    with SummaryWriter(folder) as writer:

        def write(entry: dict[str, Any]) -> None:
            for key, value in entry.items():
                if key != "epoch":
                    writer.add_scalar(key, value, entry["epoch"])
            writer.flush()

        yield write
