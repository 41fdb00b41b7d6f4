from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from scipy.stats import beta, kstest
from torch import Tensor
from torchvision.transforms.v2 import functional as tv

from fertools.recipes import AugmentConfig
from fertools.training.augmentation import augment, cutmix, mixup, random_crop_flip, random_erase, random_rotate_zoom

OFF = {"flip": 0.0, "pad": 0}


def faces(n: int = 64) -> Tensor:
    return torch.from_numpy(np.random.default_rng(0).integers(1, 256, (n, 48, 48), dtype=np.uint8))


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_every_result_is_one_of_the_papers_crops() -> None:
    """Section 3.2: each image is one of the 81 crops of the padded image, flipped or not."""
    images = faces(32)
    results = random_crop_flip(images, AugmentConfig(), generator())
    assert results.dtype == torch.uint8
    for image, result in zip(images, results, strict=True):
        padded = tv.pad(image[None], [4])
        crops = [tv.crop(padded, y, x, 48, 48) for y in range(9) for x in range(9)]
        crops += [tv.horizontal_flip(crop) for crop in crops]
        assert any(torch.equal(result, crop[0]) for crop in crops)


def test_crops_and_flips_are_uniform_and_drawn_per_image() -> None:
    image = torch.zeros(1, 48, 48, dtype=torch.uint8)
    image[0, 20, 10] = 255
    results = random_crop_flip(image.expand(20_000, -1, -1), AugmentConfig(), generator())
    rows, columns = (results == 255).nonzero()[:, 1], (results == 255).nonzero()[:, 2]
    straight = columns < 24  # the dot is at column 6..14, or mirrored at 33..41
    assert 0.48 < straight.float().mean() < 0.52
    for found, center in ((rows, 20), (columns[straight], 10), (columns[~straight], 37)):
        fractions = torch.bincount(found - (center - 4), minlength=9) / len(found)
        assert len(fractions) == 9
        assert (fractions - 1 / 9).abs().max() < 0.015


@pytest.mark.parametrize(
    "config",
    [AugmentConfig(), AugmentConfig(rotate=10, zoom=0.1, contrast=0.2, erase=0.5)],
    ids=["paper", "tuned"],
)
def test_same_generator_same_images(config: AugmentConfig) -> None:
    a, b, c = (augment(faces(), config, generator(seed)) for seed in (3, 3, 4))
    assert a.dtype == torch.float32
    assert a.shape == (64, 48, 48)
    assert torch.equal(a, b)
    assert not torch.equal(a, c)
    assert a.min() >= 0
    assert a.max() <= 255


def test_nothing_on_changes_nothing() -> None:
    assert torch.equal(augment(faces(), AugmentConfig(**OFF), generator()), faces().float())


def test_rotation_is_torchvisions() -> None:
    """One image and an angle that is known because the draw can be repeated."""
    config = AugmentConfig(**OFF, rotate=30, zoom=0.2)
    image = faces(1).float()
    again = generator(5)
    angle = 30 * (torch.rand(1, generator=again) * 2 - 1).item()
    scale = 1 + 0.2 * (torch.rand(1, generator=again) * 2 - 1).item()
    assert abs(angle) > 5  # so that the two directions differ
    result = random_rotate_zoom(image, config, generator(5))

    def torchvisions(angle: float) -> Tensor:
        options = {"translate": [0, 0], "shear": [0.0], "interpolation": tv.InterpolationMode.BILINEAR}
        return tv.affine(image, angle=angle, scale=scale, **options)

    inner = slice(12, 36)  # the border's treatment may differ
    error = {sign: (result - torchvisions(sign * angle))[:, inner, inner].abs().max() for sign in (1, -1)}
    assert error[-1] < 0.5
    assert error[1] > 5


