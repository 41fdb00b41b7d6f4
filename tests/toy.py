"""A small set that every test can afford."""

from __future__ import annotations

import numpy as np

from fertools.data import FaceSet

CLASSES = ("anger", "disgust", "fear", "happy", "sad", "surprise", "neutral")


def toy_faces(n: int = 180, classes: tuple[str, ...] = CLASSES, seed: int = 0) -> FaceSet:
    """Noise whose brightest band tells the label: learnable in a few steps.

    Two thirds train; the last third is half PublicTest and half PrivateTest. Every person has
    five images in a row, and every sequence is of one person.
    """
    rng = np.random.default_rng(seed)
    labels = np.arange(n) % len(classes)
    images = rng.integers(0, 100, (n, 48, 48), dtype=np.uint8)
    band = 48 // len(classes)
    for image, label in zip(images, labels, strict=True):
        image[label * band : (label + 1) * band] += 120
    split = np.array(["Training"] * (n * 2 // 3) + ["PublicTest"] * (n // 6) + ["PrivateTest"] * (n // 6))
    people = np.array([f"S{i // 5:03}" for i in range(n)])
    return FaceSet("toy", images, labels, classes, split=split, subjects=people, sequences=people)
