"""FER2013: 35,887 grayscale face images of 48x48 pixels, seven classes, three splits.

Goodfellow et al., "Challenges in Representation Learning: A report on three machine learning
contests", ICONIP 2013. It circulates in several formats, and :func:`load_fer2013` recognizes each:

========================  ===========================================================
``fer2013.csv``           columns ``emotion,pixels,Usage``
``icml_face_data.csv``    columns ``emotion, Usage, pixels``, the same rows
``train.csv``             columns ``emotion,pixels``: only the Training rows
``train/`` and ``test/``  ``<class>/Training_123.jpg``, ``PublicTest_…``, ``PrivateTest_…``
========================  ===========================================================

The ``test.csv`` that comes with ``train.csv`` has no labels, so it can't be read here. Add
``icml_face_data.csv`` from the same download, which then takes precedence.
"""

from __future__ import annotations

import hashlib
import re
import warnings
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from tqdm import tqdm

from fertools import IMAGE_SIZE
from fertools.data.cache import read as read_cache
from fertools.data.cache import source_key
from fertools.data.cache import write as write_cache
from fertools.data.faceset import SPLITS, DataError, FaceSet
from fertools.paths import find_data

CLASSES = ("anger", "disgust", "fear", "happy", "sad", "surprise", "neutral")
COUNTS = {  # images per class, as published
    "Training": (3995, 436, 4097, 7215, 4830, 3171, 4965),
    "PublicTest": (467, 56, 496, 895, 653, 415, 607),
    "PrivateTest": (491, 55, 528, 879, 594, 416, 626),
}
MD5 = {  # of the published files; torchvision.datasets.FER2013 has the same checksums
    "f8428a1edbd21e88f42c73edd2a14f95": "fer2013.csv",
    "b114b9e04e6949e5fe8b6a98b3892b1d": "icml_face_data.csv",
    "3f0dfb3d3fd99c811a1299cb947e3131": "train.csv",
}
# FaceSet.fingerprint of the published rows. A file that was saved again by a spreadsheet or an editor has
# another md5, but this fingerprint if nothing was lost.
FINGERPRINT = "sha256:3d925aaf72eec5f605f09452f114c7e9ad74d509e69bbfcb56a9915dae54081e"
TRAINING_FINGERPRINT = "sha256:d09c9524f8d4f32f17423535f8be32e591dec655612553d01f1ef9cf659735a2"  # of train.csv
_KAGGLE = (
    'the Kaggle competition "Challenges in Representation Learning: Facial Expression Recognition Challenge" '
    "(https://www.kaggle.com/c/challenges-in-representation-learning-facial-expression-recognition-challenge)"
)
WHERE = f"Download FER2013 from {_KAGGLE}"
AGAIN = f"Download it again from {_KAGGLE}"
FORMS = "fer2013.csv, icml_face_data.csv, train.csv, or the folders train/ and test/ with a folder per class"

VERSION = 1  # increased when the same files would give other arrays
_PIXELS = IMAGE_SIZE * IMAGE_SIZE
_FOLDERS = {"angry": 0, **{name: label for label, name in enumerate(CLASSES)}}
_IMAGE_NAME = re.compile(rf"({'|'.join(SPLITS)})_(\d+)\.(?i:jpe?g|png)")


def load_fer2013(path: Path | str | None = None, *, cache: bool = True, verify: bool = True) -> FaceSet:
    """Reads FER2013 from its folder, or from one of its csv files.

    Rows of a csv keep the file's order. Images of the folder format, which have no row number, are sorted by
    split, class, and the number in the file name.

    Args:
        path: a folder that contains one of the formats above (if several, the first in that order is read),
            or a csv file; by default ``fer2013`` where :func:`fertools.paths.find_data` finds it.
        cache: keep the decoded arrays in a hidden file next to the source, such as ``.fer2013.csv.cache.npz``,
            and read them as long as the source hasn't changed. A cache that is damaged, or isn't the published
            data when ``verify`` asks for it, is ignored and written again. If the folder isn't writable, a
            warning says so.
        verify: accept only the published data. A csv is recognized by its md5 or by the fingerprint of its rows,
            a cached csv by the fingerprint alone, and the folder format by its number of images per split and
            class.

    Raises:
        DataError: the data set is missing, damaged, in an unexpected layout, or not the published one. Nothing
            is read in part.
    """
    source = _find(find_data("fer2013") if path is None else Path(path))
    if source.is_file():
        files, ends = [source], _both_ends(source)
        stored = source.with_name(f".{source.name}.cache.npz")
    else:
        files, ends = _image_files(source), ""
        stored = source / ".fer2013.cache.npz"
    key = source_key(files, "fer2013", VERSION, ends)
    if cache and (kept := read_cache(stored, key)):
        faces = _cached(kept, source)
        # The cache itself says which md5 its source had, so only its content counts.
        if faces is not None and not (verify and _differences(faces, md5=None)):
            return faces
    arrays = _read_csv(source) if source.is_file() else _read_images(files)
    faces = _face_set(arrays, source)
    if cache:
        write_cache(stored, key, arrays)
    if verify and (differences := _differences(faces, str(arrays["md5"]))):
        raise DataError(
            f"{source} is not the published FER2013. It has {len(faces):,} of {sum(map(sum, COUNTS.values())):,} "
            f"images: {'; '.join(differences)}. "
            f"{AGAIN}, or read it as it is with verify=False."
        )
    return faces


