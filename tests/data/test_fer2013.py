from __future__ import annotations

import hashlib
import os
from pathlib import Path

import numpy as np
import pytest
import torchvision
from PIL import Image

from fertools.data import SPLITS, DataError, FaceSet, fer2013

HEADER = "emotion,pixels,Usage"
BLACK = " ".join(["0"] * 48 * 48)


def write_csv(file: Path, faces: FaceSet, header: str = HEADER, quote: str = "", end: str = "\n") -> Path:
    assert faces.split is not None
    lines = [header]
    for image, label, split in zip(faces.images, faces.labels, faces.split, strict=True):
        pixels = quote + " ".join(str(value) for value in image.ravel()) + quote
        values = {"emotion": str(label), "pixels": pixels, "Usage": str(split)}
        lines.append(",".join(values[name.strip()] for name in header.split(",")))
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(line + end for line in lines), newline="")
    return file


def write_folders(folder: Path, faces: FaceSet, names: tuple[str, ...] = fer2013.CLASSES) -> Path:
    assert faces.split is not None
    for row, (image, label, split) in enumerate(zip(faces.images, faces.labels, faces.split, strict=True)):
        part = "train" if split == "Training" else "test"
        file = folder / part / names[label] / f"{split}_{row}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(file)
    return folder


def same(a: FaceSet, b: FaceSet) -> bool:
    assert a.split is not None
    assert b.split is not None
    return a.fingerprint == b.fingerprint and np.array_equal(a.split, b.split)


# --- The public formats ---------------------------------------------------------------------------


@pytest.mark.parametrize("header", [HEADER, "emotion, Usage, pixels"])
@pytest.mark.parametrize(("quote", "end"), [("", "\n"), ('"', "\n"), ("", "\r\n")])
def test_csv_gives_back_what_was_written(
    tmp_path: Path, tiny_fer2013: FaceSet, header: str, quote: str, end: str
) -> None:
    file = write_csv(tmp_path / "some.csv", tiny_fer2013, header, quote, end)
    faces = fer2013.load_fer2013(file, verify=False)
    assert same(faces, tiny_fer2013)
    assert np.array_equal(faces.images, tiny_fer2013.images)
    assert faces.source == str(file)


def test_byte_order_mark_blank_lines_and_a_missing_last_newline_are_accepted(
    tmp_path: Path, tiny_fer2013: FaceSet
) -> None:
    file = write_csv(tmp_path / "fer2013.csv", tiny_fer2013)
    file.write_bytes(b"\xef\xbb\xbf" + file.read_bytes().replace(b"Usage\n", b"Usage\n\n").rstrip())
    assert same(fer2013.load_fer2013(file, verify=False), tiny_fer2013)


def test_train_csv_is_all_training(tmp_path: Path, tiny_fer2013: FaceSet) -> None:
    training = tiny_fer2013.of_split("Training")
    write_csv(tmp_path / "train.csv", training, "emotion,pixels")
    write_csv(tmp_path / "test.csv", tiny_fer2013.of_split("PublicTest"), "pixels")
    assert same(fer2013.load_fer2013(tmp_path, verify=False), training)


def test_a_csv_with_every_split_is_preferred(tmp_path: Path, tiny_fer2013: FaceSet) -> None:
    write_csv(tmp_path / "train.csv", tiny_fer2013.of_split("Training"), "emotion,pixels")
    write_csv(tmp_path / "icml_face_data.csv", tiny_fer2013, "emotion, Usage, pixels")
    assert same(fer2013.load_fer2013(tmp_path, verify=False), tiny_fer2013)
    other = tiny_fer2013.select(np.arange(len(tiny_fer2013)) % 2 == 0)
    write_csv(tmp_path / "fer2013.csv", other)
    assert same(fer2013.load_fer2013(tmp_path, verify=False), other)


@pytest.mark.parametrize("angry", ["anger", "angry", "Angry"])
def test_folders_are_read_by_split_class_and_number(tmp_path: Path, tiny_fer2013: FaceSet, angry: str) -> None:
    assert tiny_fer2013.split is not None
    faces = fer2013.load_fer2013(write_folders(tmp_path, tiny_fer2013, (angry, *fer2013.CLASSES[1:])), verify=False)
    split = np.array([SPLITS.index(name) for name in tiny_fer2013.split])
    order = np.lexsort((np.arange(len(tiny_fer2013)), tiny_fer2013.labels, split))
    assert same(faces, tiny_fer2013.select(order))


