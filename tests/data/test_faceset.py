from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fertools.data import DataError, FaceSet


def numbered(n: int) -> FaceSet:
    """Everything about row i says i."""
    names = np.array([str(i) for i in range(n)], dtype=np.str_)
    return FaceSet(
        name="numbered",
        images=np.broadcast_to(np.arange(n, dtype=np.uint8)[:, None, None], (n, 48, 48)).copy(),
        labels=np.arange(n) % 3,
        classes=("a", "b", "c"),
        split=np.array(["Training", "PublicTest", "PrivateTest"])[np.arange(n) % 3],
        subjects=names,
        sequences=names,
        votes=np.arange(2 * n).reshape(n, 2),
        vote_classes=("x", "y"),
    )


@given(st.lists(st.integers(0, 19), max_size=30))
def test_select_takes_the_same_rows_of_everything(rows: list[int]) -> None:
    whole = numbered(20)
    some = whole.select(np.array(rows, dtype=np.int64))
    assert len(some) == len(rows)
    assert some.images[:, 0, 0].tolist() == rows
    for name in ("images", "labels", "split", "subjects", "sequences", "votes"):
        assert np.array_equal(getattr(some, name), getattr(whole, name)[rows])
    assert (some.fingerprint == whole.fingerprint) == (rows == list(range(20)))


def test_select_leaves_unknown_what_is_unknown() -> None:
    some = replace(numbered(5), subjects=None, votes=None).select(np.array([True, False, True, False, False]))
    assert some.subjects is None
    assert some.votes is None
    assert some.images[:, 0, 0].tolist() == [0, 2]


def test_of_split_and_counts() -> None:
    faces = numbered(7)
    assert faces.of_split("PublicTest").images[:, 0, 0].tolist() == [1, 4]
    assert faces.counts() == {"a": 3, "b": 2, "c": 2}
    assert faces.select(np.array([0])).counts() == {"a": 1, "b": 0, "c": 0}
    with pytest.raises(DataError, match="has no split 'PublicTest'; it has Training"):
        faces.of_split("Training").of_split("PublicTest")
    with pytest.raises(DataError, match="has no splits"):
        replace(faces, split=None).of_split("Training")


@pytest.mark.parametrize("changed", ["images", "labels", "classes"])
def test_the_fingerprint_changes_with_the_content(changed: str) -> None:
    faces = numbered(6)
    images, labels = faces.images.copy(), faces.labels.copy()
    images[5, 47, 47] ^= 1
    labels[5] = 0
    other: dict[str, Any] = {"images": images, "labels": labels, "classes": ("a", "b", "d")}
    assert replace(faces, fingerprint="", **{changed: other[changed]}).fingerprint != faces.fingerprint


def test_the_fingerprint_is_of_the_content_alone() -> None:
    faces = numbered(6)
    elsewhere = replace(faces, name="other", source="elsewhere", split=None, fingerprint="")
    strided = replace(faces, images=np.repeat(faces.images, 2, axis=2)[:, :, ::2], fingerprint="")
    assert faces.fingerprint == elsewhere.fingerprint == strided.fingerprint


def test_contradictions_are_refused() -> None:
    faces = numbered(4)
    wrong: dict[str, dict[str, Any]] = {
        r"uint8 of shape \(N, 48, 48\), but are float64": {"images": faces.images / 255},
        r"but are uint8 of shape \(4, 24, 24\)": {"images": faces.images[:, ::2, ::2]},
        "4 images but 3 labels": {"labels": faces.labels[:3]},
        "4 images but 5 subjects": {"subjects": np.array(list("abcde"))},
        "row 2 has label 3; labels run from 0 to 2": {"labels": np.array([0, 1, 3, 0])},
        "row 0 has label -1": {"labels": np.array([-1, 1, 3, 0])},
        r"unknown split \[.*'Test'.*\]; splits are Training": {"split": np.array(["Test"] * 4)},
    }
    for message, fields in wrong.items():
        with pytest.raises(DataError, match=message):
            replace(faces, **fields)
