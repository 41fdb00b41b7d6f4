"""Why the network gave a face this label: what each pixel, each region and each branch did to it.

    predictor = Predictor.from_pretrained()
    found = explain(predictor, face)  # uint8, (48, 48), cut out by fertools.data.faces.crop
    plots.explanation(found)

Everything is measured on one number, the score of a label: the log odds that it is the one,
log(p / (1 - p)) with the calibrated probability p. A score higher by log 2 = 0.69 doubles the odds.
And everything is measured against one picture without a face, a plain gray of the training images'
mean, which the network sees as zeros.

This explains the network, not the person: it shows what moved the label, right or wrong.
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
from fertools.inference.predictor import Predictor
from fertools.network import END_SIZE, FeatureFusionModule, MultiScaleFusionNet

STEPS = 128  # points on the path of the integrated gradients
WINDOW, STRIDE = 8, 4  # of the occlusion, in pixels: about an eye, moved by half of it
BATCH = 64

Score = Callable[[Tensor], Tensor]  # normalised images (N, 1, 48, 48) -> (N,)


@dataclass(frozen=True, eq=False)
class Fusion:
    """How much each of its three terms made up what one fusion module put together (eq. 5).

    Attributes:
        scale: the branch that it belongs to, by the map size it starts from.
        size: of the maps that it fuses, in pixels; 6 where it joins the ends of the branches.
        other: the branch whose maps come in.
        weights: the learned w1, w2, w3, the same for every picture; with the fusion ``"per-channel"`` their means
            over the channels, with ``"excite"`` likewise, and those of this picture.
        shares: of w1 F1 (this branch), w2 F2 (the other one) and w3 conv1x1([F1, F2]) in their sum S,
            for this picture: <term, S> / <S, S>. They add up to 1; a term that works against the sum
            has a negative one.
    """

    scale: int
    size: int
    other: int
    weights: tuple[float, float, float]
    shares: tuple[float, float, float]


@dataclass(frozen=True, eq=False)
class Explanation:
    """What :func:`explain` found for one face and one label.

    Attributes:
        face: uint8, (48, 48), what was explained.
        probabilities: class name -> calibrated probability.
        label: the class whose score is explained.
        score: log odds of ``label`` for the face.
        baseline: and for the plain gray.
        attributions: float32, (48, 48), integrated gradients: each pixel's part in ``score - baseline``,
            to which they add up, but for the error of the integral.
        occlusion: float32, (48, 48), how far the score falls where a window is grayed out; of
            overlapping windows the mean.
        branches: branch, by the map size it starts from -> its part in ``score - baseline``; they add
            up to it.
        fusions: one for each fusion module; empty where the network's fusion is ``"add"`` or ``"concatenate"``.
        nearest: the examples that look most alike to the network, best first; None without examples.
        similarities: float32, cosine of their features with the face's, at most 1; None without examples.
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
    """Faces to compare with, and what the network makes of them; :func:`examples` makes it.

    Attributes:
        faces: their images are shown: take a set whose images may be.
        features: float32, (N, hidden), each of length 1.
    """

    faces: FaceSet
    features: np.ndarray


def explain(
    predictor: Predictor, face: np.ndarray, label: str | None = None, among: Examples | None = None, nearest: int = 5
) -> Explanation:
    """Explains the score of one label for one face. Some seconds on a processor.

    Args:
        predictor: the network, with its classes and pixel statistics.
        face: uint8, (48, 48), 0 black to 255 white.
        label: the class to explain; by default the most probable.
        among: where the nearest examples are looked for, see :func:`examples`.
        nearest: how many of them.

    Raises:
        ValueError: a face of another shape or type, or a label that the network does not know.
    """
    if not isinstance(face, np.ndarray) or face.shape != (IMAGE_SIZE,) * 2 or face.dtype != np.uint8:
        raise ValueError(
            f"face must be uint8 of shape (48, 48), not {getattr(face, 'dtype', type(face).__name__)} "
            f"{getattr(face, 'shape', '')}"
        )
    probabilities = predictor.classify(face[None])[0]
    label = label or predictor.classes[int(probabilities.argmax())]
    if label not in predictor.classes:
        raise ValueError(f"the network knows no {label!r}; it knows {', '.join(predictor.classes)}")
    x = _normalised(predictor, face[None])
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
        branches=branch_contributions(predictor.net, score, x),
        fusions=fusion_shares(predictor.net, x),
        nearest=among.faces.select(rows) if among and rows is not None else None,
        similarities=similarities,
    )


def examples(predictor: Predictor, faces: FaceSet, progress: bool = True) -> Examples:
    """The features of a set of faces, once for many explanations: 100 faces or more a second on a processor."""
    return Examples(faces, features(predictor, faces.images, progress))


def score_of(predictor: Predictor, label: str) -> Score:
    """The log odds of a label: log(p / (1 - p)) = z_label - log sum over the others of exp z, z the logits / T.

    Unlike the logit itself it does not change when all logits rise by the same, which changes nothing.
    """
    index = predictor.classes.index(label)

    def score(x: Tensor) -> Tensor:  # (N, 1, 48, 48) -> (N,)
        z = predictor.net(x) / predictor.temperature
        others = torch.cat([z[:, :index], z[:, index + 1 :]], 1)
        return z[:, index] - others.logsumexp(1)

    return score


def integrated_gradients(score: Score, x: Tensor, steps: int = STEPS) -> np.ndarray:
    """Each pixel's part in score(x) - score(0), float32 (48, 48) (Sundararajan, Taly and Yan 2017, eq. 1).

    Chosen before Grad-CAM since every branch has a part in it, at full resolution: a Grad-CAM of the
    last maps would see 6x6 pixels. And it can be checked: the parts add up to the whole (completeness).

    Args:
        score: see :func:`score_of`.
        x: one normalised image, (1, 1, 48, 48).
        steps: points of the Gauss-Legendre quadrature along the straight path from 0 to x.
    """
    found = _captum().IntegratedGradients(score).attribute(x, n_steps=steps, internal_batch_size=BATCH)
    return _map(found)


