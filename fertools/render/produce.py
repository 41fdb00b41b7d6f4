"""Renders the planned images in several processes, and assembles the data set.

Images are rendered in batches, and finished batches are kept under ``.parts``, so that the same command continues
a run that was stopped. In the end the batches become sheets and tables, and ``.parts`` is deleted.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import multiprocessing
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from fertools import IMAGE_SIZE
from fertools.data import ckplus, synthetic
from fertools.data.faces import detect, read_image
from fertools.data.faceset import SPLITS
from fertools.errors import DataError, require
from fertools.files import atomic_write
from fertools.render.head import Array, FaceModel
from fertools.render.paint import Paint
from fertools.render.plan import PORTRAITS, ImagePlan, SequencePlan, plan_frames, plan_portrait, plan_sequences
from fertools.render.scene import Studio, photograph, renderer

BATCH = 100
FRAME = (640, 490)  # CK+'s size
IMAGES = "cohn-kanade-images"  # CK+'s folder of sequences
COMPLETE = 12  # sequences that ship with every frame
OVERSAMPLE = {(IMAGE_SIZE, IMAGE_SIZE): 4, FRAME: 2}


class Artist:
    """Renders images of one size; one in each process, since setting it up takes a second."""

    def __init__(self, model: Path, size: tuple[int, int], seed: int) -> None:
        self.model = FaceModel.load(model)
        self.studio = Studio(Paint(self.model), size, OVERSAMPLE[size])
        self.seed = seed

    def portrait(self, index: int) -> tuple[Array, dict[str, Any]]:
        """The portrait with that number, uint8 (48, 48), and its row."""
        return self._draw(plan_portrait(index, self.seed, self.model.shapes), index)

    def sequence(self, which: SequencePlan, last: int | None = None) -> list[tuple[Array, dict[str, Any]]]:
        """A sequence's frames, uint8 (490, 640), with their rows; only the ``last`` few if given."""
        frames = list(enumerate(plan_frames(which, self.seed, self.model.shapes)))
        return [self._draw(frame, i) for i, frame in frames[-(last or len(frames)) :]]

    def _draw(self, plan: ImagePlan, number: int) -> tuple[Array, dict[str, Any]]:
        light = self.studio.take(plan.person, plan.shapes, plan.scene)
        # The noise of an image depends on its number, so that it can be rendered again alone.
        return photograph(light, plan.camera, np.random.default_rng((self.seed, number))), plan.row


_artist: Artist


def _set_up(model: Path, size: tuple[int, int], seed: int) -> None:
    global _artist
    _artist = Artist(model, size, seed)


def _portraits(job: tuple[Path, int]) -> int:
    """Renders a batch of portraits into one file."""
    path, start = job
    rendered = [_artist.portrait(i) for i in range(start, min(start + BATCH, PORTRAITS))]
    images = np.stack([image for image, _ in rendered])
    with atomic_write(path) as part:
        np.savez(part, images=images, rows=json.dumps([row for _, row in rendered]))
    return len(rendered)


def _sequence(job: tuple[Path, SequencePlan, int | None]) -> int:
    """Renders a sequence into CK+'s folders; its table is written last, as the sign that it is complete."""
    folder, which, last = job
    rendered = _artist.sequence(which, last)
    for image, row in rendered:
        write_frame(folder, row, image)
    with atomic_write(_table_of(folder, which)) as part:
        part.write_text(json.dumps([row for _, row in rendered]))
    return len(rendered)


def write_frame(folder: Path, row: dict[str, Any], image: Array) -> None:
    """Writes a frame where CK+ has it, and with the last frame the sequence's label."""
    cv2 = require("cv2", "render")

    path = _frame_of(folder, row)
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(path) as part:
        cv2.imwrite(str(part), image, (cv2.IMWRITE_PNG_COMPRESSION, 9))
    if row["frame"] == row["frames"]:
        label = folder / "Emotion" / path.parent.relative_to(folder / IMAGES) / f"{path.stem}_emotion.txt"
        label.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(label) as part:
            part.write_text(f"   {ckplus.CLASSES.index(row['label']) + 1}.0000000e+00\n")


def _frame_of(folder: Path, row: dict[str, Any]) -> Path:
    """The path of a frame in CK+."""
    subject, number = row["sequence"].split("_")
    return folder / IMAGES / subject / number / f"{row['sequence']}_{row['frame']:08d}.png"


def _table_of(folder: Path, which: SequencePlan) -> Path:
    return folder / "rows" / f"{which.name}.json"


def _run(jobs: list[Any], work: Any, size: tuple[int, int], model: Path, seed: int, processes: int, what: str) -> None:
    """Does the jobs in several processes."""
    # Fail here if something is missing: a pool would start failing workers again and again.
    FaceModel.load(model)
    renderer()
    context = multiprocessing.get_context("spawn")  # a forked renderer renders nothing
    with (
        context.Pool(processes, _set_up, (model, size, seed)) as pool,
        tqdm(total=len(jobs), desc=what, unit="batch" if size == (IMAGE_SIZE, IMAGE_SIZE) else "sequence") as bar,
    ):
        for _ in pool.imap_unordered(work, jobs):
            bar.update()


