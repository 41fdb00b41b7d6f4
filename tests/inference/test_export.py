"""The exported file predicts what PyTorch does, whatever the batch, and a wrong file is never written."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from toy import CLASSES, toy_faces
from typer.testing import CliRunner

from fertools.cli import app
from fertools.data import FaceSet
from fertools.errors import ExportError, MissingExtraError, RunError
from fertools.evaluation.calibration import apply_temperature
from fertools.evaluation.prediction import predict_log_proba
from fertools.inference import export
from fertools.inference.export import export_onnx
from fertools.inference.predictor import SHIPPED
from fertools.models.baselines import BaselineConfig
from fertools.models.registry import AnyNetworkConfig, build
from fertools.models.weights import ModelMetadata, save_network
from fertools.network import MultiScaleFusionNet, NetworkConfig
from fertools.records import Record, load_predictions

RUN = Path(__file__).parents[2] / "data" / "runs" / SHIPPED
CONFIG = NetworkConfig(width=(4, 6), scales=(12, 24), units=1, hidden=48)


def metadata(config: AnyNetworkConfig = CONFIG) -> ModelMetadata:
    return ModelMetadata(config, CLASSES, mean=110.0, std=55.0, temperature=0.8, threshold=0.5)


@pytest.fixture(scope="module")
def net() -> MultiScaleFusionNet:
    """Knows the toy faces: its last layer is fitted to them by least squares."""
    torch.manual_seed(0)
    net = MultiScaleFusionNet(CONFIG).eval()
    faces = toy_faces()
    with torch.no_grad():
        x = (torch.from_numpy(faces.images).float() - 110) / 55
        features = net.head[:-1](net_body(net, x[:, None]))
        ones = torch.cat([features, torch.ones(len(x), 1)], 1)
        wanted = 6 * torch.eye(7)[torch.from_numpy(faces.labels)]
        solution = torch.linalg.lstsq(ones, wanted, driver="gelsd").solution
        net.get_parameter("head.5.weight").copy_(solution[:-1].T)
        net.get_parameter("head.5.bias").copy_(solution[-1])
    return net


def net_body(net: MultiScaleFusionNet, x: torch.Tensor) -> torch.Tensor:
    """What the head gets."""
    found: list[torch.Tensor] = []
    handle = net.head.register_forward_pre_hook(lambda _, inputs: found.append(inputs[0]))
    net(x)
    handle.remove()
    return found[0]


@pytest.fixture(scope="module")
def run(net: MultiScaleFusionNet, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "toy-run"
    folder.mkdir()
    save_network(folder / "model.safetensors", net, metadata())
    return folder


@pytest.fixture(scope="module")
def fp32(run: Path) -> Path:
    return export_onnx(run, run / "fp32.onnx")


@pytest.fixture
def graph(fp32: Path, monkeypatch: pytest.MonkeyPatch) -> onnx.ModelProto:
    """What the exporter gives, taken from the file that is there: tracing is what takes the time."""
    graph = onnx.load(fp32)
    monkeypatch.setattr(export, "_to_onnx", lambda model: graph)
    return graph


def outputs(path: Path, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    logits, probabilities = session.run(["logits", "probabilities"], {"pixels": images[:, None].astype(np.float32)})
    return logits, probabilities


@pytest.mark.parametrize("n", [1, 3, 64])
def test_every_batch_gives_what_pytorch_gives(fp32: Path, net: MultiScaleFusionNet, n: int) -> None:
    images = np.random.default_rng(n).integers(0, 256, (n, 48, 48), dtype=np.uint8)
    with torch.inference_mode():
        wanted = net(((torch.from_numpy(images).float() - 110) / 55)[:, None]).numpy()
    logits, probabilities = outputs(fp32, images)
    np.testing.assert_allclose(logits, wanted, atol=1e-4)
    calibrated = np.exp(apply_temperature(predict_log_proba(net, images, mean=110, std=55), 0.8))
    np.testing.assert_allclose(probabilities, calibrated, atol=1e-5)


def test_the_file_says_what_it_is(fp32: Path) -> None:
    model = onnx.load(fp32)
    assert [(entry.domain, entry.version) for entry in model.opset_import] == [("", export.OPSET)]
    (pixels,) = model.graph.input
    dims = [dim.dim_param or dim.dim_value for dim in pixels.type.tensor_type.shape.dim]
    assert (pixels.name, dims) == ("pixels", ["N", 1, 48, 48])
    assert [out.name for out in model.graph.output] == ["logits", "probabilities"]
    said = {entry.key: entry.value for entry in model.metadata_props}
    numbers = {"mean": 110.0, "std": 55.0, "temperature": 0.8, "threshold": 0.5}
    assert {name: json.loads(said[name]) for name in numbers} == numbers
    assert json.loads(said["classes"]) == list(CLASSES)
    assert (said["run"], said["precision"]) == ("toy-run", "fp32")
    assert "MIT" in said["license"]
    # Nor does it say more: the exporter notes where the code lay.
    assert str(Path(export.__file__).parents[1]).encode() not in fp32.read_bytes()
    assert b".py" not in fp32.read_bytes()


def test_made_twice_it_is_the_same_to_the_byte(run: Path, fp32: Path, tmp_path: Path) -> None:
    assert export_onnx(run, tmp_path / "again.onnx").read_bytes() == fp32.read_bytes()


def test_fp16_is_half_the_size_and_close(run: Path, fp32: Path, tmp_path: Path, faces: FaceSet) -> None:
    half = export_onnx(run, tmp_path / "half.onnx", "fp16")
    weights = [onnx.numpy_helper.to_array(w).nbytes for w in onnx.load(half).graph.initializer]
    assert sum(weights) < 0.52 * sum(onnx.numpy_helper.to_array(w).nbytes for w in onnx.load(fp32).graph.initializer)
    np.testing.assert_allclose(outputs(half, faces.images)[0], outputs(fp32, faces.images)[0], atol=0.05)


@pytest.mark.parametrize("fusion", ["per-channel", "excite"])
def test_fusions_beyond_the_paper_are_exported_too(fusion: str, tmp_path: Path) -> None:
    """The export itself compares the file's outputs with PyTorch's, for two sizes of batch."""
    config = NetworkConfig(width=4, scales=(12, 24), units=1, hidden=8, fusion=fusion, drop_path=0.5)  # type: ignore[arg-type]
    net = build(config).eval()
    for name, p in net.named_parameters():
        if name.endswith(("gate.3.weight", ".w")):
            torch.nn.init.normal_(p)
    save_network(tmp_path / "model.safetensors", net, metadata(config))
    for precision in ("fp32", "fp16"):
        export_onnx(tmp_path, tmp_path / f"{precision}.onnx", precision)  # type: ignore[arg-type]


def test_a_baseline_is_exported_too(tmp_path: Path) -> None:
    config = BaselineConfig("mini_xception", end_size=3)
    save_network(tmp_path / "model.safetensors", build(config), metadata(config))
    export_onnx(tmp_path, tmp_path / "model.onnx")


@pytest.mark.usefixtures("graph")
def test_int8_stores_bytes_and_keeps_the_labels(run: Path, fp32: Path, tmp_path: Path, faces: FaceSet) -> None:
    small = export_onnx(run, tmp_path / "int8.onnx", "int8", faces.of_split("Training").images)
    model = onnx.load(small)
    assert {entry.domain for entry in model.opset_import} <= {"", "ai.onnx"}  # operations that any runtime has
    bytes_of = {w.name: onnx.numpy_helper.to_array(w) for w in model.graph.initializer}
    weights = {name.removesuffix("_quantized") for name, w in bytes_of.items() if w.dtype == np.int8 and w.ndim >= 2}
    convolutions = [node.input[1] for node in onnx.load(fp32).graph.node if node.op_type in ("Conv", "Gemm")]
    assert weights >= set(convolutions)
    test = faces.of_split("PrivateTest")
    right = outputs(fp32, test.images)[0].argmax(1) == test.labels
    assert right.mean() > 0.9  # the toy network knows its faces, so that the next line says something
    assert (outputs(small, test.images)[0].argmax(1) == test.labels).mean() > 0.9


def test_int8_that_changes_the_labels_is_refused(
    run: Path, graph: onnx.ModelProto, tmp_path: Path, faces: FaceSet
) -> None:
    forget_the_weights(graph)
    with pytest.raises(ExportError, match="of the calibration images keep their label; at least 90% must"):
        export_onnx(run, tmp_path / "int8.onnx", "int8", faces.images)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_a_file_with_other_outputs_is_refused(
    run: Path, graph: onnx.ModelProto, tmp_path: Path, precision: export.Precision
) -> None:
    there = tmp_path / "model.onnx"
    there.write_bytes(b"an older one")
    forget_the_weights(graph)
    with pytest.raises(ExportError, match=f"{precision}: logits .* differ by .* nothing was written"):
        export_onnx(run, there, precision)
    assert [path.name for path in tmp_path.iterdir()] == ["model.onnx"]
    assert there.read_bytes() == b"an older one"


def forget_the_weights(proto: onnx.ModelProto) -> None:
    """Sets the last layer's weights to zero."""
    (last,) = [w for w in proto.graph.initializer if w.name == "net.head.5.weight"]
    zero = np.zeros_like(onnx.numpy_helper.to_array(last))
    last.CopyFrom(onnx.numpy_helper.from_array(zero, last.name))