@pytest.mark.parametrize(
    ("name", "header"), [("fer2013.csv", HEADER), ("icml_face_data.csv", "emotion, Usage, pixels")]
)
def test_torchvision_reads_the_same(
    tmp_path: Path, tiny_fer2013: FaceSet, monkeypatch: pytest.MonkeyPatch, name: str, header: str
) -> None:
    file = write_csv(tmp_path / "fer2013" / name, tiny_fer2013, header)
    known = {
        key: (known_name, hashlib.md5(file.read_bytes()).hexdigest() if known_name == name else md5)
        for key, (known_name, md5) in torchvision.datasets.FER2013._RESOURCES.items()
    }
    monkeypatch.setattr(torchvision.datasets.FER2013, "_RESOURCES", known)
    faces = fer2013.load_fer2013(tmp_path / "fer2013", verify=False)
    assert faces.split is not None
    for split, rows in {"train": faces.split == "Training", "test": faces.split != "Training"}.items():
        peer = torchvision.datasets.FER2013(tmp_path, split)
        assert np.array_equal(np.stack([np.asarray(image) for image, _ in peer]), faces.images[rows])
        assert [label for _, label in peer] == faces.labels[rows].tolist()


def test_torchvision_knows_the_same_files() -> None:
    peer = {md5: name for name, md5 in torchvision.datasets.FER2013._RESOURCES.values()}
    assert peer == {**fer2013.MD5, "b02c2298636a634e8c2faabbf3ea9a23": "test.csv"}


# --- What is wrong with a file ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (f"0,{BLACK[:-2]},Training", "2303 pixels, but 48x48 = 2304 are expected"),
        (f"0,{BLACK} 0,Training", "2305 pixels, but 48x48 = 2304 are expected"),
        ("0,,Training", "0 pixels"),
        (f"0,256 {BLACK[2:]},Training", "pixel 1 of 2304 is 256; expected is 0 to 255"),
        (f"0,{BLACK[:-1]}-1,Training", "pixel 2304 of 2304 is -1"),
        (f"0,9999999999999999999999 {BLACK[2:]},Training", "pixel 1 of 2304 is 9"),
        (f"0,0 x {BLACK[4:]},Training", "pixel 'x' is not a whole number"),
        (f"0,1.5 {BLACK[2:]},Training", "pixel '1.5' is not a whole number"),
        (f"0,{BLACK}x,Training", "pixel '0x' is not a whole number"),
        (f"7,{BLACK},Training", "emotion is '7'; expected is one of 0 anger, .*6 neutral"),
        (f"-1,{BLACK},Training", "emotion is '-1'"),
        (f"happy,{BLACK},Training", "emotion is 'happy'"),
        (f"0,{BLACK},Test", "Usage is 'Test'; expected is one of Training, PublicTest, PrivateTest"),
        (f"0,{BLACK}", "2 columns, but the header names 3"),
    ],
)
def test_a_bad_row_is_named(tmp_path: Path, line: str, message: str) -> None:
    file = tmp_path / "fer2013.csv"
    file.write_text(f"{HEADER}\n0,{BLACK},Training\n{line}\n0,{BLACK},Training\n")
    with pytest.raises(DataError, match=rf"fer2013\.csv, line 3: {message}"):
        fer2013.load_fer2013(file, verify=False)
    assert [p.name for p in tmp_path.iterdir()] == ["fer2013.csv"]  # nothing half-read is kept


@pytest.mark.parametrize("kept", [100, len(BLACK) - 50, len(BLACK) + 8])
def test_a_truncated_file_is_reported_as_truncated(tmp_path: Path, kept: int) -> None:
    file = tmp_path / "fer2013.csv"
    file.write_text(f"{HEADER}\n0,{BLACK},Training\n" + f"0,{BLACK},Training\n"[:kept])
    with pytest.raises(DataError, match=r"line 3: .* it is truncated\. Download it again from .*kaggle"):
        fer2013.load_fer2013(file, verify=False)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", r"has no rows \(0 bytes\)"),
        (HEADER.encode() + b"\n", "has no rows"),
        (b"image,label\n1,2\n", "has an unexpected layout: its first line is 'image,label'"),
        (b"PK\x03\x04\x14\x00\xff\xfe\n", "has an unexpected layout"),
        (b"<!doctype html>\n", "unexpected layout.*Expected: 'emotion,pixels,Usage'"),
        (b"pixels\n" + BLACK.encode() + b"\n", "has no labels"),
    ],
)
def test_another_layout_is_refused(tmp_path: Path, content: bytes, message: str) -> None:
    file = tmp_path / "fer2013.csv"
    file.write_bytes(content)
    with pytest.raises(DataError, match=message):
        fer2013.load_fer2013(file, verify=False)


