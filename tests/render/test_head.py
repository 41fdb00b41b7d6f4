"""The face model, on a mesh small enough to reckon by hand, and as it is where it has been placed."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from fertools.errors import DataError
from fertools.render.head import FaceModel

# A box of 1 x 2 x 3 around the origin, a triangle and a square next to it.
BOX = np.array([(x, y, z) for x in (-0.5, 0.5) for y in (-1, 1) for z in (-1.5, 1.5)], np.float32)
NEUTRAL = np.vstack([BOX, [(5, 0, 0), (6, 0, 0), (5, 1, 0)], [(8, 0, 0), (9, 0, 0), (9, 1, 0), (8, 1, 0)]])
FACES = [
    [0, 1, 3, 2], [4, 6, 7, 5], [0, 4, 5, 1], [2, 3, 7, 6], [0, 2, 6, 4], [1, 5, 7, 3],
    [8, 9, 10, 10], [11, 12, 13, 14],
]  # fmt: skip
MATERIALS = (
    "M_Face", "M_BackHead", "M_ScleraLeft", "M_ScleraRight", "M_GumsTongue", "M_Teeth", "M_EyeLashes", "M_EyeBlend",
)  # fmt: skip
# Powers of two, which half precision represents exactly.
MOVES = {
    "identity000": [(i % 3 - 1, 0.5, 0) for i in range(15)],
    "identity001": [(0, i % 2, -0.25) for i in range(15)],
    "browDown_L": [(0, -0.125 * (i % 5), 0) for i in range(15)],
    "jawOpen": [(0, 0, 2 * (i % 4)) for i in range(15)],
}


def arrays() -> tuple[np.ndarray, np.ndarray]:
    moves = {name: np.array(move, np.float32) for name, move in MOVES.items()}
    return np.stack([*moves.values()][:2]), np.stack([*moves.values()][2:])


@pytest.fixture
def tiny() -> FaceModel:
    identity, expression = arrays()
    return FaceModel(
        NEUTRAL.astype(np.float32),
        identity,
        expression,
        ("browDown_L", "jawOpen"),
        np.array(FACES, np.int32),
        np.arange(8, dtype=np.uint8),
        MATERIALS,
        np.arange(3),
    )


def write_obj(path: Path, vertices: np.ndarray) -> None:
    """As the public repository writes it: texture and normal after each corner's vertex, counted from 1."""
    lines = ["# a comment", "mtllib ICTFaceModelMaterial.mtl", "o head", ""]
    lines += [f"v {x:f} {y:f} {z:f}" for x, y, z in vertices]
    lines += ["vt 0.5 0.5", "vn 0 0 1", "s 1"]
    for i, face in enumerate(FACES):
        corners = dict.fromkeys(face)  # a triangle has three
        lines += [f"usemtl {MATERIALS[i]}", "f " + " ".join(f"{corner + 1}/1/1" for corner in corners)]
    path.write_text("\n".join(lines) + "\n")


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    folder = tmp_path / "FaceXModel"
    folder.mkdir()
    write_obj(folder / "generic_neutral_mesh.obj", NEUTRAL)
    for name, move in MOVES.items():
        write_obj(folder / f"{name}.obj", NEUTRAL + np.array(move))
    (folder / "vertex_indices.json").write_text(json.dumps({"idx_to_landmark_verts": [4, 2, 0]}))
    return folder


@pytest.fixture
def packed(checkout: Path, tmp_path: Path) -> Path:
    folder = tmp_path / "packed"
    folder.mkdir()
    identity, expression = arrays()
    order = sorted(MATERIALS)
    np.savez(
        folder / "ict_facekit_basis.npz",
        neutral=NEUTRAL.astype(np.float32),
        identity=identity.astype(np.float16),
        expression=expression.astype(np.float16),
        expression_names=np.array(["browDown_L", "jawOpen"]),
        faces=np.array(FACES, np.int32),
        material=np.array([order.index(name) for name in MATERIALS], np.uint8),
        material_names=np.array(order),
    )
    shutil.copy(checkout / "vertex_indices.json", folder)
    return folder


def test_vertices_are_the_mean_plus_weighted_displacements(tiny: FaceModel) -> None:
    found = tiny.vertices(np.array([0.5, -2.0]), {"jawOpen": 1.5})
    assert found.dtype == np.float32
    for i in range(15):
        x, y, z = NEUTRAL[i]
        expected = (x + 0.5 * (i % 3 - 1), y + 0.25 - 2 * (i % 2), z + 0.5 + 1.5 * 2 * (i % 4))
        assert found[i].tolist() == pytest.approx(expected)
    assert np.array_equal(tiny.vertices(np.array([]), {}), NEUTRAL)
    assert np.array_equal(tiny.neutral, NEUTRAL)  # nothing was written into it


