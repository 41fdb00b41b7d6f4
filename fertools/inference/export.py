"""A trained network as one ONNX file, which onnxruntime runs without PyTorch, in a browser too.

Normalization and the softmax are part of the file, so that you don't have to repeat them elsewhere:

- input ``pixels``: float32 (N, 1, 48, 48), gray levels from 0 black to 255 white;
- output ``logits``: float32 (N, classes);
- output ``probabilities``: float32 (N, classes), softmax(logits / temperature); each row adds up to 1.

N is free. Its metadata contain ``classes`` (a JSON list), ``mean``, ``std``, and ``temperature`` (already
applied), ``threshold`` (the confidence below which to abstain), ``run``, ``precision``, and ``license``.

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
from fertools.errors import ExportError, require
from fertools.evaluation.prediction import normalize
from fertools.files import atomic_write
from fertools.models.weights import ModelMetadata, load_network
from fertools.paths import find_run

Precision = Literal["fp32", "fp16", "int8"]
OPSET = 18  # the oldest that PyTorch's exporter writes
TOLERANCE = {"fp32": 1e-4, "fp16": 0.05}  # the largest difference between a logit and PyTorch's in fp32
AGREEMENT = 0.9  # the fraction of calibration images that must keep their label with int8
CALIBRATION = 256  # images that determine the ranges of int8
LICENSE = "MIT, like fertools; the training images have terms of their own"


class _PixelsToProbabilities(nn.Module):
    """The network with normalization in front of it and the softmax behind it."""

    def __init__(self, net: nn.Module, metadata: ModelMetadata) -> None:
        super().__init__()
        self.net, self.metadata = net, metadata

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor]:  # (N, 1, 48, 48) -> twice (N, classes)
        x = normalize(pixels[:, 0], self.metadata.mean, self.metadata.std)
        logits = self.net(x.to(next(self.net.parameters()).dtype)).float()
        return logits, torch.softmax(logits / self.metadata.temperature, 1)


def export_onnx(
    run: str | Path, path: str | Path, precision: Precision = "fp32", calibration: np.ndarray | None = None
) -> Path:
    """Writes the network of a finished run as an ONNX file, after comparing its outputs with PyTorch's.

    The same machine and libraries write the same bytes every time.

    Args:
        run: a run of any network, by name (see :mod:`fertools.paths`) or folder.
        path: the file, written completely or not at all.
        precision: ``"fp32"``; ``"fp16"``, half the size, though a CPU without half precision still computes
            in fp32; ``"int8"``, a third of the size, with matrix products in 8 bits (static quantization,
            weights per channel, in QuantizeLinear/DequantizeLinear pairs; Jacob et al. 2018).
        calibration: uint8, (N, 48, 48): for int8, faces like those that the network will see, preferably
            training images. :data:`CALIBRATION` of them determine the ranges of the feature maps.

    Raises:
        ExportError: onnxruntime disagrees with PyTorch: a logit differs by more than :data:`TOLERANCE`, or
            with int8 fewer than :data:`AGREEMENT` of the calibration images keep their label.
        MissingExtraError: onnx, onnxscript, or onnxruntime is not installed.
        WeightsError: see :func:`fertools.models.weights.load_network`.
        ValueError: another precision, or int8 without calibration images.
    """
    if precision not in get_args(Precision):
        raise ValueError(f"precision must be one of {', '.join(get_args(Precision))}, not {precision!r}")
    if precision == "int8" and (calibration is None or not len(calibration)):
        raise ValueError("int8 needs calibration: training images, uint8 of shape (N, 48, 48)")
    for module in ("onnx", "onnxscript", "onnxruntime"):
        require(module, "export")
    folder, path = find_run(run), Path(path)
    net, metadata = load_network(folder / "model.safetensors")
    model = _PixelsToProbabilities(net, metadata).eval()
    images = _test_images() if calibration is None else np.concatenate([_test_images(), _sample(calibration)])
    pixels = images[:, None].astype(np.float32)
    with torch.inference_mode():
        expected = [out.numpy() for out in model(torch.from_numpy(pixels))]  # before half() changes the network

    if precision == "fp16":
        net.half()
    proto = _to_onnx(model)
    if precision == "int8":
        proto = _quantize(proto, pixels[len(_test_images()) :])
    _describe(proto, metadata, folder.name, precision)
    with atomic_write(path) as part:
        part.write_bytes(proto.SerializeToString(deterministic=True))
        _verify(part, pixels, expected, precision)
    return path


def _test_images() -> np.ndarray:
    """Noise and extreme inputs: black, white, a hard edge. uint8, (11, 48, 48)."""
    images = np.random.default_rng(0).integers(0, 256, (11, IMAGE_SIZE, IMAGE_SIZE), dtype=np.uint8)
    images[0], images[1] = 0, 255
    images[2, :, :24], images[2, :, 24:] = 0, 255
    return images


def _sample(calibration: np.ndarray) -> np.ndarray:
    """At most :data:`CALIBRATION` of the images, evenly spaced, because data sets are often sorted by class."""
    if calibration.dtype != np.uint8 or calibration.shape[1:] != (IMAGE_SIZE, IMAGE_SIZE):
        raise ValueError(f"calibration must be uint8 (N, 48, 48), not {calibration.dtype} {calibration.shape}")
    rows = np.linspace(0, len(calibration) - 1, min(CALIBRATION, len(calibration))).astype(int)
    return calibration[rows]


def _to_onnx(model: nn.Module) -> Any:
    """Traced by torch.export, without the exporter's notes, which contain paths of this machine."""
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
    assert program is not None  # only when it writes a file
    proto = program.model_proto
    graph = proto.graph
    for part in (graph, *graph.node, *graph.input, *graph.output, *graph.value_info, *graph.initializer):
        del part.metadata_props[:]
    return proto


