"""Several processes, one result: training under ``torchrun``.

Every process draws the random numbers of the whole batch and computes one part of it. For the
result to equal that of one process, up to rounding, three things must see the whole batch: the
statistics of batch normalization, the mask of dropout, and the gradient. The networks here have a few
megabytes of weights, so the gradient is sent as one vector after the backward pass.
"""

from __future__ import annotations

import os
from collections.abc import Iterable

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributed.nn.functional import all_reduce


def start(device: str | None = None) -> tuple[int, int]:
    """Joins the group of processes if torchrun started this one.

    Args:
        device: what the processes compute on; None: GPUs where there are any.

    Returns:
        This process's rank, and the number of processes: (0, 1) without torchrun.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return 0, 1
    if not dist.is_initialized():
        on_gpu = torch.cuda.is_available() if device is None else torch.device(device).type == "cuda"
        dist.init_process_group("nccl" if on_gpu else "gloo")
    return dist.get_rank(), dist.get_world_size()


class GlobalBatchNorm(nn.BatchNorm2d):
    """Batch normalization with the statistics of all processes' images.

    PyTorch's own ``SyncBatchNorm`` does the same, but only on GPUs, where no test on a CPU could
    compare it with a single process.
    """

    running_mean: Tensor
    running_var: Tensor
    num_batches_tracked: Tensor
    momentum: float

    def __init__(self, norm: nn.BatchNorm1d | nn.BatchNorm2d) -> None:
        super().__init__(norm.num_features, norm.eps, norm.momentum)
        for name, value in (*norm.named_parameters(), *norm.named_buffers()):
            setattr(self, name, value)  # the same tensors under the same names: checkpoints fit both

    def forward(self, x: Tensor) -> Tensor:  # (N, C, ...) -> (N, C, ...)
        axes = [0, *range(2, x.dim())]
        shape = [1, -1] + [1] * (x.dim() - 2)
        wide = x.float()
        if self.training:
            count = dist.get_world_size() * x.numel() // x.shape[1]
            mean = all_reduce(wide.sum(axes)) / count
            variance = all_reduce(((wide - mean.view(shape)) ** 2).sum(axes)) / count
            with torch.no_grad():
                self.num_batches_tracked += 1
                self.running_mean.lerp_(mean, self.momentum)
                self.running_var.lerp_(variance * count / (count - 1), self.momentum)
        else:
            mean, variance = self.running_mean, self.running_var
        scale = self.weight * torch.rsqrt(variance + self.eps)
        return ((wide - mean.view(shape)) * scale.view(shape) + self.bias.view(shape)).to(x.dtype)


class GlobalDropout(nn.Module):
    """Dropout that draws the mask of the whole batch and applies this process's part of it.

    Args:
        p: the probability of a zero.
        by_image: drop whole images, as stochastic depth does.
    """

    def __init__(self, p: float, by_image: bool = False) -> None:
        super().__init__()
        self.p, self.by_image = p, by_image

    def forward(self, x: Tensor) -> Tensor:  # (N, ...) -> (N, ...)
        if not self.training:
            return x
        shape = [1] * (x.dim() - 1) if self.by_image else x.shape[1:]
        ones = torch.ones(dist.get_world_size() * len(x), *shape, dtype=x.dtype, device=x.device)
        return x * F.dropout(ones, self.p).chunk(dist.get_world_size())[dist.get_rank()]


def convert(module: nn.Module) -> nn.Module:
    """Replaces normalization, dropout, and stochastic depth inside a module by their global versions, in place."""
    from torchvision.ops import StochasticDepth

    for name, child in module.named_children():
        if isinstance(child, (nn.BatchNorm1d, nn.BatchNorm2d)):
            setattr(module, name, GlobalBatchNorm(child))
        elif isinstance(child, nn.Dropout):
            setattr(module, name, GlobalDropout(child.p))
        elif isinstance(child, StochasticDepth):
            setattr(module, name, GlobalDropout(child.p, by_image=True))
        else:
            convert(child)
    return module


def average_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Replaces every gradient by its mean over the processes."""
    gradients = [p.grad for p in parameters if p.grad is not None]
    flat = torch.cat([g.reshape(-1) for g in gradients])
    dist.all_reduce(flat)
    flat /= dist.get_world_size()
    for gradient, mean in zip(gradients, flat.split([g.numel() for g in gradients]), strict=True):
        gradient.copy_(mean.view_as(gradient))
