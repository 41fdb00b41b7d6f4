"""Random numbers, signals, and what the machine can do."""

from __future__ import annotations

import ctypes
import os
import signal
import time
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch import nn
from toy import toy_faces

from fertools import hardware
from fertools.hardware import physical_cores, pick_device
from fertools.network import MultiScaleFusionNet, NetworkConfig
from fertools.recipes import TrainConfig
from fertools.training import distributed, runtime
from fertools.training.optimizer import make_optimizer
from fertools.training.randomness import Purpose, derive_seed, epoch_order
from fertools.training.runtime import stop_signals
from fertools.training.trainer import Trainer, train

CONFIG = TrainConfig(
    epochs=1, network=NetworkConfig(width=(2, 2), scales=(12, 24), units=1, hidden=4), precision="fp32"
)


# --- Random numbers ---


def test_no_two_purposes_or_steps_share_a_seed() -> None:
    def state(*words: int) -> int:
        return int(np.random.SeedSequence(words).generate_state(1)[0])

    assert state(7) == state(7, 0)  # why the purpose must not be plain entropy
    seeds = [
        derive_seed(seed, purpose, index)
        for seed in (0, 1, 7, 2**32, 2**32 + 7)
        for purpose in Purpose
        for index in range(100)
    ]
    assert len(set(seeds)) == len(seeds)
    assert not set(seeds) & {state(seed) for seed in range(100)}


def test_an_epochs_order_is_a_permutation_of_its_own() -> None:
    orders = [epoch_order(seed, epoch, 50) for seed in (0, 1) for epoch in (0, 1)]
    assert all(sorted(order.tolist()) == list(range(50)) for order in orders)
    assert len({tuple(order.tolist()) for order in orders}) == 4
    assert torch.equal(epoch_order(1, 1, 50), orders[3])


def test_the_callers_random_numbers_stay_as_they_are(tmp_path: Path) -> None:
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    Trainer.from_config(CONFIG, toy_faces(), tmp_path / "a", device="cpu")
    assert torch.equal(torch.random.get_rng_state(), before)
    train(CONFIG, toy_faces(), tmp_path / "b", device="cpu", progress=False)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_the_seed_decides_the_initial_weights_alone(tmp_path: Path) -> None:
    def weight(seed: int) -> torch.Tensor:
        return Trainer.from_config(CONFIG, toy_faces(), tmp_path, seed=seed, device="cpu").net.stem[0].weight

    torch.manual_seed(1)
    first = weight(3)
    torch.manual_seed(2)
    assert torch.equal(weight(3), first)
    assert not torch.equal(weight(4), first)


# --- The trainer takes any network ---


class Linear(nn.Module):
    """Not one of ours, and without a `no_weight_decay`."""

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.ones(3))
        self.net = nn.Sequential(nn.Flatten(), nn.Linear(48 * 48, 7))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.net(x) * self.w.mean()


def test_any_module_is_trained(tmp_path: Path) -> None:
    net = Linear()
    before = net.get_parameter("net.1.weight").detach().clone()
    trainer = Trainer(net, CONFIG, toy_faces(), tmp_path, device="cpu")
    trainer.run(None, 60, False, False)
    assert len(trainer.progress.history) == 1
    assert not torch.equal(net.get_parameter("net.1.weight"), before)


def decayed(net: nn.Module, config: TrainConfig) -> set[str]:
    groups = make_optimizer(net, config).param_groups
    names = {id(p): name for name, p in net.named_parameters()}
    assert sum(len(group["params"]) for group in groups) == len(names)
    return {names[id(p)] for group in groups if group["weight_decay"] for p in group["params"]}


def test_what_decays_is_what_the_network_and_the_recipe_say() -> None:
    net = Linear()
    assert decayed(net, CONFIG) == {"w", "net.1.weight", "net.1.bias"}
    assert decayed(net, TrainConfig(epochs=1, decay_norm_and_bias=False)) == {"net.1.weight"}
    ours = MultiScaleFusionNet(CONFIG.network)  # type: ignore[arg-type]
    everything = {name for name, _ in ours.named_parameters()}
    assert everything - decayed(ours, CONFIG) == ours.no_weight_decay() == {"fuse.1.12.w", "fuse_ends.0.w"}


# --- The machine ---


def test_a_trainer_leaves_the_process_memory_settings_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ctypes, "CDLL", lambda name: pytest.fail(f"{name} was opened"))
    train(CONFIG, toy_faces(), tmp_path, device="cpu", progress=False)


def test_a_device_that_is_not_here_is_refused() -> None:
    with pytest.raises(ValueError, match="there is no device 'tpu9000' here"):
        pick_device("tpu9000")
    assert pick_device("cpu") == torch.device("cpu")


def test_two_threads_of_a_core_count_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 1, 4}, raising=False)
    monkeypatch.setattr(hardware, "_TOPOLOGY", tmp_path)
    assert physical_cores() == 3  # where the system does not tell
    for core, siblings in {0: "0,4", 1: "1,5", 4: "0,4"}.items():
        (tmp_path / f"cpu{core}" / "topology").mkdir(parents=True)
        (tmp_path / f"cpu{core}" / "topology" / "thread_siblings_list").write_text(f"{siblings}\n")
    assert physical_cores() == 2


@pytest.mark.parametrize(("device", "backend"), [("cpu", "gloo"), ("cuda", "nccl"), (None, "nccl")])
def test_the_backend_is_the_devices(device: str | None, backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[str] = []
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(dist, "is_initialized", lambda: False)
    monkeypatch.setattr(dist, "init_process_group", started.append)
    monkeypatch.setattr(dist, "get_rank", lambda: 1)
    monkeypatch.setattr(dist, "get_world_size", lambda: 2)
    assert distributed.start(device) == (1, 2)
    assert started == [backend]


# --- Signals ---


def test_a_signal_is_noticed_and_the_handler_comes_back() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with stop_signals() as stopped:
        assert not stopped()
        os.kill(os.getpid(), signal.SIGTERM)
        assert stopped()
        os.kill(os.getpid(), signal.SIGINT)  # at once after the first: the same wish, sent twice
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_later_signal_stops_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    with stop_signals():
        os.kill(os.getpid(), signal.SIGTERM)
        now = time.monotonic()
        monkeypatch.setattr(runtime.time, "monotonic", lambda: now + 2.5)
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGTERM)


def test_blocks_inside_each_other_hear_the_same_signal() -> None:
    with stop_signals() as outer:
        with stop_signals() as inner:
            os.kill(os.getpid(), signal.SIGTERM)
            assert inner()
        assert outer()
        with stop_signals() as next_one:
            assert next_one()
    with stop_signals() as later:
        assert not later()


def test_what_is_ignored_stays_ignored() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with stop_signals() as stopped:
            os.kill(os.getpid(), signal.SIGHUP)
            assert not stopped()
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)
