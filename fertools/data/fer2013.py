"""FER2013: 35,887 gray faces of 48x48 pixels, seven classes, three splits.

Goodfellow et al., "Challenges in Representation Learning: A report on three machine learning
contests", ICONIP 2013. The set goes round in several forms; :func:`load` knows each by what it finds:

========================  ===========================================================
``fer2013.csv``           columns ``emotion,pixels,Usage``
``icml_face_data.csv``    columns ``emotion, Usage, pixels``, the same rows
``train.csv``             columns ``emotion,pixels``: the Training rows alone
``train/`` and ``test/``  ``<class>/Training_123.jpg``, ``PublicTest_…``, ``PrivateTest_…``
========================  ===========================================================

``train.csv`` comes with a ``test.csv`` that has no labels, so it cannot be read here; put
``icml_face_data.csv`` from the same download beside it, which is then preferred.
"""

from __future__ import annotations

import hashlib
import re
import warnings
from pathlib import Path

import numpy as np
from tqdm import tqdm

from fertools import IMAGE_SIZE
from fertools.data.cache import read as read_cache
from fertools.data.cache import source_key
from fertools.data.cache import write as write_cache
from fertools.data.faceset import SPLITS, DataError, FaceSet

CLASSES = ("anger", "disgust", "fear", "happy", "sad", "surprise", "neutral")
COUNTS = {  # images per class, as published
    "Training": (3995, 436, 4097, 7215, 4830, 3171, 4965),
    "PublicTest": (467, 56, 496, 895, 653, 415, 607),
    "PrivateTest": (491, 55, 528, 879, 594, 416, 626),
}
MD5 = {  # the files as published; torchvision.datasets.FER2013 knows them by the same sums
    "f8428a1edbd21e88f42c73edd2a14f95": "fer2013.csv",
    "b114b9e04e6949e5fe8b6a98b3892b1d": "icml_face_data.csv",
    "3f0dfb3d3fd99c811a1299cb947e3131": "train.csv",
}
FINGERPRINT = "sha256:3d925aaf72eec5f605f09452f114c7e9ad74d509e69bbfcb56a9915dae54081e"
# FaceSet.fingerprint of the published rows: a file that a spreadsheet or an editor wrote again
# has another md5, but this one where nothing was lost.
WHERE = (
    "FER2013 is had from the Kaggle competition "
    '"Challenges in Representation Learning: Facial Expression Recognition Challenge" '
    "(https://www.kaggle.com/c/challenges-in-representation-learning-facial-expression-recognition-challenge)"
)
FORMS = "fer2013.csv, icml_face_data.csv, train.csv, or the folders train/ and test/ with a folder per class"

VERSION = 1  # raised when the same files would give other arrays
_PIXELS = IMAGE_SIZE * IMAGE_SIZE
_FOLDERS = {"angry": 0, **{name: label for label, name in enumerate(CLASSES)}}
_IMAGE_NAME = re.compile(rf"({'|'.join(SPLITS)})_(\d+)\.(?i:jpe?g|png)")


