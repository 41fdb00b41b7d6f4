"""The synthetic faces: as they ship, and small sets made here where something must be wrong."""

from __future__ import annotations

import hashlib
import io
import re
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from fertools.data import SPLITS, DataError, FaceSet, ckplus, inventory, load, synthetic
from fertools.data.splits import kfold
from fertools.data.synthetic import CLASSES, accuracy_by, load_portraits, load_sequences, table

ROOT = Path(__file__).parents[2]
SHIPPED = ROOT / "data" / "synthetic"


def smooth(n: int, seed: int = 0) -> np.ndarray:
    """Images with some content: uint8 (n, 48, 48)."""
    coarse = np.random.default_rng(seed).integers(0, 256, (n, 6, 6), dtype=np.uint8)
    return np.stack([np.asarray(Image.fromarray(image).resize((48, 48), Image.Resampling.BICUBIC)) for image in coarse])


def jpeg(image: np.ndarray) -> np.ndarray:
    """An image after being compressed by itself at a sheet's quality."""
    code = io.BytesIO()
    Image.fromarray(image).save(code, "JPEG", quality=synthetic.QUALITY)
    return np.asarray(Image.open(code))


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """A set of 88 portraits and 21 crops, in no split a multiple of a sheet's row."""
    folder = tmp_path / "synthetic"
    folder.mkdir()
    rows: list[dict[str, Any]] = []
    for split, n in zip(SPLITS, (64, 16, 8), strict=True):
        synthetic.write_sheet(folder / f"{split}.jpg", smooth(n, n))
        rows += [{"split": split, "subject": f"{split}{i // 8}", "label": CLASSES[i % 8]} for i in range(n)]
    synthetic.write_table(folder / "portraits.csv", rows)
    synthetic.write_sheet(folder / "sequences.jpg", smooth(21, 1))
    videos = [{"sequence": f"S{i:03}_001", "subject": f"S{i:03}", "label": ckplus.CLASSES[i]} for i in range(7)]
    synthetic.write_table(folder / "sequences.csv", [row for row in videos for _ in range(3)])
    synthetic.write_checksums(folder)
    return folder


@pytest.fixture(scope="module")
def portraits() -> FaceSet:
    return load_portraits(SHIPPED)


@pytest.fixture(scope="module")
def sequences() -> FaceSet:
    return load_sequences(SHIPPED)


# --- As shipped: portraits --------------------------------------------------------------------


def test_ten_thousand_portraits_in_three_splits(portraits: FaceSet) -> None:
    assert portraits.name == "synthetic"
    assert portraits.classes == ("anger", "disgust", "fear", "happy", "sad", "surprise", "neutral", "contempt")
    assert portraits.images.shape == (10_000, 48, 48)
    assert {split: len(portraits.of_split(split)) for split in SPLITS} == {
        "Training": 8000, "PublicTest": 1000, "PrivateTest": 1000,
    }  # fmt: skip
    assert portraits.of_split("Training").counts() == dict.fromkeys(CLASSES, 1000)
    for split in ("PublicTest", "PrivateTest"):
        assert portraits.of_split(split).counts() == dict.fromkeys(CLASSES, 125)


def test_no_person_is_in_two_splits(portraits: FaceSet) -> None:
    people = {split: set(portraits.of_split(split).subjects) for split in SPLITS}
    assert [len(people[split]) for split in SPLITS] == [800, 100, 100]
    assert len(set.union(*people.values())) == 1000


def test_the_portraits_are_in_the_order_of_their_table(portraits: FaceSet) -> None:
    rows = table("portraits", SHIPPED)
    assert [portraits.classes[label] for label in portraits.labels] == rows.label.tolist()
    assert portraits.subjects.tolist() == rows.subject.tolist()
    assert portraits.split.tolist() == rows.split.tolist()
    # The images and the table agree: brighter skin, brighter image.
    brightness = portraits.images.mean((1, 2))
    assert np.corrcoef(brightness, rows.albedo)[0, 1] > 0.3
    even = portraits.images.std((1, 2))
    assert even.min() > 3  # none is blank


