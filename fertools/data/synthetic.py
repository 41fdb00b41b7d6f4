"""Synthetic faces: rendered portraits and sequences that ship with the project.

Everything about them is known, since a script drew them (:mod:`fertools.render`): who, which movement how
strong, pose, light, skin, what hides the face. ``data/synthetic/README.md`` is their data card.

Files of ``data/synthetic/``:

- ``Training.jpg``, ``PublicTest.jpg``, ``PrivateTest.jpg``: sheets of 48x48 tiles, row by row, in the order of
- ``portraits.csv``, a row for each portrait, in the order of the splits;
- ``sequences.jpg`` and ``sequences.csv``: likewise the last three frames of 327 films, as the reader of CK+
  cuts them out;
- ``CK+/``: twelve of the films with every frame, 640x490, laid out as CK+ is;
- ``SHA256SUMS``: of all pictures and tables.

A tile's side is a multiple of JPEG's blocks of eight: each is compressed as if it were alone.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from fertools import IMAGE_SIZE
from fertools.data import ckplus, fer2013
from fertools.data.faceset import SPLITS, DataError, FaceSet
from fertools.files import atomic_write, file_digest

if TYPE_CHECKING:
    import pandas as pd

FOLDER = Path("data/synthetic")
CLASSES = (*fer2013.CLASSES, "contempt")
COLUMNS = 50  # tiles in a row of a sheet
QUALITY = 85  # of the sheets' JPEG

RESTORE = "It comes with the project: restore it with `git checkout -- data/synthetic`."


def load_portraits(folder: str | Path = FOLDER) -> FaceSet:
    """The portraits: 10,000 single images in FER2013's three splits, with eight labels.

    The splits share no person. :func:`table` has what is known of each image, in the same order.

    Args:
        folder: see the module's text.

    Raises:
        DataError: a file is missing, or not the one that was shipped.
    """
    folder = Path(folder)
    rows = table("portraits", folder)
    images = np.concatenate([_sheet(folder, f"{split}.jpg", int((rows.split == split).sum())) for split in SPLITS])
    return _face_set("synthetic", images, rows, CLASSES, folder, split=rows.split.to_numpy(str))


def load_sequences(folder: str | Path = FOLDER) -> FaceSet:
    """The sequences' last three frames, cropped: 981 images of 327 films and 118 subjects, CK+'s labels.

    Args:
        folder: see the module's text.

    Raises:
        DataError: a file is missing, or not the one that was shipped.
    """
    folder = Path(folder)
    rows = table("sequences", folder)
    images = _sheet(folder, "sequences.jpg", len(rows))
    sequences = rows.sequence.to_numpy(str)
    return _face_set("synthetic-sequences", images, rows, ckplus.CLASSES, folder, sequences=sequences)


def table(part: str, folder: str | Path = FOLDER) -> pd.DataFrame:
    """What is known of each image of a part, in the order of the images.

    ``label``, ``subject`` and ``split`` (portraits) or ``sequence``, ``frame`` and ``frames`` (sequences);
    the amplitude of each label's movement, 0 to 1, in a column of its name; ``yaw`` (to the head's left),
    ``pitch`` (up) and ``roll``, degrees; ``light_side`` and ``light_up``, where the key light stands, degrees
    to the camera's right and above; ``light_contrast``, the key light's share, 0 to 1; ``exposure``, 1 for a
    normal one; ``albedo`` of the skin, 0 to 1; ``hair``; ``occlusion``; ``zoom``; ``blur`` in pixels;
    ``detail``, the resolution before scaling; ``noise`` in gray levels; ``quality`` of JPEG; and for
    sequences ``detected``, whether dlib found the face in this frame.

    Args:
        part: ``"portraits"`` or ``"sequences"``.
        folder: see the module's text.

    Raises:
        DataError: the file is missing, or not the one that was shipped.
    """
    import pandas as pd

    return pd.read_csv(io.BytesIO(_verified(Path(folder), f"{part}.csv")), keep_default_na=False)


def accuracy_by(
    correct: np.ndarray, values: np.ndarray | pd.Series, bins: Sequence[float] | int | None = None
) -> pd.DataFrame:
    """How accuracy depends on something known of each image, e.g. ``table(...).yaw``.

    Args:
        correct: (N,) bool, whether each image's label was found.
        values: (N,) numbers or words.
        bins: numbers: the edges of intervals (an image outside them all does not count), or how many with
            equally many images; None takes each value by itself.

    Returns:
        A row for each group: ``group``, ``centre`` (mean of the values; NaN for words), ``n``,
        ``accuracy``, and ``low`` and ``high`` of its 95 % interval (Wilson).

    Raises:
        ValueError: the lengths differ.
    """
    import pandas as pd

    from fertools.evaluation.metrics import wilson_interval

    values = pd.Series(np.asarray(values))
    if len(values) != len(correct):
        raise ValueError(f"accuracy_by needs a value for each image, but got {len(values)} for {len(correct)}")
    groups: Any = values
    if isinstance(bins, int):
        groups = pd.qcut(values, bins, duplicates="drop")
    elif bins is not None:
        groups = pd.cut(values, list(bins), include_lowest=True)
    found = []
    for group, rows in pd.Series(np.asarray(correct, bool)).groupby(groups, observed=True):
        low, high = wilson_interval(int(rows.sum()), len(rows))
        inside = values[rows.index]
        centre = float(inside.mean()) if pd.api.types.is_numeric_dtype(inside) else float("nan")
        found.append((group, centre, len(rows), float(rows.mean()), low, high))
    return pd.DataFrame(found, columns=["group", "centre", "n", "accuracy", "low", "high"])


def _face_set(
    name: str, images: np.ndarray, rows: pd.DataFrame, classes: tuple[str, ...], folder: Path, **known: Any
) -> FaceSet:
    return FaceSet(
        name=name,
        images=images,
        labels=rows.label.map(classes.index).to_numpy(np.int64),
        classes=classes,
        subjects=rows.subject.to_numpy(str),
        source=str(folder),
        **known,
    )


def _verified(folder: Path, name: str) -> bytes:
    """A file's bytes, if they are those that were shipped."""
    path, sums = folder / name, folder / "SHA256SUMS"
    for needed in (sums, path):
        if not needed.is_file():
            raise DataError(f"{needed}: no such file. {RESTORE}")
    lines = sums.read_text(errors="replace").splitlines()
    wanted = {file: digest for digest, _, file in (line.partition("  ") for line in lines)}
    content = path.read_bytes()
    if hashlib.sha256(content).hexdigest() != wanted.get(name):
        raise DataError(f"{path} is not the file that {sums.name} names: damaged or changed. {RESTORE}")
    return content


