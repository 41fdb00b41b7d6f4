"""Batch augmentation on the training device, with random parameters for every image.

The paper's (section 3.2) are a horizontal flip, and a 48x48 crop after zero-padding by 4 pixels. The
others belong to the tuned recipes, or are for you to try. :func:`augment` changes each image by
itself and keeps its label; :func:`mixup` and :func:`cutmix` make one image of two, and one label.

torchvision's v2 transforms compute the same, but draw one set of parameters for a whole batch, or else
run image by image; and they draw from the global generator. These draw for each image of a batch at
once, on any device, from a generator that is passed in, so that a stopped run repeats its draws.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from fertools.recipes import AugmentConfig


def augment(images: Tensor, config: AugmentConfig, generator: torch.Generator) -> Tensor:
    """Augments every image by itself.

    Args:
        images: (N, H, W), uint8 or float, gray levels from 0 to 255.
        config: what to do; see :class:`fertools.recipes.AugmentConfig`.
        generator: on the images' device; the same state gives the same result.

    Returns:
        float32 (N, H, W), gray levels from 0 to 255.

    >>> images = torch.zeros(2, 48, 48, dtype=torch.uint8)
    >>> augment(images, AugmentConfig(rotate=10), torch.Generator().manual_seed(0)).shape
    torch.Size([2, 48, 48])
    """
    images = random_crop_flip(images, config, generator).float()
    if config.rotate or config.zoom:
        images = random_rotate_zoom(images, config, generator)
    if config.contrast:
        factor = 1 + config.contrast * _uniform(len(images), generator)[:, None, None]
        mean = images.mean((1, 2), keepdim=True)
        images = ((images - mean) * factor + mean).clamp(0, 255)
    if config.erase:
        images = random_erase(images, config, generator)
    return images


def random_crop_flip(images: Tensor, config: AugmentConfig, generator: torch.Generator) -> Tensor:
    """Zero-pads, crops the original size at a random place, and flips some, in one gather: (N, H, W) to (N, H, W)."""
    n, h, w = images.shape
    device, pad = images.device, config.pad
    padded = F.pad(images, (pad, pad, pad, pad))

    def offsets() -> Tensor:  # (N, 1) in 0..2 pad
        return torch.randint(0, 2 * pad + 1, (n, 1), generator=generator, device=device)

    rows = offsets() + torch.arange(h, device=device)  # (N, H)
    columns = offsets() + torch.arange(w, device=device)  # (N, W)
    mirror = torch.rand(n, 1, generator=generator, device=device) < config.flip
    columns = torch.where(mirror, columns.flip(1), columns)
    return padded[torch.arange(n, device=device)[:, None, None], rows[:, :, None], columns[:, None, :]]


def random_rotate_zoom(images: Tensor, config: AugmentConfig, generator: torch.Generator) -> Tensor:
    """Rotates clockwise and scales about the center, bilinear: float (N, H, W) to (N, H, W).

    What was outside the image is black, like the padding.
    """
    n = len(images)
    angle = math.radians(config.rotate) * _uniform(n, generator)
    scale = 1 + config.zoom * _uniform(n, generator)
    cos, sin = torch.cos(angle) / scale, torch.sin(angle) / scale
    zero = torch.zeros_like(cos)
    matrix = torch.stack([torch.stack([cos, -sin, zero], 1), torch.stack([sin, cos, zero], 1)], 1)
    grid = F.affine_grid(matrix, [n, 1, *images.shape[1:]], align_corners=False)
    return F.grid_sample(images[:, None], grid, align_corners=False)[:, 0]


def random_erase(images: Tensor, config: AugmentConfig, generator: torch.Generator) -> Tensor:
    """Covers a random box of some images with the image's mean: float (N, H, W) to (N, H, W)."""
    n, h, w = images.shape
    device = images.device
    u = torch.rand(n, 5, generator=generator, device=device)
    area = 0.02 + 0.18 * u[:, 0]
    aspect = torch.exp((2 * u[:, 1] - 1) * math.log(3.0))  # 1/3 to 3
    height = (area * aspect).sqrt().clamp(max=1) * h
    width = (area / aspect).sqrt().clamp(max=1) * w
    top, left = u[:, 2] * (h - height), u[:, 3] * (w - width)

    box = _box(h, top, height)[:, :, None] & _box(w, left, width)[:, None, :]
    box &= (u[:, 4] < config.erase)[:, None, None]
    return torch.where(box, images.mean((1, 2), keepdim=True), images)


def mixup(images: Tensor, targets: Tensor, alpha: float, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Blends every image with the one before it in the batch, whose order is random in training (Zhang et al. 2018).

    Args:
        images: float (N, H, W).
        targets: class probabilities, float (N, classes); blended with the weights of their images.
        alpha: of Beta(alpha, alpha), from which each image's weight is drawn.
        generator: as :func:`augment` takes it.

    Returns:
        The blended images and targets, of the shapes given.
    """
    weight = _beta(len(images), alpha, generator)
    blended = torch.lerp(images.roll(1, 0), images, weight[:, None, None])
    return blended, torch.lerp(targets.roll(1, 0), targets, weight[:, None])


def cutmix(images: Tensor, targets: Tensor, alpha: float, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Pastes a box of the image before it in the batch into every image (Yun et al. 2019).

    The box has a random center, is clipped at the edge of the image, and covers one minus a draw from
    Beta(alpha, alpha) of its area. Each label is weighted by the fraction of pixels that its image keeps.

    Args and returns: as :func:`mixup`.
    """
    n, h, w = images.shape
    side = (1 - _beta(n, alpha, generator)).sqrt()  # of the box, relative to the image's
    center = torch.rand(n, 2, generator=generator, device=images.device)
    rows = _box(h, (center[:, 0] - side / 2) * h, side * h)
    columns = _box(w, (center[:, 1] - side / 2) * w, side * w)
    box = rows[:, :, None] & columns[:, None, :]
    weight = 1 - box.float().mean((1, 2))
    return torch.where(box, images.roll(1, 0), images), torch.lerp(targets.roll(1, 0), targets, weight[:, None])


def _beta(n: int, alpha: float, generator: torch.Generator) -> Tensor:
    """n draws from Beta(alpha, alpha)."""
    # The first of two numbers from a Dirichlet distribution; torch's own Beta takes no generator.
    return torch._sample_dirichlet(torch.full((n, 2), alpha, device=generator.device), generator=generator)[:, 0]


def _box(size: int, start: Tensor, length: Tensor) -> Tensor:
    """Which of ``size`` pixels are inside each image's interval: starts and lengths (N,) to bool (N, size)."""
    position = torch.arange(size, device=start.device) + 0.5
    return (position >= start[:, None]) & (position < (start + length)[:, None])


def _uniform(n: int, generator: torch.Generator) -> Tensor:
    """n numbers in [-1, 1)."""
    return torch.rand(n, generator=generator, device=generator.device) * 2 - 1