def test_fewer_weights_are_the_first_ones(tiny: FaceModel) -> None:
    few, all_ = tiny.vertices(np.array([0.7]), {}), tiny.vertices(np.array([0.7, 0.0]), {})
    assert np.array_equal(few, all_)


def test_normals_are_weighted_by_area(tiny: FaceModel) -> None:
    """At a box's corner three faces meet, of areas 6, 3 and 2, and 6 x 6 + 3 x 3 + 2 x 2 = 7 x 7."""
    found = tiny.normals(tiny.neutral)
    assert found[:8] == pytest.approx(np.sign(BOX) * (6, 3, 2) / 7, abs=1e-6)
    assert found[8:] == pytest.approx(np.tile((0, 0, 1), (7, 1)), abs=1e-6)


def test_normals_turn_with_the_surface(tiny: FaceModel) -> None:
    turn = np.array([(0, -1, 0), (1, 0, 0), (0, 0, 1)], np.float32)
    assert tiny.normals(tiny.neutral @ turn.T) == pytest.approx(tiny.normals(tiny.neutral) @ turn.T, abs=1e-6)


def test_each_face_counts_at_its_corners(tiny: FaceModel) -> None:
    incidence = tiny._incidence.toarray() > 0
    assert incidence.shape == (15, 8)
    for vertex in range(15):
        for face in range(8):
            assert incidence[vertex, face] == (vertex in FACES[face])


def test_vertices_of_materials(tiny: FaceModel) -> None:
    assert np.flatnonzero(tiny.of_material("M_Face")).tolist() == [0, 1, 2, 3]
    assert np.flatnonzero(tiny.of_material("M_EyeLashes", "M_EyeBlend")).tolist() == [*range(8, 15)]


def test_thin_layers_over_the_eyes_are_left_out(tiny: FaceModel) -> None:
    assert {part: np.flatnonzero(chosen).tolist() for part, chosen in tiny.parts.items()} == {
        "skin": [0, 1],
        "eyes": [2, 3],
        "mouth": [4, 5],
        "lashes": [6],
    }


def test_both_formats_give_the_same_model(packed: Path, checkout: Path, tiny: FaceModel) -> None:
    for folder in (packed, checkout):
        model = FaceModel.load(folder)
        assert model.shapes == tiny.shapes
        assert model.landmarks.tolist() == [4, 2, 0]
        for name in ("neutral", "identity", "expression", "faces"):
            found, expected = getattr(model, name), getattr(tiny, name)
            assert found.dtype == expected.dtype
            assert np.array_equal(found, expected)
        for part, chosen in tiny.parts.items():
            assert np.array_equal(model.parts[part], chosen)
        for name in MATERIALS:
            assert np.array_equal(model.of_material(name), tiny.of_material(name))


@pytest.mark.parametrize("missing", ["vertex_indices.json", "ict_facekit_basis.npz"])
def test_a_folder_without_a_model_says_where_to_get_it(packed: Path, missing: str) -> None:
    (packed / missing).unlink()
    with pytest.raises(DataError, match=f"{packed} contains no face model.*github.com/ICT-VGL/ICT-FaceKit.*FaceXModel"):
        FaceModel.load(packed)


def test_the_real_model(face_model: FaceModel, shapes: tuple[str, ...]) -> None:
    assert face_model.shapes == shapes
    assert face_model.identity.shape == (100, *face_model.neutral.shape)
    assert face_model.expression.shape == (57, *face_model.neutral.shape)
    marks = face_model.neutral[face_model.landmarks]
    assert marks.shape == (68, 3)
    # Cm, x to the head's left, y up, z forward; the usual order of landmarks starts at the head's right ear.
    assert 10 < np.ptp(marks[:17, 0]) < 20
    assert marks[0, 0] < 0 < marks[16, 0]
    brows, nose, chin = marks[17:27], marks[30], marks[8]
    assert brows[:, 1].min() > nose[1] > chin[1]
    assert nose[2] == marks[:, 2].max()
    assert marks[17:22, 0].max() < 0 < marks[22:27, 0].min()
    # Normals point outward: away from the middle of the head.
    normals, skin = face_model.normals(face_model.neutral), face_model.of_material("M_Face")
    assert np.linalg.norm(normals[skin], axis=1) == pytest.approx(1, abs=1e-4)
    outward = ((face_model.neutral - (0, 2, 0)) * normals).sum(1)[face_model.landmarks]
    assert (outward > 0).mean() > 0.9