# --- Sheets -----------------------------------------------------------------------------------


def _sheet(folder: Path, name: str, count: int) -> np.ndarray:
    """The first ``count`` tiles of a sheet: uint8 (count, 48, 48)."""
    with Image.open(io.BytesIO(_verified(folder, name))) as image:
        pixels = np.asarray(image)
    if pixels.shape != (-(-count // COLUMNS) * IMAGE_SIZE, COLUMNS * IMAGE_SIZE):
        raise DataError(f"{folder / name} has {pixels.shape} pixels, which do not fit {count} tiles. {RESTORE}")
    tiles = pixels.reshape(-1, IMAGE_SIZE, COLUMNS, IMAGE_SIZE).swapaxes(1, 2)
    return np.ascontiguousarray(tiles.reshape(-1, IMAGE_SIZE, IMAGE_SIZE)[:count])


def write_sheet(path: Path, images: np.ndarray) -> None:
    """Writes uint8 (N, 48, 48) as one JPEG of tiles, :data:`COLUMNS` in a row."""
    rows = -(-len(images) // COLUMNS)
    tiles = np.zeros((rows * COLUMNS, IMAGE_SIZE, IMAGE_SIZE), np.uint8)
    tiles[: len(images)] = images
    sheet = tiles.reshape(rows, COLUMNS, IMAGE_SIZE, IMAGE_SIZE).swapaxes(1, 2).reshape(rows * IMAGE_SIZE, -1)
    with atomic_write(path) as part:
        Image.fromarray(sheet).save(part, quality=QUALITY, optimize=True)


def write_table(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Writes rows of equal keys as CSV."""
    import pandas as pd

    with atomic_write(path) as part:
        pd.DataFrame(rows).to_csv(part, index=False)


def write_checksums(folder: Path) -> None:
    """Writes ``SHA256SUMS`` over the folder's pictures and tables, as ``sha256sum -c`` reads it."""
    kinds = ("*.jpg", "*.csv", "*.png", "*.txt")
    files = sorted(p for kind in kinds for p in folder.rglob(kind) if ".parts" not in p.parts)
    sums = [file_digest(p).removeprefix("sha256:") for p in files]
    lines = [f"{digest}  {p.relative_to(folder).as_posix()}\n" for digest, p in zip(sums, files, strict=True)]
    with atomic_write(folder / "SHA256SUMS") as part:
        part.write_text("".join(lines))