def _face_set(arrays: Mapping[str, np.ndarray], source: Path) -> FaceSet:
    return FaceSet(
        name="fer2013",
        images=arrays["images"],
        labels=arrays["labels"],
        classes=CLASSES,
        split=arrays["split"],
        source=str(source),
    )


def _cached(arrays: Mapping[str, np.ndarray], source: Path) -> FaceSet | None:
    """The set that a cache contains, or None if its arrays make no set."""
    try:
        return _face_set(arrays, source)
    except (DataError, KeyError, TypeError, IndexError):
        return None


def _find(path: Path) -> Path:
    """The csv file, or the folder that contains ``train/`` and ``test/``."""
    if path.is_file():
        return path
    for name in ("fer2013.csv", "icml_face_data.csv", "train.csv"):
        if (path / name).is_file():
            return path / name
    if (path / "train").is_dir() or (path / "test").is_dir():
        return path
    if not path.is_dir():
        seen = "does not exist"
    elif (path / "test.csv").is_file():
        seen = "contains test.csv, which has no labels, and nothing else that can be read"
    else:
        names = sorted(p.name for p in path.iterdir())
        seen = f"contains {', '.join(names[:8]) or 'nothing'}{', …' if len(names) > 8 else ''}"
    raise DataError(f"FER2013 is not available: {path.resolve()} {seen}. Expected there: {FORMS}. {WHERE}.")


def _read_csv(file: Path) -> dict[str, np.ndarray]:
    """Images, labels, split, and the md5 of the file, in one pass over it."""
    md5 = hashlib.md5(usedforsecurity=False)
    rows = []
    size = file.stat().st_size
    with (
        open(file, "rb") as lines,
        tqdm(total=size, desc=file.name, unit="B", unit_scale=True, leave=False, disable=None) as bar,
        warnings.catch_warnings(),
    ):
        # Before NumPy 2.3, np.fromstring only warns about what is not a number.
        warnings.simplefilter("error", DeprecationWarning)
        for number, line in enumerate(lines, start=1):
            md5.update(line)
            bar.update(len(line))
            if number == 1:
                columns = _columns(file, line)
            elif not line.isspace():
                try:
                    rows.append(_row(columns, line))
                except ValueError as error:
                    cut = "" if line.endswith(b"\n") else " The file ends in the middle of this line: it is truncated."
                    where = f"{file}, line {number}"
                    raise DataError(f"{where}: {error}.{cut} {AGAIN}.") from None
    if not rows:
        raise DataError(f"{file} has no rows ({size} bytes). {WHERE}.")
    labels, images, split = zip(*rows, strict=True)
    return {
        "images": np.stack(images).reshape(-1, IMAGE_SIZE, IMAGE_SIZE),
        "labels": np.array(labels, dtype=np.int64),
        "split": np.array(split),
        "md5": np.array(md5.hexdigest()),
    }


def _columns(file: Path, header: bytes) -> list[str]:
    text = header.decode("utf-8-sig", errors="replace").strip()
    columns = [name.strip(' "') for name in text.split(",")]
    if columns == ["pixels"]:
        raise DataError(f"{file} has no labels. Read {FORMS} instead.")
    if sorted(columns) not in (["Usage", "emotion", "pixels"], ["emotion", "pixels"]):
        raise DataError(
            f"{file} has an unexpected layout: its first line is {text[:60]!r}. Expected: 'emotion,pixels,Usage', "
            f"'emotion, Usage, pixels' or 'emotion,pixels'. {WHERE}."
        )
    return columns


