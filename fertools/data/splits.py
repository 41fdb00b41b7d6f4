"""Which images are for training and which for testing: the data set's own splits, or cross-validation folds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from fertools.data.faceset import DataError, FaceSet


def kfold(
    faces: FaceSet, k: int = 10, *, by: Literal["image", "sequence", "subject"] = "image", seed: int = 0
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Makes k stratified cross-validation folds.

    Image-level folds can put frames of one video on both sides, so that accuracy says little about new people.
    Sequence-level folds keep each video together, but not each person. Subject-independent folds test every
    person with a network that was trained without them.

    Args:
        faces: the data set; ``by="sequence"`` needs its sequences, ``by="subject"`` its subjects.
        k: the number of folds, at least 2.
        by: what stays together.
        seed: the same seed makes the same folds.

    Returns:
        k pairs (train rows, test rows), index arrays in increasing order. Each row is a test row of exactly one
        fold. The classes are distributed as evenly as the groups allow: the numbers of images of a class in two
        image-level folds differ by at most one.

    Raises:
        DataError: the sequences or subjects are unknown, or a class has fewer than k of them.
    """
    from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold

    if by not in ("image", "sequence", "subject"):
        raise DataError(f"unknown kind of folds {by!r}: choose from image, sequence, subject")
    if k < 2:
        raise DataError(f"{k} folds: at least 2 are needed, one for testing and one for training")
    groups = {"image": np.arange(len(faces)), "sequence": faces.sequences, "subject": faces.subjects}[by]
    if groups is None:
        raise DataError(f"{faces.name} does not say which {by} an image belongs to; use image-level folds")
    for label in np.unique(faces.labels):
        have = len(np.unique(groups[faces.labels == label]))
        if have < k:
            raise DataError(
                f"{faces.name}: {k} folds by {by} need at least {k} {by}s of each class, "
                f"but {faces.classes[label]!r} has {have}; use at most {have} folds"
            )
    if by == "image":
        return list(StratifiedKFold(k, shuffle=True, random_state=seed).split(faces.labels, faces.labels))
    grouped = StratifiedGroupKFold(k, shuffle=True, random_state=seed)
    return list(grouped.split(faces.labels, faces.labels, groups))


DEDUPLICATED = "PrivateTest, deduplicated"  # without the images that are also in Training


@dataclass(frozen=True)
class Splits:
    """The training set, the validation set that selects the epoch (or None), and the test sets by name."""

    training: FaceSet
    validation: FaceSet | None
    test: dict[str, FaceSet]


def make_splits(
    faces: FaceSet,
    protocol: Literal["splits", "image", "sequence", "subject"] = "splits",
    folds: int = 10,
    fold: int = 0,
    seed: int = 0,
) -> Splits:
    """Splits a data set for one training run.

    Args:
        faces: the whole data set.
        protocol: ``"splits"`` uses the data set's own: PublicTest is for validation, and both PublicTest and
            PrivateTest are test sets. If Training contains images of PrivateTest, PrivateTest without them is
            a test set too, ``"PrivateTest, deduplicated"``. The other protocols make folds at that level: there
            is no validation set, and the test set is one fold, ``"fold"``.
        folds: the number of folds.
        fold: which one is the test set, from 0.
        seed: of the folds.

    Raises:
        DataError: the data set has no such splits, or can't be divided into such folds.
    """
    if protocol != "splits":
        train_rows, test_rows = kfold(faces, folds, by=protocol, seed=seed)[fold]
        return Splits(faces.select(train_rows), None, {"fold": faces.select(test_rows)})
    from fertools.data.audit import leaked

    public, private = faces.of_split("PublicTest"), faces.of_split("PrivateTest")
    test = {"PublicTest": public, "PrivateTest": private}
    distinct = ~leaked(faces, "PrivateTest", into="Training")
    if distinct.any() and not distinct.all():
        test[DEDUPLICATED] = private.select(distinct)
    return Splits(faces.of_split("Training"), public, test)
