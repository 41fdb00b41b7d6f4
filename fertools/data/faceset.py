"""The one shape that every data set takes here."""

from __future__ import annotations

import base64
import hashlib
import io
from dataclasses import dataclass, replace
from functools import cached_property
from html import escape

import numpy as np

from fertools import IMAGE_SIZE
from fertools.errors import DataError

SPLITS = ("Training", "PublicTest", "PrivateTest")  # as FER2013 calls them
_OPTIONAL = ("split", "subjects", "sequences", "votes")  # the fields that have a value for each image, or are None


@dataclass(frozen=True, eq=False, repr=False)
class FaceSet:
    """Grayscale face images of 48x48 pixels, their labels, and what else is known about each image.

    Attributes:
        name: the data set, e.g. ``"fer2013"``.
        images: uint8, (N, 48, 48), 0 black to 255 white.
        labels: integers, (N,), indices into ``classes``.
        classes: the label names, lower case, in the data set's own order.
        split: strings, (N,), from :data:`SPLITS`, or None if the data set has no splits.
        subjects: strings, (N,), the person in the image, or None if unknown.
        sequences: strings, (N,), the video that the frame is from, unique across subjects, or None if unknown.
        votes: integers, (N, len(vote_classes)), how many annotators chose each label, or None.
        vote_classes: the label names of the columns of ``votes``.
        source: the file or folder that was read, for messages.

    Raises:
        DataError: the arrays contradict each other, or a label or split is out of range.
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
        for field in ("labels", *_OPTIONAL):
            values = getattr(self, field)
            if values is not None and len(values) != n:
                raise DataError(f"{self.name}: {n} images but {len(values)} {field}")
        if self.labels.dtype.kind not in "iu":
            raise DataError(f"{self.name}: labels must be integers, but are {self.labels.dtype}")
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
        """``"sha256:..."`` of images, labels, and classes: equal if and only if these are.

        Integer widths and byte order don't matter, so that it is the same on every platform.
        """
        digest = hashlib.sha256()
        digest.update(np.ascontiguousarray(self.images).data)
        digest.update(np.ascontiguousarray(self.labels, "<i8").data)
        digest.update("\n".join(self.classes).encode())
        return f"sha256:{digest.hexdigest()}"

    @cached_property
    def identity(self) -> dict[str, str]:
        """Everything that a training run depends on: ``fingerprint``, and a digest of each further field that is set.

        A run that was stopped continues only with the same identity.
        """
        found = {"content": self.fingerprint}
        for name in _OPTIONAL:
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

    def __repr__(self) -> str:
        parts = [repr(self.name), f"{len(self):,} images", f"{len(self.classes)} classes"]
        if self.split is not None:
            sizes = {split: sum(counts.values()) for split, counts in self.counts_by_split().items()}
            parts.append("splits: " + ", ".join(f"{split} {n:,}" for split, n in sizes.items()))
        if self.subjects is not None and self.split is None:
            parts.append(f"{len(np.unique(self.subjects)):,} subjects")
        return f"FaceSet({', '.join(parts)})"

    def _repr_html_(self) -> str:
        """For notebooks: counts, and for the synthetic faces a contact sheet.

        Notebooks keep their outputs, and photographs of research data sets must not be passed on. So the faces of
        any other data set appear only if you ask for them with :meth:`to_html`.
        """
        return self.to_html(images=self.name.startswith("synthetic"))

    def to_html(self, images: bool = True, per_class: int = 3) -> str:
        """A table of image counts by split and class, with a contact sheet of the first faces of each class.

        Don't save a notebook that shows photographs from a data set that you may not pass on.

        Args:
            images: whether to show faces.
            per_class: how many of each class.
        """
        names = "".join(f"<th>{escape(name)}</th>" for name in self.classes)
        rows = [f"<tr><th></th>{names}<th>all</th></tr>"]
        if images:
            cells = "".join(f"<td>{self._strip(label, per_class)}</td>" for label in range(len(self.classes)))
            rows.append(f"<tr><td></td>{cells}<td></td></tr>")
        for split, counts in self.counts_by_split().items():
            numbers = "".join(f"<td>{n:,}</td>" for n in [*counts.values(), sum(counts.values())])
            rows.append(f"<tr><th>{split}</th>{numbers}</tr>")
        return f"<p><b>{escape(self.name)}</b>, {len(self):,} images</p><table>{''.join(rows)}</table>"

    def _strip(self, label: int, count: int) -> str:
        """The first images of a class below each other, as an inline PNG."""
        from PIL import Image

        rows = np.flatnonzero(self.labels == label)[:count]
        if not len(rows):
            return ""
        file = io.BytesIO()
        Image.fromarray(np.concatenate(self.images[rows])).save(file, "PNG")
        code = base64.b64encode(file.getvalue()).decode()
        return f'<img alt="{len(rows)} faces labeled {escape(self.classes[label])}" src="data:image/png;base64,{code}">'

    def select(self, rows: np.ndarray) -> FaceSet:
        """The given rows as a new set.

        Args:
            rows: indices, or a bool for each row.
        """

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
            DataError: the set has no splits, or not this one.
        """
        if self.split is None:
            raise DataError(f"{self.name} has no splits; make folds with fertools.data.splits")
        if split not in self.split:
            raise DataError(f"{self.name} has no split {split!r}; it has {', '.join(np.unique(self.split))}")
        return self.select(self.split == split)

    def counts(self) -> dict[str, int]:
        """The number of images of each class, in the order of ``classes``."""
        return self._counts(self.labels)

    def counts_by_split(self) -> dict[str, dict[str, int]]:
        """:meth:`counts` of each split in the order of :data:`SPLITS`; ``"all"`` for a set without splits."""
        if self.split is None:
            return {"all": self.counts()}
        return {s: self._counts(self.labels[self.split == s]) for s in SPLITS if np.any(self.split == s)}

    def _counts(self, labels: np.ndarray) -> dict[str, int]:
        counted = np.bincount(labels, minlength=len(self.classes))
        return {name: int(n) for name, n in zip(self.classes, counted, strict=True)}
