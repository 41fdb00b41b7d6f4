"""The result of a slow read, kept next to its source: arrays by name, in one ``.npz``.

For readers of large files, and of folders in which faces must first be detected. A cache without the right key, or a
damaged one, is treated as absent. The key says which source a cache was made from, not that its arrays are right:
readers check those themselves. A cache contains no pickles.
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
    """A string that changes with each file's folder, name, size, and modification time.

    Of the folder only its own name counts, so that a data set keeps its cache when it is moved as a whole.

    Args:
        files: what is read, in a fixed order.
        settings: everything else that determines the result, e.g. the reader's version and options.
    """
    digest = hashlib.sha256(repr(settings).encode())
    for file in files:
        status = file.stat()
        name = f"{file.parent.name}/{file.name}"
        digest.update(f"\n{name} {status.st_size} {status.st_mtime_ns}".encode())
    return digest.hexdigest()


def read(path: Path, key: str) -> dict[str, np.ndarray] | None:
    """The arrays that :func:`write` stored there under the same key, or None."""
    try:
        # A zip file: its checksums reveal damage. Opened here, since np.load leaves a damaged file open.
        with open(path, "rb") as file, np.load(file, allow_pickle=False) as kept:
            return {name: kept[name] for name in kept.files} if str(kept["key"]) == key else None
    except Exception:  # absent, foreign, or damaged in any way: the source is still there
        return None


def write(path: Path, key: str, arrays: Mapping[str, np.ndarray]) -> None:
    """Stores arrays of numbers or strings, completely or not at all.

    If the folder isn't writable, or the disk is full, it warns and stores nothing.
    """
    contents: dict[str, Any] = {"key": np.array(key), **arrays}
    try:
        with atomic_write(path) as part:
            np.savez(part, **contents)
    except OSError as error:
        warnings.warn(f"{path} cannot be written ({error}): the next read will be as slow", stacklevel=2)