def occlusion(score: Score, x: Tensor, window: int = WINDOW, stride: int = STRIDE) -> np.ndarray:
    """How far the score falls where a window of the image is grayed out: float32, (48, 48).

    Zeiler and Fergus 2014, section 4.2. A pixel under several windows has their mean.

    Args:
        score: see :func:`score_of`.
        x: one normalised image, (1, 1, 48, 48); gray is 0.
        window, stride: in pixels.
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
    """Each branch's part in score(x) - score(0): branch, by the map size it starts from -> Shapley value.

    A branch is blinded when its first maps are those of the gray image: it then knows only what the
    fusions bring it from the branch above. With every branch blinded the network sees the gray image.
    A Shapley value is the mean, over all orders in which the branches can open their eyes, of how much
    the score rises when this one does (Shapley 1953): the parts then add up to the whole, and branches
    that know the same share the credit.

    Args:
        net: the network that ``score`` runs.
        score: see :func:`score_of`.
        x: one normalised image, (1, 1, 48, 48).
    """
    scales = net.config.scales
    seeing = [set(some) for n in range(len(scales) + 1) for some in combinations(scales, n)]
    blind = {scale: torch.tensor([scale not in some for some in seeing] + [False]) for scale in scales}

    def blindfold(scale: int) -> Callable[[nn.Module, Any, Tensor], Tensor]:
        def hook(_: nn.Module, __: Any, maps: Tensor) -> Tensor:  # the last image is the gray one
            return torch.where(blind[scale].to(maps.device)[:, None, None, None], maps[-1:], maps)

        return hook

    batch = torch.cat([x.expand(len(seeing), -1, -1, -1), torch.zeros_like(x)])
    with torch.no_grad(), _hooks({net.resample[str(scale)]: blindfold(scale) for scale in scales}):
        scores = score(batch)[:-1].tolist()
    values = {frozenset(some): value for some, value in zip(seeing, scores, strict=True)}
    return dict(zip(scales, shapley(scales, values), strict=True))


def shapley(players: tuple[int, ...], values: dict[frozenset[int], float]) -> list[float]:
    """The Shapley value of each player, given the value of every set of them: their values add up to
    that of all minus that of none."""
    n = len(players)

    def value(player: int) -> float:
        without = [some for some in values if player not in some]
        weight = {k: factorial(k) * factorial(n - k - 1) / factorial(n) for k in range(n)}
        return sum(weight[len(some)] * (values[some | {player}] - values[some]) for some in without)

    return [value(player) for player in players]


def fusion_shares(net: MultiScaleFusionNet, x: Tensor) -> tuple[Fusion, ...]:
    """The share of each term of eq. 5 in each fusion module's sum, for one normalised image.

    Empty where the network's fusion has no weights: ``"add"`` and ``"concatenate"``.
    """
    if net.config.fusion in ("add", "concatenate"):
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
            found.append(Fusion(scale, size, other, (w1, w2, w3), _shares(module, *inputs[module])))
    return tuple(found)


def _shares(module: FeatureFusionModule, f1: Tensor, f2: Tensor) -> tuple[float, float, float]:
    w1, w2, w3 = module.weights(f1, f2)
    terms = torch.stack([w1 * f1, w2 * f2, w3 * module.proj(torch.cat([f1, f2], 1))]).flatten(1)
    whole = terms.sum(0)
    a, b, c = (terms @ whole / (whole @ whole)).tolist()
    return a, b, c


def features(predictor: Predictor, images: np.ndarray, progress: bool = False) -> np.ndarray:
    """What the last layer sees of each image, scaled to length 1: float32, (N, hidden).

    The network's own description of a face, out of which it reads the label by one matrix.
    """
    found: list[Tensor] = []

    def keep(_: nn.Module, inputs: tuple[Tensor], __: Tensor) -> None:
        found.append(inputs[0])

    last = predictor.net.head[-1]
    batches = range(0, len(images), BATCH)
    with torch.inference_mode(), _hooks({last: keep}):
        for i in tqdm(batches, desc="features", unit="batch", disable=not progress):
            predictor.net(_normalised(predictor, images[i : i + BATCH]))
    vectors = torch.cat(found).float().cpu().numpy()
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)


def _nearest(predictor: Predictor, face: np.ndarray, among: Examples, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows of the ``k`` examples with the highest cosine, best first, and the cosines."""
    cosines = among.features @ features(predictor, face[None])[0]
    rows = np.argsort(-cosines, kind="stable")[:k]
    return rows, cosines[rows]


def _normalised(predictor: Predictor, images: np.ndarray) -> Tensor:
    """uint8 (N, 48, 48) -> what the network takes, (N, 1, 48, 48), where the network is."""
    device = next(predictor.net.parameters()).device
    return ((torch.from_numpy(images).to(device).float() - predictor.mean) / predictor.std)[:, None]


def _captum() -> Any:
    """Captum's attributions. That a notebook has no widgets for progress bars need not be said: none is shown."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="IProgress not found")
        import captum.attr

    return captum.attr


def _map(found: Tensor) -> np.ndarray:  # (1, 1, 48, 48) -> (48, 48)
    result: np.ndarray = found[0, 0].detach().float().cpu().numpy()
    return result


@contextmanager
def _hooks(hooks: dict[nn.Module, Callable[..., Any]]) -> Iterator[None]:
    """Forward hooks on modules, for the length of a ``with`` block."""
    handles = [module.register_forward_hook(hook) for module, hook in hooks.items()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
