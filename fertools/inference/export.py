"""A trained network as one ONNX file, which onnxruntime runs without PyTorch, in a browser too.

The file takes pixels as they are and gives logits and calibrated probabilities, so that nobody has to
repeat the normalisation or the softmax elsewhere:

- in: ``pixels``, float32 (N, 1, 48, 48), gray levels from 0 black to 255 white;
- out: ``logits``, float32 (N, classes), what the network gives;
- out: ``probabilities``, float32 (N, classes), softmax(logits / temperature); each row adds up to 1.

N is free. The metadata say the class names (a JSON list), the pixel statistics and the temperature (JSON,
both already applied), the run, the precision and the licence.

Needs ``pip install 'fertools[export]'``: onnx, onnxscript and onnxruntime.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor, nn

from fertools import IMAGE_SIZE
from fertools.errors import ExportError
from fertools.files import atomic_write
from fertools.models.weights import load_network
from fertools.paths import find_run

Precision = Literal["fp32", "fp16", "int8"]
OPSET = 18  # enough for every operation here, and as old as the exporter of PyTorch writes
TOLERANCE = {"fp32": 1e-4, "fp16": 0.05}  # the largest difference of a logit from PyTorch's in fp32
AGREEMENT = 0.9  # the share of calibration images whose label int8 must leave as it was
CALIBRATION = 256  # images that int8 takes its ranges from
LICENCE = "MIT, as fertools; the training images have terms of their own"


class _PixelsToProbabilities(nn.Module):
    """The network with what stands before and behind it."""

    def __init__(self, net: nn.Module, mean: float, std: float, temperature: float) -> None:
        super().__init__()
        self.net, self.mean, self.std, self.temperature = net, mean, std, temperature

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor]:  # (N, 1, 48, 48) -> twice (N, classes)
        x = (pixels - self.mean) / self.std
        logits = self.net(x.to(next(self.net.parameters()).dtype)).float()
        return logits, torch.softmax(logits / self.temperature, 1)


def export_onnx(
    run: str | Path, path: str | Path, precision: Precision = "fp32", calibration: np.ndarray | None = None
) -> Path:
    """Writes the network of a finished run as an ONNX file, and holds it against PyTorch before it is left.

    Made twice on one machine with the same libraries, the file is the same to the byte.

    Args:
        run: its name under ``data/runs``, or its folder.
        path: the file to write, whole or not at all.
        precision: ``"fp32"``; ``"fp16"``, half the size, where processors without half precision compute in
            fp32 all the same; ``"int8"``, the products in 8 bits (static, weights by channel, as pairs of
            QuantizeLinear and DequantizeLinear; Jacob et al. 2018), a third of the size.
        calibration: uint8, (N, 48, 48): for int8, faces like those the network will see, of which
            :data:`CALIBRATION` set the ranges of the maps. Take them from the training images.

    Raises:
        ExportError: onnxruntime's answers are not PyTorch's: a logit is off by more than :data:`TOLERANCE`, or
            with int8 fewer than :data:`AGREEMENT` of the calibration images keep their label. Or onnx is missing.
        WeightsError: see :func:`fertools.models.weights.load_network`.
        ValueError: another precision, or int8 without calibration images.
    """
    if precision not in get_args(Precision):
        raise ValueError(f"precision must be one of {', '.join(get_args(Precision))}, not {precision!r}")
    if precision == "int8" and (calibration is None or not len(calibration)):
        raise ValueError("int8 needs calibration: training images, uint8 of shape (N, 48, 48)")
    _require_onnx()
    folder, path = find_run(run), Path(path)
    net, about = load_network(folder / "model.safetensors")
    temperature = about.get("temperature") or 1.0
    model = _PixelsToProbabilities(net, **about["pixels"], temperature=temperature).eval()
    images = _test_images() if calibration is None else np.concatenate([_test_images(), _some(calibration)])
    pixels = images[:, None].astype(np.float32)
    with torch.inference_mode():
        wanted = [out.numpy() for out in model(torch.from_numpy(pixels))]  # before half() changes the network

    if precision == "fp16":
        net.half()
    proto = _to_onnx(model)
    if precision == "int8":
        proto = _quantise(proto, pixels[len(_test_images()) :])
    _describe(proto, {**about, "temperature": temperature, "run": folder.name, "precision": precision})
    with atomic_write(path) as part:
        part.write_bytes(proto.SerializeToString(deterministic=True))
        _verify(part, pixels, wanted, precision)
    return path


def _require_onnx() -> None:
    from importlib.util import find_spec

    if missing := [name for name in ("onnx", "onnxscript", "onnxruntime") if find_spec(name) is None]:
        raise ExportError(f"{', '.join(missing)} is not installed; get it with: pip install 'fertools[export]'")


def _test_images() -> np.ndarray:
    """Noise, and the edges of what can come: black, white, a hard edge. uint8, (11, 48, 48)."""
    images = np.random.default_rng(0).integers(0, 256, (11, IMAGE_SIZE, IMAGE_SIZE), dtype=np.uint8)
    images[0], images[1] = 0, 255
    images[2, :, :24], images[2, :, 24:] = 0, 255
    return images


def _some(calibration: np.ndarray) -> np.ndarray:
    """At most :data:`CALIBRATION` of the images, drawn evenly: sets are often sorted by class."""
    if calibration.dtype != np.uint8 or calibration.shape[1:] != (IMAGE_SIZE, IMAGE_SIZE):
        raise ValueError(f"calibration must be uint8 (N, 48, 48), not {calibration.dtype} {calibration.shape}")
    rows = np.linspace(0, len(calibration) - 1, min(CALIBRATION, len(calibration))).astype(int)
    return calibration[rows]


def _to_onnx(model: nn.Module) -> Any:
    """Traced by torch.export, and without the exporter's notes, which name this machine's files."""
    program = torch.onnx.export(
        model,
        (torch.zeros(2, 1, IMAGE_SIZE, IMAGE_SIZE),),
        dynamo=True,
        verbose=False,
        opset_version=OPSET,
        input_names=["pixels"],
        output_names=["logits", "probabilities"],
        dynamic_shapes={"pixels": {0: torch.export.Dim("N")}},
    )
    assert program is not None  # it is, where no file was asked for
    proto = program.model_proto
    graph = proto.graph
    for part in (graph, *graph.node, *graph.input, *graph.output, *graph.value_info, *graph.initializer):
        del part.metadata_props[:]
    return proto


def _quantise(proto: Any, pixels: np.ndarray) -> Any:
    """Weights to int8 by channel, maps to uint8 by the range they have on ``pixels``."""
    import onnx
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Batches(CalibrationDataReader):
        def __init__(self) -> None:
            self.batches = iter(pixels[i : i + 16] for i in range(0, len(pixels), 16))

        def get_next(self) -> dict[str, np.ndarray] | None:
            batch = next(self.batches, None)
            return None if batch is None else {"pixels": batch}

    with tempfile.TemporaryDirectory() as folder:
        plain, quantised = Path(folder) / "plain.onnx", Path(folder) / "int8.onnx"
        quant_pre_process(proto, plain, skip_optimization=True, skip_symbolic_shape=True)
        quantize_static(
            plain,
            quantised,
            Batches(),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            op_types_to_quantize=["Conv", "Gemm", "MatMul"],  # where the time goes; sums and norms stay in fp32
            # Weights of 7 bits: processors without VNNI add two products in 16 bits, where 8 overflow.
            reduce_range=True,
        )
        return onnx.load(quantised)


def _describe(proto: Any, about: dict[str, Any]) -> None:
    import onnx

    proto.producer_name, proto.producer_version = "fertools", ""
    proto.doc_string = "Gray faces, 48x48, to the label that people would give the expression; not to feelings."
    words = {name: json.dumps(about[name]) for name in ("classes", "pixels", "temperature")}
    words |= {name: about[name] for name in ("run", "precision")} | {"licence": LICENCE}
    onnx.helper.set_model_props(proto, words)
    onnx.checker.check_model(proto, full_check=True)


def _verify(path: Path, pixels: np.ndarray, wanted: list[np.ndarray], precision: Precision) -> None:
    """Refuses a file whose answers are not ``wanted``, PyTorch's logits and probabilities."""
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    found = session.run(["logits", "probabilities"], {"pixels": pixels})
    one = session.run(["logits", "probabilities"], {"pixels": pixels[:1]})
    if precision == "int8":
        faces = slice(len(_test_images()), None)
        kept = float((found[0].argmax(1) == wanted[0].argmax(1))[faces].mean())
        if not (kept >= AGREEMENT and all(np.isfinite(out).all() for out in found)):
            raise ExportError(
                f"int8 leaves only {kept:.0%} of the calibration images their label, {AGREEMENT:.0%} are wanted: "
                "are they faces such as the network was trained on? Otherwise keep fp32 or fp16"
            )
        return
    for name, batch, alone, right in zip(("logits", "probabilities"), found, one, wanted, strict=True):
        error = max(float(np.abs(batch - right).max()), float(np.abs(alone - right[:1]).max()))
        if not error <= TOLERANCE[precision]:  # so written, NaN is refused too
            raise ExportError(
                f"{precision}: {name} of onnxruntime {onnxruntime.__version__} are off by {error:.2g} from those of "
                f"PyTorch {torch.__version__}, more than {TOLERANCE[precision]:g}; nothing was written"
            )
