"""CK+, the Extended Cohn-Kanade database, as published and as the crops known as CK+48.

Lucey, Cohn, Kanade, Saragih, Ambadar and Matthews, "The Extended Cohn-Kanade Dataset (CK+): A complete
dataset for action unit and emotion-specified expression", CVPR Workshops 2010. 327 of its sequences have an
emotion label; each runs from a neutral face to the expression's peak. As in section 3.1 of the paper, the
last three frames of every labeled sequence are used: 981 images of 118 subjects.
"""

from __future__ import annotations

import re
import warnings
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tqdm import tqdm

from fertools import IMAGE_SIZE
from fertools.data import cache
from fertools.data.faces import LIFT, MARGIN, choose, crop, detect, read_image
from fertools.data.faceset import DataError, FaceSet
from fertools.paths import find_data

CLASSES = ("anger", "contempt", "disgust", "fear", "happy", "sad", "surprise")
# CK+ numbers them 1 to 7 in this order. The names are FER2013's, except for contempt, which FER2013 lacks.
CK48_FOLDERS = ("anger", "contempt", "disgust", "fear", "happy", "sadness", "surprise")

FRAMES = 3  # the last ones of each sequence
SEQUENCES = (45, 18, 59, 25, 69, 28, 83)  # labeled sequences of each class, 327 in total
SUBJECTS = 118
VERSION = 1  # increased when the same frames would give other crops

WHERE = (
    "Researchers get CK+ from its authors (J. F. Cohn's group, University of Pittsburgh) under a signed "
    "agreement: request the Extended Cohn-Kanade database. "
)
PLACE = WHERE + (
    "Place it so that data/CK+/cohn-kanade-images/S005/001/S005_001_00000001.png and "
    "data/CK+/Emotion/S005/001/S005_001_00000011_emotion.txt exist."
)
PLACE_48 = WHERE + (
    "CK+48 contains crops made from it. Place it so that data/CK+48/anger/S010_004_00000017.png exists."
)


@dataclass(frozen=True)
class _Sequence:
    """A labeled sequence: its name, e.g. ``"S010_004"``, index into CLASSES, and frames in order."""

    name: str
    label: int
    frames: tuple[Path, ...]

    @property
    def subject(self) -> str:
        return self.name.split("_")[0]


def load_ckplus48(folder: str | Path | None = None, *, verify: bool = True) -> FaceSet:
    """Reads CK+48: ``<class>/Sxxx_yyy_zzzzzzzz.png``, 48x48, subject xxx, sequence yyy, frame zzzzzzzz.

    Rows are sorted by file name regardless of class, so that they are in the same order as those of
    :func:`load_ckplus`.

    Args:
        folder: contains one folder per class; by default ``CK+48`` where :func:`fertools.paths.find_data` finds it.
        verify: also check that all 981 images are there, class by class.

    Raises:
        DataError: the folder is missing, or a file or folder in it is not as expected.
    """
    folder = find_data("CK+48") if folder is None else Path(folder)
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder. {PLACE_48}")
    sequences = _sequences_of_crops(folder)
    if verify:
        _verify(sequences, folder)
    images = np.stack([_read_crop(file) for sequence in sequences for file in sequence.frames])
    return _face_set("ckplus48", sequences, images, folder)


