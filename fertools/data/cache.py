"""The result of a slow read, kept beside its source: arrays by name, in one ``.npz``.

For the readers of large files and of folders whose faces must first be found. A cache file is never
trusted: without the right key, or damaged, it is as if it were not there. It holds no pickles.
"""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from fertools.files import atomic_write


def source_key(files: Iterable[Path], *settings: object) -> str:
    """What a read depends on, in one string: each file's folder, name, size and time of change.

    A file's folder counts by its own name alone, so that a data set moved as a whole keeps its cache.

    Args:
        files: what is read, in a fixed order.
        settings: all else that decides the result, e.g. the reader's version and options.
    """
    digest = hashlib.sha256(repr(settings).encode())
    for file in files:
        status = file.stat()
        name = f"{file.parent.name}/{file.name}"
        digest.update(f"\n{name} {status.st_size} {status.st_mtime_ns}".encode())
    return digest.hexdigest()


def read(path: Path, key: str) -> dict[str, np.ndarray] | None:
    """The arrays that :func:`write` put there under the same key, or None."""
    try:
        # A zip file: its checksums show damage. Opened here, since np.load leaves a damaged one open.
        with open(path, "rb") as file, np.load(file, allow_pickle=False) as kept:
            return {name: kept[name] for name in kept.files} if str(kept["key"]) == key else None
    except Exception:  # absent, foreign, or damaged in whatever way: the source is still there
        return None


def write(path: Path, key: str, arrays: Mapping[str, np.ndarray]) -> None:
    """Keeps arrays of numbers or strings, whole or not at all.

    Where the folder cannot be written to, or the disk is full, it warns and keeps nothing.
    """
    contents: dict[str, Any] = {"key": np.array(key), **arrays}
    try:
        with atomic_write(path) as part:
            np.savez(part, **contents)
    except OSError as error:
        warnings.warn(f"{path} cannot be written ({error}): the next read will be as slow", stacklevel=2)
