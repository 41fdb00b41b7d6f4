from __future__ import annotations

import os
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


@pytest.fixture(scope="session", autouse=True)
def _forced_bf16() -> Iterator[None]:
    """``FERTOOLS_TEST_BF16=on`` or ``off`` runs the tests as on a CPU with or without bf16 arithmetic."""
    forced = os.environ.get("FERTOOLS_TEST_BF16")
    if not forced:
        yield
        return
    if forced not in ("on", "off"):
        raise pytest.UsageError(f"FERTOOLS_TEST_BF16={forced}: expected on or off")
    import torch

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: forced == "on")
        yield


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
    """The real set, if it is in ``data/``."""
    if not (PUBLISHED / "fer2013.csv").exists():
        pytest.skip("FER2013 is not in data/fer2013; see data/README.md")
    from fertools.data import fer2013

    return fer2013.load_fer2013(PUBLISHED)
