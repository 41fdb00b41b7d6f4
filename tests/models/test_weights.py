from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from fertools.errors import WeightsError
from fertools.models.registry import build
from fertools.models.weights import ModelMetadata, load_network, load_weights, save_network
from fertools.network import MultiScaleFusionNet, NetworkConfig

SMALL = NetworkConfig(classes=2, width=(2, 3), scales=(12, 24), units=1, fusion_activation="sigmoid")
METADATA = ModelMetadata(SMALL, ("a", "b"), mean=1.5, std=2.0, temperature=1.25, threshold=0.5)


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    path = tmp_path / "model.safetensors"
    net = MultiScaleFusionNet(SMALL).to(memory_format=torch.channels_last)
    save_network(path, net, METADATA)
    return path


def test_a_network_comes_back_as_it_was(saved: Path) -> None:
    torch.manual_seed(0)
    original = MultiScaleFusionNet(SMALL).eval()
    net, metadata = load_network(saved)
    assert net.config == SMALL
    assert not net.training
    assert metadata == METADATA
    x = torch.randn(2, 1, 48, 48)
    assert torch.equal(net(x), original(x))
    assert load_file(saved).keys() == original.state_dict().keys()  # any safetensors reader reads it


def test_a_pickle_is_never_opened(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    bomb = tmp_path / "went-off"

    class Bomb:
        def __reduce__(self) -> tuple:
            return Path.touch, (bomb,)

    torch.save({"weights": Bomb()}, path)
    with pytest.raises(WeightsError, match="Pickled weights .* never loaded"):
        load_network(path)
    assert not bomb.exists()


def test_a_truncated_file_is_refused(saved: Path) -> None:
    saved.write_bytes(saved.read_bytes()[:-100])
    with pytest.raises(WeightsError, match="cut short"):
        load_network(saved)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="no weights at .*absent.safetensors"):
        load_weights(tmp_path / "absent.safetensors")


def test_a_strangers_safetensors_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "other.safetensors"
    save_file({"x": torch.zeros(2)}, path)
    with pytest.raises(WeightsError, match="not fertools' description"):
        load_network(path)
    header = {"network": {"widht": 3}, "classes": ["a"], "mean": 1.5, "std": 2.0}
    save_file({"x": torch.zeros(2)}, path, {"fertools": json.dumps(header)})
    with pytest.raises(WeightsError, match="no field widht"):
        load_network(path)


def test_wrong_shapes_and_names_are_named(saved: Path) -> None:
    tensors, metadata = load_weights(saved)
    header = {"fertools": json.dumps(metadata)}
    wider = dict(tensors, **{"head.1.weight": torch.zeros(256, 7)})
    save_file(wider, saved, header)
    with pytest.raises(WeightsError, match=r"head\.1\.weight has shape \(256, 7\), the network wants \(256, 108\)"):
        load_network(saved)
    fewer = {name: t for name, t in tensors.items() if name != "stem.0.weight"}
    save_file(fewer | {"stray": torch.zeros(1)}, saved, header)
    with pytest.raises(WeightsError, match=r"stem\.0\.weight is missing; stray is not part of the network"):
        load_network(saved)


def test_a_small_file_that_describes_a_huge_network_costs_no_memory(
    saved: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tensors, metadata = load_weights(saved)
    metadata["network"] |= {"width": [1024, 1024], "units": 100, "hidden": 65536}
    save_file(tensors, saved, {"fertools": json.dumps(metadata)})
    devices = []

    def build_and_note(config: NetworkConfig) -> torch.nn.Module:
        net = build(config)
        devices.append(next(net.parameters()).device.type)
        return net

    monkeypatch.setattr("fertools.models.weights.build", build_and_note)
    with pytest.raises(WeightsError, match="does not fit the network"):
        load_network(saved)
    assert devices == ["meta"]


def test_a_failed_write_leaves_the_old_file(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = saved.read_bytes()

    def full(tensors: dict, path: Path, metadata: dict) -> None:
        Path(path).write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("fertools.models.weights.save_file", full)
    with pytest.raises(OSError, match="No space left"):
        save_network(saved, MultiScaleFusionNet(SMALL), METADATA)
    assert saved.read_bytes() == before
    assert [p.name for p in saved.parent.iterdir()] == [saved.name]


def test_a_folder_is_not_a_weights_file(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="no weights at .*, which is a folder"):
        load_weights(tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"std": 0.0}, "std=0.0 is not a number above 0"),
        ({"mean": float("nan")}, "mean=nan is not a number"),
        ({"mean": "dark"}, "mean='dark' is not a number"),
        ({"temperature": -1.0}, "temperature=-1.0 is not a number above 0"),
        ({"threshold": -0.1}, "threshold=-0.1 is not a number from 0"),
        ({"classes": ("a",)}, "the network has 2 classes"),
    ],
)
def test_wrong_metadata_is_refused_by_name(change: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(METADATA, **change)


@pytest.mark.parametrize("missing", ["network", "classes", "mean", "std"])
def test_metadata_without_a_field_is_refused(missing: str) -> None:
    assert ModelMetadata.from_dict(json.loads(json.dumps(METADATA.to_dict()))) == METADATA
    with pytest.raises(ValueError, match=f"incomplete or unknown metadata: .*{missing}"):
        ModelMetadata.from_dict({key: value for key, value in METADATA.to_dict().items() if key != missing})
    with pytest.raises(ValueError, match="incomplete or unknown metadata: .*wings"):
        ModelMetadata.from_dict(METADATA.to_dict() | {"wings": 2})