def test_no_portrait_is_shown_twice(portraits: FaceSet) -> None:
    assert len({image.tobytes() for image in portraits.images}) == len(portraits)


def test_the_attributes_of_each_image(portraits: FaceSet) -> None:
    """The columns that the reader's description names."""
    known = [
        *CLASSES, "yaw", "pitch", "roll", "light_side", "light_up", "light_contrast", "exposure", "albedo", "hair",
        "occlusion", "zoom", "blur", "detail", "noise", "quality",
    ]  # fmt: skip
    of_portraits, of_sequences = table("portraits", SHIPPED), table("sequences", SHIPPED)
    assert list(of_portraits) == ["split", "subject", "label", *known]
    assert list(of_sequences) == ["sequence", "frame", "frames", "subject", "label", *known, "detected"]
    for rows in (of_portraits, of_sequences):
        assert not rows.isna().any().any()
        for name in set(known) - {"hair", "occlusion"}:
            assert np.issubdtype(rows[name].dtype, np.number), name
        assert rows.albedo.between(0, 1).all()
    others = of_portraits[of_portraits.label != "neutral"]
    strength = others.apply(lambda row: row[row.label], axis=1)
    assert strength.between(0.3, 1).all()


def test_every_portrait_is_a_tile_of_its_sheet(portraits: FaceSet) -> None:
    """Read with Pillow alone: a tile cut from the sheet."""
    with Image.open(SHIPPED / "PublicTest.jpg") as sheet:
        assert sheet.mode == "L"
        tile = np.asarray(sheet.crop((48 * 7, 48 * 3, 48 * 8, 48 * 4)))
    assert np.array_equal(portraits.of_split("PublicTest").images[3 * 50 + 7], tile)


# --- As shipped: sequences --------------------------------------------------------------------


def test_sequences_have_ckplus_counts(sequences: FaceSet) -> None:
    assert sequences.name == "synthetic-sequences"
    assert sequences.classes == ckplus.CLASSES
    assert sequences.images.shape == (981, 48, 48)
    assert len(np.unique(sequences.sequences)) == 327
    assert len(np.unique(sequences.subjects)) == 118
    assert tuple(sequences.counts().values()) == tuple(3 * n for n in (45, 18, 59, 25, 69, 28, 83))
    assert sequences.split is None
    videos = {(v, s, label) for v, s, label in zip(*of_rows(sequences), strict=True)}
    assert len(videos) == 327  # each shows one person and has one label
    assert all(video.split("_")[0] == subject for video, subject, _ in videos)


def of_rows(faces: FaceSet) -> tuple[list[str], list[str], list[int]]:
    return faces.sequences.tolist(), faces.subjects.tolist(), faces.labels.tolist()


def test_the_sequences_are_in_the_order_of_their_table(sequences: FaceSet) -> None:
    rows = table("sequences", SHIPPED)
    assert [sequences.classes[label] for label in sequences.labels] == rows.label.tolist()
    assert sequences.subjects.tolist() == rows.subject.tolist()
    assert sequences.sequences.tolist() == rows.sequence.tolist()
    last = rows.frames - rows.groupby("sequence").cumcount(ascending=False)
    assert rows.frame.tolist() == last.tolist()  # the last three, in order


def test_dlib_finds_the_face_in_nearly_every_frame() -> None:
    detected = table("sequences", SHIPPED).detected
    assert set(detected) <= {0, 1}
    assert detected.mean() >= 0.98


@pytest.mark.parametrize("by", ["image", "sequence", "subject"])
def test_sequences_fall_into_folds(sequences: FaceSet, by: Any) -> None:
    drawn = kfold(sequences, 10, by=by)
    assert np.array_equal(np.sort(np.concatenate([test for _, test in drawn])), np.arange(981))
    groups = {"image": np.arange(981), "sequence": sequences.sequences, "subject": sequences.subjects}[by]
    for train, test in drawn:
        assert not set(groups[train]) & set(groups[test])
        assert len(np.unique(sequences.labels[test])) == 7


