"""Which images train and which test: a set's own splits, or cross-validation folds at three levels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from fertools.data.faceset import DataError, FaceSet


def kfold(
    faces: FaceSet, k: int = 10, *, by: Literal["image", "sequence", "subject"] = "image", seed: int = 0
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Draws k stratified folds.

    Image-level folds can put two frames of one video on both sides, so the score tells little about
    new people. Sequence-level folds keep a video together, but not a person. Subject-independent
    folds test every person with a network that never saw them.

    Args:
        faces: the set; ``by="sequence"`` and ``by="subject"`` need to know them.
        k: folds, at least 2.
        by: what stays together.
        seed: the same seed draws the same folds.

    Returns:
        k pairs (train rows, test rows), index arrays in rising order. The test rows of all folds
        together are every row once. The classes are spread as evenly as the groups allow: by image
        they differ by at most one image a fold.

    Raises:
        DataError: the set does not know its sequences or subjects, or a class has fewer than k.
    """
    from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold

    if by not in ("image", "sequence", "subject"):
        raise DataError(f"folds by {by!r}: choose from image, sequence, subject")
    if k < 2:
        raise DataError(f"{k} folds: at least 2 are needed, one to test and one to train")
    groups = {"image": np.arange(len(faces)), "sequence": faces.sequences, "subject": faces.subjects}[by]
    if groups is None:
        raise DataError(f"{faces.name} does not say which {by} an image is of; draw folds by image")
    for label in np.unique(faces.labels):
        have = len(np.unique(groups[faces.labels == label]))
        if have < k:
            raise DataError(
                f"{faces.name}: {k} folds by {by} need at least {k} {by}s of each class, "
                f"but {faces.classes[label]!r} has {have}; draw at most {have}"
            )
    if by == "image":
        return list(StratifiedKFold(k, shuffle=True, random_state=seed).split(faces.labels, faces.labels))
    grouped = StratifiedGroupKFold(k, shuffle=True, random_state=seed)
    return list(grouped.split(faces.labels, faces.labels, groups))


DEDUPLICATED = "PrivateTest, deduplicated"  # the part without images that Training contains too


@dataclass(frozen=True)
class Splits:
    """The images that train, those that select the epoch, and the test sets by name."""

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
    """Splits a set for one training.

    Args:
        faces: the whole set.
        protocol: ``"splits"`` takes the set's own: PublicTest selects the epoch, and both test splits
            are measured, PrivateTest also without the images, if any, that Training contains
            (``"PrivateTest, deduplicated"``). The others draw folds at that level: nothing selects,
            and one fold is measured, as ``"fold"``.
        folds: how many.
        fold: which one tests.
        seed: of the folds.

    Raises:
        DataError: the set has no such splits, or cannot be folded so.
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