def render_portraits(model: Path, parts: Path, seed: int, processes: int) -> tuple[Array, list[dict[str, Any]]]:
    """Renders all portraits, uint8 (N, 48, 48), and their rows."""
    paths = {parts / f"portraits-{start:05d}.npz": start for start in range(0, PORTRAITS, BATCH)}
    jobs = [(path, start) for path, start in paths.items() if not path.exists()]
    if jobs:
        parts.mkdir(parents=True, exist_ok=True)
        _run(jobs, _portraits, (IMAGE_SIZE, IMAGE_SIZE), model, seed, processes, "portraits")
    images, rows = [], []
    for path in paths:
        with np.load(path) as part:
            images.append(part["images"])
            rows += json.loads(str(part["rows"]))
    return np.concatenate(images), rows


def render_sequences(
    model: Path, folder: Path, chosen: list[SequencePlan], seed: int, processes: int, last: int | None
) -> list[dict[str, Any]]:
    """Renders sequences in CK+'s layout, every frame or the ``last`` few; returns their rows, frame by frame."""
    (folder / "rows").mkdir(parents=True, exist_ok=True)
    jobs = [(folder, which, last) for which in chosen if not _table_of(folder, which).exists()]
    if jobs:
        _run(jobs, _sequence, FRAME, model, seed, processes, "sequences")
    return [row for which in chosen for row in json.loads(_table_of(folder, which).read_text())]


def complete_sequences(every: list[SequencePlan]) -> list[SequencePlan]:
    """The sequences that ship with every frame: twelve, of different subjects, cycling through the labels."""
    chosen: list[SequencePlan] = []
    for label in itertools.islice(itertools.cycle(ckplus.CLASSES), COMPLETE):
        seen = {one.subject for one in chosen}
        chosen.append(next(one for one in every if one.label == label and one.subject not in seen))
    return sorted(chosen, key=lambda one: one.name)


def _crops(folder: Path, rows: list[dict[str, Any]]) -> Iterator[tuple[Array, dict[str, Any]]]:
    """Each frame's face as cropped by the reader of CK+, and its row with whether dlib found it in this frame."""
    faces = ckplus.load_ckplus(folder)
    if len(faces) != len(rows):
        raise DataError(f"{folder}: {len(faces)} faces for {len(rows)} frames")
    for image, row in zip(faces.images, tqdm(rows, desc="found by dlib", unit="frame"), strict=True):
        yield image, {**row, "detected": int(bool(detect(read_image(_frame_of(folder, row)), 0)))}


def render(model: Path, out: Path, seed: int = 0, processes: int = 1) -> None:
    """Renders the whole data set into ``out``; the same call continues one that was stopped.

    Args:
        model: the face model's folder, see :meth:`FaceModel.load`.
        out: the folder of the data set, see :mod:`fertools.data.synthetic`.
        seed: of everything random.
        processes: how many render at once.
    """
    every = plan_sequences(seed)
    parts = out / ".parts" / f"{seed}-{_drawing_code()}"
    images, rows = render_portraits(model, parts, seed, processes)
    peaks = render_sequences(model, parts / "peaks", every, seed, processes, ckplus.FRAMES)
    crops = list(_crops(parts / "peaks", peaks))
    render_sequences(model, parts / "CK+", complete_sequences(every), seed, processes, None)

    for split in SPLITS:
        chosen = [i for i, row in enumerate(rows) if row["split"] == split]
        synthetic.write_sheet(out / f"{split}.jpg", images[chosen])
    synthetic.write_table(out / "portraits.csv", sorted(rows, key=lambda row: SPLITS.index(row["split"])))
    synthetic.write_sheet(out / "sequences.jpg", np.stack([image for image, _ in crops]))
    synthetic.write_table(out / "sequences.csv", [row for _, row in crops])
    shutil.rmtree(parts / "CK+" / "rows")
    shutil.rmtree(out / "CK+", ignore_errors=True)
    os.replace(parts / "CK+", out / "CK+")
    synthetic.write_checksums(out)
    shutil.rmtree(out / ".parts")


def render_all_frames(model: Path, out: Path, seed: int = 0, processes: int = 1) -> None:
    """Renders all 327 sequences with every frame into ``out``, in CK+'s layout, and ``sequences.csv``.

    Args:
        model: the face model's folder, see :meth:`FaceModel.load`.
        out: a folder of its own.
        seed: that of the data set.
        processes: how many render at once.
    """
    synthetic.write_table(
        out / "sequences.csv", render_sequences(model, out, plan_sequences(seed), seed, processes, None)
    )


def _drawing_code() -> str:
    """A digest of this package's code, so that a data set is never assembled from parts rendered by different code."""
    digest = hashlib.sha256()
    for path in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:12]
