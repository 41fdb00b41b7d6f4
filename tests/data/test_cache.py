"""The cache of slow reads: right, or as if not there."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from fertools.data import cache

ARRAYS = {"images": np.arange(12, dtype=np.uint8).reshape(3, 4), "names": np.array(["a", "größe"])}


def test_what_is_written_is_read(tmp_path: Path) -> None:
    cache.write(tmp_path / "c.npz", "key", ARRAYS)
    found = cache.read(tmp_path / "c.npz", "key")
    assert found is not None
    for name, values in ARRAYS.items():
        np.testing.assert_array_equal(found[name], values)
        assert found[name].dtype == values.dtype
    assert os.listdir(tmp_path) == ["c.npz"]


def test_absent_stale_damaged_and_pickled_files_are_treated_as_absent(tmp_path: Path) -> None:
    path = tmp_path / "c.npz"
    assert cache.read(path, "key") is None
    cache.write(path, "key", ARRAYS)
    assert cache.read(path, "another") is None
    whole = path.read_bytes()
    path.write_bytes(whole[:-30])
    assert cache.read(path, "key") is None
    at = whole.index(ARRAYS["images"].tobytes())
    path.write_bytes(whole[:at] + b"\xff" + whole[at + 1 :])
    assert cache.read(path, "key") is None
    path.write_bytes(b"")
    assert cache.read(path, "key") is None
    np.savez(path, key=np.array("key"), images=np.array([{}], dtype=object))
    assert cache.read(path, "key") is None


def test_a_failed_write_warns_and_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "c.npz"
    cache.write(path, "old", ARRAYS)

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "savez", full)
    with pytest.warns(UserWarning, match="No space left"):
        cache.write(path, "new", ARRAYS)
    assert os.listdir(tmp_path) == ["c.npz"]
    assert cache.read(path, "old") is not None
    with pytest.warns(UserWarning, match="missing"):
        cache.write(tmp_path / "missing" / "c.npz", "new", ARRAYS)


def test_key_follows_names_sizes_times_and_settings_but_not_the_place(tmp_path: Path) -> None:
    folder = tmp_path / "here" / "set"
    folder.mkdir(parents=True)
    files = [folder / "a", folder / "b"]
    for file in files:
        file.write_text("1")
        os.utime(file, ns=(10**18, 10**18))
    key = cache.source_key(files, 0.1)
    assert cache.source_key(files, 0.1) == key
    moved = shutil.copytree(folder, tmp_path / "there" / "set")  # with its times
    assert cache.source_key([moved / "a", moved / "b"], 0.1) == key
    others = {
        cache.source_key(files, 0.2),
        cache.source_key(files[:1], 0.1),
        cache.source_key(files[::-1], 0.1),
    }
    os.utime(files[1], ns=(10**18, 10**18 + 1))
    others.add(cache.source_key(files, 0.1))
    files[1].write_text("12")
    os.utime(files[1], ns=(10**18, 10**18))
    others.add(cache.source_key(files, 0.1))
    assert len(others | {key}) == 6
