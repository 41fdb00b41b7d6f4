"""The data set as a whole: batches that survive an interruption, CK+'s layout, and the shipped images."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import skimage.data
from PIL import Image

from fertools.data import ckplus, synthetic
from fertools.data.faces import read_image, to_gray
from fertools.data.faceset import SPLITS
from fertools.render import plan, produce
from fertools.render.plan import SequencePlan, plan_frames, plan_portrait
from fertools.render.produce import FRAME, Artist, render, render_sequences, write_frame

ROOT = Path(__file__).parents[2]
SHIPPED = ROOT / "data" / "synthetic"
FACE = to_gray(skimage.data.astronaut())[30:230, 110:310]  # in the public domain
PER_CLASS = (1, 1, 2, 2, 1, 1, 2)


def tile_jpeg(image: np.ndarray) -> np.ndarray:
    """A 48x48 tile after being compressed by itself at a sheet's quality."""
    code = io.BytesIO()
    Image.fromarray(image).save(code, "JPEG", quality=synthetic.QUALITY)
    return np.asarray(Image.open(code))


def agrees(found: dict[str, Any], shipped: pd.Series) -> bool:
    """Whether the row of a rendered image is the shipped one."""
    return all(
        shipped[key] == pytest.approx(value) if isinstance(value, float) else shipped[key] == value
        for key, value in found.items()
    )


# --- CK+'s layout -----------------------------------------------------------------------------


def test_frames_have_the_layout_of_ckplus(tmp_path: Path, shapes: tuple[str, ...]) -> None:
    which = SequencePlan(7, 2, "sad")
    planned = plan_frames(which, 0, shapes)
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (len(planned), 49, 64), dtype=np.uint8)
    for image, one in zip(images, planned, strict=True):
        write_frame(tmp_path, one.row, image)
    (read,) = ckplus._labeled_sequences(tmp_path)
    assert (read.name, read.subject, ckplus.CLASSES[read.label]) == ("S007_002", "S007", "sad")
    for path, image in zip(read.frames, images[-3:], strict=True):
        assert np.array_equal(read_image(path), image)
    frames = sorted((tmp_path / "cohn-kanade-images" / "S007" / "002").iterdir())
    assert [path.name for path in frames] == [f"S007_002_{i:08}.png" for i in range(1, len(planned) + 1)]
    (label,) = tmp_path.glob("Emotion/S007/002/*")
    assert label.name == f"{frames[-1].stem}_emotion.txt"
    assert label.read_text() == "   6.0000000e+00\n"


# --- Interrupted and continued ----------------------------------------------------------------


class Stub:
    """Makes an image for each number without the face model; dlib finds the astronaut's face."""

    def __init__(self, shapes: tuple[str, ...], seed: int) -> None:
        self.shapes, self.seed = shapes, seed

    def portrait(self, index: int) -> tuple[np.ndarray, dict[str, Any]]:
        image = np.random.default_rng((self.seed, index)).integers(0, 256, (48, 48), dtype=np.uint8)
        return image, plan_portrait(index, self.seed, self.shapes).row

    def sequence(self, which: SequencePlan, last: int | None = None) -> list[tuple[np.ndarray, dict[str, Any]]]:
        frames = plan_frames(which, self.seed, self.shapes)
        shifted = [np.roll(FACE, 3 * i + which.subject, axis=1) for i in range(len(frames))]
        return [(image, frame.row) for image, frame in zip(shifted, frames, strict=True)][-(last or len(frames)) :]


@pytest.fixture
def jobs(monkeypatch: pytest.MonkeyPatch, shapes: tuple[str, ...]) -> list[Any]:
    """A set of 40 portraits and 10 sequences, rendered in this process; the list grows by each job that starts.

    The run is killed when it has 8 jobs.
    """
    begun: list[Any] = []

    def run(todo: Iterable[Any], work: Any, size: Any, model: Any, seed: int, *_: Any) -> None:
        monkeypatch.setattr(produce, "_artist", Stub(shapes, seed), raising=False)
        for job in todo:
            if len(begun) == 8:
                raise KeyboardInterrupt
            begun.append(job)
            work(job)

    monkeypatch.setattr(produce, "_run", run)
    for module in (produce, plan):
        monkeypatch.setattr(module, "PORTRAITS", 40)
    monkeypatch.setattr(plan, "PER_SUBJECT", 4)
    monkeypatch.setattr(produce, "BATCH", 12)
    monkeypatch.setattr(produce, "COMPLETE", 3)
    for module in (ckplus, plan):
        monkeypatch.setattr(module, "SEQUENCES", PER_CLASS)
        monkeypatch.setattr(module, "SUBJECTS", 4)
    return begun


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_run_that_was_stopped_continues_to_the_same_set(tmp_path: Path, jobs: list[Any]) -> None:
    stopped, undisturbed = tmp_path / "stopped", tmp_path / "undisturbed"
    with pytest.raises(KeyboardInterrupt):
        render(tmp_path, stopped, seed=5)
    assert len(jobs) == 8  # four batches of portraits, and the first four sequences
    assert not (stopped / "SHA256SUMS").exists()
    jobs[:] = [None] * 9  # past the one where it stops
    render(tmp_path, stopped, seed=5)
    again = jobs[9:]
    assert len(again) == 6 + 3  # the other sequences, then the complete ones: nothing is rendered twice
    render(tmp_path, undisturbed, seed=5)
    assert contents(stopped) == contents(undisturbed)


