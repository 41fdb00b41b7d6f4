"""Cross-validation folds by image, by film sequence, or by person."""

from __future__ import annotations

from typing import Literal

import numpy as np

from fertools.data.faceset import DataError, FaceSet


def kfold(
    faces: FaceSet, k: int = 10, *, by: Literal["image", "sequence", "subject"] = "image", seed: int = 0
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Draws k stratified folds.

    By image, two frames of one film can stand on both sides, and the score says little of new
    people; by sequence they cannot, but two films of one person can; by subject every person is
    tested by a network that never saw them.

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
