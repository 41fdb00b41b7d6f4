"""What moves for each label: the recipes against the Facial Action Coding System, and how they vary."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest

from fertools.render import expressions
from fertools.render.expressions import LABELS, NEIGHBORS, RECIPES, STRONGEST, Recipe, draw_movement

# Action units of prototypes and their major variants (Ekman, Friesen and Hager 2002, table 10-1; contempt: 14
# on one side), as far as every way to show the label has them, in the model's names. A slash: at least one.
EXPECTED = {
    "anger": ("browDown", "eyeSquint/eyeWide", "mouthPress/mouthLowerDown/mouthUpperUp"),
    "disgust": ("noseSneer/mouthUpperUp",),
    "fear": ("browInnerUp", "browDown", "eyeWide", "mouthStretch"),
    "happy": ("cheekSquint", "mouthSmile"),
    "sad": ("browInnerUp", "mouthFrown"),
    "surprise": ("browInnerUp", "browOuterUp", "eyeWide", "jawOpen"),
    "neutral": (),
    "contempt": ("mouthDimple",),
}
# And what would make it another label.
EXCLUDED = {
    "anger": ("browInnerUp", "browOuterUp", "mouthSmile"),
    "disgust": ("browOuterUp", "eyeWide", "mouthSmile"),
    "fear": ("mouthSmile", "cheekSquint"),
    "happy": ("browDown", "mouthFrown", "noseSneer"),
    "sad": ("browOuterUp", "eyeWide", "mouthSmile"),
    "surprise": ("browDown", "eyeSquint", "mouthSmile", "mouthFrown"),
    "neutral": (),
    "contempt": ("browDown", "mouthFrown", "jawOpen"),
}
EVERY = [(label, recipe) for label in LABELS for recipe in RECIPES[label]]


def stem(shape: str) -> str:
    return shape.removesuffix("_L").removesuffix("_R")


def drawn(label: str, amplitude: float, seed: int, shapes: tuple[str, ...], blend: float = 0.0) -> Recipe:
    return draw_movement(label, amplitude, np.random.default_rng(seed), shapes, blend).shapes


def test_the_labels_are_fer2013s_and_contempt() -> None:
    assert LABELS == ("anger", "disgust", "fear", "happy", "sad", "surprise", "neutral", "contempt")
    assert set(RECIPES) == set(NEIGHBORS) == set(LABELS)
    assert RECIPES["neutral"] == ({},)


@pytest.mark.parametrize(("label", "recipe"), EVERY)
def test_recipes_use_the_models_shapes_within_range(label: str, recipe: Recipe, shapes: tuple[str, ...]) -> None:
    for shape, amplitude in recipe.items():
        assert shape in shapes or {shape + "_L", shape + "_R"} <= set(shapes)
        assert 0 < amplitude <= STRONGEST


@pytest.mark.parametrize(("label", "recipe"), EVERY)
def test_recipes_move_the_action_units_of_their_label(label: str, recipe: Recipe) -> None:
    moved = {stem(shape) for shape in recipe}
    for units in EXPECTED[label]:
        assert moved & set(units.split("/"))
    assert not moved & set(EXCLUDED[label])


@pytest.mark.parametrize("recipe", RECIPES["contempt"])
def test_contempt_is_one_corner_of_the_mouth(recipe: Recipe) -> None:
    for corner in ("mouthDimple", "mouthSmile"):
        assert f"{corner}_L" in recipe
        assert not {corner, f"{corner}_R"} & set(recipe)


def test_the_other_labels_are_shown_on_both_sides() -> None:
    for label, recipe in EVERY:
        if label != "contempt":
            sided = {shape for shape in recipe if shape != stem(shape)}
            assert {stem(shape) + side for shape in sided for side in ("_L", "_R")} == sided


def test_neighbors_are_other_labels() -> None:
    for label, others in NEIGHBORS.items():
        assert others
        assert len(set(others)) == len(others)
        assert set(others) <= set(LABELS) - {label, "neutral"}


def test_the_mirror_is_an_involution(shapes: tuple[str, ...]) -> None:
    mirrored = [expressions._mirror(shape) for shape in shapes]
    assert [expressions._mirror(shape) for shape in mirrored] == [*shapes]
    assert expressions._mirror("browDown_L") == "browDown_R"
    assert expressions._mirror("mouthRight") == "mouthLeft"
    assert expressions._mirror("jawOpen") == "jawOpen"
    assert expressions._mirror("browDown") == "browDown"


@given(
    label=st.sampled_from(LABELS),
    amplitude=st.floats(0, 1),
    seed=st.integers(0, 2**32),
    blend=st.sampled_from([0.0, 0.35, 1.0]),
)
def test_a_movement_stays_within_its_limits(
    label: str, amplitude: float, seed: int, blend: float, shapes: tuple[str, ...]
) -> None:
    movement = draw_movement(label, amplitude, np.random.default_rng(seed), shapes, blend)
    assert movement == draw_movement(label, amplitude, np.random.default_rng(seed), shapes, blend)
    assert set(movement.shapes) <= set(shapes)
    assert all(0 <= value <= STRONGEST for value in movement.shapes.values())

    amplitudes = dict(zip(LABELS, movement.amplitudes, strict=True))
    assert amplitudes.pop(label) == (1 if label == "neutral" else pytest.approx(amplitude, abs=0.0005))
    others = {name: part for name, part in amplitudes.items() if part}
    assert len(others) <= (blend > 0)
    for name, part in others.items():
        assert name in NEIGHBORS[label]
        low, high = (0.05, 0.2) if label == "neutral" else (0.15 * amplitude, 0.5 * amplitude)
        assert low - 0.0005 <= part <= high + 0.0005


@given(label=st.sampled_from(LABELS), seed=st.integers(0, 2**32))
def test_movements_grow_with_the_amplitude(label: str, seed: int, shapes: tuple[str, ...]) -> None:
    full, half, none = (drawn(label, amplitude, seed, shapes) for amplitude in (1.0, 0.5, 0.0))
    assert full.keys() == half.keys() == none.keys()
    for shape, value in full.items():
        if value < STRONGEST:
            assert half[shape] == pytest.approx(value / 2)
    assert not any(none.values())


@given(label=st.sampled_from(LABELS), seed=st.integers(0, 2**32))
def test_mixing_takes_the_stronger_of_each_shape(label: str, seed: int, shapes: tuple[str, ...]) -> None:
    pure, mixed = drawn(label, 0.8, seed, shapes), drawn(label, 0.8, seed, shapes, blend=1.0)
    assert all(mixed[shape] >= value for shape, value in pure.items())


def test_mixing_has_the_given_probability(shapes: tuple[str, ...]) -> None:
    rng = np.random.default_rng(0)
    mixed = [sum(a > 0 for a in draw_movement("sad", 1, rng, shapes, 0.35).amplitudes) == 2 for _ in range(1000)]
    assert binomtest(sum(mixed), 1000, 0.35).pvalue > 0.001


def test_faces_are_lopsided_to_either_side(shapes: tuple[str, ...]) -> None:
    many = [drawn("surprise", 0.6, seed, shapes) for seed in range(500)]
    lean = np.array([m["eyeWide_L"] / (m["eyeWide_L"] + m["eyeWide_R"]) for m in many])
    assert 0.02 < lean.std() < 0.1
    assert abs(lean.mean() - 0.5) < 4 * lean.std() / np.sqrt(len(lean))
    left = [drawn("contempt", 1, seed, shapes).get("mouthDimple_L", 0) > 0 for seed in range(500)]
    right = [drawn("contempt", 1, seed, shapes).get("mouthDimple_R", 0) > 0 for seed in range(500)]
    assert all(a != b for a, b in zip(left, right, strict=True))
    assert binomtest(sum(left), 500, 0.5).pvalue > 0.001


def test_the_first_shape_of_a_label_is_always_there(shapes: tuple[str, ...]) -> None:
    """A recipe's first shape is never left out, however much the others vary."""
    for label in set(LABELS) - {"neutral"}:
        firsts = {next(iter(recipe)) for recipe in RECIPES[label]}
        weakest = min(next(iter(recipe.values())) for recipe in RECIPES[label])
        for seed in range(200):
            found = drawn(label, 1, seed, shapes)
            shown = max(value for shape, value in found.items() if stem(shape) in {stem(first) for first in firsts})
            assert shown > weakest * np.exp(-4 * 0.2) * 0.9
