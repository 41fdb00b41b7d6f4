from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import settings
from toy import CLASSES, toy_faces

from fertools.data import SPLITS, FaceSet

# Without a deadline, since machines are of every speed; the same examples in every run.
settings.register_profile("fertools", deadline=None, derandomize=True, database=None)
settings.load_profile("fertools")

PUBLISHED = Path(__file__).parents[1] / "data" / "fer2013"


@pytest.fixture(autouse=True)
def _close_figures() -> Iterator[None]:
    """Matplotlib keeps every figure until it is closed, and warns of the twenty-first."""
    yield
    if pyplot := sys.modules.get("matplotlib.pyplot"):
        pyplot.close("all")


@pytest.fixture
def faces() -> FaceSet:
    return toy_faces()


@pytest.fixture
def tiny_fer2013() -> FaceSet:
    """63 images of noise in FER2013's shape: three of each class in each of the splits."""
    images = np.random.default_rng(0).integers(0, 256, (63, 48, 48), dtype=np.uint8)
    return FaceSet("fer2013", images, np.arange(63) % 7, CLASSES, split=np.repeat(SPLITS, 21))


@pytest.fixture(scope="session")
def published_fer2013() -> FaceSet:
    """The real set, where somebody has placed it."""
    if not (PUBLISHED / "fer2013.csv").exists():
        pytest.skip("FER2013 is not in data/fer2013; see data/README.md")
    from fertools.data import fer2013

    return fer2013.load_fer2013(PUBLISHED)
