"""A head small enough for every test, and the real face model if it is available."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from fertools.render.head import FaceModel

ROOT = Path(__file__).parents[2]

# ICT-FaceKit's 57 shapes of expression: file names of its public repository.
ONE_SIDED = (
    "PupilDilate", "browDown", "browInnerUp", "browOuterUp", "cheekPuff", "cheekRaiser", "cheekSquint", "eyeBlink",
    "eyeLookDown", "eyeLookIn", "eyeLookOut", "eyeLookUp", "eyeSquint", "eyeWide", "mouthDimple", "mouthFrown",
    "mouthLowerDown", "mouthPress", "mouthSmile", "mouthStretch", "mouthUpperUp", "noseSneer",
)  # fmt: skip
WHOLE = (
    "jawForward", "jawLeft", "jawOpen", "jawRight", "mouthClose", "mouthFunnel", "mouthLeft", "mouthPucker",
    "mouthRight", "mouthRollLower", "mouthRollUpper", "mouthShrugLower", "mouthShrugUpper",
)  # fmt: skip
MATERIALS = (
    "M_Face", "M_BackHead", "M_ScleraLeft", "M_ScleraRight", "M_GumsTongue", "M_Teeth", "M_EyeLashes", "M_EyeBlend",
)  # fmt: skip


@pytest.fixture(scope="session")
def shapes() -> tuple[str, ...]:
    """The names of the face model's shapes, in its order."""
    return tuple(sorted(WHOLE + tuple(name + side for name in ONE_SIDED for side in ("_L", "_R"))))


@pytest.fixture(scope="session")
def model_folder() -> Path:
    """The real face model's folder."""
    folder = ROOT / "data" / "facekit"
    if not (folder / "vertex_indices.json").exists():
        pytest.skip(
            "the face model ICT-FaceKit is not in data/facekit: copy or link FaceXModel of "
            "github.com/ICT-VGL/ICT-FaceKit there"
        )
    return folder


@pytest.fixture(scope="session")
def face_model(model_folder: Path) -> FaceModel:
    """The real face model."""
    return FaceModel.load(model_folder)


def _grid(
    x: np.ndarray, y: np.ndarray, points: np.ndarray, start: int, *, backwards: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    """A sheet over x and y with its vertices and its quadrilaterals, seen from the front or from behind."""
    corner = (np.arange(len(y) - 1)[:, None] * len(x) + np.arange(len(x) - 1)).ravel() + start
    quads = np.stack([corner, corner + 1, corner + len(x) + 1, corner + len(x)], 1)
    return points.reshape(-1, 3), quads[:, ::-1] if backwards else quads


@pytest.fixture(scope="session")
def toy_head(shapes: tuple[str, ...]) -> FaceModel:
    """A mask of a few thousand vertices with the places of a face, equal on both sides.

    A bent sheet from collar to crown, another behind it, two balls for the eyes, and three flat patches for
    gums, teeth and lashes. The jaw moves when it opens, the left brow's corner when it falls, and the first
    identity is a broader head; no other weight moves anything.
    """
    sheets: list[tuple[np.ndarray, np.ndarray]] = []
    material: list[int] = []

    def add(name: str, x: np.ndarray, y: np.ndarray, points: np.ndarray, backwards: bool = False) -> None:
        start = sum(len(vertices) for vertices, _ in sheets)
        sheets.append(_grid(x, y, points, start, backwards=backwards))
        material.extend([MATERIALS.index(name)] * len(sheets[-1][1]))

    x, y = np.linspace(-8, 8, 41), np.linspace(-18, 13, 79)
    grid_x, grid_y = np.meshgrid(x, y)
    bent = 11.2 - 0.09 * grid_x**2 - 0.012 * (grid_y - 0.4) ** 2
    add("M_Face", x, y, np.stack([grid_x, grid_y, bent], -1))
    add("M_BackHead", x, y, np.stack([grid_x, grid_y, -bent + 4], -1), backwards=True)
    around, down = np.linspace(-np.pi, np.pi, 49), np.linspace(-1.5, 1.5, 25)
    a, d = np.meshgrid(around, down)
    ball = 1.3 * np.stack([np.sin(a) * np.cos(d), np.sin(d), np.cos(a) * np.cos(d)], -1)
    add("M_ScleraLeft", around, down, ball + (3.2, 3.8, 10.2))
    add("M_ScleraRight", around, down, ball + (-3.2, 3.8, 10.2))
    for name, height, z in (
        ("M_GumsTongue", -3.0, 8.5),
        ("M_Teeth", -2.8, 9.0),
        ("M_EyeLashes", 5.2, 10.6),
        ("M_EyeBlend", 3.8, 12.5),
    ):
        px, py = np.linspace(-1, 1, 5), np.linspace(height - 0.3, height + 0.3, 3)
        gx, gy = np.meshgrid(px, py)
        add(name, px, py, np.stack([gx, gy, np.full_like(gx, z)], -1))

    neutral = np.concatenate([vertices for vertices, _ in sheets]).astype(np.float32)
    faces = np.concatenate([quads for _, quads in sheets]).astype(np.int32)
    identity = np.zeros((100, *neutral.shape), np.float32)
    identity[0, :, 0] = 0.05 * neutral[:, 0]
    expression = np.zeros((len(shapes), *neutral.shape), np.float32)
    expression[shapes.index("jawOpen"), neutral[:, 1] < -3, 1] = -2
    expression[shapes.index("browDown_L"), (neutral[:, 0] > 0) & (neutral[:, 1] > 5.5), 1] = -0.5

    right_half = [(-7.5, 3), (-7.4, 1), (-7.2, -1), (-6.8, -3), (-6, -5), (-4.8, -6.8), (-3.2, -8), (-1.6, -8.8)]
    right_brow = [(-5.4, 5.8), (-4.6, 6.4), (-3.6, 6.5), (-2.4, 6.3), (-1.2, 5.9)]
    right_eye = [(-4.4, 3.8), (-3.6, 4.4), (-2.8, 4.4), (-2, 3.8), (-2.8, 3.3), (-3.6, 3.3)]

    def mirrored(points: list[tuple[float, float]]) -> list[tuple[float, float]]:
        return [(-px, py) for px, py in points]

    marks = [*right_half, (0, -9), *mirrored(right_half)[::-1], *right_brow, *mirrored(right_brow)[::-1]]
    marks += [(0, 4), (0, 3), (0, 2), (0, 1), (-1.2, -0.6), (-0.6, -0.9), (0, -1), (0.6, -0.9), (1.2, -0.6)]
    marks += right_eye
    marks += [(-right_eye[i][0], right_eye[i][1]) for i in (3, 2, 1, 0, 5, 4)]
    marks += [(-2.4, -3), (-1.6, -2.5), (-0.8, -2.3), (0, -2.4), (0.8, -2.3), (1.6, -2.5), (2.4, -3)]
    marks += [(1.6, -3.6), (0.8, -3.9), (0, -4), (-0.8, -3.9), (-1.6, -3.6)]
    marks += [(-2, -3), (-0.8, -2.9), (0, -2.9), (0.8, -2.9), (2, -3), (0.8, -3.2), (0, -3.2), (-0.8, -3.2)]
    front = neutral[: len(x) * len(y), :2]
    landmarks = np.array([np.linalg.norm(front - mark, axis=1).argmin() for mark in marks])
    return FaceModel(neutral, identity, expression, shapes, faces, np.array(material, np.uint8), MATERIALS, landmarks)
