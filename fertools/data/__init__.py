"""Face data sets, each read into the same :class:`FaceSet`.

The synthetic faces ship with the library. Photographs don't: place the data sets that you have access to under
``data/``, or in another folder that the environment variable ``FERTOOLS_DATA`` names.

=======================  ===========================  =====================================================
name                     place                        contents
=======================  ===========================  =====================================================
``synthetic``            ``synthetic/``               rendered portraits with eight labels
``synthetic-sequences``  ``synthetic/``               rendered videos: cropped last frames, as in CK+
``fer2013``              ``fer2013/``                 FER2013, in any of its public formats
``ferplus``              ``ferplus/fer2013new.csv``   FER2013 together with the votes of FER+
``ckplus``               ``CK+/``                     CK+ as published; faces are detected and cropped here
``ckplus48``             ``CK+48/``                   CK+ as ready-made 48x48 crops
=======================  ===========================  =====================================================

:mod:`fertools.data.splits` makes splits and cross-validation folds, :mod:`fertools.data.audit` finds duplicates and
train–test overlap, and :mod:`fertools.data.faces` detects faces in photos.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from fertools.data.faceset import SPLITS, DataError, FaceSet
from fertools.paths import find_data

__all__ = ["SPLITS", "DataError", "FaceSet", "Item", "inventory", "load"]


def _synthetic(root: Path | None) -> FaceSet:
    from fertools.data import synthetic

    return synthetic.load_portraits(find_data(PLACES["synthetic"], root))


def _synthetic_sequences(root: Path | None) -> FaceSet:
    from fertools.data import synthetic

    return synthetic.load_sequences(find_data(PLACES["synthetic-sequences"], root))


def _fer2013(root: Path | None) -> FaceSet:
    from fertools.data import fer2013

    return fer2013.load_fer2013(find_data(PLACES["fer2013"], root))


def _ferplus(root: Path | None) -> FaceSet:
    from fertools.data import ferplus

    return ferplus.join_votes(_fer2013(root), find_data(PLACES["ferplus"], root))


def _ckplus(root: Path | None) -> FaceSet:
    from fertools.data import ckplus

    return ckplus.load_ckplus(find_data(PLACES["ckplus"], root))


def _ckplus48(root: Path | None) -> FaceSet:
    from fertools.data import ckplus

    return ckplus.load_ckplus48(find_data(PLACES["ckplus48"], root))


PLACES = {
    "synthetic": "synthetic",
    "synthetic-sequences": "synthetic",
    "fer2013": "fer2013",
    "ferplus": "ferplus/fer2013new.csv",
    "ckplus": "CK+",
    "ckplus48": "CK+48",
}
_READERS: dict[str, Callable[[Path | None], FaceSet]] = {
    "synthetic": _synthetic,
    "synthetic-sequences": _synthetic_sequences,
    "fer2013": _fer2013,
    "ferplus": _ferplus,
    "ckplus": _ckplus,
    "ckplus48": _ckplus48,
}


def load(name: str, root: Path | str | None = None) -> FaceSet:
    """Reads a data set by its name in the table above.

    Case doesn't matter, and ``+`` is read as ``plus``: ``"CK+48"`` is ``"ckplus48"``.

    >>> load("synthetic")
    FaceSet('synthetic', 10,000 images, 8 classes, splits: Training 8,000, PublicTest 1,000, PrivateTest 1,000)

    Args:
        name: e.g. ``"synthetic"``.
        root: the folder that contains the data sets; by default those of :func:`fertools.paths.data_folders`.

    Raises:
        DataError: there is no data set of this name, or it is missing, damaged, or in an unexpected layout.
        MissingExtraError: ``ckplus`` needs dlib to detect the faces, and it isn't installed.
    """
    reader = _READERS.get(name.lower().replace("+", "plus"))
    if reader is None:
        raise DataError(f"there is no data set {name!r}; choose from {', '.join(_READERS)}")
    return reader(None if root is None else Path(root))


@dataclass(frozen=True)
class Item:
    """What :func:`inventory` found out about one data set; ``str()`` gives a few lines to print.

    Attributes:
        name: as :func:`load` takes it.
        place: the file or folder where it was looked for.
        images: the number of images; 0 if the data set couldn't be read.
        counts: images by split and class; the split is ``"all"`` for a data set without splits.
        fingerprint: see :class:`FaceSet`.
        problem: what is missing or wrong and where to get the data set; empty if it was read.
    """

    name: str
    place: Path
    images: int = 0
    counts: dict[str, dict[str, int]] | None = None
    fingerprint: str = ""
    problem: str = ""

    @property
    def present(self) -> bool:
        """Whether the data set could be read."""
        return not self.problem

    def __str__(self) -> str:
        if not self.present:
            return f"{self.name}: not available\n  {self.problem}"
        lines = [f"{self.name}: {self.images:,} images in {self.place}", f"  {self.fingerprint}"]
        for split, counts in (self.counts or {}).items():
            classes = "  ".join(f"{name} {n:,}" for name, n in counts.items())
            lines.append(f"  {split:<11} {sum(counts.values()):>6,}  {classes}")
        return "\n".join(lines)


def inventory(root: Path | str | None = None) -> list[Item]:
    """Reads every known data set, and reports which are available and where to get the others.

    A missing or damaged data set becomes an :class:`Item` with a ``problem``, never an exception.

    Args:
        root: as in :func:`load`.
    """
    items = []
    for name, place in PLACES.items():
        path = find_data(place, root)
        try:
            faces = load(name, root)
        except (DataError, ImportError, OSError) as error:
            items.append(Item(name, path, problem=str(error)))
            continue
        items.append(Item(name, path, len(faces), faces.counts_by_split(), faces.fingerprint))
    return items
