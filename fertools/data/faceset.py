"""The one shape that every data set takes here."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from fertools import IMAGE_SIZE
from fertools.errors import DataError

SPLITS = ("Training", "PublicTest", "PrivateTest")  # FER2013's own words


@dataclass(frozen=True, eq=False)
class FaceSet:
    """Gray faces of 48x48 pixels with their labels, and what is known of each.

    Attributes:
        name: the data set, e.g. ``"fer2013"``.
        images: uint8, (N, 48, 48), 0 black to 255 white.
        labels: int64, (N,), an index into ``classes``.
        classes: the label names, lower case, in the data set's own order.
        split: (N,) strings out of :data:`SPLITS`, or None where the set has no splits.
        subjects: (N,) strings, who is shown, or None where nobody knows.
        sequences: (N,) strings, unique over subjects, which video a frame is from, or None.
        votes: int64, (N, annotators' classes), how many annotators gave each label, or None.
        vote_classes: the label names of ``votes``' columns.
        source: the file or folder that was read, for messages.
    """

    name: str
    images: np.ndarray
    labels: np.ndarray
    classes: tuple[str, ...]
    split: np.ndarray | None = None
    subjects: np.ndarray | None = None
    sequences: np.ndarray | None = None
    votes: np.ndarray | None = None
    vote_classes: tuple[str, ...] = ()
    source: str = ""

    def __post_init__(self) -> None:
        n = len(self.images)
        if self.images.dtype != np.uint8 or self.images.shape != (n, IMAGE_SIZE, IMAGE_SIZE):
            raise DataError(
                f"{self.name}: images must be uint8 of shape (N, {IMAGE_SIZE}, {IMAGE_SIZE}), "
                f"but are {self.images.dtype} of shape {self.images.shape}"
            )
        for field in ("labels", "split", "subjects", "sequences", "votes"):
            values = getattr(self, field)
            if values is not None and len(values) != n:
                raise DataError(f"{self.name}: {n} images but {len(values)} {field}")
        bad = np.flatnonzero((self.labels < 0) | (self.labels >= len(self.classes)))
        if len(bad):
            raise DataError(
                f"{self.name}: row {bad[0]} has label {self.labels[bad[0]]}; "
                f"labels run from 0 to {len(self.classes) - 1} ({', '.join(self.classes)})"
            )
        if self.split is not None and (odd := set(np.unique(self.split)) - set(SPLITS)):
            raise DataError(f"{self.name}: unknown split {sorted(odd)}; splits are {', '.join(SPLITS)}")

    @cached_property
    def fingerprint(self) -> str:
        """``"sha256:..."`` over images, labels, and classes: equal exactly where the content is."""
        digest = hashlib.sha256()
        digest.update(np.ascontiguousarray(self.images).data)
        digest.update(np.ascontiguousarray(self.labels.astype("<i8")).data)
        digest.update("\n".join(self.classes).encode())
        return f"sha256:{digest.hexdigest()}"

    @cached_property
    def identity(self) -> dict[str, str]:
        """All that a training depends on: ``fingerprint``, and a digest of each field that the set has besides.

        A run that was stopped continues only with the same identity.
        """
        found = {"content": self.fingerprint}
        for name in ("split", "subjects", "sequences", "votes"):
            if (values := getattr(self, name)) is not None:
                plain = np.ascontiguousarray(values, "<i8" if values.dtype.kind in "iu" else "<U")
                digest = hashlib.sha256(repr(plain.shape).encode())
                digest.update(b"\n".join(v.encode() for v in plain.tolist()) if plain.dtype.kind == "U" else plain.data)
                found[name] = f"sha256:{digest.hexdigest()}"
        if self.vote_classes:
            found["vote_classes"] = ",".join(self.vote_classes)
        return found

    def __len__(self) -> int:
        return len(self.images)

    def select(self, rows: np.ndarray) -> FaceSet:
        """The rows that an index or boolean array names, as a set with a fingerprint of its own."""

        def of(values: np.ndarray | None) -> np.ndarray | None:
            return None if values is None else values[rows]

        return replace(
            self,
            images=self.images[rows],
            labels=self.labels[rows],
            split=of(self.split),
            subjects=of(self.subjects),
            sequences=of(self.sequences),
            votes=of(self.votes),
        )

    def of_split(self, split: str) -> FaceSet:
        """The images of one split, e.g. ``"PublicTest"``.

        Raises:
            DataError: the set has no splits, or none of that name.
        """
        if self.split is None:
            raise DataError(f"{self.name} has no splits; draw folds with fertools.data.splits")
        if split not in self.split:
            raise DataError(f"{self.name} has no split {split!r}; it has {', '.join(np.unique(self.split))}")
        return self.select(self.split == split)

    def counts(self) -> dict[str, int]:
        """Images per class, in the order of ``classes``."""
        counted = np.bincount(self.labels, minlength=len(self.classes))
        return {name: int(n) for name, n in zip(self.classes, counted, strict=True)}