def _quantize(proto: Any, pixels: np.ndarray) -> Any:
    """Weights to int8 per channel, feature maps to uint8 with the ranges they have on ``pixels``."""
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
        plain, quantized = Path(folder) / "plain.onnx", Path(folder) / "int8.onnx"
        quant_pre_process(proto, plain, skip_optimization=True, skip_symbolic_shape=True)
        quantize_static(
            plain,
            quantized,
            Batches(),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            op_types_to_quantize=["Conv", "Gemm", "MatMul"],  # they take the time; the rest stays in fp32
            # Weights of 7 bits: CPUs without VNNI add two products in 16 bits, which 8 bits would overflow.
            reduce_range=True,
        )
        return onnx.load(quantized)


def _describe(proto: Any, metadata: ModelMetadata, run: str, precision: Precision) -> None:
    import onnx

    proto.producer_name, proto.producer_version = "fertools", ""
    proto.doc_string = "Grayscale faces, 48x48, to what people would call the expression; not to feelings."
    properties = {
        name: json.dumps(getattr(metadata, name)) for name in ("classes", "mean", "std", "temperature", "threshold")
    }
    onnx.helper.set_model_props(proto, properties | {"run": run, "precision": precision, "license": LICENSE})
    onnx.checker.check_model(proto, full_check=True)


def _verify(path: Path, pixels: np.ndarray, expected: list[np.ndarray], precision: Precision) -> None:
    """Raises ExportError if the file's outputs differ from ``expected``, PyTorch's logits and probabilities."""
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    found = session.run(["logits", "probabilities"], {"pixels": pixels})
    one = session.run(["logits", "probabilities"], {"pixels": pixels[:1]})
    if precision == "int8":
        faces = slice(len(_test_images()), None)
        kept = float((found[0].argmax(1) == expected[0].argmax(1))[faces].mean())
        if not (kept >= AGREEMENT and all(np.isfinite(out).all() for out in found)):
            raise ExportError(
                f"with int8 only {kept:.0%} of the calibration images keep their label; at least {AGREEMENT:.0%} must. "
                "Are they faces like the training images? Otherwise use fp32 or fp16"
            )
        return
    for name, batch, alone, right in zip(("logits", "probabilities"), found, one, expected, strict=True):
        error = max(float(np.abs(batch - right).max()), float(np.abs(alone - right[:1]).max()))
        if not error <= TOLERANCE[precision]:  # also true for NaN
            raise ExportError(
                f"{precision}: {name} of onnxruntime {onnxruntime.__version__} differ by {error:.2g} from those of "
                f"PyTorch {torch.__version__}, more than {TOLERANCE[precision]:g}; nothing was written"
            )