def _row(columns: list[str], line: bytes) -> tuple[int, np.ndarray, str]:
    """Label, pixels, and split of one line.

    Raises:
        ValueError: what is wrong with it.
    """
    values = [value.strip(b' "\r\n') for value in line.split(b",")]
    if len(values) != len(columns):
        raise ValueError(f"{len(values)} columns, but the header names {len(columns)}")
    row = dict(zip(columns, values, strict=True))
    label, text, split = row["emotion"], row["pixels"], row.get("Usage", b"Training").decode(errors="replace")
    if not (label.isdigit() and int(label) < len(CLASSES)):
        expected = ", ".join(f"{i} {name}" for i, name in enumerate(CLASSES))
        raise ValueError(f"emotion is {label.decode(errors='replace')!r}; expected is one of {expected}")
    if split not in SPLITS:
        raise ValueError(f"Usage is {split!r}; expected is one of {', '.join(SPLITS)}")
    try:
        pixels = np.fromstring(text, dtype=np.int64, sep=" ") if text else np.empty(0)
    except (ValueError, DeprecationWarning):
        odd = next((value for value in text.split() if not value.isdigit()), text[-20:])
        raise ValueError(f"pixel {odd.decode(errors='replace')!r} is not a whole number") from None
    if len(pixels) != _PIXELS:
        raise ValueError(f"{len(pixels)} pixels, but {IMAGE_SIZE}x{IMAGE_SIZE} = {_PIXELS} are expected")
    if pixels.min() < 0 or pixels.max() > 255:
        at = int(np.flatnonzero((pixels < 0) | (pixels > 255))[0])
        raise ValueError(f"pixel {at + 1} of {_PIXELS} is {pixels[at]}; expected is 0 to 255")
    return int(label), pixels.astype(np.uint8), split


def _image_files(folder: Path) -> list[Path]:
    """The images of the folder format, by split, class, and number."""
    keyed = []
    for part in ("train", "test"):
        for directory in sorted(p for p in (folder / part).glob("*") if p.is_dir()):
            label = _FOLDERS.get(directory.name.lower())
            if label is None:
                raise DataError(f"{directory} is not a class of FER2013; its folders are {', '.join(_FOLDERS)}.")
            for file in directory.iterdir():
                if file.suffix.lower() not in (".jpg", ".jpeg", ".png"):
                    continue
                named = _IMAGE_NAME.fullmatch(file.name)
                if not named or (part == "train") != (named[1] == "Training"):
                    raise DataError(
                        f"{file}: the name does not say which split it belongs to. Expected: Training_123.jpg in "
                        f"train/, PublicTest_123.jpg or PrivateTest_123.jpg in test/. {WHERE}."
                    )
                keyed.append(((SPLITS.index(named[1]), label, int(named[2]), file.name), file))
    if not keyed:
        raise DataError(f"{folder}: no images in train/<class>/ or test/<class>/. {WHERE}.")
    return [file for _, file in sorted(keyed)]


def _read_images(files: list[Path]) -> dict[str, np.ndarray]:
    """As :func:`_read_csv`; the md5 is empty, since there are many files."""
    from PIL import Image

    images = np.empty((len(files), IMAGE_SIZE, IMAGE_SIZE), np.uint8)
    for row, file in enumerate(tqdm(files, desc="FER2013", unit="image", leave=False, disable=None)):
        try:
            with Image.open(file) as image:
                image.load()
        except (OSError, SyntaxError, ValueError) as error:  # what Pillow raises for damaged files
            raise DataError(f"{file} is not a readable image ({error}). {AGAIN}.") from error
        if image.mode != "L" or image.size != (IMAGE_SIZE, IMAGE_SIZE):
            raise DataError(
                f"{file} has {image.size[0]}x{image.size[1]} pixels of mode {image.mode}; "
                f"expected is {IMAGE_SIZE}x{IMAGE_SIZE} in 8-bit grayscale (mode L). {WHERE}."
            )
        images[row] = np.asarray(image)
    return {
        "images": images,
        "labels": np.array([_FOLDERS[file.parent.name.lower()] for file in files], dtype=np.int64),
        "split": np.array([file.name.split("_")[0] for file in files]),
        "md5": np.array(""),
    }


def _differences(faces: FaceSet, md5: str | None) -> list[str]:
    """How a set differs from the published one; empty if it doesn't.

    Args:
        faces: what was read.
        md5: of the csv file; empty for the folder format, None if unknown.
    """
    if md5 in MD5 or faces.fingerprint in (FINGERPRINT, TRAINING_FINGERPRINT):
        return []
    assert faces.split is not None
    found = {s: np.bincount(faces.labels[faces.split == s], minlength=len(CLASSES)) for s in SPLITS}
    wrong = [
        f"{split} {name}: {count:,} found, {expected:,} expected"
        for split in SPLITS
        for name, count, expected in zip(CLASSES, found[split], COUNTS[split], strict=True)
        if count != expected
    ]
    # The folder format's images were saved again as JPEG or PNG, so their gray levels may differ.
    if Path(faces.source).is_dir() and not wrong:
        return []
    details = wrong[:4] + ["…"] * (len(wrong) > 4) or ["the counts agree, the values do not"]
    if md5:
        known = ", ".join(f"{name} {checksum}" for checksum, name in MD5.items())
        details.append(f"the md5 of the file is {md5}, published are {known}")
    return details


def _both_ends(file: Path, length: int = 1 << 20) -> str:
    """A digest of the first and last megabyte: a file can change and keep its modification time."""
    with open(file, "rb") as source:
        digest = hashlib.sha256(source.read(length))
        source.seek(max(0, file.stat().st_size - length))
        digest.update(source.read())
    return digest.hexdigest()