def test_no_data_set_says_where_it_was_looked_for_and_where_to_download_it(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="does not exist") as missing:
        fer2013.load_fer2013(tmp_path / "nowhere")
    for said in (str(tmp_path / "nowhere"), "fer2013.csv", "icml_face_data.csv", "train.csv", "train/"):
        assert said in str(missing.value)
    assert "Challenges in Representation Learning: Facial Expression Recognition" in str(missing.value)
    with pytest.raises(DataError, match="contains nothing"):
        fer2013.load_fer2013(tmp_path)
    (tmp_path / "archive.zip").touch()
    with pytest.raises(DataError, match=r"contains archive\.zip\. Expected there"):
        fer2013.load_fer2013(tmp_path)
    (tmp_path / "test.csv").touch()
    with pytest.raises(DataError, match=r"contains test\.csv, which has no labels"):
        fer2013.load_fer2013(tmp_path)


# --- What is wrong with a folder ----------------------------------------------------------------


def test_a_bad_image_is_named(tmp_path: Path, tiny_fer2013: FaceSet) -> None:
    file = next((write_folders(tmp_path, tiny_fer2013) / "train" / "fear").iterdir())
    whole = file.read_bytes()

    def refused(message: str) -> None:
        with pytest.raises(DataError, match=f"{file.name} {message}"):
            fer2013.load_fer2013(tmp_path, verify=False)

    file.write_bytes(b"")
    refused("is not a readable image")
    file.write_bytes(whole[: len(whole) // 2])
    refused("is not a readable image")
    Image.new("L", (64, 48)).save(file)
    refused("has 64x48 pixels of mode L; expected is 48x48 in 8-bit grayscale")
    Image.new("RGB", (48, 48)).save(file)
    refused("has 48x48 pixels of mode RGB")


@pytest.mark.parametrize("name", ["im0.png", "PublicTest_1.png", "Training_.png"])
def test_a_name_without_a_split_is_refused(tmp_path: Path, tiny_fer2013: FaceSet, name: str) -> None:
    file = write_folders(tmp_path, tiny_fer2013) / "train" / "fear" / name
    Image.new("L", (48, 48)).save(file)
    with pytest.raises(DataError, match=rf"{name}: the name does not say which split it .* Expected: Training_123"):
        fer2013.load_fer2013(tmp_path, verify=False)


def test_an_unknown_class_folder_and_empty_folders_are_refused(tmp_path: Path) -> None:
    (tmp_path / "train").mkdir()
    with pytest.raises(DataError, match="no images in train/"):
        fer2013.load_fer2013(tmp_path)
    (tmp_path / "train" / "contempt").mkdir()
    with pytest.raises(DataError, match="contempt is not a class of FER2013; its folders are angry, anger, dis"):
        fer2013.load_fer2013(tmp_path)


# --- Verification -------------------------------------------------------------------------------


def test_what_is_not_the_published_set_is_refused(tmp_path: Path, tiny_fer2013: FaceSet) -> None:
    file = write_csv(tmp_path / "a" / "fer2013.csv", tiny_fer2013)
    md5 = hashlib.md5(file.read_bytes()).hexdigest()
    with pytest.raises(DataError, match=rf"63 of 35,887 images: .*3 found, 3,995 expected.*{md5}.*verify=False"):
        fer2013.load_fer2013(file)
    with pytest.raises(DataError, match="Training anger: 3 found, 3,995 expected.*verify=False"):
        fer2013.load_fer2013(write_folders(tmp_path / "b", tiny_fer2013))


def test_verification_goes_by_md5_or_by_content(
    tmp_path: Path, tiny_fer2013: FaceSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = write_csv(tmp_path / "fer2013.csv", tiny_fer2013)
    again = write_csv(tmp_path / "saved-again.csv", tiny_fer2013, end="\r\n")
    altered = write_csv(tmp_path / "altered.csv", tiny_fer2013.select(np.r_[1, 0, 2 : len(tiny_fer2013)]))
    folders = write_folders(tmp_path / "folders", tiny_fer2013)
    with monkeypatch.context() as patch:
        patch.setitem(fer2013.MD5, hashlib.md5(file.read_bytes()).hexdigest(), "fer2013.csv")
        assert same(fer2013.load_fer2013(file), tiny_fer2013)
        with pytest.raises(DataError, match="not the published"):
            fer2013.load_fer2013(again)
    assert tiny_fer2013.split is not None
    counts = {s: tuple(np.bincount(tiny_fer2013.labels[tiny_fer2013.split == s])) for s in SPLITS}
    monkeypatch.setattr(fer2013, "COUNTS", counts)
    monkeypatch.setattr(fer2013, "FINGERPRINT", tiny_fer2013.fingerprint)
    assert same(fer2013.load_fer2013(again), tiny_fer2013)
    assert len(fer2013.load_fer2013(folders)) == len(tiny_fer2013)
    with pytest.raises(DataError, match="the counts agree, the values do not"):
        fer2013.load_fer2013(altered)


def test_published_counts_are_of_the_published_size() -> None:
    assert [sum(fer2013.COUNTS[split]) for split in SPLITS] == [28_709, 3_589, 3_589]


# --- The cache ----------------------------------------------------------------------------------


def unreadable(*_: object) -> None:
    raise AssertionError("the source was read although the cache is good")


@pytest.mark.parametrize("form", ["csv", "folders"])
def test_the_second_read_is_from_the_cache(
    tmp_path: Path, tiny_fer2013: FaceSet, monkeypatch: pytest.MonkeyPatch, form: str
) -> None:
    if form == "csv":
        write_csv(tmp_path / "fer2013.csv", tiny_fer2013)
    else:
        write_folders(tmp_path, tiny_fer2013)
    first = fer2013.load_fer2013(tmp_path, verify=False)
    monkeypatch.setattr(fer2013, "_read_csv", unreadable)
    monkeypatch.setattr(fer2013, "_read_images", unreadable)
    second = fer2013.load_fer2013(tmp_path, verify=False)
    assert same(first, second)
    assert first.source == second.source
    assert np.array_equal(first.images, second.images)
    monkeypatch.undo()
    with pytest.raises(DataError, match="not the published"):  # the cache of an unverified read doesn't verify it
        fer2013.load_fer2013(tmp_path)


def test_an_edited_source_is_noticed(tmp_path: Path, tiny_fer2013: FaceSet) -> None:
    file = write_csv(tmp_path / "fer2013.csv", tiny_fer2013)
    fer2013.load_fer2013(file, verify=False)
    before = file.stat()
    other = tiny_fer2013.select(np.r_[1, 0, 2 : len(tiny_fer2013)])  # as many bytes, and below the same time
    write_csv(file, other)
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert file.stat().st_size == before.st_size
    assert same(fer2013.load_fer2013(file, verify=False), other)


def test_an_added_image_is_noticed(tmp_path: Path, tiny_fer2013: FaceSet) -> None:
    write_folders(tmp_path, tiny_fer2013.select(np.arange(60)))
    assert len(fer2013.load_fer2013(tmp_path, verify=False)) == 60
    write_folders(tmp_path, tiny_fer2013)
    assert same(fer2013.load_fer2013(tmp_path, verify=False), fer2013.load_fer2013(tmp_path, verify=False, cache=False))
    assert len(fer2013.load_fer2013(tmp_path, verify=False)) == 63


@pytest.mark.parametrize("damage", ["cut", "flipped", "emptied", "foreign"])
def test_a_damaged_cache_is_made_again(tmp_path: Path, tiny_fer2013: FaceSet, damage: str) -> None:
    file = write_csv(tmp_path / "fer2013.csv", tiny_fer2013)
    fer2013.load_fer2013(file, verify=False)
    stored = tmp_path / ".fer2013.csv.cache.npz"
    whole = stored.read_bytes()
    pixel = whole.index(tiny_fer2013.images[5].tobytes()) + 7
    damaged = {
        "cut": whole[: len(whole) // 2],
        "flipped": whole[:pixel] + bytes([whole[pixel] ^ 1]) + whole[pixel + 1 :],
        "emptied": b"",
        "foreign": b"text",
    }
    stored.write_bytes(damaged[damage])
    assert same(fer2013.load_fer2013(file, verify=False), tiny_fer2013)
    assert stored.stat().st_size == len(whole)


def poison(stored: Path, **changed: np.ndarray) -> None:
    """Replaces arrays of a cache, and leaves its key and its md5 as they were."""
    with np.load(stored) as kept:
        arrays = {name: kept[name] for name in kept.files}
    np.savez(stored, **{**arrays, **changed})


def published(monkeypatch: pytest.MonkeyPatch, file: Path, faces: FaceSet) -> None:
    """Lets a file pass as the published one."""
    monkeypatch.setitem(fer2013.MD5, hashlib.md5(file.read_bytes()).hexdigest(), file.name)
    form = "TRAINING_FINGERPRINT" if file.name == "train.csv" else "FINGERPRINT"
    monkeypatch.setattr(fer2013, form, faces.fingerprint)


@pytest.mark.parametrize("name", ["fer2013.csv", "train.csv"])
def test_a_poisoned_cache_is_treated_as_absent(
    tmp_path: Path, tiny_fer2013: FaceSet, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    faces = tiny_fer2013.of_split("Training") if name == "train.csv" else tiny_fer2013
    file = write_csv(tmp_path / name, faces, "emotion,pixels" if name == "train.csv" else HEADER)
    published(monkeypatch, file, faces)
    stored = tmp_path / f".{name}.cache.npz"
    assert same(fer2013.load_fer2013(file), faces)
    for changed in (
        {"images": 255 - faces.images},
        {"labels": np.roll(faces.labels, 1)},
        {"images": faces.images / 255},
        {"labels": faces.labels[:-1]},
        {"labels": faces.labels + 0.5},
        {"labels": np.array(3)},
        {"split": np.full(len(faces), "Test")},
        {"split": np.full(len(faces), 5)},
    ):
        poison(stored, **changed)
        assert same(fer2013.load_fer2013(file), faces)
        with monkeypatch.context() as patch:  # and the cache was written again
            patch.setattr(fer2013, "_read_csv", unreadable)
            assert same(fer2013.load_fer2013(file), faces)


def test_a_cached_train_csv_is_accepted(tmp_path: Path, tiny_fer2013: FaceSet, monkeypatch: pytest.MonkeyPatch) -> None:
    faces = tiny_fer2013.of_split("Training")
    published(monkeypatch, write_csv(tmp_path / "train.csv", faces, "emotion,pixels"), faces)
    fer2013.load_fer2013(tmp_path)
    monkeypatch.setattr(fer2013, "_read_csv", unreadable)
    assert same(fer2013.load_fer2013(tmp_path), faces)


def test_a_cache_that_cannot_be_written_is_skipped(
    tmp_path: Path, tiny_fer2013: FaceSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    file = write_csv(tmp_path / "fer2013.csv", tiny_fer2013)
    monkeypatch.setattr(os, "replace", refuse)
    with pytest.warns(UserWarning, match="cannot be written"):
        assert same(fer2013.load_fer2013(file, verify=False), tiny_fer2013)
    assert [p.name for p in tmp_path.iterdir()] == ["fer2013.csv"]


def test_no_cache_where_none_is_requested(tmp_path: Path, tiny_fer2013: FaceSet) -> None:
    file = write_csv(tmp_path / "fer2013.csv", tiny_fer2013)
    assert same(fer2013.load_fer2013(file, verify=False, cache=False), tiny_fer2013)
    assert [p.name for p in tmp_path.iterdir()] == ["fer2013.csv"]


# --- The published set --------------------------------------------------------------------------


def test_the_published_set_equals_the_lines_of_the_file(published_fer2013: FaceSet) -> None:
    assert published_fer2013.images.shape == (35_887, 48, 48)
    assert published_fer2013.split is not None
    assert published_fer2013.fingerprint == fer2013.FINGERPRINT
    with open(published_fer2013.source) as lines:
        next(lines)
        for row, line in enumerate(lines):
            if row % 1000 == 0:
                label, pixels, split = line.rstrip().split(",")
                assert [int(value) for value in pixels.split()] == published_fer2013.images[row].ravel().tolist()
                assert (int(label), split) == (published_fer2013.labels[row], published_fer2013.split[row])


def test_the_published_train_csv_is_known_by_md5_and_by_fingerprint(published_fer2013: FaceSet) -> None:
    training = published_fer2013.of_split("Training")
    assert training.fingerprint == fer2013.TRAINING_FINGERPRINT
    md5 = hashlib.md5(b"emotion,pixels\r\n")  # the published train.csv, written from the Training rows
    for image, label in zip(training.images, training.labels, strict=True):
        md5.update(f'{label},"{" ".join(map(str, image.ravel().tolist()))}"\r\n'.encode())
    assert fer2013.MD5[md5.hexdigest()] == "train.csv"
