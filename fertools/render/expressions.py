"""Expression labels as movements of the face: which action units, how strong, and how they vary.

The recipes follow the action units that the Facial Action Coding System gives for each label (Ekman,
Friesen and Hager, *FACS Investigator's Guide*, 2002, table 10-1; contempt: Ekman and Friesen 1986), in the
terms of the face model's shapes, which are based on them: ``browDown`` is unit 4, ``browInnerUp`` 1,
``browOuterUp`` 2, ``eyeWide`` 5, ``cheekSquint`` 6, ``eyeSquint`` 7, ``noseSneer`` 9, ``mouthUpperUp`` 10,
``mouthSmile`` 12, ``mouthDimple`` 14, ``mouthFrown`` 15, ``mouthLowerDown`` 16, ``mouthShrugLower`` 17,
``mouthStretch`` 20, ``mouthPress`` 24, ``mouthRoll*`` 28, ``jawOpen`` 26 and 27.

A recipe is a posed prototype, not the definition of a label: people show fear in many ways, and often not
at all (Barrett et al. 2019). The label of an image is what the script was told to render.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

LABELS = ("anger", "disgust", "fear", "happy", "sad", "surprise", "neutral", "contempt")

Recipe = dict[str, float]
STRONGEST = 2.4

# Several ways to show one label. A shape's name without a side means both sides. Above 1, a shape is stronger than
# in any of its authors' scans: at 48x48 pixels the movement of a scanned brow is hardly visible.
RECIPES: dict[str, tuple[Recipe, ...]] = {
    "anger": (
        # glaring, lips pressed
        {"browDown": 2.1, "eyeWide": 0.3, "eyeSquint": 0.7, "noseSneer": 0.35, "mouthPress": 1.0,
         "mouthRollUpper": 0.6, "mouthRollLower": 0.6, "mouthShrugLower": 0.3, "jawForward": 0.3},
        # teeth bared
        {"browDown": 2.1, "eyeWide": 0.2, "eyeSquint": 0.6, "noseSneer": 0.6, "mouthUpperUp": 0.5,
         "mouthLowerDown": 1.0, "mouthStretch": 0.5, "jawOpen": 0.1, "jawForward": 0.3},
        # shouting
        {"browDown": 2.1, "eyeWide": 0.2, "eyeSquint": 0.6, "noseSneer": 0.7, "mouthUpperUp": 0.6,
         "mouthLowerDown": 0.9, "mouthFunnel": 0.2, "mouthStretch": 0.3, "jawOpen": 0.5},
    ),
    "disgust": (
        {"noseSneer": 1.5, "mouthUpperUp": 0.9, "browDown": 0.15, "cheekSquint": 0.8, "eyeSquint": 0.9,
         "mouthShrugLower": 0.9, "mouthFrown": 0.6},
        {"noseSneer": 1.4, "mouthUpperUp": 1.0, "browInnerUp": 0.25, "cheekSquint": 0.7, "eyeSquint": 0.8,
         "eyeBlink": 0.15, "mouthLowerDown": 0.5, "jawOpen": 0.25, "mouthFrown": 0.9},
        # one side of the upper lip
        {"noseSneer": 1.2, "mouthUpperUp_L": 1.2, "mouthUpperUp_R": 0.4, "cheekSquint": 0.6, "eyeSquint": 0.8,
         "mouthFrown": 0.9, "mouthShrugLower": 0.6},
    ),
    "fear": (
        {"browInnerUp": 1.5, "browOuterUp": 0.2, "browDown": 0.7, "eyeWide": 1.5, "mouthStretch": 1.3,
         "jawOpen": 0.2, "mouthLowerDown": 0.8, "mouthFrown": 0.3},
        {"browInnerUp": 1.4, "browOuterUp": 0.3, "browDown": 0.6, "eyeWide": 1.5, "mouthStretch": 1.2,
         "jawOpen": 0.45, "mouthLowerDown": 0.7, "mouthUpperUp": 0.4, "mouthFrown": 0.2},
    ),
    "happy": (
        {"mouthSmile": 0.95, "cheekSquint": 0.75, "jawOpen": 0.12, "mouthUpperUp": 0.35, "mouthLowerDown": 0.2},
        {"mouthSmile": 0.9, "cheekSquint": 0.55, "mouthDimple": 0.3},
        {"mouthSmile": 1.0, "cheekSquint": 1.0, "eyeSquint": 0.2, "jawOpen": 0.42, "mouthUpperUp": 0.45,
         "mouthLowerDown": 0.2},
    ),
    "sad": (
        {"browInnerUp": 1.3, "browDown": 0.5, "mouthFrown": 1.1, "mouthShrugLower": 0.7, "eyeSquint": 0.3,
         "eyeBlink": 0.2},
        # close to tears
        {"browInnerUp": 1.2, "browDown": 0.8, "mouthFrown": 1.0, "mouthStretch": 0.4, "mouthLowerDown": 0.3,
         "mouthShrugLower": 0.4, "eyeSquint": 0.7, "cheekSquint": 0.3},
        # looking down
        {"browInnerUp": 1.2, "browDown": 0.3, "mouthFrown": 0.9, "mouthShrugLower": 0.5, "eyeBlink": 0.4},
    ),
    "surprise": (
        {"browInnerUp": 1.2, "browOuterUp": 1.3, "eyeWide": 1.4, "jawOpen": 0.8, "mouthFunnel": 0.2},
        {"browInnerUp": 1.2, "browOuterUp": 1.3, "eyeWide": 1.3, "jawOpen": 0.55, "mouthFunnel": 0.6},
        {"browInnerUp": 1.1, "browOuterUp": 1.3, "eyeWide": 1.5, "jawOpen": 0.35},
    ),
    "neutral": ({},),
    # One corner of the mouth; the side is random.
    "contempt": (
        {"mouthSmile_L": 0.65, "mouthDimple_L": 0.9, "mouthLeft": 0.3, "cheekSquint_L": 0.4, "eyeSquint": 0.2,
         "mouthPress_R": 0.4},
        {"mouthSmile_L": 0.45, "mouthDimple_L": 1.0, "mouthUpperUp_L": 0.4, "noseSneer_L": 0.3, "browOuterUp_L": 0.5,
         "eyeSquint": 0.3, "eyeBlink": 0.15},
    ),
}  # fmt: skip

# Labels that look similar, and are mixed: pairs that people confuse most, too (the votes of FER+).
NEIGHBORS: dict[str, tuple[str, ...]] = {
    "anger": ("disgust", "sad", "fear"),
    "disgust": ("anger", "sad"),
    "fear": ("surprise", "sad", "anger"),
    "happy": ("surprise", "contempt"),
    "sad": ("anger", "fear", "disgust"),
    "surprise": ("fear", "happy"),
    "neutral": LABELS[:6],
    "contempt": ("happy", "disgust", "anger"),
}


@dataclass(frozen=True)
class Movement:
    """How the face in one image moves.

    Attributes:
        shapes: amplitude of each of the model's shapes, from 0 to :data:`STRONGEST`.
        amplitudes: the strength of each of :data:`LABELS`, 0 to 1, in their order.
    """

    shapes: Recipe
    amplitudes: tuple[float, ...]


def draw_movement(
    label: str, amplitude: float, rng: np.random.Generator, shapes: tuple[str, ...], blend: float = 0.35
) -> Movement:
    """Draws a movement for a label at random: one of its recipes, varied.

    Args:
        label: one of :data:`LABELS`.
        amplitude: 0 (nothing moves) to 1 (the recipe in full).
        rng: the only source of randomness.
        shapes: the names of the face model's shapes.
        blend: the probability that a similar label is mixed in, at 0.15 to 0.5 of the amplitude.
    """
    recipes = RECIPES[label]
    found = _vary(recipes[rng.integers(len(recipes))], amplitude, rng, shapes)
    amplitudes = dict.fromkeys(LABELS, 0.0)
    amplitudes[label] = amplitude if label != "neutral" else 1.0
    if rng.random() < blend:
        other = str(rng.choice(NEIGHBORS[label]))
        # On a neutral face even a trace of another expression is visible.
        part = rng.uniform(0.05, 0.2) if label == "neutral" else amplitude * rng.uniform(0.15, 0.5)
        choices = RECIPES[other]
        for shape, value in _vary(choices[rng.integers(len(choices))], part, rng, shapes).items():
            found[shape] = max(found.get(shape, 0.0), value)
        amplitudes[other] = part
    return Movement(found, tuple(round(amplitudes[name], 3) for name in LABELS))


def _vary(recipe: Recipe, amplitude: float, rng: np.random.Generator, shapes: tuple[str, ...]) -> Recipe:
    """The recipe at an amplitude, with random differences between shapes and between the two sides."""
    if rng.random() < 0.5:
        recipe = {_mirror(shape): value for shape, value in recipe.items()}
    lopsided = rng.normal(0, 0.1)  # positive: the left side moves more
    found: Recipe = {}
    for i, (shape, value) in enumerate(recipe.items()):
        value *= amplitude * rng.lognormal(0, 0.2)
        if rng.random() < 0.08 and i:  # people rarely show all of a prototype; its first shape always stays
            value *= rng.uniform(0, 0.5)
        if shape in shapes:
            found[shape] = min(value, STRONGEST)
        else:
            for side, sign in (("_L", 1), ("_R", -1)):
                found[shape + side] = float(np.clip(value * (1 + sign * lopsided), 0, STRONGEST))
    return found


def _mirror(shape: str) -> str:
    swaps = {"_L": "_R", "_R": "_L"}
    if shape[-2:] in swaps:
        return shape[:-2] + swaps[shape[-2:]]
    return {"mouthLeft": "mouthRight", "mouthRight": "mouthLeft"}.get(shape, shape)