def load(path: Path | str = "data/fer2013", *, cache: bool = True, verify: bool = True) -> FaceSet:
    """Reads FER2013 from its folder, or from one of its csv files.

    The rows of a csv keep the file's order. Those of the folder form, whose images carry no row
    number, are sorted by split, class and the number in the name.

    Args:
        path: the folder that holds any of the forms above (the first one found is read, in that
            order), or a csv file.
        cache: keep the decoded set in one hidden file beside the source, such as
            ``.fer2013.csv.cache.npz``, and read that as long as the source is unchanged. A damaged
            cache is made again; where nothing may be written, a warning says that none is kept.
        verify: accept only the published data: by the md5 of the file or the content of its rows,
            and for the folder form by the number of images per split and class.

    Raises:
        DataError: there is no such set, it is damaged or laid out otherwise, or it is not the
            published one. Nothing is half-read.
    """
    source = _find(Path(path))
    if source.is_file():
        files, ends = [source], _both_ends(source)
        stored = source.with_name(f".{source.name}.cache.npz")
    else:
        files, ends = _image_files(source), ""
        stored = source / ".fer2013.cache.npz"
    key = source_key(files, "fer2013", VERSION, ends)
    kept = read_cache(stored, key) if cache else None
    arrays = kept or (_read_csv(source) if source.is_file() else _read_images(files))
    faces = FaceSet(
        name="fer2013",
        images=arrays["images"],
        labels=arrays["labels"],
        classes=CLASSES,
        split=arrays["split"],
        source=str(source),
    )
    if cache and kept is None:
        write_cache(stored, key, arrays)
    if verify:
        # A cache says itself which md5 its source had, so its arrays have to speak for themselves.
        _verify(faces, str(arrays["md5"]), trusted=kept is None)
    return faces


def _find(path: Path) -> Path:
    """The csv file, or the folder that holds ``train/`` and ``test/``."""
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
        seen = "holds test.csv, which has no labels, and nothing else that can be read"
    else:
        names = sorted(p.name for p in path.iterdir())
        seen = f"holds {', '.join(names[:8]) or 'nothing'}{', …' if len(names) > 8 else ''}"
    raise DataError(f"no FER2013 here: {path.resolve()} {seen}. Wanted there: {FORMS}. {WHERE}.")


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
        # Before NumPy 2.3, np.fromstring only warns of what is not a number.
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
                    cut = "" if line.endswith(b"\n") else " The file ends within this line: it is truncated."
                    where = f"{file}, line {number}"
                    raise DataError(f"{where}: {error}.{cut} Fetch it again: {WHERE}.") from None
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
            f"{file} is laid out otherwise: its first line is {text[:60]!r}. Wanted: 'emotion,pixels,Usage', "
            f"'emotion, Usage, pixels' or 'emotion,pixels'. {WHERE}."
        )
    return columns


def _row(columns: list[str], line: bytes) -> tuple[int, np.ndarray, str]:
    """Label, pixels and split of one line; ValueError says what is wrong with it."""
    values = [value.strip(b' "\r\n') for value in line.split(b",")]
    if len(values) != len(columns):
        raise ValueError(f"{len(values)} columns where the header names {len(columns)}")
    row = dict(zip(columns, values, strict=True))
    label, text, split = row["emotion"], row["pixels"], row.get("Usage", b"Training").decode(errors="replace")
    if not (label.isdigit() and int(label) < len(CLASSES)):
        wanted = ", ".join(f"{i} {name}" for i, name in enumerate(CLASSES))
        raise ValueError(f"emotion is {label.decode(errors='replace')!r}; wanted is one of {wanted}")
    if split not in SPLITS:
        raise ValueError(f"Usage is {split!r}; wanted is one of {', '.join(SPLITS)}")
    try:
        pixels = np.fromstring(text, dtype=np.int64, sep=" ") if text else np.empty(0)
    except (ValueError, DeprecationWarning):
        odd = next((value for value in text.split() if not value.isdigit()), text[-20:])
        raise ValueError(f"pixel {odd.decode(errors='replace')!r} is not a whole number") from None
    if len(pixels) != _PIXELS:
        raise ValueError(f"{len(pixels)} pixels where {IMAGE_SIZE}x{IMAGE_SIZE} = {_PIXELS} are wanted")
    if pixels.min() < 0 or pixels.max() > 255:
        at = int(np.flatnonzero((pixels < 0) | (pixels > 255))[0])
        raise ValueError(f"pixel {at + 1} of {_PIXELS} is {pixels[at]}; wanted is 0 to 255")
    return int(label), pixels.astype(np.uint8), split


