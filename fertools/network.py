"""The multi-scale feature fusion network, one class for each figure of the paper.

Wang, Hirota, Dai and Jia, "A Multi-Scale Feature Fusion Network for Facial
Expression Recognition". Equation and section numbers below are the paper's.

Shapes are written N, C, H, W: images, channels, height, width. With the default
configuration the feature maps flow like this ("96" is 96x96 pixels, ``F`` a
:class:`FeatureExtractionModule`, ``+`` a :class:`FeatureFusionModule`). In the book's drawings the top
branch is purple, the middle one green, and the bottom one orange::

    image 48 -> stem 48 -+- down -> 24 -F-> 12 -F-> 6 ------------.      top
                         |          |       |                     |
                         +--- 48 -F-+> 24 -F+> 12 -F-> 6 -----.   |      middle
                         |     |        |       |             |   |
                         +- up -> 96 -F-+48 -F-+24 -F-+12 -F-> 6 -+---+-> head   bottom

Every choice that the paper leaves open is a field of :class:`NetworkConfig`. What goes beyond the paper
is in :mod:`fertools.models`, where ``registry.build(config)`` builds every variant.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Annotated, Literal, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fertools import IMAGE_SIZE
from fertools.config import Config, Range
from fertools.models.resampling import Resample

END_SIZE = 6  # every branch ends on 6x6 maps, the first size that all three can reach by halving


@dataclass(frozen=True)
class NetworkConfig(Config):
    """Everything that decides the shape of a :class:`MultiScaleFusionNet`.

    The defaults are the paper where it speaks and our reading where it does not; each comment says
    which. A configuration that contradicts itself is refused with :class:`ValueError`.

    >>> NetworkConfig(width=16).map_sizes
    (96, 48, 24, 12)
    """

    classes: Annotated[int, Range(2, 1000)] = 7  # section 3.1: seven labels in FER2013 and in CK+
    width: Annotated[int, Range(1, 1024)] | Annotated[tuple[int, ...], Range(1, 1024)] = 32
    # Channels C. Open in the paper. A tuple gives one width per map size, finest first, e.g.
    # (8, 16, 32, 64) for maps of 96, 48, 24, 12; 1x1 convolutions then connect the sizes. Ours.
    scales: tuple[int, ...] = (24, 48, 96)
    # Map size each branch starts from, top branch first. Section 2.1 says down, same, up; the
    # factors are open. The number of scales is the number of branches.
    units: Annotated[int, Range(1, 100)] = 3  # m of eq. 1; section 3.3: 3 "achieves a fine balance"
    kernels: Annotated[tuple[int, ...], Range(1, 47)] = (5, 3)  # eq. 2 and 3; (3,) or (5,) for an ablation
    residual: bool = True  # the "+ F" of eq. 1
    drop_path: Annotated[float, Range(0, 1, below=True)] = 0.0
    # Stochastic depth (Huang et al. 2016): the probability, in training, that an image passes a
    # module by its "+ F" alone. Beyond the paper.
    recursive: bool = True
    # Section 2.1: maps of the same size go through the module "with same function": its
    # convolutions are shared. False gives every call convolutions of its own.
    norm: Literal["before", "after", "none"] = "before"
    # Batch normalization before or after the ReLU of eq. 2 and 3. Open: section 2.1 only says
    # that it is employed.
    norm_per_call: bool = True
    # A shared module normalizes each branch with statistics of its own. Open.
    fusion: Literal["weighted", "per-channel", "excite", "add", "concatenate"] = "weighted"
    # eq. 5, or one of the variants in models/fusions.py.
    fusion_activation: Literal["identity", "sigmoid"] = "identity"
    # eq. 5 says sigmoid. Read literally it does not train at the paper's learning rate: its
    # slope is at most 1/4 and its output never below 0. "sigmoid" is the literal reading.
    fusion_norm: Literal["before", "after", "none"] = "none"
    # Batch normalization around the activation of eq. 5. Ours, for the sigmoid's ablation.
    resampling: Literal["bicubic", "bilinear", "nearest"] = "bicubic"  # section 2.1: bicubic
    hidden: Annotated[int, Range(1, 65536)] = 256  # width of the first of the two fully connected layers. Open.
    head_norm: bool = False  # batch normalization in that layer. Ours, for the sigmoid's ablation.
    dropout: Annotated[float, Range(0, 1, below=True)] = 0.5  # section 3.2

    def check(self) -> None:
        starts = [END_SIZE * 2**k for k in range(1, 6)]
        if not self.scales or list(self.scales) != sorted(set(self.scales)):
            self.refuse("scales", "must be map sizes in rising order, top branch first, e.g. (24, 48, 96)")
        if any(s not in starts for s in self.scales):
            self.refuse("scales", f"must each halve down to {END_SIZE}: choose from {starts}")
        if isinstance(self.width, tuple) and len(self.width) != len(self.map_sizes):
            self.refuse("width", f"needs one width for each of the map sizes {self.map_sizes}, or one number for all")
        if not self.kernels or len(set(self.kernels)) != len(self.kernels):
            self.refuse("kernels", "must name each kernel size once, e.g. (5, 3)")
        if any(k % 2 == 0 for k in self.kernels):
            self.refuse("kernels", "must be odd, so that a map keeps its size")
        if self.fusion_norm == "after" and self.fusion_activation == "identity":
            self.refuse("fusion_norm", "has no activation to come after; say 'before'")
        if self.drop_path and not self.residual:
            self.refuse("drop_path", "needs residual=True: without it an image would have no way past a module")

    @property
    def map_sizes(self) -> tuple[int, ...]:
        """Map sizes that a feature extraction module runs on, finest first, e.g. 96, 48, 24, 12."""
        return tuple(halvings(max(self.scales)))

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


# --- The paper's modules ----------------------------------------------------------------------


class CallNorm(nn.Module):
    """Batch normalization with statistics and scales of its own for each call site."""

    def __init__(self, channels: int, calls: int) -> None:
        super().__init__()
        self.calls = nn.ModuleList(nn.BatchNorm2d(channels) for _ in range(calls))

    def forward(self, x: Tensor, call: int) -> Tensor:
        return self.calls[call if len(self.calls) > 1 else 0](x)


class BasicFeatureExtractionUnit(nn.Module):
    """BFEU, section 2.2 and figure 3: two receptive fields side by side, merged by a 1x1.

    ``calls`` is the number of places that share this unit's convolutions.
    """

    def __init__(self, channels: int, config: NetworkConfig, calls: int = 1) -> None:
        super().__init__()
        bias = config.norm != "before"  # a normalization right behind would cancel it
        self.convs = nn.ModuleList(nn.Conv2d(channels, channels, k, padding=k // 2, bias=bias) for k in config.kernels)
        wide = channels * len(config.kernels)
        self.norm = CallNorm(wide, calls if config.norm_per_call else 1) if config.norm != "none" else None
        self.norm_first = config.norm == "before"
        self.proj = nn.Conv2d(wide, channels, 1)

    def forward(self, x: Tensor, call: int = 0) -> Tensor:  # (N, C, H, W) -> (N, C, H, W)
        # Normalization and ReLU act on each channel alone, so they may follow the concatenation of
        # eq. 4: the same numbers in half the passes over memory.
        q = torch.cat([conv(x) for conv in self.convs], 1)  # (N, 2C, H, W)
        if self.norm is not None and self.norm_first:
            q = self.norm(q, call)
        q = F.relu(q)  # eq. 2: Q5 = relu(C5x5(M)), eq. 3: Q3 = relu(C3x3(M))
        if self.norm is not None and not self.norm_first:
            q = self.norm(q, call)
        return self.proj(q)  # eq. 4: C1x1([Q5, Q3])


class FeatureExtractionModule(nn.Module):
    """FEM, section 2.2 and figure 2: m units in a row, plus the input, then 2x2 max-pooling.

    Where the next map size has another width (``out``), a 1x1 convolution follows (``proj``).
    """

    def __init__(self, channels: int, config: NetworkConfig, calls: int = 1, out: int | None = None) -> None:
        super().__init__()
        self.units = nn.ModuleList(BasicFeatureExtractionUnit(channels, config, calls) for _ in range(config.units))
        self.residual = config.residual
        self.drop_path = _stochastic_depth(config.drop_path)
        self.proj = _width_change(channels, out or channels)

    def forward(self, x: Tensor, call: int = 0) -> Tensor:  # (N, C, H, W) -> (N, C', H/2, W/2)
        y = x
        for unit in self.units:
            y = unit(y, call)  # R_m(... R_2(R_1(F)))
        if self.residual:
            y = self.drop_path(y) + x  # eq. 1
        return self.proj(F.max_pool2d(y, 2))


class FeatureFusionModule(nn.Module):
    """FFM, section 2.3 and figure 4: two branches' maps of one size become one.

    The learned weights w1, w2, w3 are scalars that start at 1.
    """

    def __init__(self, channels: int, config: NetworkConfig) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.ones(3))
        self.proj = nn.Conv2d(2 * channels, channels, 1)
        self.activation = _fusion_activation(channels, config)

    def weights(self, f1: Tensor, f2: Tensor) -> Tensor:
        """w1, w2, and w3 for these feature maps; eq. 5 has the same for all."""
        return self.w

    def forward(self, f1: Tensor, f2: Tensor) -> Tensor:  # two (N, C, H, W) -> (N, C, H, W)
        fm = self.proj(torch.cat([f1, f2], 1))  # F_m = C1x1([F1, F2])
        w1, w2, w3 = self.weights(f1, f2)
        return self.activation(w1 * f1 + w2 * f2 + w3 * fm)  # eq. 5


class MultiScaleFusionNet(nn.Module):
    """The whole network, section 2.1 and figure 1: images (N, 1, 48, 48) to logits (N, classes).

    The softmax of section 2.1 is part of the loss, as usual in PyTorch. Read ``forward`` next to the
    drawing at the top of this file.

    Args:
        config: the shape; the default is our reading of the paper.
        fusion: the class of the fusion modules; ``registry.build(config)`` finds it by ``config.fusion``.

    >>> MultiScaleFusionNet(NetworkConfig(width=8))(torch.zeros(2, 1, 48, 48)).shape
    torch.Size([2, 7])
    """

    def __init__(
        self, config: NetworkConfig | None = None, fusion: type[FeatureFusionModule] = FeatureFusionModule
    ) -> None:
        super().__init__()
        self.config = config = config or NetworkConfig()
        if config.fusion != "weighted" and fusion is FeatureFusionModule:
            raise ValueError(
                f"fusion={config.fusion!r} is not the paper's: build it with models.registry.build(config)"
            )
        widths, sizes = config.widths, config.map_sizes
        stem = widths.get(IMAGE_SIZE, widths[sizes[0]])

        self.stem = nn.Sequential(nn.Conv2d(1, stem, 3, padding=1, bias=False), nn.BatchNorm2d(stem), nn.ReLU())
        self.resample = nn.ModuleDict(
            {
                str(scale): nn.Sequential(
                    nn.Identity() if scale == IMAGE_SIZE else Resample(IMAGE_SIZE, scale, config.resampling),
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
            nn.ModuleDict({str(s): fusion(widths[s], config) for s in halvings(scale) if s <= above})
            for above, scale in zip((0, *config.scales), config.scales, strict=False)
        )

        end = widths[sizes[-1]]
        self.fuse_ends = nn.ModuleList(fusion(end, config) for _ in config.scales[1:])
        self.head = nn.Sequential(
            nn.Flatten(),
            nn.Linear(end * END_SIZE**2, config.hidden),
            nn.BatchNorm1d(config.hidden) if config.head_norm else nn.Identity(),
            nn.ReLU(),
            nn.Dropout(config.dropout),
            nn.Linear(config.hidden, config.classes),
        )

    def no_weight_decay(self) -> set[str]:
        """Names of parameters that weight decay must leave alone, as in timm: it would pull the fusion weights to 0."""
        return {
            f"{name}.w"
            for name, module in self.named_modules()
            if isinstance(module, FeatureFusionModule) and hasattr(module, "w")
        }

    def forward(self, x: Tensor) -> Tensor:  # (N, 1, 48, 48) -> (N, classes)
        stem = self.stem(x)  # (N, C, 48, 48)
        above: dict[int, Tensor] = {}  # the maps of the branch above, by size
        ends: list[Tensor] = []  # what each branch ends on, (N, C, 6, 6)
        seen: dict[int, int] = {}  # how often the module of a size has been called
        branches = zip(self.config.scales, self.fuse, strict=True)
        for scale, fuse in branches:  # top, middle, bottom
            x = self.resample[str(scale)](stem)  # (N, C, scale, scale)
            maps = {}
            for size in halvings(scale):
                if size in above:
                    x = cast(nn.ModuleDict, fuse)[str(size)](x, above[size])  # eq. 5
                maps[size] = x
                call = seen[size] = seen.get(size, -1) + 1
                modules = cast(nn.ModuleList, self.extract[str(size)])
                shared = self.config.recursive
                x = modules[0](x, call) if shared else modules[call](x)  # eq. 1
            above = maps
            ends.append(x)
        *others, x = ends
        for fuse, other in zip(self.fuse_ends, others, strict=True):
            x = fuse(x, other)  # section 2.1: bottom, with top and then with middle
        return self.head(x)


def _stochastic_depth(p: float) -> nn.Module:
    if not p:
        return nn.Identity()
    from torchvision.ops import StochasticDepth  # slow to import, and no recipe needs it

    return StochasticDepth(p, "row")  # one draw for each image


def _fusion_activation(channels: int, config: NetworkConfig) -> nn.Module:
    layers: list[nn.Module] = [nn.Sigmoid()] if config.fusion_activation == "sigmoid" else []
    if config.fusion_norm != "none":
        layers.insert(0 if config.fusion_norm == "before" else len(layers), nn.BatchNorm2d(channels))
    return nn.Sequential(*layers)


def _width_change(source: int, target: int) -> nn.Module:
    return nn.Identity() if source == target else nn.Conv2d(source, target, 1)
