"""Synthetic faces: rendered portraits and sequences that ship with the library.

Everything about them is known, since a script rendered them (:mod:`fertools.render`): the person, the expression
and its strength, pose, lighting, skin, and occlusion. ``data/synthetic/README.md`` is their data card.

Files of ``data/synthetic/``:

- ``Training.jpg``, ``PublicTest.jpg``, ``PrivateTest.jpg``: sheets of 48x48 tiles, row by row, in the order of
- ``portraits.csv``, a row for each portrait, in the order of the splits;
- ``sequences.jpg`` and ``sequences.csv``: likewise the last three frames of 327 sequences, cropped by the reader
  of CK+;
- ``CK+/``: twelve of the sequences with every frame, 640x490, in the layout of CK+;
- ``SHA256SUMS``: of all images and tables.

A tile's side is a multiple of JPEG's 8x8 blocks, so each tile is compressed independently of its neighbors.
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
from fertools.paths import find_data, package_data

if TYPE_CHECKING:
    import pandas as pd

FOLDER = Path("data/synthetic")  # in a checkout, where rendering writes
CLASSES = (*fer2013.CLASSES, "contempt")
COLUMNS = 50  # tiles in a row of a sheet
QUALITY = 85  # of the sheets' JPEG


def load_portraits(folder: str | Path | None = None) -> FaceSet:
    """Reads the portraits: 10,000 single images in FER2013's three splits, with eight labels.

    Nobody is in two splits. :func:`table` has the attributes of each image, in the same order.

    Args:
        folder: with the files above; by default ``synthetic`` where :func:`fertools.paths.find_data` finds it.

    Raises:
        DataError: a file is missing, or differs from the shipped one.
    """
    folder = _folder(folder)
    rows = table("portraits", folder)
    images = np.concatenate([_sheet(folder, f"{split}.jpg", int((rows.split == split).sum())) for split in SPLITS])
    return _face_set("synthetic", images, rows, CLASSES, folder, split=rows.split.to_numpy(str))


def load_sequences(folder: str | Path | None = None) -> FaceSet:
    """Reads the sequences: the last three frames, cropped, of 327 videos of 118 subjects, 981 images with CK+'s labels.

    Args:
        folder: as in :func:`load_portraits`.

    Raises:
        DataError: a file is missing, or differs from the shipped one.
    """
    folder = _folder(folder)
    rows = table("sequences", folder)
    images = _sheet(folder, "sequences.jpg", len(rows))
    sequences = rows.sequence.to_numpy(str)
    return _face_set("synthetic-sequences", images, rows, ckplus.CLASSES, folder, sequences=sequences)


def table(part: str, folder: str | Path | None = None) -> pd.DataFrame:
    """Reads the attributes of each image of a part, in the order of the images.

    ``label``, ``subject`` and ``split`` (portraits) or ``sequence``, ``frame`` and ``frames`` (sequences);
    the amplitude of each label's expression, 0 to 1, in a column of its name; ``yaw`` (to the head's left),
    ``pitch`` (up) and ``roll``, in degrees; ``light_side`` and ``light_up``, the direction of the key light in
    degrees to the camera's right and upwards; ``light_contrast``, the key light's fraction of all light, 0 to 1;
    ``exposure``, 1 for a normal one; ``albedo`` of the skin, 0 to 1; ``hair``; ``occlusion``; ``zoom``; ``blur`` in
    pixels; ``detail``, the resolution before scaling; ``noise`` in gray levels; ``quality`` of JPEG; and for
    sequences ``detected``, whether dlib found the face in this frame.

    >>> table("portraits")[["split", "label", "yaw"]].shape
    (10000, 3)

    Args:
        part: ``"portraits"`` or ``"sequences"``.
        folder: as in :func:`load_portraits`.

    Raises:
        DataError: the file is missing, or differs from the shipped one.
    """
    import pandas as pd

    return pd.read_csv(io.BytesIO(_verified(_folder(folder), f"{part}.csv")), keep_default_na=False)


def accuracy_by(
    correct: np.ndarray, values: np.ndarray | pd.Series, bins: Sequence[float] | int | None = None
) -> pd.DataFrame:
    """Accuracy as a function of an attribute of the images, e.g. ``table(...).yaw``.

    Args:
        correct: bool, (N,), whether each prediction is correct.
        values: numbers or words, (N,).
        bins: the edges of intervals (images outside all of them don't count), or the number of intervals with
            equally many images; None makes each value its own group.

    Returns:
        A row for each group: ``group``, ``center`` (mean of the values; NaN for words), ``n``,
        ``accuracy``, and ``low`` and ``high`` of its 95 % interval (Wilson).

    Raises:
        ValueError: the lengths differ.
    """
    import pandas as pd
    from scipy.stats import binomtest

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
        low, high = binomtest(int(rows.sum()), len(rows)).proportion_ci(method="wilson")
        inside = values[rows.index]
        center = float(inside.mean()) if pd.api.types.is_numeric_dtype(inside) else float("nan")
        found.append((group, center, len(rows), float(rows.mean()), low, high))
    return pd.DataFrame(found, columns=["group", "center", "n", "accuracy", "low", "high"])


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


def _folder(folder: str | Path | None) -> Path:
    return find_data("synthetic") if folder is None else Path(folder)


def _remedy() -> str:
    """How to get the files back."""
    if (package_data().parent / ".git").exists():
        return "It ships with the library: restore it with `git checkout -- data/synthetic`."
    return "It ships with the library: reinstall it with `pip install --force-reinstall fertools`."


def _verified(folder: Path, name: str) -> bytes:
    """A file's bytes, if they are the shipped ones."""
    path, sums = folder / name, folder / "SHA256SUMS"
    for needed in (sums, path):
        if not needed.is_file():
            raise DataError(f"{needed}: no such file. {_remedy()}")
    lines = sums.read_text(errors="replace").splitlines()
    expected = {file: digest for digest, _, file in (line.partition("  ") for line in lines)}
    content = path.read_bytes()
    if hashlib.sha256(content).hexdigest() != expected.get(name):
        raise DataError(f"{path} does not match {sums.name}: it is damaged or was changed. {_remedy()}")
    return content


# --- Sheets -----------------------------------------------------------------------------------


def _sheet(folder: Path, name: str, count: int) -> np.ndarray:
    """The first ``count`` tiles of a sheet: uint8 (count, 48, 48)."""
    with Image.open(io.BytesIO(_verified(folder, name))) as image:
        pixels = np.asarray(image)
    if pixels.shape != (-(-count // COLUMNS) * IMAGE_SIZE, COLUMNS * IMAGE_SIZE):
        raise DataError(f"{folder / name} has {pixels.shape} pixels, which do not fit {count} tiles. {_remedy()}")
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
    """Writes rows with the same keys as CSV."""
    import pandas as pd

    with atomic_write(path) as part:
        pd.DataFrame(rows).to_csv(part, index=False)


def write_checksums(folder: Path) -> None:
    """Writes ``SHA256SUMS`` of the folder's images and tables, for ``sha256sum -c``."""
    kinds = ("*.jpg", "*.csv", "*.png", "*.txt")
    files = sorted(p for kind in kinds for p in folder.rglob(kind) if ".parts" not in p.parts)
    sums = [file_digest(p).removeprefix("sha256:") for p in files]
    lines = [f"{digest}  {p.relative_to(folder).as_posix()}\n" for digest, p in zip(sums, files, strict=True)]
    with atomic_write(folder / "SHA256SUMS") as part:
        part.write_text("".join(lines))
