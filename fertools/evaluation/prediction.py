"""From a trained network to log-probabilities, by single crop or with test-time augmentation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fertools import IMAGE_SIZE

PAD = 4  # section 3.2: training pads the image by 4 zero pixels and crops 48x48 again

TTA = Literal["single-crop", "flip", "ten-crop"]


def normalize(images: Tensor, mean: float, std: float) -> Tensor:
    """Gray levels (N, 48, 48) as every network here takes them: float32 (N, 1, 48, 48), ``(image - mean) / std``.

    >>> normalize(torch.full((2, 48, 48), 128, dtype=torch.uint8), 128.0, 60.0).shape
    torch.Size([2, 1, 48, 48])
    """
    return ((images.float() - mean) / std)[:, None]


def predict_log_proba(
    net: nn.Module,
    images: np.ndarray | Tensor,
    *,
    mean: float,
    std: float,
    device: str | torch.device | None = None,
    tta: TTA = "single-crop",
    batch: int = 256,
    dtype: torch.dtype | None = None,
    progress: bool = False,
) -> np.ndarray:
    """Log-probabilities of every image, float32, (N, classes).

    The network gets ``(image - mean) / std`` and runs in evaluation mode; afterwards each of its
    modules is in the mode it was in before. With test-time augmentation, the probabilities of an
    image's crops are averaged. The log-probabilities of the single crop serve as logits, from which they
    differ by a constant for each image.

    Args:
        net: takes (N, 1, 48, 48), gives logits (N, classes).
        images: uint8, (N, 48, 48), 0 black to 255 white.
        mean, std: of the training images, in gray levels (0 to 255).
        device: the network is moved there and stays there; None leaves it where it is.
        tta: ``"single-crop"`` is the image itself; ``"flip"`` adds its mirror image; ``"ten-crop"``
            pads by 4 black pixels, as training does, and takes the four corner crops and the center
            crop of 48x48 pixels, and the mirror image of each (Krizhevsky et al. 2012, section 4.1).
        batch: images per forward pass; less memory where it is smaller, the same result.
        dtype: run under autocast, e.g. ``torch.bfloat16``; None runs in the network's own precision.
        progress: show a progress bar.
    """
    if images.ndim != 3 or images.shape[1:] != (IMAGE_SIZE, IMAGE_SIZE) or not len(images):
        raise ValueError(f"images must have shape (N, {IMAGE_SIZE}, {IMAGE_SIZE}), N > 0, not {tuple(images.shape)}")
    if images.dtype not in (np.uint8, torch.uint8):
        raise ValueError(f"images must be uint8, 0 black to 255 white, not {images.dtype}")
    if not (np.isfinite(mean) and np.isfinite(std) and std > 0):
        raise ValueError(f"mean and std must be finite, and std above 0; got mean={mean}, std={std}")
    if tta not in get_args(TTA):
        raise ValueError(f"tta must be one of {', '.join(get_args(TTA))}, not {tta!r}")
    if batch < 1:
        raise ValueError(f"batch must be at least 1, not {batch}")

    from tqdm import tqdm

    if isinstance(images, np.ndarray):
        images = torch.from_numpy(images.copy())  # a copy: a memory-mapped array is read-only
    if device is not None:
        net.to(device)
    where = next(net.parameters()).device
    modes = [(module, module.training) for module in net.modules()]
    net.eval()
    rows = []
    try:
        with torch.inference_mode(), torch.autocast(where.type, dtype, enabled=dtype is not None):
            for some in tqdm(images.split(batch), desc="predict", unit="batch", disable=not progress):
                log_p = [net(normalize(crop, mean, std)).float().log_softmax(1) for crop in _crops(some.to(where), tta)]
                rows.append(torch.stack(log_p).logsumexp(0) - np.log(len(log_p)))  # log of the mean
    finally:
        for module, training in modes:
            module.training = training
    return torch.cat(rows).float().cpu().numpy()


def _crops(images: Tensor, tta: TTA) -> Sequence[Tensor]:
    """uint8 (N, 48, 48) -> the crops to average over, each of that shape."""
    if tta == "single-crop":
        return [images]
    if tta == "flip":
        return [images, images.flip(-1)]
    from torchvision.transforms.v2.functional import ten_crop

    padded = F.pad(images, (PAD,) * 4)  # of the raw pixels: 0 is black, as in training
    return ten_crop(padded, [IMAGE_SIZE, IMAGE_SIZE])
