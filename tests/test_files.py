from __future__ import annotations

import hashlib
import subprocess
import sys
from pathlib import Path

import pytest

from fertools.files import atomic_write, file_digest


def test_atomic_write_keeps_the_old_one_when_writing_fails(tmp_path: Path) -> None:
    path = tmp_path / "record.json"
    path.write_text("old")

    def write_half() -> None:
        with atomic_write(path) as part:
            part.write_text("ne")
            raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space"):
        write_half()
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["record.json"]
    with atomic_write(path) as part:
        part.write_text("new")
    assert path.read_text() == "new"


def test_errors_name_the_file_that_was_asked_for(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError) as caught, atomic_write(tmp_path / "missing" / "record.json") as part:
        part.write_text("new")
    assert caught.value.filename == str(tmp_path / "missing" / "record.json")


@pytest.mark.skipif(sys.platform == "win32", reason="needs RLIMIT_FSIZE")
def test_a_full_disk_for_real(tmp_path: Path) -> None:
    """The kernel refuses the second kilobyte, in a process of its own."""
    (tmp_path / "x.safetensors").write_text("old")
    script = (
        "import resource, signal, sys, pathlib, torch\n"
        "from fertools.models.weights import save_weights\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1024, 1024))\n"
        "try:\n"
        "    save_weights(pathlib.Path(sys.argv[1]), {'a': torch.zeros(10000)}, {})\n"
        "except OSError as error:\n"
        "    print('refused:', error)\n"
    )
    command = [sys.executable, "-c", script, str(tmp_path / "x.safetensors")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert "refused:" in done.stdout, done.stderr
    assert (tmp_path / "x.safetensors").read_text() == "old"
    assert len(list(tmp_path.iterdir())) == 1


def test_file_digest_is_sha256(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"weights")
    assert file_digest(tmp_path / "x") == "sha256:" + hashlib.sha256(b"weights").hexdigest()
