"""Resampling feature maps by a fixed factor, as two products with constant matrices (section 2.1).

``F.interpolate`` computes the same numbers. The matrices are ours because their gradient is
deterministic on every device and because they keep channels-last memory contiguous.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn


def _cubic(t: np.ndarray, a: float = -0.75) -> np.ndarray:
    """Keys' cubic convolution kernel; a = -0.75 as in OpenCV and PyTorch."""
    t = np.abs(t)
    near = (a + 2) * t**3 - (a + 3) * t**2 + 1
    far = a * t**3 - 5 * a * t**2 + 8 * a * t - 4 * a
    return np.where(t <= 1, near, np.where(t < 2, far, 0.0))


def _triangle(t: np.ndarray) -> np.ndarray:
    return np.maximum(1 - np.abs(t), 0.0)


KERNELS = {"bicubic": _cubic, "bilinear": _triangle}  # "nearest" has none: it copies a pixel


def resampling_matrix(source: int, target: int, kind: str = "bicubic") -> Tensor:
    """The constant matrix A, (target, source), that resamples a signal: ``A @ x``.

    An image X becomes A X A^T: interpolation by a fixed factor is linear, so two small matrix
    products do it. Pixel centers are at i + 1/2 and borders repeat the last pixel, as in
    ``F.interpolate(..., align_corners=False)``.

    >>> resampling_matrix(4, 2, "bilinear")
    tensor([[0.5000, 0.5000, 0.0000, 0.0000],
            [0.0000, 0.0000, 0.5000, 0.5000]])
    """
    position = (np.arange(target) + 0.5) * source / target - 0.5  # of each target pixel, in source pixels
    matrix = np.zeros((target, source))
    if kind == "nearest":
        matrix[np.arange(target), np.arange(target) * source // target] = 1.0
    else:
        left = np.floor(position).astype(int)
        for tap in range(-1, 3):
            column = np.clip(left + tap, 0, source - 1)
            np.add.at(matrix, (np.arange(target), column), KERNELS[kind](position - (left + tap)))
    return torch.from_numpy(matrix).float()


class Resample(nn.Module):
    """Square feature maps of ``source`` pixels to ``target`` pixels by :func:`resampling_matrix`."""

    matrix: Tensor

    def __init__(self, source: int, target: int, kind: str = "bicubic") -> None:
        super().__init__()
        self.register_buffer("matrix", resampling_matrix(source, target, kind), persistent=False)

    def forward(self, x: Tensor) -> Tensor:  # (N, C, source, source) -> (N, C, target, target)
        n, c, h, w = x.shape
        a = self.matrix.to(x.dtype)
        x = x.permute(0, 2, 3, 1)  # channels last: both products then run on contiguous memory
        x = a @ x.reshape(n * h, w, c)  # columns: X A^T
        x = a @ x.view(n, h, -1)  # rows: A (X A^T)
        return x.view(n, len(a), len(a), c).permute(0, 3, 1, 2)