def load_ckplus(folder: str | Path | None = None, *, verify: bool = True, progress: bool = True) -> FaceSet:
    """Reads CK+ in its published layout: the last three frames of each labeled sequence, faces detected by dlib.

    Frames are ``cohn-kanade-images/S005/001/S005_001_00000011.png``, labels
    ``Emotion/S005/001/S005_001_00000011_emotion.txt``; a sequence without a label file is skipped. The largest
    face is cropped by :func:`fertools.data.faces.crop`. If dlib finds none in a frame, the box of the nearest of
    the other two frames is used, since people hardly move in between. If it finds none in all three, it searches
    them again at twice the size. If that fails too, the sequence is left out, with a warning that names it.

    The crops are kept in ``folder`` as ``.ckplus.cache.npz`` and read from there until a frame, a label, or
    the cropping changes.

    Args:
        folder: contains ``cohn-kanade-images`` and ``Emotion``; by default ``CK+`` where
            :func:`fertools.paths.find_data` finds it.
        verify: also check that all 327 labeled sequences are there, class by class.
        progress: show a progress bar while faces are detected, about a minute.

    Raises:
        DataError: a folder, label, or frame is missing or not as expected, or no face is found at all.
        MissingExtraError: dlib is not installed, and no earlier result is cached.
    """
    folder = find_data("CK+") if folder is None else Path(folder)
    sequences = _labeled_sequences(folder)
    if verify:
        _verify(sequences, folder)
    key = cache.source_key([f for s in sequences for f in s.frames], "ckplus", VERSION, MARGIN, LIFT)
    stored = folder / ".ckplus.cache.npz"
    kept = _usable(cache.read(stored, key), sequences)
    if not kept:
        bar = tqdm(sequences, desc="CK+ faces", unit="sequence", disable=not progress)
        crops = {sequence.name: _crop_sequence(sequence) for sequence in bar}
        kept = {name: np.stack(images) for name, images in crops.items() if images}
        cache.write(stored, key, kept)
    found = [sequence for sequence in sequences if sequence.name in kept]
    if not found:
        raise DataError(f"{folder}: no face was found in any of {len(sequences)} sequences. {PLACE}")
    if len(found) < len(sequences):
        left_out = [sequence.name for sequence in sequences if sequence.name not in kept]
        warnings.warn(
            f"{folder}: no face found in {len(left_out)} of {len(sequences)} sequences, "
            f"left out: {', '.join(left_out)}",
            stacklevel=2,
        )
    return _face_set("ckplus", found, np.concatenate([kept[s.name] for s in found]), folder)


def _usable(kept: dict[str, np.ndarray] | None, sequences: list[_Sequence]) -> dict[str, np.ndarray]:
    """The crops in a cache, by sequence; none if any of them can't be crops of its sequence."""
    crops = {s.name: kept[s.name] for s in sequences if s.name in kept} if kept else {}
    for sequence in sequences:
        images = crops.get(sequence.name)
        shape = (len(sequence.frames), IMAGE_SIZE, IMAGE_SIZE)
        if images is not None and (images.dtype != np.uint8 or images.shape != shape):
            return {}
    return crops


def _face_set(name: str, sequences: list[_Sequence], images: np.ndarray, folder: Path) -> FaceSet:
    rows = [sequence for sequence in sequences for _ in sequence.frames]
    return FaceSet(
        name=name,
        images=images,
        labels=np.array([row.label for row in rows], np.int64),
        classes=CLASSES,
        subjects=np.array([row.subject for row in rows]),
        sequences=np.array([row.name for row in rows]),
        source=str(folder),
    )


def _verify(sequences: list[_Sequence], folder: Path) -> None:
    odd = [sequence for sequence in sequences if len(sequence.frames) != FRAMES]
    if odd:
        raise DataError(
            f"{folder}: sequence {odd[0].name} has {len(odd[0].frames)} frames, but {FRAMES} are expected. "
            "Is a file missing? verify=False reads what is there"
        )
    found = Counter(sequence.label for sequence in sequences)
    for label, expected in enumerate(SEQUENCES):
        if found[label] != expected:
            raise DataError(
                f"{folder}: {found[label]} labeled sequences of class {CLASSES[label]!r}, but CK+ has {expected} "
                f"({expected * FRAMES} images). Is the copy complete? verify=False reads what is there"
            )
    subjects = len({sequence.subject for sequence in sequences})
    if subjects != SUBJECTS:
        raise DataError(f"{folder}: {subjects} subjects, but CK+ has {SUBJECTS} with labels")


# --- CK+48 ------------------------------------------------------------------------------------


