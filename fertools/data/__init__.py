"""Data sets of faces, each read into the same :class:`FaceSet`.

The synthetic faces come with the project; no photograph does: place the sets that you have been given
under ``data/``.

=======================  ===========================  ==================================================
name                     place                        what it is
=======================  ===========================  ==================================================
``synthetic``            ``synthetic/``               rendered portraits with eight labels
``synthetic-sequences``  ``synthetic/``               rendered films, last frames cropped, as CK+'s
``fer2013``              ``fer2013/``                 FER2013, in any of its public forms
``ferplus``              ``ferplus/fer2013new.csv``   FER2013 with the votes of FER+ joined to it
``ckplus``               ``CK+/``                     CK+ as published, faces found and cropped here
``ckplus48``             ``CK+48/``                   CK+ as ready crops of 48x48
=======================  ===========================  ==================================================

``fertools.data.splits`` draws cross-validation folds, ``fertools.data.audit`` looks for duplicates
and leaks, ``fertools.data.faces`` finds faces in photographs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fertools.data.faceset import SPLITS, DataError, FaceSet

__all__ = ["SPLITS", "DataError", "FaceSet", "Item", "inventory", "load"]


def _synthetic(root: Path) -> FaceSet:
    from fertools.data import synthetic

    return synthetic.load_portraits(root / PLACES["synthetic"])


def _synthetic_sequences(root: Path) -> FaceSet:
    from fertools.data import synthetic

    return synthetic.load_sequences(root / PLACES["synthetic-sequences"])


def _fer2013(root: Path) -> FaceSet:
    from fertools.data import fer2013

    return fer2013.load(root / PLACES["fer2013"])


def _ferplus(root: Path) -> FaceSet:
    from fertools.data import ferplus

    return ferplus.with_votes(_fer2013(root), root / PLACES["ferplus"])


def _ckplus(root: Path) -> FaceSet:
    from fertools.data import ckplus

    return ckplus.load_ckplus(root / PLACES["ckplus"])


def _ckplus48(root: Path) -> FaceSet:
    from fertools.data import ckplus

    return ckplus.load_ckplus48(root / PLACES["ckplus48"])


PLACES = {
    "synthetic": "synthetic",
    "synthetic-sequences": "synthetic",
    "fer2013": "fer2013",
    "ferplus": "ferplus/fer2013new.csv",
    "ckplus": "CK+",
    "ckplus48": "CK+48",
}
_READERS: dict[str, Callable[[Path], FaceSet]] = {
    "synthetic": _synthetic,
    "synthetic-sequences": _synthetic_sequences,
    "fer2013": _fer2013,
    "ferplus": _ferplus,
    "ckplus": _ckplus,
    "ckplus48": _ckplus48,
}


def load(name: str, root: Path | str = "data") -> FaceSet:
    """Reads a data set by its name in the table above.

    Case does not matter, and ``+`` stands for ``plus``: ``"CK+48"`` is ``"ckplus48"``.

    Args:
        name: e.g. ``"synthetic"``.
        root: the folder that holds the sets.

    Raises:
        DataError: no set is called so, or it is missing, damaged or laid out otherwise.
        ImportError: ``ckplus`` needs dlib to find the faces, and it is not installed.
    """
    reader = _READERS.get(name.lower().replace("+", "plus"))
    if reader is None:
        raise DataError(f"no data set is called {name!r}; known are {', '.join(_READERS)}")
    return reader(Path(root))


@dataclass(frozen=True)
class Item:
    """What :func:`inventory` found of one data set; ``str()`` of it is a few lines to print.

    Attributes:
        name: as :func:`load` takes it.
        place: the file or folder where it is looked for.
        images: how many; 0 where the set could not be read.
        counts: images by split and class; the split is ``"all"`` for a set without splits.
        fingerprint: of :class:`FaceSet`.
        problem: what is missing or wrong and where the set is had; empty where it was read.
    """

    name: str
    place: Path
    images: int = 0
    counts: dict[str, dict[str, int]] | None = None
    fingerprint: str = ""
    problem: str = ""

    @property
    def present(self) -> bool:
        """Whether the set could be read."""
        return not self.problem

    def __str__(self) -> str:
        if not self.present:
            return f"{self.name}: not there\n  {self.problem}"
        lines = [f"{self.name}: {self.images:,} images in {self.place}", f"  {self.fingerprint}"]
        for split, counts in (self.counts or {}).items():
            classes = "  ".join(f"{name} {n:,}" for name, n in counts.items())
            lines.append(f"  {split:<11} {sum(counts.values()):>6,}  {classes}")
        return "\n".join(lines)


def inventory(root: Path | str = "data") -> list[Item]:
    """Reads every known data set and tells what is there, and what is missing and where it is had.

    What is missing or damaged is an :class:`Item` with a ``problem``, never an exception.
    """
    items = []
    for name, place in PLACES.items():
        where = Path(root) / place
        try:
            faces = load(name, root)
        except (DataError, ImportError, OSError) as error:
            items.append(Item(name, where, problem=str(error)))
            continue
        if faces.split is None:
            counts = {"all": faces.counts()}
        else:
            counts = {s: faces.of_split(s).counts() for s in SPLITS if np.any(faces.split == s)}
        items.append(Item(name, where, len(faces), counts, faces.fingerprint))
    return items