def test_the_complete_videos_are_read_like_ckplus(sequences: FaceSet, tmp_path: Path) -> None:
    """The reader of CK+, with dlib, gives the shipped crops."""
    for name in ("cohn-kanade-images", "Emotion"):  # linked, since the reader writes a cache next to them
        (tmp_path / name).symlink_to(SHIPPED / "CK+" / name)
    videos = ckplus.load_ckplus(tmp_path, verify=False, progress=False)
    assert len(videos) == 36
    assert len(np.unique(videos.sequences)) == 12
    assert set(videos.labels) == set(range(7))
    for name in np.unique(videos.sequences):
        ours, theirs = videos.sequences == name, sequences.sequences == name
        assert videos.labels[ours].tolist() == sequences.labels[theirs].tolist()
        for a, b in zip(videos.images[ours], sequences.images[theirs], strict=True):
            assert np.abs(jpeg(a).astype(float) - b).mean() < 1


def test_the_complete_videos_have_every_frame() -> None:
    rows = table("sequences", SHIPPED).groupby("sequence").frames.first()
    counted = Counter(path.parts[-2] for path in SHIPPED.glob("CK+/cohn-kanade-images/*/*/*.png"))
    found = {path.name.rsplit("_", 1)[0] for path in SHIPPED.glob("CK+/cohn-kanade-images/*/*/*.png")}
    assert sum(counted.values()) == sum(rows[name] for name in found)
    with Image.open(next(SHIPPED.glob("CK+/cohn-kanade-images/*/*/*.png"))) as frame:
        assert (frame.size, frame.mode) == ((640, 490), "L")


# --- As shipped: files ------------------------------------------------------------------------


def data_files(folder: Path) -> dict[str, Path]:
    """Images and tables by name: all but notes, figures, and what reading and rendering leave behind."""
    files = (path for path in folder.rglob("*") if path.is_file())
    named = {path.relative_to(folder).as_posix(): path for path in files}
    return {
        name: path
        for name, path in named.items()
        if not any(part.startswith(".") for part in path.relative_to(folder).parts)
        and path.suffix not in (".md", ".json")
        and not path.name.startswith("LICENSE")
        and name != "SHA256SUMS"
    }


def test_the_checksums_cover_every_file() -> None:
    lines = (SHIPPED / "SHA256SUMS").read_text().splitlines()
    sums = {}
    for line in lines:
        match = re.fullmatch(r"([0-9a-f]{64})  (\S.*)", line)
        assert match, line
        sums[match[2]] = match[1]
    assert len(sums) == len(lines)
    files = data_files(SHIPPED)
    assert set(sums) == set(files)
    for name, path in files.items():
        assert hashlib.sha256(path.read_bytes()).hexdigest() == sums[name], name


def test_the_set_is_small() -> None:
    shipped = (path for path in SHIPPED.rglob("*") if path.is_file() and ".parts" not in path.parts)
    assert sum(path.stat().st_size for path in shipped if path.suffix != ".npz") <= 15_000_000


def test_load_and_inventory_know_both_parts(portraits: FaceSet, sequences: FaceSet) -> None:
    assert load("synthetic", ROOT / "data").fingerprint == portraits.fingerprint
    assert load("synthetic-sequences", ROOT / "data").fingerprint == sequences.fingerprint
    assert portraits.fingerprint != sequences.fingerprint


