"""The multi-scale feature fusion network, one class per figure of the paper.

Wang, Hirota, Dai and Jia, "A Multi-Scale Feature Fusion Network for Facial
Expression Recognition". Equation and section numbers below are the paper's.

Shapes are written N, C, H, W: images, channels, height, width. With the default
configuration the maps flow like this ("96" is a map of 96x96 pixels, ``F`` a
:class:`FeatureExtractionModule`, ``+`` a :class:`FeatureFusionModule`)::

    image 48 -> stem 48 -+- down -> 24 -F-> 12 -F-> 6 ------------.      top
                         |          |       |                     |
                         +--- 48 -F-+> 24 -F+> 12 -F-> 6 -----.   |      middle
                         |     |        |       |             |   |
                         +- up -> 96 -F-+48 -F-+24 -F-+12 -F-> 6 -+---+-> head   bottom

Every choice that the paper leaves open is a field of :class:`NetworkConfig`.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Literal, cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

IMAGE_SIZE = 48  # section 3.2: "The resolution of 48x48 is selected as the final image input"
END_SIZE = 6  # every branch ends on 6x6 maps, the first size that all three can reach by halving


@dataclass(frozen=True)
class NetworkConfig:
    """Everything that decides the shape of a :class:`MultiScaleFusionNet`.

    The defaults are the paper where it speaks and our reading where it does not;
    each comment says which. A configuration that contradicts itself is refused
    with :class:`ValueError` when it is made.
    """

    classes: int = 7  # section 3.1: seven labels in FER2013 and in CK+
    width: int | tuple[int, ...] = 32
    # Channels C. Open in the paper. A tuple gives one width per map size, finest first, e.g.
    # (8, 16, 32, 64) for maps of 96, 48, 24, 12; 1x1 convolutions then join the sizes. Ours.
    scales: tuple[int, ...] = (24, 48, 96)
    # Map size each branch starts from, top branch first. Section 2.1 says down, same, up; the
    # factors are open. The number of scales is the number of branches.
    units: int = 3  # m of eq. 1; section 3.3: 3 "achieves a fine balance"
    kernels: tuple[int, ...] = (5, 3)  # eq. 2 and 3; (3,) or (5,) for an ablation
    residual: bool = True  # the "+ F" of eq. 1
    drop_path: float = 0.0
    # Stochastic depth (Huang et al. 2016): the probability, in training, that an image passes a
    # module by its "+ F" alone. Beyond the paper.
    recursive: bool = True
    # Section 2.1: maps of the same size go through the module "with same function": its
    # convolutions are shared. False gives every call convolutions of its own.
    norm: Literal["before", "after", "none"] = "before"
    # Batch normalisation before or after the ReLU of eq. 2 and 3. Open: section 2.1 only says
    # that it is employed.
    norm_per_call: bool = True
    # A shared module normalises each branch with statistics of its own. Open.
    fusion: Literal["weighted", "per-channel", "excite", "add", "concatenate"] = "weighted"
    # eq. 5, or one of the two that section 2.3 argues against: F1 + F2, or C1x1([F1, F2]). Beyond
    # the paper: eq. 5 with weights "per-channel", or with weights that also depend on the image.
    fusion_activation: Literal["identity", "sigmoid"] = "identity"
    # eq. 5 says sigmoid. Read literally it does not train at the paper's learning rate: its
    # slope is at most 1/4 and its output never below 0. "sigmoid" is the literal reading.
    fusion_norm: Literal["before", "after", "none"] = "none"
    # Batch normalisation around the activation of eq. 5. Ours, for the sigmoid's ablation.
    resampling: Literal["bicubic", "bilinear", "nearest"] = "bicubic"  # section 2.1: bicubic
    hidden: int = 256  # width of the first of the two fully connected layers. Open.
    head_norm: bool = False  # batch normalisation in that layer. Ours, for the sigmoid's ablation.
    dropout: float = 0.5  # section 3.2

    def __post_init__(self) -> None:
        def refuse(name: str, why: str) -> None:
            raise ValueError(f"NetworkConfig: {name}={getattr(self, name)!r} {why}")

        if self.classes < 2:
            refuse("classes", "leaves nothing to tell apart; at least 2 are needed")
        starts = [END_SIZE * 2**k for k in range(1, 6)]
        if not self.scales or list(self.scales) != sorted(set(self.scales)):
            refuse("scales", "must be map sizes in rising order, top branch first, e.g. (24, 48, 96)")
        if any(s not in starts for s in self.scales):
            refuse("scales", f"must each halve down to {END_SIZE}: choose from {starts}")
        if isinstance(self.width, tuple) and len(self.width) != len(self.map_sizes):
            refuse("width", f"needs one width for each of the map sizes {self.map_sizes}, or one number for all")
        if any(w < 1 for w in self.widths.values()):
            refuse("width", "must be at least 1")
        if self.units < 1:
            refuse("units", "must be at least 1 (m of eq. 1)")
        if not self.kernels or len(set(self.kernels)) != len(self.kernels):
            refuse("kernels", "must name each kernel size once, e.g. (5, 3)")
        if any(k < 1 or k % 2 == 0 for k in self.kernels):
            refuse("kernels", "must be odd, so that a map keeps its size")
        for name, allowed in {
            "norm": ("before", "after", "none"),
            "fusion": ("weighted", "per-channel", "excite", "add", "concatenate"),
            "fusion_activation": ("identity", "sigmoid"),
            "fusion_norm": ("before", "after", "none"),
            "resampling": (*KERNELS, "nearest"),
        }.items():
            if getattr(self, name) not in allowed:
                refuse(name, f"is not one of {', '.join(allowed)}")
        if self.fusion_norm == "after" and self.fusion_activation == "identity":
            refuse("fusion_norm", "has no activation to come after; say 'before'")
        if self.hidden < 1:
            refuse("hidden", "must be at least 1")
        for name in ("dropout", "drop_path"):
            if not 0 <= getattr(self, name) < 1:
                refuse(name, "must be in [0, 1)")
        if self.drop_path and not self.residual:
            refuse("drop_path", "needs residual=True: without it an image would have no way past a module")

    @property
    def map_sizes(self) -> tuple[int, ...]:
        """Map sizes that a feature extraction module runs on, finest first, e.g. 96, 48, 24, 12."""
        return tuple(halvings(max(self.scales))) if self.scales else ()

    @property
    def widths(self) -> dict[int, int]:
        """Channels by map size."""
        widths = self.width if isinstance(self.width, tuple) else (self.width,) * len(self.map_sizes)
        return dict(zip(self.map_sizes, widths, strict=True))


def halvings(size: int) -> list[int]:
    """The map sizes of a branch that starts at ``size``, without the last: 96 -> [96, 48, 24, 12]."""
    sizes = []
    while size > END_SIZE:
        sizes.append(size)
        size //= 2
    return sizes


# --- Bicubic resampling (section 2.1) ---------------------------------------------------------


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

    An image X becomes A X A^T: interpolation by a fixed factor is linear, so two small
    matrix products do it, with a deterministic gradient on every device. Pixel centres lie
    at i + 1/2 and borders repeat the last pixel, as in
    ``F.interpolate(..., align_corners=False)``.
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
    """Maps of IMAGE_SIZE pixels to ``size`` pixels by :func:`resampling_matrix`."""

    matrix: Tensor

    def __init__(self, size: int, kind: str = "bicubic") -> None:
        super().__init__()
        self.register_buffer("matrix", resampling_matrix(IMAGE_SIZE, size, kind), persistent=False)

    def forward(self, x: Tensor) -> Tensor:  # (N, C, 48, 48) -> (N, C, size, size)
        n, c, h, w = x.shape
        a = self.matrix.to(x.dtype)
        x = x.permute(0, 2, 3, 1)  # channels last: both products then run on contiguous memory
        x = a @ x.reshape(n, h, w * c)  # rows: A X
        x = a @ x.view(-1, w, c)  # columns: (A X) A^T
        return x.view(n, len(a), len(a), c).permute(0, 3, 1, 2)


# --- The paper's modules ----------------------------------------------------------------------


class CallNorm(nn.Module):
    """Batch normalisation with statistics and scales of its own for each call site."""

    def __init__(self, channels: int, calls: int) -> None:
        super().__init__()
        self.calls = nn.ModuleList(nn.BatchNorm2d(channels) for _ in range(calls))

    def forward(self, x: Tensor, call: int) -> Tensor:
        return self.calls[call if len(self.calls) > 1 else 0](x)


class BasicFeatureExtractionUnit(nn.Module):
    """BFEU, section 2.2 and figure 3: two receptive fields side by side, joined by a 1x1.

    ``calls`` is the number of places that share this unit's convolutions.
    """

    def __init__(self, channels: int, config: NetworkConfig, calls: int = 1) -> None:
        super().__init__()
        bias = config.norm != "before"  # a normalisation right behind would cancel it
        self.convs = nn.ModuleList(nn.Conv2d(channels, channels, k, padding=k // 2, bias=bias) for k in config.kernels)
        wide = channels * len(config.kernels)
        self.norm = CallNorm(wide, calls if config.norm_per_call else 1) if config.norm != "none" else None
        self.norm_first = config.norm == "before"
        self.join = nn.Conv2d(wide, channels, 1)

    def forward(self, x: Tensor, call: int = 0) -> Tensor:  # (N, C, H, W) -> (N, C, H, W)
        # Normalisation and ReLU act on each channel alone, so they may follow the
        # concatenation of eq. 4: the same numbers in half the passes over memory.
        q = torch.cat([conv(x) for conv in self.convs], 1)  # (N, 2C, H, W)
        if self.norm is not None and self.norm_first:
            q = self.norm(q, call)
        q = F.relu(q)  # eq. 2: Q5 = relu(C5x5(M)), eq. 3: Q3 = relu(C3x3(M))
        if self.norm is not None and not self.norm_first:
            q = self.norm(q, call)
        return self.join(q)  # eq. 4: C1x1([Q5, Q3])


class FeatureExtractionModule(nn.Module):
    """FEM, section 2.2 and figure 2: m units in a row, plus the input, then 2x2 max-pooling.

    Where the next map size has another width, a 1x1 convolution follows (``out``). With
    ``drop_path`` = p, an image in training loses the units' part with probability p, and has it
    1 / (1 - p) times otherwise, so that its mean stays.
    """

    def __init__(self, channels: int, config: NetworkConfig, calls: int = 1, out: int | None = None) -> None:
        super().__init__()
        self.units = nn.ModuleList(BasicFeatureExtractionUnit(channels, config, calls) for _ in range(config.units))
        self.residual = config.residual
        self.drop = nn.Dropout(config.drop_path) if config.drop_path else None
        self.widen = _width_change(channels, out or channels)

    def forward(self, x: Tensor, call: int = 0) -> Tensor:  # (N, C, H, W) -> (N, C', H/2, W/2)
        y = x
        for unit in self.units:
            y = unit(y, call)  # R_m(... R_2(R_1(F)))
        if self.drop is not None and self.training:
            y = y * self.drop(y.new_ones(len(y), 1, 1, 1))  # one draw for each image
        if self.residual:
            y = y + x  # eq. 1
        return self.widen(F.max_pool2d(y, 2))


class FeatureFusionModule(nn.Module):
    """FFM, section 2.3 and figure 4: two branches' maps of one size become one.

    The learned weights w1, w2, w3 of eq. 5 are scalars that start at 1; ``"per-channel"`` has a
    vector of C for each, ``"excite"`` factors for each image and channel in front of them::

        Fo = w1 g1 F1 + w2 g2 F2 + w3 g3 Fm,   [g1, g2, g3] = 2 sigmoid(V silu(U mean[F1, F2]))

    with the mean over the pixels, as in squeeze-and-excitation (Hu et al. 2018), but for the SiLU:
    of a few ReLUs often none would fire, and the gate never learn. U has a quarter of C rows, at
    least 4; V and its bias start at 0, hence g at 1, so that both kinds start as eq. 5 does.
    """

    def __init__(self, channels: int, config: NetworkConfig) -> None:
        super().__init__()
        self.fusion = config.fusion
        if config.fusion == "per-channel":
            self.w = nn.Parameter(torch.ones(3, channels, 1, 1))
        elif config.fusion in ("weighted", "excite"):
            self.w = nn.Parameter(torch.ones(3))
        if config.fusion != "add":
            self.join = nn.Conv2d(2 * channels, channels, 1)
        if config.fusion == "excite":
            squeezed = max(channels // 4, 4)
            u, v = nn.Conv2d(2 * channels, squeezed, 1), nn.Conv2d(squeezed, 3 * channels, 1)
            nn.init.zeros_(v.weight)
            nn.init.zeros_(cast(Tensor, v.bias))
            self.gate = nn.Sequential(nn.AdaptiveAvgPool2d(1), u, nn.SiLU(), v, nn.Sigmoid())
        self.activation = torch.sigmoid if config.fusion_activation == "sigmoid" else nn.Identity()
        self.norm_before = nn.BatchNorm2d(channels) if config.fusion_norm == "before" else nn.Identity()
        self.norm_after = nn.BatchNorm2d(channels) if config.fusion_norm == "after" else nn.Identity()

    def forward(self, f1: Tensor, f2: Tensor) -> Tensor:  # two (N, C, H, W) -> (N, C, H, W)
        if self.fusion == "add":
            out = f1 + f2
        else:
            both = torch.cat([f1, f2], 1)  # (N, 2C, H, W)
            joined = self.join(both)  # F_m = C1x1([F1, F2])
            out = joined
            if self.fusion != "concatenate":
                w = self.weights(both)
                out = w[0] * f1 + w[1] * f2 + w[2] * joined  # F_o, the sum in eq. 5
        return self.norm_after(self.activation(self.norm_before(out)))  # eq. 5

    def weights(self, both: Tensor) -> Tensor:
        """What the three terms of eq. 5 are multiplied by, given [F1, F2]: (3,), (3, C, 1, 1) or (3, N, C, 1, 1)."""
        if self.fusion == "weighted":
            return self.w
        w = self.w.to(both.dtype)  # unlike a single number, a vector in fp32 would make bf16 maps fp32
        if self.fusion == "excite":
            g = 2 * self.gate(both).unflatten(1, (3, -1)).transpose(0, 1)  # (N, 3C, 1, 1) -> (3, N, C, 1, 1)
            w = w.view(3, 1, 1, 1, 1) * g
        return w


class MultiScaleFusionNet(nn.Module):
    """The whole network, section 2.1 and figure 1: images (N, 1, 48, 48) to logits (N, classes).

    The softmax of section 2.1 lives in the loss, as usual in PyTorch. Read ``forward`` beside
    the drawing at the top of this file.
    """

    def __init__(self, config: NetworkConfig | None = None) -> None:
        super().__init__()
        self.config = config = config or NetworkConfig()
        widths, sizes = config.widths, config.map_sizes
        stem = widths.get(IMAGE_SIZE, widths[sizes[0]])

        self.stem = nn.Sequential(nn.Conv2d(1, stem, 3, padding=1, bias=False), nn.BatchNorm2d(stem), nn.ReLU())
        self.resample = nn.ModuleDict(
            {
                str(scale): nn.Sequential(
                    nn.Identity() if scale == IMAGE_SIZE else Resample(scale, config.resampling),
                    _width_change(stem, widths[scale]),
                )
                for scale in config.scales
            }
        )

        # Call sites of each map size: the branches that start at that size or above it.
        calls = {size: sum(scale >= size for scale in config.scales) for size in sizes}
        module = partial(FeatureExtractionModule, config=config)
        self.extract = nn.ModuleDict()  # by map size: modules of the branches, or the one they share
        for size in sizes:
            out = widths.get(size // 2)
            copies = [calls[size]] if config.recursive else [1] * calls[size]
            self.extract[str(size)] = nn.ModuleList(module(widths[size], calls=n, out=out) for n in copies)

        # A branch fuses at every size that the branch above also has.
        self.fuse = nn.ModuleList(
            nn.ModuleDict({str(s): FeatureFusionModule(widths[s], config) for s in halvings(scale) if s <= above})
            for above, scale in zip((0, *config.scales), config.scales, strict=False)
        )

        end = widths[sizes[-1]]
        self.fuse_ends = nn.ModuleList(FeatureFusionModule(end, config) for _ in config.scales[1:])
        self.head = nn.Sequential(
            nn.Flatten(),
            nn.Linear(end * END_SIZE**2, config.hidden),
            nn.BatchNorm1d(config.hidden) if config.head_norm else nn.Identity(),
            nn.ReLU(),
            nn.Dropout(config.dropout),
            nn.Linear(config.hidden, config.classes),
        )

    def forward(self, x: Tensor) -> Tensor:  # (N, 1, 48, 48) -> (N, classes)
        stem = self.stem(x)  # (N, C, 48, 48)
        above: dict[int, Tensor] = {}  # the maps of the branch above, by size
        ends: list[Tensor] = []  # what each branch ends on, (N, C, 6, 6)
        seen: dict[int, int] = {}  # how often the module of a size has been called
        for scale, fuse in zip(self.config.scales, self.fuse, strict=True):  # top, middle, bottom
            x = self.resample[str(scale)](stem)  # (N, C, scale, scale)
            maps = {}
            for size in halvings(scale):
                if size in above:
                    x = cast(nn.ModuleDict, fuse)[str(size)](x, above[size])  # eq. 5
                maps[size] = x
                call = seen[size] = seen.get(size, -1) + 1
                modules = cast(nn.ModuleList, self.extract[str(size)])
                x = modules[0](x, call) if self.config.recursive else modules[call](x)  # eq. 1
            above = maps
            ends.append(x)
        *others, x = ends
        for fuse, other in zip(self.fuse_ends, others, strict=True):
            x = fuse(x, other)  # "the bottom branch are fused with the top and middle features"
        return self.head(x)


def _width_change(source: int, target: int) -> nn.Module:
    return nn.Identity() if source == target else nn.Conv2d(source, target, 1)
