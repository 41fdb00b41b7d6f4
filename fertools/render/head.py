"""The face model: the surface of a head.

ICT-FaceKit (Li et al., "Learning formation of physically-based face attributes", CVPR 2020; MIT license) is
a head as a mean surface plus weighted displacements, 100 of identity and 57 of expression. Its surface comes
without colors; :mod:`fertools.render.paint` adds brows, lips, hair, and wrinkles.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from functools import cached_property, lru_cache
from pathlib import Path

import numpy as np
import scipy.sparse as sparse

from fertools.errors import DataError

Array = np.ndarray

WHERE = (
    "Rendering needs the face model ICT-FaceKit (MIT license): clone github.com/ICT-VGL/ICT-FaceKit and pass its "
    "folder FaceXModel, or pass the folder with ict_facekit_basis.npz and vertex_indices.json."
)

_SKIN = ("M_Face", "M_BackHead")
_EYES = ("M_ScleraLeft", "M_ScleraRight")
_MOUTH = ("M_GumsTongue", "M_Teeth")
_LASHES = ("M_EyeLashes",)


class FaceModel:
    """The surface: vertices of any identity and expression, in cm, x to the head's left, y up, z forward.

    Args:
        neutral: (V, 3), the mean head.
        identity: (100, V, 3) displacements, each for one standard deviation.
        expression: (57, V, 3) displacements, each for one shape at its full amplitude.
        shapes: their names.
        faces: (F, 4) vertices of quadrilaterals; a triangle repeats its last corner.
        material: (F,) index into ``materials``.
        materials: their names.
        landmarks: (68,) the vertices of the usual 68 landmarks.
    """

    def __init__(
        self,
        neutral: Array,
        identity: Array,
        expression: Array,
        shapes: tuple[str, ...],
        faces: Array,
        material: Array,
        materials: tuple[str, ...],
        landmarks: Array,
    ) -> None:
        # Left out: thin transparent layers over the eyes, and the iris, which is behind the eyeball's
        # outer shell; it is painted on the shell instead.
        self.parts = {
            part: np.isin(material, [materials.index(name) for name in names])
            for part, names in {"skin": _SKIN, "eyes": _EYES, "mouth": _MOUTH, "lashes": _LASHES}.items()
        }
        self.neutral, self.identity, self.expression = neutral, identity, expression
        self.shapes, self.faces, self.landmarks = shapes, faces, landmarks
        self._material, self._materials = material, materials

    @classmethod
    def load(cls, folder: str | Path) -> FaceModel:
        """Reads the packed basis, or the folder ``FaceXModel`` of a checkout of ICT-FaceKit.

        Raises:
            DataError: the folder contains neither.
        """
        folder = Path(folder)
        packed, indices = folder / "ict_facekit_basis.npz", folder / "vertex_indices.json"
        if not indices.is_file() or not (packed.is_file() or (folder / "generic_neutral_mesh.obj").is_file()):
            raise DataError(f"{folder} contains no face model. {WHERE}")
        landmarks = np.array(json.loads(indices.read_text())["idx_to_landmark_verts"])
        if not packed.is_file():
            return cls(*_read_checkout(folder), landmarks)
        with np.load(packed) as basis:
            return cls(
                basis["neutral"],
                basis["identity"].astype(np.float32),
                basis["expression"].astype(np.float32),
                tuple(map(str, basis["expression_names"])),
                basis["faces"],
                basis["material"],
                tuple(map(str, basis["material_names"])),
                landmarks,
            )

    def vertices(self, identity: Array, shapes: Mapping[str, float]) -> Array:
        """A head's vertices, float32 (V, 3), from identity weights (up to 100) and shape amplitudes."""
        found = self.neutral + np.tensordot(identity.astype(np.float32), self.identity[: len(identity)], 1)
        for shape, amplitude in shapes.items():
            found += np.float32(amplitude) * self.expression[self.shapes.index(shape)]
        return found

    def normals(self, vertices: Array) -> Array:
        """Unit normals (V, 3): the mean of the normals of a vertex's faces, weighted by area."""
        a, b, c, d = (vertices[self.faces[:, i]] for i in range(4))
        found = self._incidence @ np.cross(c - a, d - b)
        return found / np.maximum(np.linalg.norm(found, axis=1, keepdims=True), 1e-9)

    @cached_property
    def _incidence(self) -> sparse.csr_matrix:
        rows, columns = self.faces.ravel(), np.repeat(np.arange(len(self.faces)), 4)
        shape = (len(self.neutral), len(self.faces))
        return sparse.csr_matrix((np.ones(rows.size, np.float32), (rows, columns)), shape)

    @lru_cache(maxsize=32)  # noqa: B019  (a model exists as long as its process)
    def of_material(self, *names: str) -> Array:
        """Which vertices belong to the materials: bool, (V,)."""
        found = np.zeros(len(self.neutral), bool)
        found[self.faces[np.isin(self._material, [self._materials.index(name) for name in names])]] = True
        return found


def _read_checkout(folder: Path) -> tuple[Array, Array, Array, tuple[str, ...], Array, Array, tuple[str, ...]]:
    """The model's arrays from the OBJ files of the public repository, one surface per file."""
    neutral, faces, material, materials = _read_obj(folder / "generic_neutral_mesh.obj")
    others = sorted(p.stem for p in folder.glob("*.obj"))
    identity = [name for name in others if name.startswith("identity")]
    shapes = tuple(name for name in others if not name.startswith(("identity", "generic")))

    def displacements(names: Iterable[str]) -> Array:
        return np.stack([_read_obj(folder / f"{name}.obj")[0] - neutral for name in names])

    return neutral, displacements(identity), displacements(shapes), shapes, faces, material, materials


def _read_obj(path: Path) -> tuple[Array, Array, Array, tuple[str, ...]]:
    """Vertices, faces, each face's material, and the materials' names."""
    vertices: list[list[float]] = []
    faces: list[list[int]] = []
    material: list[int] = []
    names: list[str] = []
    current = 0
    for line in path.read_text().splitlines():
        key, *words = line.split() or [""]
        if key == "v":
            vertices.append([float(word) for word in words[:3]])
        elif key == "usemtl":
            if words[0] not in names:
                names.append(words[0])
            current = names.index(words[0])
        elif key == "f":
            corners = [int(word.split("/")[0]) - 1 for word in words]
            faces.append((corners + corners[-1:])[:4])
            material.append(current)
    return np.array(vertices, np.float32), np.array(faces, np.int32), np.array(material, np.uint8), tuple(names)