def test_wrong_calls_say_what_is_wanted(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "model.onnx"
    with pytest.raises(ValueError, match="one of fp32, fp16, int8, not 'int4'"):
        export_onnx(run, out, "int4")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="int8 needs calibration"):
        export_onnx(run, out, "int8")
    with pytest.raises(ValueError, match=r"uint8 \(N, 48, 48\), not float64 \(2, 48, 48\)"):
        export_onnx(run, out, "int8", np.zeros((2, 48, 48)))
    with pytest.raises(RunError, match="there is no run"):
        export_onnx(tmp_path / "no-run", out)
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(MissingExtraError, match=r"onnxscript: pip install 'fertools\[export\]'"):
        export_onnx(run, out)
    assert not list(tmp_path.iterdir())


@pytest.mark.usefixtures("graph")
def test_the_command_writes_and_says_so(run: Path, tmp_path: Path, fp32: Path) -> None:
    done = CliRunner().invoke(app, ["export", str(run), "--output", str(tmp_path / "a.onnx")])
    assert done.exit_code == 0, done.output
    assert "checked against PyTorch" in done.output
    assert (tmp_path / "a.onnx").read_bytes() == fp32.read_bytes()
    for words in (["--fp16", "--int8"], ["--calibration", "fer2013"]):
        assert CliRunner().invoke(app, ["export", str(run), "--output", "a.onnx", *words]).exit_code == 2


def test_the_shipped_run_labels_privatetest_as_its_record(published_fer2013: FaceSet, tmp_path: Path) -> None:
    """Every seventh image, 513 of them: the predictions that the record keeps are PyTorch's."""
    test = published_fer2013.of_split("PrivateTest")
    if published_fer2013.fingerprint != Record.load(RUN).identity["data"]["content"]:
        pytest.skip("data/fer2013 is not the FER2013 that the run was made with")
    wanted = load_predictions(RUN)["PrivateTest/single-crop"][::7]
    logits, _ = outputs(export_onnx(RUN, tmp_path / "model.onnx"), test.images[::7])
    np.testing.assert_array_equal(logits.argmax(1), wanted.argmax(1))
    np.testing.assert_allclose(torch.from_numpy(logits).log_softmax(1).numpy(), wanted, atol=1e-4)