def test_the_fingerprint_is_of_images_labels_and_classes(portraits: FaceSet) -> None:
    """Computed from the sheets with Pillow alone."""
    rows = table("portraits", SHIPPED)
    digest = hashlib.sha256()
    for split in SPLITS:
        with Image.open(SHIPPED / f"{split}.jpg") as sheet:
            for i in range((rows.split == split).sum()):
                x, y = 48 * (i % 50), 48 * (i // 50)
                digest.update(sheet.crop((x, y, x + 48, y + 48)).tobytes())
    digest.update(np.array([CLASSES.index(label) for label in rows.label], "<i8").tobytes())
    digest.update("\n".join(CLASSES).encode())
    assert portraits.fingerprint == f"sha256:{digest.hexdigest()}"


# --- Made here --------------------------------------------------------------------------------


def test_a_tile_is_compressed_independently_of_its_neighbors(small: Path) -> None:
    images = load_portraits(small).images
    drawn = np.concatenate([smooth(n, n) for n in (64, 16, 8)])
    assert len(images) == 88
    for image, original in zip(images, drawn, strict=True):
        assert np.array_equal(image, jpeg(original))
        assert np.abs(image.astype(float) - original).mean() < 3


def test_a_small_set_reads_as_written(small: Path) -> None:
    faces, videos = load_portraits(small), load_sequences(small)
    assert faces.split.tolist() == ["Training"] * 64 + ["PublicTest"] * 16 + ["PrivateTest"] * 8
    assert faces.counts() == dict.fromkeys(CLASSES, 11)
    assert faces.source == str(small)
    assert faces.fingerprint == load_portraits(small).fingerprint
    assert videos.sequences.tolist()[:4] == ["S000_001"] * 3 + ["S001_001"]
    assert videos.labels.tolist() == [i // 3 for i in range(21)]
    here = {item.name: item for item in inventory(small.parent)}
    assert here["synthetic"].images == 88
    assert here["synthetic"].counts["PublicTest"] == dict.fromkeys(CLASSES, 2)
    assert here["synthetic-sequences"].counts == {"all": dict.fromkeys(ckplus.CLASSES, 3)}
    assert "88 images" in str(here["synthetic"])


def test_checksums_are_read_by_sha256sum(small: Path) -> None:
    if not shutil.which("sha256sum"):
        pytest.skip("this machine has no sha256sum")
    done = subprocess.run(["sha256sum", "-c", "SHA256SUMS"], cwd=small, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count(": OK") == len(data_files(small)) == 6


@pytest.mark.parametrize(
    ("name", "reader"),
    [
        ("SHA256SUMS", load_portraits),
        ("portraits.csv", load_portraits),
        ("Training.jpg", load_portraits),
        ("PrivateTest.jpg", load_portraits),
        ("sequences.csv", load_sequences),
        ("sequences.jpg", load_sequences),
    ],
)
def test_a_missing_or_damaged_file_is_named_with_the_remedy(small: Path, name: str, reader: Any) -> None:
    file = small / name
    content = file.read_bytes()
    damages = {"truncated": content[: len(content) // 2], "empty": b"", "garbage": bytes(range(256)) * 9}
    for damage in damages.values():
        file.write_bytes(damage)
        with pytest.raises(DataError, match=f"{name}.*damaged or was changed.*git checkout -- data/synthetic"):
            reader(small)
    file.unlink()
    with pytest.raises(DataError, match=f"{file}: no such file.*git checkout -- data/synthetic"):
        reader(small)
    problems = {item.name: item.problem for item in inventory(small.parent)}
    assert name in problems["synthetic" if reader is load_portraits else "synthetic-sequences"]
    file.write_bytes(content)
    reader(small)


def test_a_sheet_of_another_size_is_refused(small: Path) -> None:
    """Even if its checksum was changed with it."""
    Image.fromarray(np.zeros((48, 2400), np.uint8)).save(small / "Training.jpg")
    synthetic.write_checksums(small)
    with pytest.raises(DataError, match=r"Training.jpg has \(48, 2400\) pixels, which do not fit 64 tiles"):
        load_portraits(small)


def test_a_full_row_of_tiles_leaves_no_gap(tmp_path: Path) -> None:
    for n, rows in ((50, 1), (51, 2)):
        path = tmp_path / f"{n}.jpg"
        synthetic.write_sheet(path, smooth(n))
        with Image.open(path) as sheet:
            assert sheet.size == (2400, 48 * rows)


def test_a_missing_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such file. It ships with the library"):
        load("synthetic", tmp_path)


def test_reading_imports_nothing_heavy(small: Path) -> None:
    code = (
        "import sys, fertools.data, fertools.data.synthetic\n"
        f"fertools.data.load('synthetic', {str(small.parent)!r})\n"
        "print({'cv2', 'pyvista', 'vtk', 'dlib', 'matplotlib', 'torch', 'fertools.render'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


# --- Accuracy by attribute ----------------------------------------------------


def wilson(right: int, n: int) -> tuple[float, float]:
    """Wilson 1927, as printed."""
    z, p = 1.959963984540054, right / n
    middle = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * np.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    return middle - half, middle + half


def test_accuracy_by_word() -> None:
    right = np.array([1, 1, 0, 1, 0, 0, 1], bool)
    found = accuracy_by(right, np.array(["hand", "none", "hand", "hand", "brim", "brim", "hand"]))
    assert list(found) == ["group", "center", "n", "accuracy", "low", "high"]
    assert found.group.tolist() == ["brim", "hand", "none"]
    assert found.n.tolist() == [2, 4, 1]
    assert found.accuracy.tolist() == [0, 0.75, 1]
    assert found.center.isna().all()
    for row, (k, n) in zip(found.itertuples(), [(0, 2), (3, 4), (1, 1)], strict=True):
        assert (row.low, row.high) == pytest.approx(wilson(k, n))


def test_accuracy_by_interval() -> None:
    yaw = np.array([-40.0, -20, -10, 0, 10, 10.5, 40, 41])
    right = np.array([0, 1, 1, 1, 0, 1, 0, 1], bool)
    found = accuracy_by(right, yaw, bins=[-40, -10, 10, 40])
    # Each interval includes its upper edge, the first also its lower one; 41 is in none.
    assert found.n.tolist() == [3, 2, 2]
    assert found.accuracy.tolist() == pytest.approx([2 / 3, 1 / 2, 1 / 2])
    assert found.center.tolist() == pytest.approx([-70 / 3, 5, 25.25])
    assert 0 in found.group[1]


def test_accuracy_by_quantiles() -> None:
    rng = np.random.default_rng(0)
    values, right = rng.gamma(1, 1, 100), rng.random(100) < 0.6
    found = accuracy_by(right, values, bins=4)
    assert found.n.tolist() == [25] * 4
    order = np.argsort(values)
    for i, row in enumerate(found.itertuples()):
        inside = order[25 * i : 25 * (i + 1)]
        assert row.accuracy == pytest.approx(right[inside].mean())
        assert row.center == pytest.approx(values[inside].mean())
        assert (row.low, row.high) == pytest.approx(wilson(right[inside].sum(), 25))
    assert found.accuracy.mean() == pytest.approx(right.mean())


def test_accuracy_by_number_leaves_empty_intervals_out() -> None:
    found = accuracy_by(np.ones(4, bool), np.array([1, 1, 9, 9]))
    assert found.group.tolist() == found.center.tolist() == [1, 9]
    assert accuracy_by(np.ones(2, bool), np.array([1.0, 9.0]), bins=[0, 4, 8, 12]).n.tolist() == [1, 1]


def test_accuracy_by_takes_the_tables_columns(small: Path) -> None:
    rows = table("portraits", small)
    right = (rows.label == "happy").to_numpy()
    found = accuracy_by(right, rows.label)
    assert dict(zip(found.group, found.accuracy, strict=True)) == {name: float(name == "happy") for name in CLASSES}


def test_accuracy_by_needs_a_value_for_each_image() -> None:
    with pytest.raises(ValueError, match="got 2 for 3"):
        accuracy_by(np.ones(3, bool), np.zeros(2))
