from __future__ import annotations

import dataclasses
import json
import math

import pytest
import torch

from fertools.recipes import RECIPES, TrainConfig, recipe


def test_paper_recipes_are_section_3_2() -> None:
    fer, ck = RECIPES["paper-fer2013"], RECIPES["paper-ckplus"]
    for config in (fer, ck):
        assert (config.batch_size, config.learning_rate, config.momentum, config.weight_decay) == (
            16,
            1e-4,
            0.9,
            5e-4,
        )
        assert (config.augment.flip, config.augment.pad, config.network.dropout) == (0.5, 4, 0.5)
        assert (
            config.augment.rotate,
            config.augment.zoom,
            config.augment.contrast,
            config.augment.erase,
        ) == (0, 0, 0, 0)
        assert (config.augment.mixes, config.network.drop_path, config.targets) == (False, 0, "labels")
        off = (config.label_smoothing, config.ema_decay, config.max_grad_norm, config.nesterov)
        assert off == (0, 0, 0, False)
        assert config.network.units == 3
    assert (fer.epochs, ck.epochs, ck.folds, ck.protocol) == (200, 60, 10, "image")

    def rates(config: TrainConfig) -> list[float]:
        return [config.learning_rate_at(epoch * 7, 7) for epoch in range(config.epochs)]

    # "begins to decrease after 50 epochs, and is decreased by multiplying with 0.95 every 20 epochs"
    wanted = [1e-4] * 50
    for n in range(1, 9):
        wanted += [1e-4 * 0.95**n] * 20
    assert rates(fer) == pytest.approx(wanted[:200])
    wanted = [1e-4] * 20
    for n in range(1, 9):
        wanted += [1e-4 * 0.98**n] * 5
    assert rates(ck) == pytest.approx(wanted)


def test_step_schedule_is_pytorchs_multi_step() -> None:
    config = TrainConfig(epochs=30, hold=10, step_size=4, gamma=0.5, learning_rate=0.1)
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.1)
    peer = torch.optim.lr_scheduler.MultiStepLR(optimizer, range(10, 30, 4), 0.5)
    for epoch in range(30):
        for step in range(3):
            assert config.learning_rate_at(epoch * 3 + step, 3) == pytest.approx(optimizer.param_groups[0]["lr"])
        optimizer.step()
        peer.step()


def test_cosine_warms_up_and_falls_per_step() -> None:
    config = TrainConfig(epochs=10, schedule="cosine", warmup=0.2, learning_rate=0.05)
    rates = [config.learning_rate_at(step, 100) for step in range(1000)]
    assert rates[0] < 0.001
    assert max(rates) == rates[200] == 0.05
    assert all(a < b for a, b in zip(rates[:200], rates[1:201], strict=True))
    assert all(a > b for a, b in zip(rates[200:], rates[201:], strict=False))
    assert rates[600] == pytest.approx(0.05 * 0.5 * (1 + math.cos(math.pi / 2)))
    assert 0 < rates[-1] < 1e-6


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_survives_json(name: str) -> None:
    config = RECIPES[name]
    assert TrainConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config


def test_overrides_reach_every_level() -> None:
    changed = recipe(
        "paper-fer2013",
        ["epochs=5", "network.width=8,16,24,32", "network.kernels=3", "augment.erase=1", "nesterov=True"],
    )
    assert changed.epochs == 5
    assert changed.network.width == (8, 16, 24, 32)
    assert changed.network.kernels == (3,)
    assert changed.augment.erase == 1.0
    assert changed.nesterov is True
    assert recipe("paper-fer2013") == RECIPES["paper-fer2013"]


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("epoch=5", "did you mean 'epochs'"),
        ("network.widht=5", "did you mean 'network.width'"),
        ("network=5", "no field 'network'"),
        ("epochs.more=5", "no field"),
        ("epochs", "write field=value"),
        ("epochs=many", "epochs='many' does not fit; expected a whole number"),
        ("epochs=1.5", "expected a whole number"),
        ("nesterov=1", "expected true or false"),
        ("schedule=cosin", "schedule='cosin' is not one of step, cosine"),
        ("network.width=wide", "does not fit"),
        ("network.fusion=squeeze", "is not one of weighted, per-channel, excite, add, concatenate"),
        ("targets=faces", "is not one of labels, majority, votes"),
        ("select=worst", "is not one of best, last"),
        ("precision=fp16", "is not one of auto, fp32, bf16"),
        ("protocol=person", "is not one of splits, image, sequence, subject"),
        ("gamma=-0.5", "must be above 0"),
        ("network.width=1,2", "needs one width for each"),
        ("learning_rate=0", "must be above 0"),
        ("fold=10", "from 0 to 9"),
    ],
)
def test_wrong_overrides_say_what_is_wrong(override: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        recipe("paper-ckplus", [override])


def test_wrong_recipe_lists_the_others() -> None:
    with pytest.raises(ValueError, match="did you mean 'paper-fer2013'.*there are: paper-fer2013"):
        recipe("paper-fer213")


@pytest.mark.parametrize(
    "changes",
    [
        {"epochs": 0},
        {"batch_size": 0},
        {"momentum": 1.0},
        {"momentum": 0.0, "nesterov": True},
        {"weight_decay": -1.0},
        {"protocol": "subject", "folds": 1},
        {"protocol": "subject", "select": "best"},
    ],
)
def test_contradictions_are_refused(changes: dict) -> None:
    with pytest.raises(ValueError, match="TrainConfig"):
        dataclasses.replace(TrainConfig(epochs=1), **changes)
