from __future__ import annotations

import base64
import hashlib
import io
import re
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

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
    assert replace(faces, **{changed: other[changed]}).fingerprint != faces.fingerprint


def test_the_fingerprint_is_of_the_content_alone() -> None:
    faces = numbered(6)
    elsewhere = replace(faces, name="other", source="elsewhere", split=None)
    strided = replace(faces, images=np.repeat(faces.images, 2, axis=2)[:, :, ::2])
    assert faces.fingerprint == elsewhere.fingerprint == strided.fingerprint


def test_replaced_images_give_another_fingerprint_even_after_the_first_was_computed() -> None:
    faces = numbered(6)
    before = faces.fingerprint, faces.identity
    other = replace(faces, images=faces.images + 1)
    assert other.fingerprint != before[0]
    assert other.identity["content"] == other.fingerprint
    assert (faces.fingerprint, faces.identity) == before


@pytest.mark.parametrize("field", ["split", "subjects", "sequences", "votes"])
def test_identity_covers_what_the_fingerprint_leaves_out(field: str) -> None:
    faces = numbered(6)
    swapped = replace(faces, **{field: getattr(faces, field)[[1, 0, 2, 3, 4, 5]]})
    without = replace(faces, **{field: None})
    assert swapped.fingerprint == without.fingerprint == faces.fingerprint
    assert {key for key in faces.identity if swapped.identity[key] != faces.identity[key]} == {field}
    assert {*faces.identity} - {*without.identity} == {field}
    assert replace(faces, vote_classes=("y", "x")).identity != faces.identity


def test_identity_is_the_same_on_every_platform() -> None:
    faces = numbered(12)
    assert faces.split is not None
    assert faces.votes is not None
    assert faces.subjects is not None
    elsewhere = replace(
        faces,
        images=np.asfortranarray(faces.images),
        labels=faces.labels.astype(">i4"),
        split=faces.split.astype("<U40"),
        subjects=faces.subjects.astype(object),
        sequences=faces.subjects.astype(">U7"),
        votes=np.asfortranarray(faces.votes.astype(np.uint16)),
    )
    assert elsewhere.fingerprint == faces.fingerprint
    assert elsewhere.identity == faces.identity


def test_fingerprint_and_identity_written_out() -> None:
    faces = FaceSet(
        "one", np.full((1, 48, 48), 7, np.uint8), np.array([1]), ("a", "b"), subjects=np.array(["Zoë"]),
        votes=np.array([[3, 4]]), vote_classes=("x", "y"),
    )  # fmt: skip
    content = bytes([7]) * 48 * 48 + (1).to_bytes(8, "little") + b"a\nb"
    votes = b"(1, 2)" + (3).to_bytes(8, "little") + (4).to_bytes(8, "little")
    assert faces.identity == {
        "content": "sha256:" + hashlib.sha256(content).hexdigest(),
        "subjects": "sha256:" + hashlib.sha256(b"(1,)" + "Zoë".encode()).hexdigest(),
        "votes": "sha256:" + hashlib.sha256(votes).hexdigest(),
        "vote_classes": "x,y",
    }


def test_repr_is_short() -> None:
    faces = numbered(7)
    assert repr(faces) == ("FaceSet('numbered', 7 images, 3 classes, splits: Training 3, PublicTest 2, PrivateTest 2)")
    assert repr(replace(faces, split=None)) == "FaceSet('numbered', 7 images, 3 classes, 7 subjects)"


def shown_images(html: str) -> list[np.ndarray]:
    codes = re.findall(r'src="data:image/png;base64,([^"]+)"', html)
    return [np.asarray(Image.open(io.BytesIO(base64.b64decode(code)))) for code in codes]


def test_html_shows_counts_and_the_first_faces_of_each_class() -> None:
    faces = replace(numbered(7), classes=("a", "b", "<c>", "d"))
    html = faces.to_html(per_class=2)
    a, b, c = shown_images(html)  # and none of the empty class d
    for found, rows in ((a, [0, 3]), (b, [1, 4]), (c, [2, 5])):
        assert np.array_equal(found, np.concatenate(faces.images[rows]))
    assert "<c>" not in html
    assert "<th>&lt;c&gt;</th>" in html
    assert "<tr><th>Training</th><td>3</td><td>0</td><td>0</td><td>0</td><td>3</td></tr>" in html
    assert "<tr><th>all</th><td>3</td><td>2</td><td>2</td>" in replace(faces, split=None).to_html()


def test_notebooks_show_faces_of_the_synthetic_sets_alone() -> None:
    faces = numbered(24)
    assert len(shown_images(replace(faces, name="synthetic")._repr_html_())) == 3
    assert len(shown_images(replace(faces, name="synthetic-sequences")._repr_html_())) == 3
    for name in ("numbered", "fer2013", "ferplus", "ckplus", "ckplus48"):
        html = replace(faces, name=name)._repr_html_()
        assert "<img" not in html
        assert "24 images" in html


def test_contradictions_are_refused() -> None:
    faces = numbered(4)
    wrong: dict[str, dict[str, Any]] = {
        r"uint8 of shape \(N, 48, 48\), but are float64": {"images": faces.images / 255},
        r"but are uint8 of shape \(4, 24, 24\)": {"images": faces.images[:, ::2, ::2]},
        "4 images but 3 labels": {"labels": faces.labels[:3]},
        "4 images but 5 subjects": {"subjects": np.array(list("abcde"))},
        "row 2 has label 3; labels run from 0 to 2": {"labels": np.array([0, 1, 3, 0])},
        "labels must be integers, but are float64": {"labels": np.array([0, 1, 0.5, 0])},
        "row 0 has label -1": {"labels": np.array([-1, 1, 3, 0])},
        r"unknown split \[.*'Test'.*\]; splits are Training": {"split": np.array(["Test"] * 4)},
    }
    for message, fields in wrong.items():
        with pytest.raises(DataError, match=message):
            replace(faces, **fields)
