from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import fertools.data
from fertools import paths
from fertools.data import SPLITS, DataError, FaceSet, fer2013, inventory, load, synthetic

NAMES = ["synthetic", "synthetic-sequences", "fer2013", "ferplus", "ckplus", "ckplus48"]


@pytest.fixture
def root(tmp_path: Path, tiny_fer2013: FaceSet, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A data folder in which the tiny set passes for FER2013, in its folder form."""
    assert tiny_fer2013.split is not None
    for row, (image, label, split) in enumerate(
        zip(tiny_fer2013.images, tiny_fer2013.labels, tiny_fer2013.split, strict=True)
    ):
        part = "train" if split == "Training" else "test"
        file = tmp_path / "fer2013" / part / tiny_fer2013.classes[label] / f"{split}_{row}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(file)
    counts = {s: tuple(np.bincount(tiny_fer2013.labels[tiny_fer2013.split == s])) for s in SPLITS}
    monkeypatch.setattr(fer2013, "COUNTS", counts)
    return tmp_path


def test_a_set_is_loaded_by_name(root: Path) -> None:
    for name in ("fer2013", "FER2013"):
        assert load(name, root).fingerprint == fer2013.load_fer2013(root / "fer2013").fingerprint


@pytest.mark.parametrize(
    ("name", "place"),
    [
        ("synthetic", "synthetic/SHA256SUMS"),
        ("Synthetic-Sequences", "synthetic/SHA256SUMS"),
        ("fer+", "fer2013new.csv"),
        ("ckplus", "CK+"),
        ("CK+", "CK+"),
        ("ck+48", "CK+48"),
        ("ckplus48", "CK+48"),
    ],
)
def test_each_name_has_its_place(tmp_path: Path, name: str, place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fertools.data, "_fer2013", lambda root: tiny_csv(root))
    with pytest.raises(DataError) as missing:
        load(name, tmp_path)
    assert f"{tmp_path}" in str(missing.value)
    assert place in str(missing.value)


def tiny_csv(root: Path) -> FaceSet:
    one = np.zeros((1, 48, 48), np.uint8)
    split = np.array(["Training"])
    return FaceSet("fer2013", one, np.zeros(1, np.int64), fer2013.CLASSES, split, source=f"{root}/fer2013.csv")


def test_the_environment_names_the_folder(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = root / "package"
    package.mkdir()
    (package / "synthetic").symlink_to(Path(__file__).parents[2] / "data" / "synthetic")
    monkeypatch.setattr(paths, "package_data", lambda: package)
    monkeypatch.setenv("FERTOOLS_DATA", str(root))
    assert load("fer2013").fingerprint == fer2013.load_fer2013(root / "fer2013").fingerprint
    assert fer2013.load_fer2013().source == str(root / "fer2013")
    items = {item.name: item for item in inventory()}
    assert items["fer2013"].place == root / "fer2013"
    assert items["synthetic"].images == 10_000  # from the package
    assert items["ckplus"].place == root / "CK+"


def test_the_synthetic_faces_are_found_from_any_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FERTOOLS_DATA", raising=False)
    monkeypatch.chdir(tmp_path)
    assert len(load("synthetic")) == 10_000
    assert len(load("synthetic-sequences")) == len(synthetic.table("sequences")) == 981
    (tmp_path / "data").mkdir()
    assert synthetic.load_portraits().fingerprint == load("synthetic").fingerprint


def test_an_installed_package_is_its_own_data_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A wheel has the faces inside the package, and no checkout to restore them from."""
    shipped = tmp_path / "site-packages" / "fertools" / "shipped"
    for module in (paths, synthetic):
        monkeypatch.setattr(module, "package_data", lambda: shipped)
    monkeypatch.delenv("FERTOOLS_DATA", raising=False)
    shutil.copytree(Path(__file__).parents[2] / "data" / "synthetic", shipped / "synthetic")
    empty = tmp_path / "empty"
    empty.mkdir()
    monkeypatch.chdir(empty)
    assert load("synthetic").source == str(shipped / "synthetic")
    with pytest.raises(DataError, match="empty/data/fer2013 does not exist"):
        load("fer2013")
    (shipped / "synthetic" / "Training.jpg").unlink()
    with pytest.raises(
        DataError, match="Training.jpg: no such file.*pip install --force-reinstall fertools"
    ) as missing:
        load("synthetic")
    assert "git" not in str(missing.value)


def test_an_unknown_name_lists_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=f"'fer2012'; choose from {', '.join(NAMES)}"):
        load("fer2012", tmp_path)


def test_the_inventory_tells_what_is_there_and_what_is_not(root: Path) -> None:
    items = {item.name: item for item in inventory(root)}
    assert [*items] == NAMES
    here = items["fer2013"]
    assert here.present
    assert here.place == root / "fer2013"
    assert here.images == 63
    assert here.counts == {split: dict.fromkeys(fer2013.CLASSES, 3) for split in SPLITS}
    assert here.fingerprint == load("fer2013", root).fingerprint
    assert "63 images" in str(here)
    assert here.fingerprint in str(here)
    assert "folder format has another order" in items["ferplus"].problem
    remedies = {
        "synthetic": "git checkout",
        "ckplus": "Researchers get CK+ from",
        "ckplus48": "Researchers get CK+ from",
    }
    for name, remedy in remedies.items():
        assert not items[name].present
        assert items[name].images == 0
        assert remedy in str(items[name])


def test_the_inventory_of_nothing(tmp_path: Path) -> None:
    items = {item.name: item for item in inventory(tmp_path / "nowhere")}
    assert [*items] == NAMES
    assert not any(item.present for item in items.values())
    assert "ships with the library" in items["synthetic"].problem
    assert "kaggle.com" in items["fer2013"].problem


def test_the_inventory_counts_a_set_without_splits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    faces = FaceSet("ckplus48", np.zeros((3, 48, 48), np.uint8), np.array([0, 1, 1]), ("a", "b"))
    monkeypatch.setitem(fertools.data._READERS, "ckplus48", lambda root: faces)
    item = inventory(tmp_path)[-1]
    assert item.counts == {"all": {"a": 1, "b": 2}}


def test_importing_the_readers_imports_nothing_heavy() -> None:
    heavy = ("torch", "torchvision", "pandas", "sklearn", "cv2", "dlib", "matplotlib", "PIL", "imagehash")
    code = f"import sys, fertools.data; print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
