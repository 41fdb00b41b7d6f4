"""CK+ in both forms, on small trees made of a portrait in the public domain."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import skimage.data
from PIL import Image

from fertools.data import ckplus
from fertools.data.ckplus import CLASSES, load_ckplus, load_ckplus48
from fertools.data.faces import Box, choose, crop, detect, to_gray
from fertools.data.faceset import DataError, FaceSet

ROOT = Path(__file__).parents[2]
PORTRAIT: np.ndarray = skimage.data.astronaut()
GRAY = to_gray(PORTRAIT)
NO_FACE = np.tile(np.linspace(0, 255, 640).astype(np.uint8), (490, 1))


# --- CK+48 ------------------------------------------------------------------------------------


def save_crop(folder: Path, kind: str, name: str, value: int = 0) -> Path:
    file = folder / kind / f"{name}.png"
    file.parent.mkdir(parents=True, exist_ok=True)
    image = np.full((48, 48), value, np.uint8)
    image[3, 5] = 255 - value
    Image.fromarray(image).save(file)
    return file


@pytest.fixture
def crops(tmp_path: Path) -> Path:
    """Three sequences in two classes, written in no particular order."""
    folder = tmp_path / "CK+48"
    for value, (kind, name) in enumerate(
        [
            ("surprise", "S010_002_00000014"),
            ("sadness", "S999_001_00000018"),
            ("surprise", "S010_002_00000012"),
            ("anger", "S010_004_00000017"),
            ("surprise", "S010_002_00000013"),
        ]
    ):
        save_crop(folder, kind, name, value)
    return folder


def test_crops_are_read_in_the_order_of_sequence_and_frame(crops: Path) -> None:
    (crops / ".DS_Store").touch()
    (crops / "anger" / "._S010_004_00000017.png").touch()
    (crops / "README.txt").touch()
    faces = load_ckplus48(crops, verify=False)
    assert faces.classes == ("anger", "contempt", "disgust", "fear", "happy", "sad", "surprise")
    assert faces.images[:, 0, 0].tolist() == [2, 4, 0, 3, 1]
    assert faces.images[:, 3, 5].tolist() == [253, 251, 255, 252, 254]
    assert [CLASSES[label] for label in faces.labels] == ["surprise"] * 3 + ["anger", "sad"]
    assert faces.sequences is not None
    assert faces.sequences.tolist() == ["S010_002"] * 3 + ["S010_004", "S999_001"]
    assert faces.subjects is not None
    assert faces.subjects.tolist() == ["S010"] * 4 + ["S999"]
    assert faces.split is None
    assert faces.source == str(crops)


def test_a_whole_set_is_accepted_and_one_that_lacks_an_image_is_not(tmp_path: Path) -> None:
    folder = tmp_path / "CK+48"
    sequences = [label for label, n in enumerate((45, 18, 59, 25, 69, 28, 83)) for _ in range(n)]
    assert len(sequences) == 327
    whole = save_crop(tmp_path, "one", "image").read_bytes()
    for i, label in enumerate(sequences):
        kind = folder / CLASSES[label].replace("sad", "sadness")
        kind.mkdir(parents=True, exist_ok=True)
        for frame in (11, 12, 13):
            (kind / f"S{i % 118:03d}_{i // 118:03d}_{frame:08d}.png").write_bytes(whole)
    faces = load_ckplus48(folder)
    assert faces.counts() == {
        "anger": 135, "contempt": 54, "disgust": 177, "fear": 75, "happy": 207, "sad": 84, "surprise": 249
    }  # fmt: skip
    (folder / "anger" / "S000_000_00000012.png").unlink()
    with pytest.raises(DataError, match="S000_000 has 2 frames, but 3"):
        load_ckplus48(folder)
    shutil.rmtree(folder / "contempt")
    assert len(load_ckplus48(folder, verify=False)) == 981 - 1 - 54
    for frame in (11, 13):
        (folder / "anger" / f"S000_000_{frame:08d}.png").unlink()
    with pytest.raises(DataError, match=r"44 labeled sequences of class 'anger', but CK\+ has 45 \(135 images\)"):
        load_ckplus48(folder)


def too_large(folder: Path) -> None:
    Image.fromarray(np.zeros((490, 640), np.uint8)).save(folder / "anger" / "S010_004_00000018.png")


SPOILED_CROPS: dict[str, tuple[Callable[[Path], object], str]] = {
    "missing": (shutil.rmtree, r"CK\+48: no such folder.*signed agreement.*Place it"),
    "nothing in it": (lambda f: [shutil.move(kind, f.parent) for kind in f.iterdir()], "no images in it"),
    "class": (
        lambda f: save_crop(f, "boredom", "S010_004_00000018"),
        "boredom: unknown class folder; .*sadness",
    ),
    "name": (
        lambda f: save_crop(f, "anger", "S010_4_18"),
        r"S010_4_18.png: not named .*S010_004_00000017.png",
    ),
    "not png": (lambda f: (f / "anger" / "Thumbs.db").touch(), "Thumbs.db: not named"),
    "two labels": (
        lambda f: save_crop(f, "fear", "S010_004_00000018"),
        r"fear.S010_004_00000018.*also in .*anger",
    ),
    "size": (too_large, r"S010_004_00000018.png: 640x490 pixels, but CK\+48 has 48x48"),
    "empty": (
        lambda f: (f / "anger" / "S010_004_00000017.png").write_bytes(b""),
        "00017.png: the file is empty",
    ),
    "text": (lambda f: (f / "anger" / "S010_004_00000017.png").write_text("x"), "00017.png: not an image"),
    "counts": (lambda f: None, "verify=False reads what is there"),
}


@pytest.mark.parametrize("what", SPOILED_CROPS)
def test_spoiled_crops(crops: Path, what: str) -> None:
    spoil, message = SPOILED_CROPS[what]
    spoil(crops)
    with pytest.raises(DataError, match=message):
        load_ckplus48(crops, verify=what == "counts")


@pytest.mark.skipif(not (ROOT / "data/CK+48").is_dir(), reason="CK+48 is not in data/CK+48")
def test_the_real_crops() -> None:
    faces = load_ckplus48(ROOT / "data/CK+48")
    assert len(faces) == 981
    assert faces.sequences is not None
    assert faces.subjects is not None
    assert len(set(faces.sequences)) == 327
    assert len(set(faces.subjects)) == 118
    assert list(faces.sequences) == sorted(faces.sequences)


# --- CK+ as published -------------------------------------------------------------------------


def frame_of(dx: int, dy: int = 0) -> np.ndarray:
    """The portrait on a frame of CK+'s size, shifted; the face is far from the frame's edges."""
    frame = np.full((490, 640), 90, np.uint8)
    frame[:, 64:576] = GRAY[:490]
    return np.roll(frame, (dy, dx), (0, 1))


def save_sequence(folder: Path, name: str, label: int | None, frames: list[np.ndarray]) -> list[Path]:
    subject, number = name.split("_")
    images, labels = folder / "cohn-kanade-images" / subject / number, folder / "Emotion" / subject / number
    images.mkdir(parents=True)
    labels.mkdir(parents=True)
    files = [images / f"{name}_{i:08d}.png" for i in range(1, len(frames) + 1)]
    for file, frame in zip(files, frames, strict=True):
        Image.fromarray(frame).save(file)
    if label is not None:
        (labels / f"{name}_{len(frames):08d}_emotion.txt").write_text(f"   {label:.7e}\n")
    return files


def load(folder: Path) -> FaceSet:
    return load_ckplus(folder, verify=False, progress=False)


def found_box(frame: np.ndarray, upsample: int = 0) -> Box:
    box = choose(detect(frame, upsample))
    assert box is not None
    return box


def test_last_three_frames_of_labeled_sequences(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    frames = [frame_of(dx, dy) for dx, dy in ((0, 0), (9, 3), (18, 6), (27, 9))]
    color = np.full((490, 640, 3), 90, np.uint8)
    color[:, 64:576] = PORTRAIT[:490]
    save_sequence(tmp_path, "S010_002", 7, [frame_of(-20), *frames[1:]])
    save_sequence(tmp_path, "S010_001", None, frames[:1])
    save_sequence(tmp_path, "S005_001", 3, [color, frames[2], frames[0]])
    (tmp_path / "cohn-kanade-images/S010/002/.DS_Store").touch()
    faces = load_ckplus(tmp_path, verify=False)
    assert "2/2" in capsys.readouterr().err
    assert faces.sequences is not None
    assert faces.sequences.tolist() == ["S005_001"] * 3 + ["S010_002"] * 3
    assert faces.subjects is not None
    assert faces.subjects.tolist() == ["S005"] * 3 + ["S010"] * 3
    assert [CLASSES[label] for label in faces.labels] == ["disgust"] * 3 + ["surprise"] * 3
    shown = [to_gray(color), frames[2], frames[0], *frames[1:]]
    for image, frame in zip(faces.images, shown, strict=True):
        np.testing.assert_array_equal(image, crop(frame, found_box(frame)))
    # Independently: each is the face, wherever it was in the frame.
    direct = np.asarray(Image.fromarray(GRAY[65:171, 170:276]).resize((48, 48), Image.Resampling.BOX))
    for image in faces.images:
        assert np.corrcoef(image.ravel(), direct.ravel())[0, 1] > 0.7


def test_a_frame_without_a_face_takes_the_nearest_frames_box(tmp_path: Path) -> None:
    first, second = frame_of(0), frame_of(60)
    save_sequence(tmp_path, "S010_002", 1, [first, second, NO_FACE])
    save_sequence(tmp_path, "S010_003", 1, [first, NO_FACE, NO_FACE])
    faces = load(tmp_path)
    np.testing.assert_array_equal(faces.images[2], crop(NO_FACE, found_box(second)))
    np.testing.assert_array_equal(faces.images[4], crop(NO_FACE, found_box(first)))
    np.testing.assert_array_equal(faces.images[5], crop(NO_FACE, found_box(first)))
    assert not np.array_equal(faces.images[2], faces.images[4])


def test_small_faces_are_searched_again_and_sequences_without_any_are_left_out(tmp_path: Path) -> None:
    small = np.full((490, 640), 90, np.uint8)
    small[:256, :256] = np.asarray(Image.fromarray(GRAY).resize((256, 256), Image.Resampling.BOX))
    assert detect(small, 0) == []
    save_sequence(tmp_path, "S010_002", 1, [small] * 3)
    save_sequence(tmp_path, "S011_001", 2, [NO_FACE] * 3)
    for _ in range(2):  # also when it comes from the cache
        with pytest.warns(UserWarning, match=r"no face found in 1 of 2 sequences, left out: S011_001"):
            faces = load(tmp_path)
        assert faces.sequences is not None
        assert set(faces.sequences) == {"S010_002"}
        np.testing.assert_array_equal(faces.images[0], crop(small, found_box(small, upsample=1)))
    shutil.rmtree(tmp_path / "Emotion/S010")
    with pytest.raises(DataError, match="no face was found in any of 1 sequences"):
        load(tmp_path)


def test_crops_are_kept_until_something_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def counting(gray: np.ndarray, upsample: int = 1) -> list[Box]:
        calls.append(upsample)
        return detect(gray, upsample)

    monkeypatch.setattr(ckplus, "detect", counting)
    folder = tmp_path / "CK+"
    files = save_sequence(folder, "S010_002", 1, [frame_of(0), frame_of(5), frame_of(9)])
    first = load(folder)
    assert len(calls) == 3
    kept = folder / ".ckplus.cache.npz"
    assert kept.exists()
    assert load(folder).fingerprint == first.fingerprint
    shutil.copytree(folder, tmp_path / "moved")
    assert load(tmp_path / "moved").source == str(tmp_path / "moved")
    assert len(calls) == 3

    (folder / "Emotion/S010/002/S010_002_00000003_emotion.txt").write_text("2.0000000e+00")
    assert load(folder).labels.tolist() == [1, 1, 1]  # labels are never kept
    assert len(calls) == 3
    os.utime(files[1], ns=(1, 1))
    load(folder)
    assert len(calls) == 6
    monkeypatch.setattr(ckplus, "MARGIN", 0.2)
    load(folder)
    assert len(calls) == 9
    kept.write_bytes(kept.read_bytes()[:500])
    load(folder)
    assert len(calls) == 12


@pytest.mark.parametrize(
    "crops",
    [
        np.zeros((2, 48, 48), np.uint8),
        np.zeros((3, 48, 47), np.uint8),
        np.zeros((3, 48, 48), np.float32),
        np.array("text"),
    ],
)
def test_a_cache_that_cannot_be_right_is_treated_as_absent(tmp_path: Path, crops: np.ndarray) -> None:
    save_sequence(tmp_path, "S010_002", 1, [frame_of(0), frame_of(5), frame_of(9)])
    first = load(tmp_path)
    stored = tmp_path / ".ckplus.cache.npz"
    with np.load(stored) as kept:
        key = kept["key"]
    np.savez(stored, key=key, S010_002=crops)
    assert load(tmp_path).fingerprint == first.fingerprint
    with np.load(stored) as kept:
        np.testing.assert_array_equal(kept["S010_002"], first.images)


def write_label(text: str) -> Callable[[Path], object]:
    return lambda f: (f / "Emotion/S010/002/S010_002_00000003_emotion.txt").write_text(text)


SPOILED: dict[str, tuple[Callable[[Path], object], str]] = {
    "missing": (shutil.rmtree, "tree: no such folder.*signed agreement.*Place it so"),
    "images": (lambda f: shutil.rmtree(f / "cohn-kanade-images"), "cohn-kanade-images: no such folder"),
    "labels": (lambda f: shutil.rmtree(f / "Emotion"), "Emotion: no such folder"),
    "no label": (lambda f: shutil.rmtree(f / "Emotion/S010"), "Emotion: no label file"),
    "sequence": (
        lambda f: shutil.rmtree(f / "cohn-kanade-images/S010/002"),
        "002: no such folder, but .*labels it",
    ),
    "frames": (
        lambda f: (f / "cohn-kanade-images/S010/002/S010_002_00000003.png").unlink(),
        "002: 2 frames, but at least 3",
    ),
    "strange frame": (
        lambda f: (f / "cohn-kanade-images/S010/002/S010_003_00000009.png").touch(),
        "S010_003_00000009.png: expected a name like S010_002_00000011.png",
    ),
    "empty frame": (
        lambda f: (f / "cohn-kanade-images/S010/002/S010_002_00000003.png").write_bytes(b""),
        "S010_002_00000003.png: the file is empty",
    ),
    "neutral": (write_label("   0.0000000e+00"), "emotion.txt: contains '0.0000000e.00', but one of 1 anger"),
    "range": (write_label("8"), "emotion.txt: contains '8'"),
    "half": (write_label("1.5"), "emotion.txt: contains '1.5'"),
    "word": (write_label("happy"), "emotion.txt: contains 'happy'"),
    "nothing": (write_label(""), "emotion.txt: contains ''"),
    "nan": (write_label("nan"), "emotion.txt: contains 'nan'"),
    "inf": (write_label("inf"), "emotion.txt: contains 'inf'"),
    "counts": (lambda f: None, "1 labeled sequences of class 'anger', but .* has 45.*verify=False"),
}


@pytest.mark.parametrize("what", SPOILED)
def test_spoiled_trees(tmp_path: Path, what: str) -> None:
    folder = tmp_path / "tree"
    save_sequence(folder, "S010_002", 1, [NO_FACE] * 3)
    spoil, message = SPOILED[what]
    spoil(folder)
    with pytest.raises(DataError, match=message):
        load_ckplus(folder, verify=what == "counts", progress=False)
    assert not (folder / ".ckplus.cache.npz").exists()
