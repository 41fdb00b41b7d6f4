"""What a person looks like, on a head made for the tests."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fertools.render.head import FaceModel
from fertools.render.paint import HAIR, Paint, Person, draw_person, surface

AHEAD = np.zeros(2)


@pytest.fixture(scope="module")
def paint(toy_head: FaceModel) -> Paint:
    return Paint(toy_head)


@pytest.fixture(scope="module")
def person() -> Person:
    """Middling, and without what would cover the face."""
    return dataclasses.replace(
        draw_person(np.random.default_rng(0)),
        identity=np.zeros(60), albedo=0.6, hair="bald", hair_length=0.5, hairline=0.0, brow=0.8, brow_width=0.25,
        lips=0.4, beard=0.0, age=0.5, glasses=-1.0, iris=0.1, resting={},
    )  # fmt: skip


def masks(paint: Paint) -> dict[str, np.ndarray]:
    plain = {name: getattr(paint, name) for name in ("lips", "lids", "nostrils", "beard", "sockets")}
    hair = {"brows": paint.brows(0.3), "hair": paint.hair(0.0), "scarf": paint.hair(0.0, True)}
    return plain | hair | paint.wrinkles


@given(seed=st.integers(0, 2**32))
def test_people_are_in_range_and_reproducible(seed: int) -> None:
    a, b = (draw_person(np.random.default_rng(seed)) for _ in range(2))
    assert repr(a) == repr(b)
    assert a.identity.shape == (60,)
    assert np.abs(a.identity).max() <= 2
    assert a.hair in HAIR
    for value in (a.albedo, a.hair_albedo, a.brow, a.lips, a.lid, a.beard, a.age, a.iris):
        assert 0 <= value <= 1
    assert a.glasses == -1 or 0 < a.glasses < 1
    assert all(amplitude >= 0 for amplitude in a.resting.values())


def test_people_differ() -> None:
    many = [draw_person(np.random.default_rng(seed)) for seed in range(400)]
    assert {person.hair for person in many} == set(HAIR)
    albedo = np.array([person.albedo for person in many])
    # Uniform tones: every fifth of the range contains about a fifth of the people.
    assert np.all(np.histogram(albedo, 5, (0.22, 0.9))[0] > 50)
    assert 0.05 < np.mean([person.glasses >= 0 for person in many]) < 0.2
    assert 0.15 < np.mean([person.beard > 0 for person in many]) < 0.35


def test_masks_are_on_the_face_and_symmetric(paint: Paint) -> None:
    mirror = np.lexsort(np.round(paint.points * (-1, 1, 1), 3).T)
    order = np.lexsort(np.round(paint.points, 3).T)
    skin = paint.model.of_material("M_Face", "M_BackHead")
    for name, mask in masks(paint).items():
        assert mask.shape == (len(paint.points),), name
        assert mask.min() >= 0, name
        assert 0.2 < mask.max() <= 1, name
        assert not mask[~skin].any(), name
        assert mask[order] == pytest.approx(mask[mirror], abs=0.02), name


def test_brows_are_a_gaussian_about_their_landmarks(paint: Paint) -> None:
    marks = paint.points[paint.model.landmarks]
    found = paint.brows(0.3)
    dense = np.concatenate(
        [np.linspace(a, b, 500) for part in (marks[17:22], marks[22:27]) for a, b in zip(part, part[1:], strict=False)]
    )
    for vertex in np.flatnonzero(paint.face)[::17]:
        nearest = np.linalg.norm(dense - paint.points[vertex], axis=1).min()
        assert found[vertex] == pytest.approx(np.exp(-0.5 * (nearest / 0.3) ** 2), abs=0.01)
    assert found[paint.model.landmarks[17:27]] == pytest.approx(1)


def test_hair_grows_above_a_scarf_covers_more(paint: Paint) -> None:
    x, y, _ = paint.points.T
    front = paint.model.of_material("M_Face")
    hair, lower, scarf = paint.hair(0.0), paint.hair(-8.0), paint.hair(0.0, True)
    assert hair[front & (y > 12)].min() > 0.9
    assert hair[front & (y < 4) & (abs(x) < 4)].max() < 0.1
    assert (lower >= hair - 1e-9).all()
    assert lower.sum() > hair.sum()
    assert scarf.sum() > hair.sum()


def test_a_surface_has_vertices_and_albedo(paint: Paint, person: Person) -> None:
    vertices, albedo = surface(paint, person, {}, AHEAD)
    assert vertices.shape == paint.points.shape
    assert albedo.shape == (len(vertices),)
    again = surface(paint, person, {}, AHEAD)
    assert np.array_equal(vertices, again[0])
    assert np.array_equal(albedo, again[1])


@settings(max_examples=25)
@given(seed=st.integers(0, 2**32))
def test_albedos_are_fractions_of_light(seed: int, paint: Paint, shapes: tuple[str, ...]) -> None:
    rng = np.random.default_rng(seed)
    movement = {str(shape): float(rng.uniform(0, 2.4)) for shape in rng.choice(shapes, 12, replace=False)}
    vertices, albedo = surface(paint, draw_person(rng), movement, rng.normal(0, 10, 2))
    assert np.isfinite(vertices).all()
    assert albedo.min() >= 0
    assert albedo.max() <= 1


def test_a_bald_head_is_the_face_models(paint: Paint, person: Person) -> None:
    identity = np.zeros(60)
    identity[0] = 1.5
    who = dataclasses.replace(person, identity=identity, resting={"browDown": 0.5, "jawOpen": 0.1})
    vertices, _ = surface(paint, who, {"jawOpen": 0.6}, AHEAD)
    expected = paint.model.vertices(identity, {"jawOpen": 0.7, "browDown_L": 0.5, "browDown_R": 0.5})
    assert vertices == pytest.approx(expected, abs=1e-5)


def test_hair_stands_off_the_scalp(paint: Paint, person: Person) -> None:
    bald, _ = surface(paint, person, {}, AHEAD)
    long, _ = surface(paint, dataclasses.replace(person, hair="medium", hair_length=1.5), {}, AHEAD)
    distance = np.linalg.norm(long - bald, axis=1)
    hair = paint.hair(0.0)
    assert distance[hair > 0.99].mean() == pytest.approx(1.5, abs=0.1)
    assert distance[hair < 0.001].max() < 0.01


@pytest.mark.parametrize(
    ("part", "field", "value", "darkness"),
    [
        ("brows", "brow", 0.9, 0.9),
        ("lips", "lips", 0.55, 0.55),
        ("beard", "beard", 0.8, 0.6),  # shows less on the skin than brows do
        ("lids", "lid", 0.8, 0.8),
    ],
)
def test_paint_darkens_its_place(
    paint: Paint, person: Person, part: str, field: str, value: float, darkness: float
) -> None:
    mask = paint.brows(person.brow_width) if part == "brows" else getattr(paint, part)
    _, without = surface(paint, dataclasses.replace(person, **{field: 0.0}), {}, AHEAD)
    _, with_ = surface(paint, dataclasses.replace(person, **{field: value}), {}, AHEAD)
    place = (mask > 0.95) & (paint.hair(0.0) < 0.01)
    assert place.any()
    ratio = with_[place] / without[place]
    assert ratio == pytest.approx(1 - darkness * mask[place], abs=0.02)
    lashes = paint.model.of_material("M_EyeLashes")  # as dark as the line of the lids
    assert with_[(mask < 1e-6) & ~lashes] == pytest.approx(without[(mask < 1e-6) & ~lashes], abs=1e-6)


def test_wrinkles_deepen_with_what_causes_them_and_with_age(paint: Paint, person: Person) -> None:
    place = paint.wrinkles["browDown"] > 0.8

    def depth(age: float, amplitude: float) -> float:
        who = dataclasses.replace(person, age=age)
        _, smooth = surface(paint, who, {}, AHEAD)
        _, frowning = surface(paint, who, {"browDown_R": amplitude}, AHEAD)
        return float((1 - frowning[place] / smooth[place]).mean())

    assert depth(0.5, 0.0) == 0
    assert 0 < depth(0.5, 0.5) < depth(0.5, 1.0) < depth(1.0, 1.0)


@pytest.mark.parametrize("side", ["M_ScleraLeft", "M_ScleraRight"])
def test_eyes_look_where_they_should(paint: Paint, person: Person, side: str) -> None:
    ball = paint.model.of_material(side)
    points = paint.points[ball] - paint.points[ball].mean(0)

    def pupil(left: float, up: float) -> np.ndarray:
        """Degrees to the head's left and up."""
        _, albedo = surface(paint, person, {}, np.array([left, up]))
        x, y, z = points[albedo[ball] < 0.05].mean(0)
        return np.degrees([np.arctan2(x, z), np.arctan2(y, np.hypot(x, z))])

    converging = -2 if side == "M_ScleraLeft" else 2
    assert pupil(0, 0) == pytest.approx([converging, 0], abs=2.5)
    assert pupil(18, 0) - pupil(0, 0) == pytest.approx([18, 0], abs=5)
    assert pupil(0, 12) - pupil(0, 0) == pytest.approx([0, 12], abs=5)


def test_skin_is_as_light_as_the_person(paint: Paint, person: Person) -> None:
    x, y, _ = paint.points.T
    forehead = paint.model.of_material("M_Face") & (abs(x) < 3) & (y > 7) & (y < 7.6)
    for albedo in (0.3, 0.6, 0.85):
        _, found = surface(paint, dataclasses.replace(person, albedo=albedo, age=0.0), {}, AHEAD)
        assert found[forehead].mean() == pytest.approx(albedo, rel=0.1)