def _sequences_of_crops(folder: Path) -> list[_Sequence]:
    found: dict[str, tuple[int, list[Path]]] = {}
    for inner in _visible(folder):
        if not inner.is_dir():
            continue  # e.g. a README next to the folders
        if inner.name not in CK48_FOLDERS:
            raise DataError(f"{inner}: unknown class folder; CK+48 has {', '.join(CK48_FOLDERS)}. {PLACE_48}")
        label = CK48_FOLDERS.index(inner.name)
        for file in _visible(inner):
            name = _sequence_of(file)
            if found.setdefault(name, (label, []))[0] != label:
                raise DataError(
                    f"{file}: sequence {name} is also in folder {CK48_FOLDERS[found[name][0]]!r}, "
                    "but a sequence has one label"
                )
            found[name][1].append(file)
    if not found:
        raise DataError(f"{folder}: no images in it. {PLACE_48}")
    return [_Sequence(name, found[name][0], tuple(found[name][1])) for name in sorted(found)]


def _read_crop(file: Path) -> np.ndarray:
    image = read_image(file)
    if image.shape != (IMAGE_SIZE, IMAGE_SIZE):
        raise DataError(
            f"{file}: {image.shape[1]}x{image.shape[0]} pixels, but CK+48 has {IMAGE_SIZE}x{IMAGE_SIZE}; "
            "load_ckplus reads whole frames"
        )
    return image


# --- CK+ as published -------------------------------------------------------------------------


def _labeled_sequences(folder: Path) -> list[_Sequence]:
    for needed in (folder, folder / "cohn-kanade-images", folder / "Emotion"):
        if not needed.is_dir():
            raise DataError(f"{needed}: no such folder. {PLACE}")
    sequences = []
    for file in sorted((folder / "Emotion").glob("S*/*/S*_emotion.txt")):
        subject, number = file.parts[-3:-1]
        frames = folder / "cohn-kanade-images" / subject / number
        if not frames.is_dir():
            raise DataError(f"{frames}: no such folder, but {file} labels it. {PLACE}")
        last = tuple(_visible(frames))[-FRAMES:]
        if len(last) < FRAMES:
            raise DataError(f"{frames}: {len(last)} frames, but at least {FRAMES} are expected")
        name = f"{subject}_{number}"
        for frame in last:
            if _sequence_of(frame) != name:
                raise DataError(f"{frame}: expected a name like {name}_00000011.png in this folder")
        sequences.append(_Sequence(name, _read_label(file), last))
    if not sequences:
        raise DataError(f"{folder / 'Emotion'}: no label file S*/*/S*_emotion.txt in it. {PLACE}")
    return sequences


def _read_label(file: Path) -> int:
    text = file.read_text(errors="replace").strip()
    try:
        label = int(float(text))
        if label != float(text) or not 1 <= label <= len(CLASSES):
            raise ValueError
    except (ValueError, OverflowError) as error:
        meaning = ", ".join(f"{i} {name}" for i, name in enumerate(CLASSES, 1))
        raise DataError(f"{file}: contains {text[:40]!r}, but one of {meaning} is expected") from error
    return label - 1


def _crop_sequence(sequence: _Sequence) -> list[np.ndarray]:
    """The frames' crops, or none if no face was found in any of them."""
    grays = [read_image(frame) for frame in sequence.frames]
    for upsample in (0, 1):  # CK+'s faces are well above 80 pixels, so they need no upsampling
        boxes = [choose(detect(gray, upsample)) for gray in grays]
        found = {i: box for i, box in enumerate(boxes) if box is not None}
        if found:
            nearest = [min(found, key=lambda j: abs(j - i)) for i in range(len(grays))]
            return [crop(gray, found[j]) for gray, j in zip(grays, nearest, strict=True)]
    return []


# --- Both -------------------------------------------------------------------------------------


def _visible(folder: Path) -> Iterator[Path]:
    """The contents of a folder, sorted by name, without hidden files."""
    return (path for path in sorted(folder.iterdir()) if not path.name.startswith("."))


def _sequence_of(file: Path) -> str:
    """The sequence that a frame belongs to: ``S010_004`` for ``S010_004_00000017.png``."""
    match = re.fullmatch(r"(S\d{3}_\d{3})_\d{8}\.png", file.name)
    if not match:
        raise DataError(f"{file}: not named like a frame, e.g. S010_004_00000017.png")
    return match[1]
