"""What each image shows, drawn at random: people, movements, poses, light, cameras.

An image depends only on the seed and its own number, so that any of them can be rendered again.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from fertools.data.ckplus import CLASSES, SEQUENCES, SUBJECTS
from fertools.data.faceset import SPLITS
from fertools.render.expressions import LABELS, Movement, draw_movement
from fertools.render.paint import Person, draw_person
from fertools.render.scene import Camera, Scene

PORTRAITS = 10_000
PER_SUBJECT = 10  # portraits of one person
FRACTIONS = (0.8, 0.1, 0.1)  # of the people, in each of SPLITS

# Each generator's seed starts with one of these, so that no two draw the same numbers.
_PERSON, _PORTRAIT, _ACTOR, _CAST, _SEQUENCE = range(5)


@dataclass(frozen=True)
class ImagePlan:
    """Everything that an image is rendered from, and its row in the table."""

    person: Person
    shapes: dict[str, float]
    scene: Scene
    camera: Camera
    row: dict[str, Any]


def plan_portrait(index: int, seed: int, shapes: tuple[str, ...]) -> ImagePlan:
    """Plans the portrait with that number.

    Each person has ten portraits: all eight labels, two of them twice. Nobody is in two splits.

    Args:
        index: from 0 to :data:`PORTRAITS` - 1.
        seed: of the whole data set.
        shapes: the names of the face model's shapes.
    """
    rng = np.random.default_rng((_PORTRAIT, seed, index))
    subject = index // PER_SUBJECT
    position = (subject + 0.5) / (PORTRAITS // PER_SUBJECT)
    split = SPLITS[int(np.searchsorted(np.cumsum(FRACTIONS), position))]
    label = LABELS[index % len(LABELS)]
    person = _person(_PERSON, seed, subject)
    amplitude = float(0.5 + 0.5 * rng.beta(2.2, 0.8))
    movement = draw_movement(label, amplitude, rng, shapes, blend=0.25)
    occlusion = str(rng.choice(("none", "sunglasses", "hand", "brim"), p=(0.88, 0.02, 0.05, 0.05)))
    scene = Scene(
        yaw=_clipped(rng, 0, 12, 40),
        pitch=_clipped(rng, {"sad": -4, "anger": -3, "contempt": 3}.get(label, 0), 7, 20),
        roll=_clipped(rng, 0, 6, 20),
        gaze=(_clipped(rng, 0, 7, 20), _clipped(rng, {"sad": -4}.get(label, 0), 4, 12)),
        light=(_clipped(rng, 0, 35, 80), _clipped(rng, 25, 20, 70)),
        contrast=float(rng.uniform(0.2, 0.75)),
        exposure=float(rng.lognormal(0.15, 0.15)),
        occlusion=occlusion,
        place=(float(rng.normal(0, 1.5)), float(rng.normal(0, 0.6))),
        shift=(_clipped(rng, 0, 0.035, 0.1), _clipped(rng, 0, 0.035, 0.1)),
        zoom=float(np.clip(rng.lognormal(0.03, 0.08), 0.8, 1.3)),
        background=int(rng.integers(2**31)),
    )
    camera = Camera(
        gamma=float(rng.uniform(0.5, 0.85)),
        blur=float(rng.uniform(0.1, 0.5)),
        detail=float(rng.uniform(0.55, 1)) if rng.random() < 0.15 else 1.0,
        noise=float(rng.gamma(1.2, 1.5)),
        quality=int(rng.integers(40, 96)),
    )
    row = {"split": split, "subject": f"P{subject:03d}", "label": label, **_row(person, movement, scene, camera)}
    return ImagePlan(person, movement.shapes, scene, camera, row)


@dataclass(frozen=True)
class SequencePlan:
    """A video from a neutral face to the peak of an expression, as in CK+."""

    subject: int  # from 1
    number: int  # of the subject's sequences, from 1
    label: str

    @property
    def name(self) -> str:
        """As in CK+, e.g. ``"S005_001"``."""
        return f"S{self.subject:03d}_{self.number:03d}"


def plan_sequences(seed: int) -> list[SequencePlan]:
    """Plans 327 sequences of 118 subjects, as many of each class as in CK+; no subject shows a label twice."""
    rng = np.random.default_rng((_CAST, seed))
    labels: list[list[str]] = [[] for _ in range(SUBJECTS)]
    for label, count in zip(CLASSES, SEQUENCES, strict=True):
        # Subjects with the fewest sequences so far come first, so that everybody has one.
        order = sorted(rng.permutation(SUBJECTS), key=lambda subject: len(labels[subject]))
        for subject in order[:count]:
            labels[subject].append(label)
    return [
        SequencePlan(subject + 1, number + 1, str(label))
        for subject, shown in enumerate(labels)
        for number, label in enumerate(rng.permutation(shown))
    ]


def plan_frames(sequence: SequencePlan, seed: int, shapes: tuple[str, ...]) -> list[ImagePlan]:
    """Plans the frames of a sequence in order, from neutral to the peak.

    As in CK+, the subject faces the camera in front of a plain wall under soft light, and hardly moves.
    """
    rng = np.random.default_rng((_SEQUENCE, seed, sequence.subject, sequence.number))
    person = _person(_ACTOR, seed, sequence.subject)
    # One subject, one session: the room is the same in all sequences of a subject.
    room = np.random.default_rng((_ACTOR, seed, sequence.subject, 1))
    light, contrast = (_clipped(room, 0, 25, 60), _clipped(room, 25, 10, 60)), float(room.uniform(0.2, 0.6))
    exposure, wall = float(room.lognormal(0.1, 0.1)), -int(room.integers(60, 200))
    camera = Camera(gamma=float(room.uniform(0.6, 0.75)), blur=0.6, detail=1.0, noise=0.0, quality=100)
    amplitude = float(0.6 + 0.4 * rng.beta(2, 1.2))
    movement = draw_movement(sequence.label, amplitude, rng, shapes, blend=0.2)
    count = int(rng.integers(8, 13))
    start, end = rng.normal(0, (4, 2.5, 2), (2, 3)) * ((1,), (0.4,))
    frames = []
    for i, t in enumerate(np.linspace(0, 1, count)):
        done = float(np.interp(t, (0, 0.1, 0.85, 1), (0, 0, 1, 1)))
        done = done * done * (3 - 2 * done)
        yaw, pitch, roll = start + t * end + rng.normal(0, 0.15, 3)
        scene = Scene(
            yaw=yaw, pitch=pitch, roll=roll, gaze=(float(rng.normal(0, 1)), float(rng.normal(0, 1))), light=light,
            contrast=contrast, exposure=exposure, occlusion="none", place=(0, 0), shift=(0, -0.02), zoom=0.6,
            background=wall,
        )  # fmt: skip
        now = Movement({k: done * v for k, v in movement.shapes.items()}, _at(movement.amplitudes, done))
        row = {"sequence": sequence.name, "frame": i + 1, "frames": count, "subject": f"S{sequence.subject:03d}",
               "label": sequence.label, **_row(person, now, scene, camera)}  # fmt: skip
        frames.append(ImagePlan(person, now.shapes, scene, camera, row))
    return frames


def _at(amplitudes: tuple[float, ...], done: float) -> tuple[float, ...]:
    return tuple(round(done * value, 3) for value in amplitudes)


@lru_cache(maxsize=4)
def _person(kind: int, seed: int, number: int) -> Person:
    return draw_person(np.random.default_rng((kind, seed, number)))


def _clipped(rng: np.random.Generator, mean: float, std: float, limit: float) -> float:
    return float(np.clip(rng.normal(mean, std), -limit, limit))


def _row(person: Person, movement: Movement, scene: Scene, camera: Camera) -> dict[str, Any]:
    """The columns that both tables have."""
    occlusion = scene.occlusion
    if occlusion == "none" and person.glasses >= 0:
        occlusion = "glasses"
    return {
        **dict(zip(LABELS, movement.amplitudes, strict=True)),
        "yaw": round(scene.yaw, 1),
        "pitch": round(scene.pitch, 1),
        "roll": round(scene.roll, 1),
        "light_side": round(scene.light[0], 1),
        "light_up": round(scene.light[1], 1),
        "light_contrast": round(scene.contrast, 2),
        "exposure": round(scene.exposure, 2),
        "albedo": round(person.albedo, 3),
        "hair": person.hair,
        "occlusion": occlusion,
        "zoom": round(scene.zoom, 3),
        "blur": round(camera.blur, 2),
        "detail": round(camera.detail, 2),
        "noise": round(camera.noise, 1),
        "quality": camera.quality,
    }