def _image_files(folder: Path) -> list[Path]:
    """The images of the folder form, by split, class and number."""
    keyed = []
    for part in ("train", "test"):
        for directory in sorted(p for p in (folder / part).glob("*") if p.is_dir()):
            label = _FOLDERS.get(directory.name.lower())
            if label is None:
                raise DataError(f"{directory} is no class of FER2013; its folders are {', '.join(_FOLDERS)}.")
            for file in directory.iterdir():
                if file.suffix.lower() not in (".jpg", ".jpeg", ".png"):
                    continue
                named = _IMAGE_NAME.fullmatch(file.name)
                if not named or (part == "train") != (named[1] == "Training"):
                    raise DataError(
                        f"{file}: the name does not tell the split. Wanted: Training_123.jpg in train/, "
                        f"PublicTest_123.jpg or PrivateTest_123.jpg in test/. {WHERE}."
                    )
                keyed.append(((SPLITS.index(named[1]), label, int(named[2]), file.name), file))
    if not keyed:
        raise DataError(f"{folder}: no images in train/<class>/ or test/<class>/. {WHERE}.")
    return [file for _, file in sorted(keyed)]


def _read_images(files: list[Path]) -> dict[str, np.ndarray]:
    """As :func:`_read_csv`; the md5 is empty, since the files are many."""
    from PIL import Image

    images = np.empty((len(files), IMAGE_SIZE, IMAGE_SIZE), np.uint8)
    for row, file in enumerate(tqdm(files, desc="FER2013", unit="image", leave=False, disable=None)):
        try:
            with Image.open(file) as image:
                image.load()
        except (OSError, SyntaxError, ValueError) as error:  # Pillow's words for damage of any kind
            raise DataError(f"{file} is not a readable image ({error}). Fetch it again: {WHERE}.") from error
        if image.mode != "L" or image.size != (IMAGE_SIZE, IMAGE_SIZE):
            raise DataError(
                f"{file} is {image.size[0]}x{image.size[1]} pixels of mode {image.mode}; "
                f"wanted is {IMAGE_SIZE}x{IMAGE_SIZE} of 8-bit gray (mode L). {WHERE}."
            )
        images[row] = np.asarray(image)
    return {
        "images": images,
        "labels": np.array([_FOLDERS[file.parent.name.lower()] for file in files], dtype=np.int64),
        "split": np.array([file.name.split("_")[0] for file in files]),
        "md5": np.array(""),
    }


def _verify(faces: FaceSet, md5: str, trusted: bool = True) -> None:
    """Refuses what is not the published set; ``md5`` is empty for the folder form, and may not be trusted."""
    assert faces.split is not None
    found = {s: np.bincount(faces.labels[faces.split == s], minlength=len(CLASSES)) for s in SPLITS}
    wrong = [
        f"{split} {name}: {count:,} found, {wanted:,} wanted"
        for split in SPLITS
        for name, count, wanted in zip(CLASSES, found[split], COUNTS[split], strict=True)
        if count != wanted
    ]
    if (md5 in MD5 and trusted) or (not wrong and (not md5 or faces.fingerprint == FINGERPRINT)):
        return
    details = wrong[:4] + ["…"] * (len(wrong) > 4) or ["the counts agree, the values do not"]
    if md5:
        sums = ", ".join(f"{name} {known}" for known, name in MD5.items())
        details.append(f"the md5 of the file is {md5}, published are {sums}")
    raise DataError(
        f"{faces.source} is not the published FER2013. It holds {len(faces):,} images of "
        f"{sum(map(sum, COUNTS.values())):,}: {'; '.join(details)}. "
        f"Fetch it again, or read it as it is with verify=False. {WHERE}."
    )


def _both_ends(file: Path, length: int = 1 << 20) -> str:
    """A digest of the first and last megabyte, since a file's time can outlive a change of it."""
    with open(file, "rb") as source:
        digest = hashlib.sha256(source.read(length))
        source.seek(max(0, file.stat().st_size - length))
        digest.update(source.read())
    return digest.hexdigest()