def test_contrast_keeps_the_mean_and_scales_the_standard_deviation() -> None:
    images = (torch.rand(200, 48, 48, generator=generator()) * 40 + 100).to(torch.uint8)
    results = augment(images, AugmentConfig(**OFF, contrast=0.5), generator(1))
    before, after = images.float(), results
    torch.testing.assert_close(after.mean((1, 2)), before.mean((1, 2)), atol=1e-2, rtol=0)
    factor = after.std((1, 2)) / before.std((1, 2))
    assert 0.5 <= factor.min() < 0.55
    assert 1.45 < factor.max() <= 1.5


def test_erasing_covers_2_to_20_percent_of_as_many_as_asked() -> None:
    images = faces(1).float().expand(4000, -1, -1)
    results = random_erase(images, AugmentConfig(erase=0.25), generator())
    covered = (results != images).float().mean((1, 2))
    assert 0.22 < (covered > 0).float().mean() < 0.28
    assert covered.max() < 0.24  # the box's edges fall on whole pixels
    changed = (results != images)[covered > 0]
    rows, columns = changed.any(2).sum(1), changed.any(1).sum(1)
    assert (changed.sum((1, 2)) >= 0.95 * rows * columns).all()  # one box each (a pixel may equal the mean)


@pytest.mark.parametrize("alpha", [0.2, 1.0, 5.0])
def test_mixup_is_a_mean_of_two_with_weights_from_beta(alpha: float) -> None:
    images, targets = faces(4000)[:, :4, :4].float(), torch.eye(4000)  # a class each: the target names both images
    mixed, found = mixup(images, targets, alpha, generator(1))
    torch.testing.assert_close(mixed.flatten(1), found @ images.flatten(1), rtol=1e-4, atol=1e-2)
    rows = torch.arange(4000)
    weight, rest = found[rows, rows], found[rows, (rows - 1) % 4000]
    torch.testing.assert_close(weight + rest, torch.ones(4000))
    assert kstest(weight.numpy(), beta(alpha, alpha).cdf).pvalue > 0.01


def test_cutmix_pastes_a_box_and_counts_its_pixels() -> None:
    n = 4000
    images = torch.arange(n).float()[:, None, None].expand(-1, 20, 20)  # every image has a gray level of its own
    mixed, found = cutmix(images, torch.eye(n), 1.0, generator(2))
    rows = torch.arange(n)
    other = mixed == ((rows - 1) % n)[:, None, None]
    assert ((mixed == images) | other).all()
    torch.testing.assert_close(found[rows, (rows - 1) % n], other.float().mean((1, 2)))
    torch.testing.assert_close(found.sum(1), torch.ones(n))
    height, width = other.any(2).sum(1), other.any(1).sum(1)
    assert torch.equal(other.sum((1, 2)), height * width)  # one box
    # The area is uniform, the center anywhere, and the edge cuts: the mean by a sum over sides and centers.
    sides, centers = np.sqrt(np.linspace(0, 1, 400)[:, None]), np.linspace(0, 1, 400)
    inside = np.minimum(centers + sides / 2, 1) - np.maximum(centers - sides / 2, 0)
    assert other.float().mean().item() == pytest.approx((inside.mean(1) ** 2).mean(), abs=0.015)


@pytest.mark.parametrize("mix", [mixup, cutmix])
def test_same_generator_same_mixture(mix: Callable[..., tuple[Tensor, Tensor]]) -> None:
    targets = torch.eye(7)[torch.arange(64) % 7]
    (a, ta), (b, tb), (c, _) = (mix(faces().float(), targets, 0.5, generator(seed)) for seed in (3, 3, 4))
    assert torch.equal(a, b)
    assert torch.equal(ta, tb)
    assert not torch.equal(a, c)


@pytest.mark.parametrize(
    "bad",
    [
        {"flip": 1.5},
        {"erase": -0.1},
        {"zoom": 1.0},
        {"pad": -1},
        {"rotate": -5.0},
        {"mixup": -0.2},
        {"cutmix": -1.0},
        {"mixup": 0.2, "cutmix": 1.0},
    ],
)
def test_impossible_settings_are_refused(bad: dict) -> None:
    with pytest.raises(ValueError, match="AugmentConfig"):
        AugmentConfig(**bad)
