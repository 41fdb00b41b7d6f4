"""Batch augmentation on the training device, drawn anew for every image.

The paper's (section 3.2): a horizontal flip, and a 48x48 cut out of the image after
4 pixels of zero-padding. The others are the tuned recipes', or to be tried: :func:`augment`
changes each image by itself and keeps its label, :func:`mix` makes one of two, label and all.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from fertools.recipes import AugmentConfig


def augment(images: Tensor, config: AugmentConfig, generator: torch.Generator) -> Tensor:
    """Augments gray images (N, H, W), uint8 or float in gray levels; returns float (N, H, W).

    ``generator`` lies on the images' device; the same generator state gives the same result.
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
    """Zero-pads, cuts the original size out at a random place, and mirrors some: one gather."""
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
    """Rotates and scales about the center, bilinear, black outside as the padding is."""
    n = len(images)
    angle = math.radians(config.rotate) * _uniform(n, generator)
    scale = 1 + config.zoom * _uniform(n, generator)
    cos, sin = torch.cos(angle) / scale, torch.sin(angle) / scale
    zero = torch.zeros_like(cos)
    matrix = torch.stack([torch.stack([cos, -sin, zero], 1), torch.stack([sin, cos, zero], 1)], 1)
    grid = F.affine_grid(matrix, [n, 1, *images.shape[1:]], align_corners=False)
    return F.grid_sample(images[:, None], grid, align_corners=False)[:, 0]


def random_erase(images: Tensor, config: AugmentConfig, generator: torch.Generator) -> Tensor:
    """Covers a random box of some images with their mean gray."""
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


def mix(images: Tensor, targets: Tensor, config: AugmentConfig, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Mixes every image with the one before it in the batch, whose order is random in training.

    Args:
        images: float (N, H, W).
        targets: float (N, classes), how much of each class an image is; mixed in the same shares.
        config: its ``mixup`` or ``cutmix``. A box of cutmix has a random center and ends at the edge
            of the image; the share of the labels is that of the pixels.
        generator: as :func:`augment` takes it.
    """
    n, h, w = images.shape
    others, other_targets = images.roll(1, 0), targets.roll(1, 0)
    alpha = torch.full((n, 2), config.mixup or config.cutmix, device=images.device)
    share = torch._sample_dirichlet(alpha, generator=generator)[:, 0]  # of two: Beta, whose own takes none
    if config.mixup:
        images = torch.lerp(others, images, share[:, None, None])
    else:
        side = (1 - share).sqrt()  # of the box, as a share of the image's
        center = torch.rand(n, 2, generator=generator, device=images.device)
        rows = _box(h, (center[:, 0] - side / 2) * h, side * h)
        columns = _box(w, (center[:, 1] - side / 2) * w, side * w)
        box = rows[:, :, None] & columns[:, None, :]
        images = torch.where(box, others, images)
        share = 1 - box.float().mean((1, 2))
    return images, torch.lerp(other_targets, targets, share[:, None])


def _box(size: int, start: Tensor, length: Tensor) -> Tensor:
    """Which of ``size`` pixels lie in each image's stretch: starts and lengths (N,) to bool (N, size)."""
    position = torch.arange(size, device=start.device) + 0.5
    return (position >= start[:, None]) & (position < (start + length)[:, None])


def _uniform(n: int, generator: torch.Generator) -> Tensor:
    """n numbers in [-1, 1)."""
    return torch.rand(n, generator=generator, device=generator.device) * 2 - 1
