"""A person's looks: skin, brows, lips, hair, and wrinkles, as albedo of the face model's vertices."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np

from fertools.render.head import Array, FaceModel

IDENTITY_WEIGHTS = 60  # of the model's 100; the others change less than a millimeter
LOOSE = ("short", "medium", "long")
HAIR = ("bald", *LOOSE, "cap", "scarf")


@dataclass(frozen=True)
class Person:
    """What is the same in every image of a person. Albedos are fractions of reflected light, 0 to 1."""

    identity: Array  # weights of the face model's identity displacements
    albedo: float  # of the skin
    hair: str  # one of HAIR
    hair_albedo: float
    hair_length: float  # distance of its surface from the scalp, cm
    hairline: float  # degrees above the mean hairline
    brow: float  # darkness of the brows
    brow_width: float  # cm
    lips: float  # darkness of the lips
    lid: float  # darkness of the line of the lids
    beard: float  # darkness of beard and mustache; 0 for none
    age: float  # depth of wrinkles: 0 to 1
    glasses: float  # albedo of the frame; negative for none
    iris: float  # albedo
    resting: dict[str, float]  # the face at rest: small amplitudes of shapes
    seed: int  # of skin texture


def draw_person(rng: np.random.Generator) -> Person:
    """Draws a random person."""
    albedo = float(rng.uniform(0.22, 0.9))
    dark_hair = rng.random() < (0.9 if albedo < 0.5 else 0.6)
    bearded = rng.random() < 0.25
    return Person(
        identity=np.clip(rng.normal(0, 0.85, IDENTITY_WEIGHTS), -2, 2),
        albedo=albedo,
        hair=str(rng.choice(HAIR, p=(0.1, 0.28, 0.2, 0.26, 0.1, 0.06))),
        hair_albedo=float(rng.uniform(0.02, 0.14) if dark_hair else rng.uniform(0.25, 0.85)),
        hair_length=float(rng.uniform(0.4, 1.8)),
        hairline=float(rng.normal(0, 4)),
        brow=float(rng.uniform(0.45, 0.9)),
        brow_width=float(rng.uniform(0.18, 0.38)),
        lips=float(rng.uniform(0.1, 0.55)),
        lid=float(rng.uniform(0.3, 0.8)),
        beard=float(rng.uniform(0.2, 0.75) if bearded else 0),
        age=float(rng.beta(1.5, 2)),
        glasses=float(rng.uniform(0.02, 0.4) if rng.random() < 0.12 else -1),
        iris=float(rng.uniform(0.05, 0.35)),
        resting={
            shape: float(abs(rng.normal(0, scale)))
            for shape, scale in (
                ("browDown", 0.12), ("browInnerUp", 0.05), ("mouthFrown", 0.06), ("mouthSmile", 0.08),
                ("eyeSquint", 0.1), ("eyeWide", 0.35), ("mouthPress", 0.1), ("jawOpen", 0.02),
            )
        },
        seed=int(rng.integers(2**31)),
    )  # fmt: skip


class Paint:
    """Masks of the parts of the model's surface: (V,), 0 to 1, drawn on the mean head.

    They belong to vertices, so they move with every identity and expression.
    """

    def __init__(self, model: FaceModel) -> None:
        self.model = model
        self.points = model.neutral
        self.face = model.of_material("M_Face") & (model.normals(model.neutral)[:, 2] > 0.1)

    def _line(self, points: Array, width: float) -> Array:
        """A soft line through points (n, 3), or (n, 2) as seen from the front."""
        points = np.asarray(points, np.float32)
        surface = self.points[:, : points.shape[1]]
        nearest = np.full(len(surface), np.inf, np.float32)
        for a, b in zip(points[:-1], points[1:], strict=True):
            along = np.clip((surface - a) @ (b - a) / ((b - a) @ (b - a)), 0, 1)
            nearest = np.minimum(nearest, np.linalg.norm(surface - (a + along[:, None] * (b - a)), axis=1))
        return np.exp(-0.5 * (nearest / width) ** 2) * self.face

    def _lines(self, *lines: list[tuple[float, float]], width: float) -> Array:
        """Several soft lines on one side of the face and, mirrored, on the other."""
        both = [np.array(line) * (sign, 1) for line in lines for sign in (1, -1)]
        return np.max([self._line(line, width) for line in both], axis=0)

    @lru_cache(maxsize=8)  # noqa: B019  (the images of one person follow each other)
    def brows(self, width: float) -> Array:
        """Both brows; ``width`` in cm."""
        marks = self.points[self.model.landmarks]
        return np.maximum(self._line(marks[17:22], width), self._line(marks[22:27], width))

    @cached_property
    def lips(self) -> Array:
        """The red of the lips."""
        marks = self.points[self.model.landmarks]
        middle_upper = np.array([marks[48], (marks[50] + marks[61]) / 2, (marks[51] + marks[62]) / 2,
                                 (marks[52] + marks[63]) / 2, marks[54]])  # fmt: skip
        middle_lower = np.array([marks[48], (marks[58] + marks[67]) / 2, (marks[57] + marks[66]) / 2,
                                 (marks[56] + marks[65]) / 2, marks[54]])  # fmt: skip
        return np.maximum(self._line(middle_upper, 0.3), self._line(middle_lower, 0.38))

    @cached_property
    def lids(self) -> Array:
        """The lash line along the upper lids."""
        marks = self.points[self.model.landmarks]
        return np.maximum(self._line(marks[36:40], 0.1), self._line(marks[42:46], 0.1))

    @cached_property
    def nostrils(self) -> Array:
        """The two nostrils, which are always dark."""
        x, y, z = self.points.T
        return np.exp(-0.5 * (((np.abs(x) - 0.62) / 0.28) ** 2 + ((y + 0.85) / 0.2) ** 2)) * self.face * (z > 9.8)

    @cached_property
    def beard(self) -> Array:
        """Chin, jaw, and upper lip."""
        x, y, z = self.points.T
        front = self.model.of_material("M_Face")
        jaw = _step(-4.6 + np.maximum(np.abs(x) - 2.0, 0) * 0.9 - y, 1.6)
        mustache = np.exp(-0.5 * ((x / 1.9) ** 4 + ((y + 1.95 + 0.12 * np.abs(x)) / 0.42) ** 2))
        lips = np.clip(1.6 * self.lips, 0, 1)
        below_chin = _step(y + 11, 1.0)
        return np.maximum(jaw, mustache) * (1 - lips) * front * below_chin * (z > 2)

    @cached_property
    def sockets(self) -> Array:
        """The hollows around the eyes, which get less ambient light."""
        x, y, _ = self.points.T
        return np.exp(-0.5 * (((np.abs(x) - 2.6) / 1.7) ** 2 + ((y - 3.9) / 1.0) ** 2)) * self.face

    @cached_property
    def wrinkles(self) -> dict[str, Array]:
        """Wrinkles by the shape that deepens them (the stronger side counts), or ``"age"`` for permanent ones."""
        fold = [(1.7, 0.0), (2.3, -1.0), (2.9, -2.2), (3.3, -3.4)]
        return {
            "browDown": self._lines([(0.45, 4.4), (0.55, 6.4)], width=0.17),
            "browInnerUp": self._lines(
                *([(0.0, y), (1.5, y + 0.1), (3.2, y - 0.2)] for y in (7.6, 8.5, 9.3)), width=0.14
            ),
            "browOuterUp": self._lines(*([(2.4, y), (4.0, y - 0.1), (5.2, y - 0.6)] for y in (7.7, 8.6)), width=0.14),
            "noseSneer": self._lines(
                [(0.0, 3.9), (0.8, 3.6)], [(0.0, 3.2), (0.9, 2.9)], [(0.6, 2.4), (1.3, 1.9)],
                [(1.2, 3.2), (1.8, 2.3)], width=0.15,
            ),
            "cheekSquint": self._lines(
                [(4.7, 3.5), (6.0, 4.3)], [(4.8, 3.1), (6.1, 3.0)], [(4.6, 2.8), (5.8, 1.9)],
                [(2.0, 2.4), (3.2, 2.1), (4.4, 2.4)], width=0.13,
            ),
            "fold": self._lines(fold, width=0.2),
            "mouthFrown": self._lines([(2.8, -3.8), (3.2, -5.0)], width=0.18),
            "mouthShrugLower": self._lines([(0.0, -5.4), (1.0, -5.5)], width=0.22),
            "age": np.maximum(
                self._lines(fold, [(1.9, 2.3), (3.0, 1.8), (4.2, 2.2)], width=0.2),
                0.6 * self._lines([(0.0, 8.2), (3.0, 8.1)], width=0.14),
            ),
        }  # fmt: skip

    @lru_cache(maxsize=8)  # noqa: B019
    def hair(self, hairline: float, covered: bool = False) -> Array:
        """The part of the head that hair grows on, or, if ``covered``, that a scarf covers."""
        x, y, z = (self.points - (0, 3.5, 0)).T
        around = np.degrees(np.arctan2(np.abs(x), z))
        above = np.degrees(np.arctan2(y, np.hypot(x, z)))
        limit = np.interp(
            around, (0, 25, 40, 55, 68, 78, 105, 125, 180),
            (37, 37, 34, 24, 8, 12, 16, -25, -38) if not covered else (35, 34, 28, 5, -25, -60, -60, -60, -60),
        )  # fmt: skip
        limit = limit + hairline * np.clip((70 - around) / 40, 0, 1)
        skin = self.model.of_material("M_Face", "M_BackHead")
        return _step(above - limit, 3.0) * skin


def _step(values: Array, softness: float) -> Array:
    """A smooth step at 0, from 0 to 1, as wide as ``softness``."""
    return 1 / (1 + np.exp(-np.clip(values / softness * 4, -50, 50)))


def surface(paint: Paint, person: Person, shapes: Mapping[str, float], gaze: Array) -> tuple[Array, Array]:
    """A person's head with an expression: vertices (V, 3) in cm and albedo (V,).

    Args:
        paint: the masks of the face model.
        person: the person.
        shapes: amplitudes of the model's shapes.
        gaze: the direction of the eyes, in degrees to the head's left and up.
    """
    model = paint.model
    amplitudes = dict(shapes)
    for shape, value in person.resting.items():
        for name in (shape,) if shape in model.shapes else (shape + "_L", shape + "_R"):
            amplitudes[name] = amplitudes.get(name, 0) + value
    vertices = model.vertices(person.identity, amplitudes)
    noise = np.random.default_rng(person.seed).normal(size=len(vertices))

    hair = paint.hair(person.hairline) if person.hair != "scarf" else paint.hair(0, covered=True)
    length = {"bald": 0.0, "short": 0.3, "scarf": 0.5}.get(person.hair, person.hair_length)
    tousled = 0.05 * noise if person.hair in LOOSE else 0.0
    vertices = vertices + (hair * length * (1 + tousled))[:, None] * model.normals(vertices)

    darkness = np.zeros(len(vertices))

    def darken(mask: Array, strength: float) -> None:
        np.copyto(darkness, 1 - (1 - darkness) * (1 - np.clip(strength, 0, 1) * mask))

    darken(paint.sockets, 0.22)
    darken(paint.lips, person.lips)
    darken(paint.beard, person.beard * (0.75 if person.albedo > 0.4 else 0.5))
    for name, mask in paint.wrinkles.items():
        if name == "age":
            darken(mask, 0.3 * person.age)
            continue
        causes = ("mouthSmile", "mouthUpperUp", "noseSneer") if name == "fold" else (name,)
        strength = max(amplitudes.get(c + s, 0.0) for c in causes for s in ("", "_L", "_R"))
        darken(mask, strength * (0.25 + 0.3 * person.age))
    darken(paint.lids, person.lid)
    darken(paint.brows(person.brow_width), person.brow)
    darken(paint.nostrils, 0.85)
    albedo = person.albedo * (1 - darkness) * (1 + 0.03 * noise)

    covering = {"bald": min(0.35, person.hair_length / 3)}.get(person.hair, 1.0)
    albedo = albedo * (1 - covering * hair) + covering * hair * person.hair_albedo * (
        1 + (0.14 if person.hair in LOOSE else 0.02) * noise
    )
    # Clothes from the collarbones down.
    x, y, z = paint.points.T
    clothes = _step(-14.5 + 0.45 * np.abs(x) - 0.1 * np.maximum(z - 3, 0) - y, 0.4)
    clothes = clothes * model.of_material("M_Face", "M_BackHead")
    albedo = albedo * (1 - clothes) + clothes * (0.05 + 0.85 * ((person.seed % 97) / 97))

    for side, name in ((1, "M_ScleraLeft"), (-1, "M_ScleraRight")):
        ball = model.of_material(name)
        around = vertices[ball] - vertices[ball].mean(0)
        left, up = np.radians(gaze[0] + 2 * -side), np.radians(gaze[1])  # the eyes converge a little
        axis = np.array([np.sin(left) * np.cos(up), np.sin(up), np.cos(left) * np.cos(up)])
        angle = np.degrees(np.arccos(np.clip(around @ axis / np.linalg.norm(around, axis=1), -1, 1)))
        white = 0.62 - 0.2 * _step(angle - 40, 30)
        albedo[ball] = np.where(angle < 12, 0.02, np.where(angle < 26, person.iris, white))
    depth = np.clip((10.7 - z) / 2.6, 0, 1)  # less light gets deep into the mouth
    teeth, gums = model.of_material("M_Teeth"), model.of_material("M_GumsTongue")
    albedo[teeth] = 0.8 * (1 - 0.95 * depth[teeth])
    albedo[gums] = 0.3 * (1 - 0.9 * depth[gums])
    albedo[model.of_material("M_EyeLashes")] = person.albedo * (1 - person.lid)
    return vertices, np.clip(albedo, 0, 1)
