"""Renders the faces of the page "A face to play with" into ``book/_static/play``.

    python book/_tools/play_faces.py data/facekit

Needs the extra ``render`` and the face model; the images are committed, so that the book is built without them.

For each person there are two sheets of 48x48 tiles with a column for each yaw and light. ``faces``: the neutral face,
and each expression at each strength. ``covers``: for each thing in front of the face its gray levels, and below them
how opaque it is, so that the page can put it on any face. ``faces.json`` says what the rows and columns are.
"""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm import tqdm

from fertools import IMAGE_SIZE
from fertools.files import atomic_write
from fertools.render.expressions import LABELS, RECIPES
from fertools.render.head import Array, FaceModel
from fertools.render.paint import Paint, Person, draw_person
from fertools.render.scene import Camera, Scene, Studio, photograph

FOLDER = Path(__file__).parents[1] / "_static" / "play"
PEOPLE = (3, 26, 24, 11, 27)  # seeds: people of different skin tones and ages, none with glasses of their own
EXPRESSIONS = LABELS[:6]  # without neutral, which is every expression at strength 0
STRENGTHS = (0.125, 0.25, 0.375, 0.5, 0.625, 0.75, 0.875, 1.0)
YAWS = (-30, -15, 0, 15, 30)  # degrees, to the head's left
LIGHTS = (-60, -30, 0, 30, 60)  # degrees, to the camera's right
COVERS = ("glasses", "sunglasses", "hand")
CAMERA = Camera(gamma=0.65, blur=0.3, detail=1.0, noise=0.0, quality=100)
OVERSAMPLE = 4  # covers are cut out at this resolution, for soft edges


def scene(yaw: float, light: float, cover: str = "none") -> Scene:
    return Scene(
        yaw=yaw, pitch=0, roll=0, gaze=(0, 0), light=(light, 25), contrast=0.55, exposure=1.15, occlusion=cover,
        place=(0, 0), shift=(0, 0), zoom=1.03, background=-128,
    )  # fmt: skip


def movement(model: FaceModel, expression: str, strength: float) -> dict[str, float]:
    """The first recipe of an expression, the same on both sides of the face."""
    found = {}
    for shape, value in RECIPES[expression][0].items():
        for name in [shape] if shape in model.shapes else [f"{shape}_L", f"{shape}_R"]:
            found[name] = strength * value
    return found


class Atlas:
    """The tiles of one person."""

    def __init__(self, model: FaceModel, person: Person) -> None:
        self.model, self.person = model, person
        paint, size = Paint(model), IMAGE_SIZE
        self.small = Studio(paint, (size, size), OVERSAMPLE)
        self.large = Studio(paint, (size * OVERSAMPLE, size * OVERSAMPLE), 1)

    def face(self, expression: str, strength: float, yaw: float, light: float, cover: str = "none") -> Array:
        """One rendered face, uint8 (48, 48)."""
        shapes = movement(self.model, expression, strength) if strength else {}
        seen = self.small.take(self.person, shapes, scene(yaw, light, cover))
        return photograph(seen, CAMERA, np.random.default_rng(0))

    def cover(self, cover: str, yaw: float, light: float) -> Array:
        """What covers the face, uint8 (2, 48, 48): gray levels times opacity, and opacity, both of 255."""
        bare, dressed = (self.large.take(self.person, {}, scene(yaw, light, c)) for c in ("none", cover))
        opaque = (np.abs(dressed - bare) > 0.004).astype(np.float32)
        gray = np.clip(dressed, 0, 1) ** CAMERA.gamma * opaque
        blocks = (IMAGE_SIZE, OVERSAMPLE, IMAGE_SIZE, OVERSAMPLE)
        return np.stack([np.rint(255 * x.reshape(blocks).mean((1, 3))) for x in (gray, opaque)]).astype(np.uint8)

    def sheets(self) -> tuple[Array, Array]:
        columns = [(yaw, light) for yaw in YAWS for light in LIGHTS]
        rows = [("neutral", 0.0), *((e, s) for e in EXPRESSIONS for s in STRENGTHS)]
        faces = [[self.face(e, s, yaw, light) for yaw, light in columns] for e, s in tqdm(rows, unit="row")]
        covers = [[self.cover(cover, *column) for column in columns] for cover in COVERS]
        return np.block(faces), np.block([[tile[part] for tile in row] for row in covers for part in (0, 1)])


def write(name: str, image: Array, **how: object) -> None:
    data = io.BytesIO()
    Image.fromarray(image).convert("RGB").save(data, "WEBP", method=6, **how)
    with atomic_write(FOLDER / name) as part:
        part.write_bytes(data.getvalue())
    print(f"{len(data.getvalue()):>10,} bytes  {name}")


def main(model_folder: Path) -> None:
    model = FaceModel.load(model_folder)
    FOLDER.mkdir(exist_ok=True)
    for number, seed in enumerate(PEOPLE, 1):
        person = draw_person(np.random.default_rng((77, seed)))
        faces, covers = Atlas(model, person).sheets()
        write(f"faces-{number}.webp", faces, quality=82)
        write(f"covers-{number}.webp", covers, lossless=True)
        portrait = Studio(Paint(model), (120, 120), 2).take(person, {}, scene(0, 30))
        write(f"person-{number}.webp", photograph(portrait, CAMERA, np.random.default_rng(0)), quality=85)
    about = {
        "people": len(PEOPLE), "expressions": EXPRESSIONS, "strengths": (0.0, *STRENGTHS), "yaws": YAWS,
        "lights": LIGHTS, "covers": ("none", *COVERS),
    }  # fmt: skip
    with atomic_write(FOLDER / "faces.json") as part:
        part.write_text(json.dumps(about, indent=1) + "\n")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    main(Path(sys.argv[1]))
