"""Duplicates in a data set, their conflicting labels, and data leakage between its splits."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from tqdm import tqdm

from fertools.data.faceset import DataError, FaceSet


@dataclass(frozen=True, eq=False)
class Audit:
    """The result of :func:`audit_faces`; ``str()`` gives a report. Rows are indices into the set.

    Attributes:
        name: the data set.
        images: the number of images.
        distinct: the number of images that differ, compared pixel by pixel.
        duplicates: groups of two or more rows with identical images.
        conflicting: those ``duplicates`` whose rows have different labels.
        constant: rows whose pixels all have the same value.
        within: per split, how many images repeat an earlier one of the same split; empty without splits.
        across: ``across["PrivateTest", "Training"]`` is how many images of the first split are
            identical to one of the second; empty without splits.
        near: (P, 2), near-duplicates: pairs of rows whose perceptual hashes differ by at most ``distance``
            bits, but that aren't identical. Only the first of several identical images is compared, and
            constant images are left out.
        near_across: how many pairs of ``near`` are in different splits.
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
            (len(self.conflicting), "of these groups have conflicting labels"),
            (len(self.constant), "images whose pixels all have the same value"),
            *((n, f"{split} images repeat an earlier one of {split}") for split, n in self.within.items()),
            *((n, f"{split} images are identical to one of {into}") for (split, into), n in self.across.items()),
            (len(self.near), f"pairs of near-duplicates (perceptual hashes within {self.distance} of 64 bits)"),
        ]
        if self.within:
            lines.append((self.near_across, "of these pairs are in two splits"))
        return "\n".join([self.name, *(f"{n:>9,}  {what}" for n, what in lines)])


def audit_faces(faces: FaceSet, distance: int = 4) -> Audit:
    """Finds duplicates within and across splits, conflicting labels, and blank images.

    The perceptual hash is the 64-bit DCT hash of the package ``imagehash``. Half of its bits are set, so distances
    are even. On FER2013, pairs at a distance of up to 4 are mostly two versions of the same photo, cropped or
    exposed differently; from 8 on they are mostly different people. FER2013 takes about ten seconds.

    Args:
        faces: any set, with or without splits.
        distance: see :class:`Audit`, in bits.
    """
    seen: dict[bytes, int] = {}
    identity = np.array([seen.setdefault(image.tobytes(), len(seen)) for image in faces.images], np.int64)
    _, first, copies = np.unique(identity, return_index=True, return_counts=True)
    by_identity = np.split(np.argsort(identity, kind="stable"), np.cumsum(copies)[:-1])
    duplicates = tuple(rows for rows in by_identity if len(rows) > 1)
    constant = faces.images.min(axis=(1, 2), initial=255) == faces.images.max(axis=(1, 2), initial=0)
    near = near_duplicates(faces.images, first[~constant[first]], distance)

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
    """The numbers of :func:`audit_faces`, without any images, so that they may be shared when the data may not.

    Args:
        faces: a set with splits.
        found: its audit, if it was done already.

    Returns:
        Plain JSON types: ``name``, ``fingerprint`` and ``classes``; ``counts``, images by split and class; the
        numbers of ``images``, ``distinct``, ``groups`` of identical images, ``conflicting`` groups, ``constant``,
        ``within``, and ``near`` as in :class:`Audit`; ``across[a][b]``, images of split a that are identical to
        one of b; ``same_label[a][b]``, how many of these have the label of such an image.

    Raises:
        DataError: the set has no splits.
    """
    if faces.split is None:
        raise DataError(f"{faces.name} has no splits, so nothing can leak between them")
    found = found or audit_faces(faces)
    parts = {str(split): faces.of_split(split) for split in np.unique(faces.split)}
    labeled = {
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
                b: sum((i.tobytes(), int(k)) in labeled[b] for i, k in zip(part.images, part.labels, strict=True))
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
    """Finds the images of ``split`` that are identical to one of ``into``.

    To evaluate without the images that the network was trained on::

        test = faces.of_split("PrivateTest")
        deduplicated = test.select(~leaked(faces, "PrivateTest"))

    Returns:
        bool, one for each row of ``faces.of_split(split)``.

    Raises:
        DataError: the set has no such split, or both are the same.
    """
    if split == into:
        raise DataError(f"{split} cannot leak into itself; name two splits")
    known = {image.tobytes() for image in faces.of_split(into).images}
    return np.array([image.tobytes() in known for image in faces.of_split(split).images], dtype=bool)


def near_duplicates(images: np.ndarray, rows: np.ndarray, distance: int) -> np.ndarray:
    """Pairs of ``rows`` whose images have perceptual hashes that differ by at most ``distance`` bits.

    Args:
        images: uint8, (N, 48, 48).
        rows: the rows to compare, each with every other.
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
    words = hashes.reshape(-1, 8).view(np.uint64)[:, 0]  # as one word, so that XOR and popcount compare 64 bits at once
    pairs = [np.empty((0, 2), dtype=np.int64)]
    for start in range(0, len(words), 256):
        differing = np.bitwise_count(words[start : start + 256, None] ^ words[None, start:])
        a, b = np.nonzero(differing <= distance)
        pairs.append(np.stack([rows[start + a[a < b]], rows[start + b[a < b]]], axis=1))
    return np.concatenate(pairs)
