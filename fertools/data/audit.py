"""What a data set holds twice, labels twice, or leaks from one split into another."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from tqdm import tqdm

from fertools.data.faceset import DataError, FaceSet


@dataclass(frozen=True, eq=False)
class Audit:
    """The findings of :func:`audit`; ``str()`` of it is a report. Rows are indices into the set.

    Attributes:
        name: the data set.
        images: how many it holds.
        distinct: how many different ones, pixel by pixel.
        duplicates: the groups of rows whose images are identical, two rows or more each.
        conflicting: those of ``duplicates`` whose rows do not all have the same label.
        constant: the rows whose pixels are all the same.
        within: per split, how many of its images occur in it before; empty without splits.
        across: ``across["PrivateTest", "Training"]`` is how many images of the first split are
            identical to one of the second; empty without splits.
        near: (P, 2), pairs of rows that look alike and are not identical: their perceptual hashes
            differ by at most ``distance`` bits. Of identical images only the first is compared,
            and constant ones are left out.
        near_across: how many pairs of ``near`` have their rows in different splits.
        distance: the largest Hamming distance of the 64-bit hashes that counts as near.
    """

    name: str
    images: int
    distinct: int
    duplicates: tuple[np.ndarray, ...]
    conflicting: tuple[np.ndarray, ...]
    constant: np.ndarray
    within: dict[str, int]
    across: dict[tuple[str, str], int]
    near: np.ndarray
    near_across: int
    distance: int

    def __str__(self) -> str:
        lines = [
            (self.images, "images"),
            (self.distinct, "distinct images"),
            (len(self.duplicates), "groups of identical images"),
            (len(self.conflicting), "of these groups with conflicting labels"),
            (len(self.constant), "images of one single gray"),
            *((n, f"{split} images that repeat an earlier one of it") for split, n in self.within.items()),
            *((n, f"{split} images identical to one of {into}") for (split, into), n in self.across.items()),
            (len(self.near), f"pairs that look alike (perceptual hashes within {self.distance} of 64 bits)"),
        ]
        if self.within:
            lines.append((self.near_across, "of these pairs across two splits"))
        return "\n".join([self.name, *(f"{n:>9,}  {what}" for n, what in lines)])


def audit(faces: FaceSet, distance: int = 4) -> Audit:
    """Looks for duplicates within and across splits, conflicting labels, and images of nothing.

    The perceptual hash is the 64-bit DCT hash of the package ``imagehash``. Half of its bits are
    set, so that distances are even. On FER2013, pairs at a distance of up to 4 are mostly the same
    photograph cut or lit otherwise; from 8 on they are mostly different people.

    Args:
        faces: any set, with splits or without.
        distance: see :class:`Audit`, in bits. FER2013 takes about ten seconds.
    """
    seen: dict[bytes, int] = {}
    identity = np.array([seen.setdefault(image.tobytes(), len(seen)) for image in faces.images], np.int64)
    _, first, copies = np.unique(identity, return_index=True, return_counts=True)
    by_identity = np.split(np.argsort(identity, kind="stable"), np.cumsum(copies)[:-1])
    duplicates = tuple(rows for rows in by_identity if len(rows) > 1)
    constant = faces.images.min(axis=(1, 2), initial=255) == faces.images.max(axis=(1, 2), initial=0)
    near = near_pairs(faces.images, first[~constant[first]], distance)

    within: dict[str, int] = {}
    across: dict[tuple[str, str], int] = {}
    near_across = 0
    if faces.split is not None:
        of = {str(split): identity[faces.split == split] for split in np.unique(faces.split)}
        within = {split: len(ids) - len(np.unique(ids)) for split, ids in of.items()}
        across = {(a, b): int(np.isin(of[a], of[b]).sum()) for a in of for b in of if a != b}
        near_across = int((faces.split[near[:, 0]] != faces.split[near[:, 1]]).sum())

    return Audit(
        name=faces.name,
        images=len(faces),
        distinct=len(first),
        duplicates=duplicates,
        conflicting=tuple(rows for rows in duplicates if len(np.unique(faces.labels[rows])) > 1),
        constant=np.flatnonzero(constant),
        within=within,
        across=across,
        near=near,
        near_across=near_across,
        distance=distance,
    )


def summary(faces: FaceSet, found: Audit | None = None) -> dict[str, Any]:
    """What :func:`audit` finds, in numbers alone: it holds no image, so it may be passed on where the set may not.

    Args:
        faces: a set with splits.
        found: its audit, made here if not given.

    Returns:
        Plain JSON types: ``name``, ``fingerprint`` and ``classes``; ``counts``, images by split and class; the
        numbers of ``images``, ``distinct``, ``groups`` of identical images, ``conflicting`` ones among them,
        ``constant``, ``within`` and ``near`` as in :class:`Audit`; ``across[a][b]``, images of split a that are
        identical to one of b; ``same_label[a][b]``, those of them that have the label of one such image.

    Raises:
        DataError: the set has no splits.
    """
    if faces.split is None:
        raise DataError(f"{faces.name} has no splits: there is nothing to leak from one into another")
    found = found or audit(faces)
    parts = {str(split): faces.of_split(split) for split in np.unique(faces.split)}
    labelled = {
        split: {(image.tobytes(), int(label)) for image, label in zip(part.images, part.labels, strict=True)}
        for split, part in parts.items()
    }
    return {
        "name": faces.name,
        "fingerprint": faces.fingerprint,
        "classes": list(faces.classes),
        "counts": {split: part.counts() for split, part in parts.items()},
        "images": found.images,
        "distinct": found.distinct,
        "groups": len(found.duplicates),
        "conflicting": len(found.conflicting),
        "constant": len(found.constant),
        "within": found.within,
        "across": {a: {b: found.across[a, b] for b in parts if b != a} for a in parts},
        "same_label": {
            a: {
                b: sum((i.tobytes(), int(k)) in labelled[b] for i, k in zip(part.images, part.labels, strict=True))
                for b in parts
                if b != a
            }
            for a, part in parts.items()
        },
        "near": len(found.near),
        "near_across": found.near_across,
        "distance": found.distance,
    }


def leaked(faces: FaceSet, split: str, into: str = "Training") -> np.ndarray:
    """Which images of ``split`` are identical to one of ``into``.

    To score a split without what the network was trained on::

        test = faces.of_split("PrivateTest")
        fair = test.select(~leaked(faces, "PrivateTest"))

    Returns:
        bool, one per row of ``faces.of_split(split)``.

    Raises:
        DataError: the set has no such split.
    """
    if split == into:
        raise DataError(f"{split} cannot leak into itself; name two splits")
    known = {image.tobytes() for image in faces.of_split(into).images}
    return np.array([image.tobytes() in known for image in faces.of_split(split).images], dtype=bool)


def near_pairs(images: np.ndarray, rows: np.ndarray, distance: int) -> np.ndarray:
    """Pairs out of ``rows`` whose images' perceptual hashes differ by at most ``distance`` bits.

    Args:
        images: uint8, (N, 48, 48).
        rows: the rows to compare, each with each.
        distance: Hamming distance, 0 to 64.

    Returns:
        int64, (P, 2), each pair once.
    """
    import imagehash
    from PIL import Image

    hashes = np.array(
        [
            np.packbits(imagehash.phash(Image.fromarray(images[row])).hash)
            for row in tqdm(rows, desc="perceptual hash", unit="image", leave=False, disable=None)
        ],
        dtype=np.uint8,
    )
    words = hashes.reshape(-1, 8).view(np.uint64)[:, 0]  # 64 bits are one word: XOR and popcount in one go
    pairs = [np.empty((0, 2), dtype=np.int64)]
    for start in range(0, len(words), 256):
        differing = np.bitwise_count(words[start : start + 256, None] ^ words[None, start:])
        a, b = np.nonzero(differing <= distance)
        pairs.append(np.stack([rows[start + a[a < b]], rows[start + b[a < b]]], axis=1))
    return np.concatenate(pairs)
