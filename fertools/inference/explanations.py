"""Why the network gave a face this label: the contribution of each pixel, each region, and each branch.

    predictor = Predictor.from_pretrained()
    explanation = explain(predictor, face)  # uint8, (48, 48), from fertools.data.faces.crop
    plots.explanation(explanation)

Contributions are to the score of a label, its log odds log(p / (1 - p)) with the calibrated probability p:
0.69 = log 2 more doubles the odds. The baseline is an image without a face, uniform gray at the mean of the
training images, which the network sees as zeros.

This explains the network, not the person: it shows what caused the label, right or wrong.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import combinations
from math import factorial
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from fertools import IMAGE_SIZE
from fertools.data.faceset import FaceSet
from fertools.errors import require
from fertools.evaluation.prediction import normalize
from fertools.inference.predictor import Predictor
from fertools.network import END_SIZE, FeatureFusionModule, MultiScaleFusionNet

STEPS = 128  # points on the path of the integrated gradients
WINDOW, STRIDE = 8, 4  # of the occlusion, in pixels: the size of an eye, moved by half of it
BATCH = 64

Score = Callable[[Tensor], Tensor]  # normalized images (N, 1, 48, 48) -> (N,)


@dataclass(frozen=True, eq=False)
class Fusion:
    """The contribution of each of the three terms of eq. 5 to the output of one fusion module.

    Attributes:
        scale: the branch it belongs to, by the map size the branch starts from.
        size: of the feature maps that it fuses, in pixels; 6 at the ends of the branches.
        other: the branch that is fused in.
        weights: the learned w1, w2, w3, the same for every image; with the fusion ``"per-channel"`` their
            means over the channels; with ``"excite"`` likewise, and for this image.
        fractions: of w1 F1 (this branch), w2 F2 (the other branch), and w3 conv1x1([F1, F2]) in their sum S,
            for this image: <term, S> / <S, S>. They add up to 1; a term opposed to the sum has a negative
            fraction.
    """

    scale: int
    size: int
    other: int
    weights: tuple[float, float, float]
    fractions: tuple[float, float, float]


@dataclass(frozen=True, eq=False)
class Explanation:
    """The result of :func:`explain` for one face and one label.

    Attributes:
        face: uint8, (48, 48).
        probabilities: class name -> calibrated probability.
        label: the class whose score is explained.
        score: log odds of ``label`` for the face.
        baseline: log odds of ``label`` for uniform gray.
        attributions: float32, (48, 48), integrated gradients: each pixel's contribution to
            ``score - baseline``; they add up to it, up to the error of the numerical integral.
        occlusion: float32, (48, 48), the decrease of the score when a window is replaced by gray, averaged
            over the windows that contain the pixel.
        branches: branch, by the map size it starts from -> its contribution to ``score - baseline``; they
            add up to it.
        fusions: one for each fusion module; empty if the fusion is ``"add"`` or ``"concatenate"``.
        nearest: the examples most similar to the face according to the network, most similar first; None
            without examples.
        similarities: float32, cosine similarity of their features to the face's, at most 1; None without
            examples.
    """

    face: np.ndarray
    probabilities: dict[str, float]
    label: str
    score: float
    baseline: float
    attributions: np.ndarray
    occlusion: np.ndarray
    branches: dict[int, float]
    fusions: tuple[Fusion, ...]
    nearest: FaceSet | None = None
    similarities: np.ndarray | None = None


@dataclass(frozen=True, eq=False)
class Examples:
    """Faces to compare with and their features, from :func:`examples`.

    Attributes:
        faces: use a data set whose images may be shown.
        features: float32, (N, hidden), each of length 1.
    """

    faces: FaceSet
    features: np.ndarray


def explain(
    predictor: Predictor, face: np.ndarray, label: str | None = None, among: Examples | None = None, nearest: int = 5
) -> Explanation:
    """Explains the score of one label for one face. This takes a few seconds on a CPU.

    Args:
        predictor: with a :class:`MultiScaleFusionNet`.
        face: uint8, (48, 48), 0 black to 255 white.
        label: the class to explain; by default the most probable.
        among: where to search for the nearest examples, see :func:`examples`.
        nearest: how many of them.

    Raises:
        ValueError: a face of another shape or type, a label that is not one of the classes, or a network
            without branches.
        MissingExtraError: captum is not installed.
    """
    if not isinstance(face, np.ndarray) or face.shape != (IMAGE_SIZE,) * 2 or face.dtype != np.uint8:
        raise ValueError(
            f"face must be uint8 of shape (48, 48), not {getattr(face, 'dtype', type(face).__name__)} "
            f"{getattr(face, 'shape', '')}"
        )
    net = _with_branches(predictor.net)
    probabilities = predictor.classify(face[None])[0]
    label = label or predictor.classes[int(probabilities.argmax())]
    if label not in predictor.classes:
        raise ValueError(f"label must be one of {', '.join(predictor.classes)}, not {label!r}")
    x = _normalize(predictor, face[None])
    score = score_of(predictor, label)
    with torch.inference_mode():
        both = score(torch.cat([x, torch.zeros_like(x)])).tolist()
    rows, similarities = _nearest(predictor, face, among, nearest) if among else (None, None)
    return Explanation(
        face=face,
        probabilities=dict(zip(predictor.classes, probabilities.tolist(), strict=True)),
        label=label,
        score=both[0],
        baseline=both[1],
        attributions=integrated_gradients(score, x),
        occlusion=occlusion(score, x),
        branches=branch_contributions(net, score, x),
        fusions=fusion_fractions(net, x),
        nearest=among.faces.select(rows) if among and rows is not None else None,
        similarities=similarities,
    )


def examples(predictor: Predictor, faces: FaceSet, progress: bool = True) -> Examples:
    """Computes the features of a set of faces, once for many explanations: over 100 faces per second on a CPU."""
    return Examples(faces, features(predictor, faces.images, progress))


def score_of(predictor: Predictor, label: str) -> Score:
    """The function that computes the log odds of a label from normalized images (N, 1, 48, 48): (N,).

    log(p / (1 - p)) = z_label - log of the sum of exp z over the other labels, where z = logits / T. Unlike the
    logit, it doesn't change when a constant is added to all logits, which changes no probability.
    """
    index = predictor.classes.index(label)

    def score(x: Tensor) -> Tensor:  # (N, 1, 48, 48) -> (N,)
        z = predictor.net(x) / predictor.metadata.temperature
        others = torch.cat([z[:, :index], z[:, index + 1 :]], 1)
        return z[:, index] - others.logsumexp(1)

    return score


def integrated_gradients(score: Score, x: Tensor, steps: int = STEPS) -> np.ndarray:
    """Each pixel's contribution to score(x) - score(0), float32 (48, 48) (Sundararajan et al. 2017, eq. 1).

    Unlike Grad-CAM of the last feature maps, which has 6x6 pixels, it includes every branch at full
    resolution. And it can be checked: the contributions add up to the whole (completeness).

    Args:
        score: see :func:`score_of`.
        x: one normalized image, (1, 1, 48, 48).
        steps: points of the Gauss-Legendre quadrature along the straight path from 0 to x.

    Raises:
        MissingExtraError: captum is not installed.
    """
    found = _captum().IntegratedGradients(score).attribute(x, n_steps=steps, internal_batch_size=BATCH)
    return _map(found)


def occlusion(score: Score, x: Tensor, window: int = WINDOW, stride: int = STRIDE) -> np.ndarray:
    """The decrease of the score when a window of the image is replaced by gray: float32, (48, 48).

    Zeiler and Fergus 2014, section 4.2. Averaged over the windows that contain the pixel.

    Args:
        score: see :func:`score_of`.
        x: one normalized image, (1, 1, 48, 48); gray is 0.
        window, stride: in pixels.

    Raises:
        MissingExtraError: captum is not installed.
    """
    method = _captum().Occlusion(score)
    with torch.no_grad():
        found = method.attribute(
            x,
            sliding_window_shapes=(1, window, window),
            strides=(1, stride, stride),
            perturbations_per_eval=BATCH,
        )
    return _map(found)


def branch_contributions(net: MultiScaleFusionNet, score: Score, x: Tensor) -> dict[int, float]:
    """Each branch's contribution to score(x) - score(0): branch, by the map size it starts from -> Shapley value.

    A branch is masked by replacing its first feature maps with those of the gray image: it then receives
    information only through the fusions, from the branch above. With every branch masked, the network sees
    the gray image. A Shapley value is the mean increase of the score when the branch is unmasked, over all
    orders of unmasking (Shapley 1953). These values add up to the whole, and branches with the same
    information get the same value.

    Args:
        net: the network that ``score`` runs.
        score: see :func:`score_of`.
        x: one normalized image, (1, 1, 48, 48).
    """
    scales = _with_branches(net).config.scales
    subsets = [set(subset) for n in range(len(scales) + 1) for subset in combinations(scales, n)]  # unmasked branches
    masked = {scale: torch.tensor([scale not in subset for subset in subsets] + [False]) for scale in scales}

    def mask(scale: int) -> Callable[[nn.Module, Any, Tensor], Tensor]:
        def hook(_: nn.Module, __: Any, maps: Tensor) -> Tensor:  # the last image is the gray one
            return torch.where(masked[scale].to(maps.device)[:, None, None, None], maps[-1:], maps)

        return hook

    batch = torch.cat([x.expand(len(subsets), -1, -1, -1), torch.zeros_like(x)])
    with torch.no_grad(), _hooks({net.resample[str(scale)]: mask(scale) for scale in scales}):
        scores = score(batch)[:-1].tolist()
    values = {frozenset(subset): value for subset, value in zip(subsets, scores, strict=True)}
    return dict(zip(scales, shapley(scales, values), strict=True))


def shapley(players: tuple[int, ...], values: dict[frozenset[int], float]) -> list[float]:
    """The Shapley value of each player, from the value of every subset of players.

    They add up to the value of all players minus that of none.

    >>> shapley((1, 2), {frozenset(): 0.0, frozenset({1}): 2.0, frozenset({2}): 0.0, frozenset({1, 2}): 4.0})
    [3.0, 1.0]
    """
    n = len(players)

    def value(player: int) -> float:
        without = [subset for subset in values if player not in subset]
        weight = {k: factorial(k) * factorial(n - k - 1) / factorial(n) for k in range(n)}
        return sum(weight[len(subset)] * (values[subset | {player}] - values[subset]) for subset in without)

    return [value(player) for player in players]


def fusion_fractions(net: MultiScaleFusionNet, x: Tensor) -> tuple[Fusion, ...]:
    """The fraction of each term of eq. 5 in the sum of each fusion module, for one normalized image.

    Empty if the fusion has no weights: ``"add"`` and ``"concatenate"``.
    """
    if _with_branches(net).config.fusion in ("add", "concatenate"):
        return ()
    scales = net.config.scales
    modules = [
        (scale, int(size), above, cast(FeatureFusionModule, module))
        for above, scale, fuse in zip((0, *scales), scales, net.fuse, strict=False)
        for size, module in cast(nn.ModuleDict, fuse).items()
    ]
    modules += [
        (scales[-1], END_SIZE, scale, cast(FeatureFusionModule, module))
        for scale, module in zip(scales, net.fuse_ends, strict=False)
    ]
    inputs: dict[nn.Module, tuple[Tensor, Tensor]] = {}

    def keep(module: nn.Module, pair: tuple[Tensor, Tensor], _: Tensor) -> None:
        inputs[module] = pair

    with torch.no_grad(), _hooks({module: keep for *_, module in modules}):
        net(x)
        found = []
        for scale, size, other, module in modules:
            w1, w2, w3 = module.weights(*inputs[module]).reshape(3, -1).mean(1).tolist()
            found.append(Fusion(scale, size, other, (w1, w2, w3), _fractions(module, *inputs[module])))
    return tuple(found)


def _fractions(module: FeatureFusionModule, f1: Tensor, f2: Tensor) -> tuple[float, float, float]:
    w1, w2, w3 = module.weights(f1, f2)
    terms = torch.stack([w1 * f1, w2 * f2, w3 * module.proj(torch.cat([f1, f2], 1))]).flatten(1)
    whole = terms.sum(0)
    a, b, c = (terms @ whole / (whole @ whole)).tolist()
    return a, b, c


def features(predictor: Predictor, images: np.ndarray, progress: bool = False) -> np.ndarray:
    """The input of the last layer for each image, scaled to length 1: float32, (N, hidden).

    This is the network's representation of a face; the logits are a linear function of it.
    """
    found: list[Tensor] = []

    def keep(_: nn.Module, inputs: tuple[Tensor], __: Tensor) -> None:
        found.append(inputs[0])

    last = cast(nn.Sequential, predictor.net.head)[-1]
    batches = range(0, len(images), BATCH)
    with torch.inference_mode(), _hooks({last: keep}):
        for i in tqdm(batches, desc="features", unit="batch", disable=not progress):
            predictor.net(_normalize(predictor, images[i : i + BATCH]))
    vectors = torch.cat(found).float().cpu().numpy()
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)


def _nearest(predictor: Predictor, face: np.ndarray, among: Examples, k: int) -> tuple[np.ndarray, np.ndarray]:
    """The indices of the ``k`` examples with the highest cosine similarity, highest first, and the similarities."""
    cosines = among.features @ features(predictor, face[None])[0]
    rows = np.argsort(-cosines, kind="stable")[:k]
    return rows, cosines[rows]


def _normalize(predictor: Predictor, images: np.ndarray) -> Tensor:
    """uint8 (N, 48, 48) -> normalized (N, 1, 48, 48), on the device of the network."""
    gray = torch.from_numpy(images).to(predictor.device)
    return normalize(gray, predictor.metadata.mean, predictor.metadata.std)


def _with_branches(net: nn.Module) -> MultiScaleFusionNet:
    if not isinstance(net, MultiScaleFusionNet):
        raise ValueError(f"this explains the branches of a MultiScaleFusionNet; {type(net).__name__} has none")
    return net


def _captum() -> Any:
    """The module ``captum.attr``."""
    with warnings.catch_warnings():  # captum warns about missing widgets for a progress bar that is never shown
        warnings.filterwarnings("ignore", message="IProgress not found")
        return require("captum.attr", "explain")


def _map(found: Tensor) -> np.ndarray:  # (1, 1, 48, 48) -> (48, 48)
    result: np.ndarray = found[0, 0].detach().float().cpu().numpy()
    return result


@contextmanager
def _hooks(hooks: dict[nn.Module, Callable[..., Any]]) -> Iterator[None]:
    """Forward hooks on modules, removed after the ``with`` block."""
    handles = [module.register_forward_hook(hook) for module, hook in hooks.items()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
