from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from fertools.data import DataError, FaceSet
from fertools.data.splits import kfold

CK48 = Path(__file__).parents[2] / "data" / "CK+48"
By = Literal["image", "sequence", "subject"]


@st.composite
def face_sets(draw: st.DrawFn) -> FaceSet:
    """Sequences of one to three frames and one label each, of up to a dozen subjects."""
    drawn = draw(st.lists(st.tuples(st.integers(0, 11), st.integers(0, 2), st.integers(1, 3)), min_size=2))
    rows = [(subject, number, label) for number, (subject, label, n) in enumerate(drawn) for _ in range(n)]
    subjects, sequences, labels = np.array(rows).T
    return FaceSet(
        name="drawn",
        images=np.zeros((len(rows), 48, 48), np.uint8),
        labels=labels,
        classes=("a", "b", "c"),
        subjects=subjects.astype(np.str_),
        sequences=sequences.astype(np.str_),
    )


@given(face_sets(), st.integers(2, 4), st.sampled_from(["image", "sequence", "subject"]), st.integers(0, 99))
def test_folds_partition_the_rows_and_split_no_group(faces: FaceSet, k: int, by: By, seed: int) -> None:
    groups = {"image": np.arange(len(faces)), "sequence": faces.sequences, "subject": faces.subjects}[by]
    assert groups is not None
    assume(all(len(np.unique(groups[faces.labels == label])) >= k for label in np.unique(faces.labels)))
    folds = kfold(faces, k, by=by, seed=seed)
    assert len(folds) == k
    assert sorted(np.concatenate([test for _, test in folds])) == list(range(len(faces)))
    for train, test in folds:
        assert len(test) > 0
        assert sorted([*train, *test]) == list(range(len(faces)))
        assert not set(groups[train]) & set(groups[test])
    for fold, same in zip(folds, kfold(faces, k, by=by, seed=seed), strict=True):
        assert all(np.array_equal(a, b) for a, b in zip(fold, same, strict=True))
    if by == "image":
        counts = np.array([np.bincount(faces.labels[test], minlength=3) for _, test in folds])
        assert np.all(np.ptp(counts, axis=0) <= 1)


def numbered(n: int = 40) -> FaceSet:
    return FaceSet("numbered", np.zeros((n, 48, 48), np.uint8), np.arange(n) % 2, ("a", "b"))


def test_another_seed_makes_other_folds() -> None:
    assert kfold(numbered(), 4, seed=0)[0][1].tolist() != kfold(numbered(), 4, seed=1)[0][1].tolist()


def test_impossible_folds_are_refused() -> None:
    faces = numbered()
    for by in ("sequence", "subject"):
        with pytest.raises(DataError, match=f"does not say which {by} an image belongs to; use image-level folds"):
            kfold(faces, by=by)
    with pytest.raises(DataError, match="choose from image, sequence, subject"):
        kfold(faces, by="person")  # type: ignore[arg-type]
    with pytest.raises(DataError, match="1 folds: at least 2"):
        kfold(faces, 1)
    with pytest.raises(DataError, match="need at least 21 images of each class, but 'a' has 20; use at most 20"):
        kfold(faces, 21)
    three = replace(faces, subjects=np.array(["x", "y", "z", "z"] * 10))
    with pytest.raises(DataError, match="5 folds by subject need at least 5 subjects of each .* 'a' has 2"):
        kfold(three, 5, by="subject")


@pytest.mark.parametrize("by", ["image", "sequence", "subject"])
def test_ten_folds_of_ck48_show_every_class(by: By) -> None:
    if not CK48.is_dir():
        pytest.skip("data/CK+48 is not there: this test reads it")
    from fertools.data.ckplus import load_ckplus48

    faces = load_ckplus48(CK48)
    for _, test in kfold(faces, 10, by=by):
        assert 80 <= len(test) <= 120
        assert len(np.unique(faces.labels[test])) == 7