def test_a_half_written_batch_is_repeated(tmp_path: Path, jobs: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    def killed(part: Path, **_: Any) -> None:
        part.write_bytes(b"half a batch")
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(np, "savez", killed)
        with pytest.raises(KeyboardInterrupt):
            render(tmp_path, tmp_path / "set", seed=5)
    assert not contents(tmp_path / "set")
    jobs[:] = [None] * 9
    render(tmp_path, tmp_path / "set", seed=5)
    assert len(jobs) == 9 + 4 + 10 + 3


def test_the_set_reads_as_it_was_rendered(tmp_path: Path, jobs: list[Any], shapes: tuple[str, ...]) -> None:
    jobs[:] = [None] * 9
    folder = tmp_path / "set"
    render(tmp_path, folder, seed=5)
    assert {path.name for path in folder.iterdir()} == {
        "CK+", "SHA256SUMS", "portraits.csv", "sequences.csv", "sequences.jpg", *(f"{split}.jpg" for split in SPLITS),
    }  # fmt: skip

    faces, artist = synthetic.load_portraits(folder), Stub(shapes, 5)
    table = synthetic.table("portraits", folder)
    assert len(faces) == len(table) == 40
    for index in range(40):
        image, row = artist.portrait(index)
        assert np.array_equal(faces.images[index], tile_jpeg(image))
        assert agrees(row, table.iloc[index])

    crops, table = synthetic.load_sequences(folder), synthetic.table("sequences", folder)
    assert crops.counts() == {name: 3 * n for name, n in zip(ckplus.CLASSES, PER_CLASS, strict=True)}
    assert (table.detected == 1).all()
    assert table.groupby("sequence").frame.apply(list).tolist() == [
        [n - 2, n - 1, n] for n in table.groupby("sequence").frames.first()
    ]
    whole = ckplus.load_ckplus(folder / "CK+", verify=False, progress=False)
    assert whole.sequences is not None
    assert whole.counts() | {"anger": 3, "contempt": 3, "disgust": 3} == whole.counts()  # one of each label first
    assert crops.sequences is not None
    for name in np.unique(whole.sequences):
        for a, b in zip(whole.images[whole.sequences == name], crops.images[crops.sequences == name], strict=True):
            assert np.array_equal(tile_jpeg(a), b)


# --- The command ------------------------------------------------------------------------------


def command(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "fertools.render", *words], cwd=ROOT, capture_output=True, text=True, check=False
    )


def test_the_command_says_where_to_get_the_face_model(tmp_path: Path) -> None:
    done = command(str(tmp_path / "nowhere"), "--out", str(tmp_path / "out"))
    assert done.returncode == 1
    assert "nowhere contains no face model" in done.stderr
    assert "github.com/ICT-VGL/ICT-FaceKit" in done.stderr
    assert "Traceback" not in done.stderr


def test_without_pyvista_the_run_does_not_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shapes: tuple[str, ...]
) -> None:
    monkeypatch.setattr(produce.FaceModel, "load", lambda folder: None)
    monkeypatch.setitem(sys.modules, "pyvista", None)
    with pytest.raises(ImportError, match=r"pip install 'fertools\[render\]'"):
        render_sequences(tmp_path, tmp_path / "out", [SequencePlan(1, 1, "happy")], 0, 1, 3)


# --- With the face model ----------------------------------------------------------------------


@pytest.fixture(scope="module")
def portraitist(model_folder: Path) -> Artist:
    pytest.importorskip("pyvista", reason="rendering needs PyVista: pip install 'fertools[render]'")
    return Artist(model_folder, (48, 48), 0)


def test_the_shipped_portraits_are_rendered_again(portraitist: Artist) -> None:
    """Equal on the machine that made them; elsewhere rounding may differ in the last bits of light and blur."""
    shipped, table = synthetic.load_portraits(SHIPPED), synthetic.table("portraits", SHIPPED)
    away = []
    for index in np.linspace(0, len(shipped) - 1, 12).round().astype(int).tolist():
        image, row = portraitist.portrait(index)
        assert agrees(row, table.iloc[index])
        away.append(np.abs(tile_jpeg(image).astype(float) - shipped.images[index]).mean())
    assert max(away) < 2


def test_a_portrait_does_not_depend_on_earlier_ones(portraitist: Artist) -> None:
    first, _ = portraitist.portrait(4711)
    portraitist.portrait(12)
    assert np.array_equal(portraitist.portrait(4711)[0], first)


def test_a_shipped_sequence_is_rendered_again(model_folder: Path, tmp_path: Path) -> None:
    """Its last three frames, rendered by the real command's workers and cropped like CK+'s."""
    pytest.importorskip("pyvista", reason="rendering needs PyVista: pip install 'fertools[render]'")
    which = plan.plan_sequences(0)[100]
    rows = render_sequences(model_folder, tmp_path, [which], 0, 1, ckplus.FRAMES)
    shipped, table = synthetic.load_sequences(SHIPPED), synthetic.table("sequences", SHIPPED)
    place = np.flatnonzero(table.sequence == which.name)
    for row, i in zip(rows, place, strict=True):
        assert agrees(row, table.iloc[i])
    drawn = ckplus.load_ckplus(tmp_path, verify=False, progress=False)
    away = [
        np.abs(tile_jpeg(image).astype(float) - shipped.images[i]).mean()
        for image, i in zip(drawn.images, place, strict=True)
    ]
    assert max(away) < 2
    # Existing frames are not rendered again.
    frames = contents(tmp_path / "cohn-kanade-images")
    assert len(frames) == ckplus.FRAMES
    assert read_image(next((tmp_path / "cohn-kanade-images").rglob("*.png"))).shape == FRAME[::-1]
    assert json.dumps(render_sequences(tmp_path / "no model", tmp_path, [which], 0, 1, ckplus.FRAMES)) == json.dumps(
        rows
    )
