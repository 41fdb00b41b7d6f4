"""Makes the generated files of the demo page, in ``book/_static/demo``.

    python book/_tools/demo_files.py model      # the network and what its record says, from data/runs
    python book/_tools/demo_files.py samples    # the two portraits
    python book/_tools/demo_files.py vendor     # ONNX Runtime Web and the face detector, from npm

The files are committed, so that the book is built without npm; ``vendor/README.md`` says what they are.
``vendor`` needs npm, and the PyPI package tflite to read the detector's weights.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fertools.files import atomic_write

if TYPE_CHECKING:
    import onnx

DEMO = Path(__file__).parents[1] / "_static" / "demo"
RUN = "wide-fer2013"
PACKAGES = {"onnxruntime-web": "1.22.0", "@mediapipe/face_detection": "0.4.1657300184"}


def write(path: Path, data: bytes) -> None:
    with atomic_write(path) as part:
        part.write_bytes(data)
    print(f"{len(data):>10,} bytes  {path}")


# --- The network ------------------------------------------------------------------------------


def model_card(run: str) -> dict[str, Any]:
    """What the page says about the network: names and numbers from the run's record."""
    from fertools.evaluation.calibration import TARGET_ACCURACY, apply_temperature
    from fertools.inference.predictor import Predictor
    from fertools.paths import find_run
    from fertools.records import Record, load_predictions

    folder = find_run(run)
    record, predictions, predictor = Record.load(folder), load_predictions(folder), Predictor.from_pretrained(folder)
    labels = predictions["PrivateTest/labels"]
    p = np.exp(apply_temperature(predictions["PrivateTest/single-crop"], record.temperature or 1.0))
    covered = p.max(1) >= predictor.threshold
    scores = record.metrics["PrivateTest"]["single-crop"]
    return {
        "run": record.name,
        "classes": record.classes,
        "parameters": record.parameters,
        "accuracy": scores["accuracy"],  # on PrivateTest, single crop, without abstaining
        "accuracy_interval": scores["accuracy_interval"],
        "threshold": predictor.threshold,
        "target": TARGET_ACCURACY,  # the accuracy on PublicTest that the threshold was chosen for
        "coverage": float(covered.mean()),  # the fraction of PrivateTest above that threshold
        "covered_accuracy": float((p.argmax(1) == labels)[covered].mean()),
    }


def make_model() -> None:
    from fertools.inference.export import export_onnx

    print(export_onnx(RUN, DEMO / "model" / "network.onnx"))
    write(DEMO / "model" / "model.json", (json.dumps(model_card(RUN), indent=2) + "\n").encode())


# --- The portraits ----------------------------------------------------------------------------


def make_samples() -> None:
    """Two portraits in the public domain, from packages that ship them, scaled down."""
    import skimage
    from matplotlib.cbook import get_sample_data
    from PIL import Image

    hopper = Image.open(get_sample_data("grace_hopper.jpg", asfileobj=False))
    for name, image in {"collins": Image.fromarray(skimage.data.astronaut()), "hopper": hopper}.items():
        image = image.convert("RGB")
        image.thumbnail((400, 400), Image.Resampling.LANCZOS)
        data = io.BytesIO()
        image.save(data, "JPEG", quality=85, optimize=True)
        write(DEMO / "samples" / f"{name}.jpg", data.getvalue())


# --- Third-party files ------------------------------------------------------------------------


def npm_files(package: str) -> dict[str, bytes]:
    """The files of a package's pinned version, by their path in it."""
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run(
            ["npm", "pack", "--silent", f"{package}@{PACKAGES[package]}"],
            cwd=folder,
            check=True,
            stdout=subprocess.DEVNULL,
        )
        (archive,) = Path(folder).glob("*.tgz")
        with tarfile.open(archive) as tar:
            files = ((m.name.removeprefix("package/"), tar.extractfile(m)) for m in tar.getmembers())
            return {name: file.read() for name, file in files if file is not None}


def detector_onnx(weights: bytes) -> onnx.ModelProto:
    """The detector's TensorFlow Lite file as ONNX: the same layers and 16-bit weights.

    Ours, since tf2onnx needs all of TensorFlow for these few kinds of layers.

    Input ``image``, (1, 3, 128, 128), RGB from -1 to 1. Outputs ``scores``, (1, 896, 1), before the
    sigmoid, and ``boxes``, (1, 896, 16): center, size and six points, in pixels from the anchor.

    Raises:
        ValueError: the file has a layer that this detector does not have.
    """
    import onnx
    import tflite
    from onnx import TensorProto, helper, numpy_helper

    model = tflite.Model.GetRootAsModel(weights, 0)
    graph = model.Subgraphs(0)
    kinds = {number: name for name, number in vars(tflite.BuiltinOperator).items() if isinstance(number, int)}
    nodes: list[onnx.NodeProto] = []
    constants: dict[str, np.ndarray] = {}

    def name(index: int) -> str:
        return f"t{index}"

    def values(index: int, dtype: type) -> np.ndarray:
        tensor = graph.Tensors(index)
        data = model.Buffers(tensor.Buffer()).DataAsNumpy().view(dtype)
        return data.reshape(tensor.ShapeAsNumpy()) if tensor.ShapeLength() else data

    def add(kind: str, inputs: list[str], output: str, **attributes: Any) -> None:
        nodes.append(helper.make_node(kind, inputs, [output], **attributes))

    halves: dict[int, np.ndarray] = {}  # weights by the tensor that has them as 32 bits
    for i in range(graph.OperatorsLength()):
        operator = graph.Operators(i)
        kind = kinds[model.OperatorCodes(operator.OpcodeIndex()).DeprecatedBuiltinCode()]
        inputs, (output,) = [int(k) for k in operator.InputsAsNumpy()], [int(k) for k in operator.OutputsAsNumpy()]
        options: Any = {"CONV_2D": tflite.Conv2DOptions, "DEPTHWISE_CONV_2D": tflite.DepthwiseConv2DOptions}.get(kind)
        if kind == "MAX_POOL_2D":
            options = tflite.Pool2DOptions
        if options is not None:
            table = operator.BuiltinOptions()
            options = options()
            options.Init(table.Bytes, table.Pos)
            strides = [options.StrideH(), options.StrideW()]
            pad = "SAME_UPPER" if options.Padding() == tflite.Padding.SAME else "VALID"
        if kind == "DEQUANTIZE":
            halves[output] = values(inputs[0], np.float16)
        elif kind in ("CONV_2D", "DEPTHWISE_CONV_2D"):
            kernel = halves[inputs[1]]
            deep = kind == "DEPTHWISE_CONV_2D"
            for index, value in (
                (inputs[1], kernel.transpose((3, 0, 1, 2) if deep else (0, 3, 1, 2))),
                (inputs[2], halves[inputs[2]]),
            ):
                constants[f"h{index}"] = np.ascontiguousarray(value)
                add("Cast", [f"h{index}"], name(index), to=TensorProto.FLOAT)
            add(
                "Conv",
                [name(k) for k in inputs],
                name(output),
                strides=strides,
                auto_pad=pad,
                group=kernel.shape[3] if deep else 1,
            )
        elif kind == "MAX_POOL_2D":
            size = [options.FilterHeight(), options.FilterWidth()]
            add("MaxPool", [name(inputs[0])], name(output), kernel_shape=size, strides=strides, auto_pad=pad)
        elif kind == "PAD":  # more channels, of zeros
            (_, _, _, (before, after)) = values(inputs[1], np.int32)
            constants[name(inputs[1])] = np.array([0, before, 0, 0, 0, after, 0, 0], np.int64)
            add("Pad", [name(inputs[0]), name(inputs[1])], name(output))
        elif kind == "RESHAPE":  # TensorFlow keeps channels last
            shape = graph.Tensors(output).ShapeAsNumpy().astype(np.int64)
            constants[f"s{output}"] = shape
            add("Transpose", [name(inputs[0])], f"l{output}", perm=[0, 2, 3, 1])
            add("Reshape", [f"l{output}", f"s{output}"], name(output))
        elif kind == "CONCATENATION":
            add("Concat", [name(k) for k in inputs], name(output), axis=1)
        elif kind in ("RELU", "ADD"):
            add(kind.capitalize(), [name(k) for k in inputs], name(output))
        else:
            raise ValueError(f"layer {i} is a {kind}, which the detector should not have")
    (image,), (boxes, scores) = graph.InputsAsNumpy(), graph.OutputsAsNumpy()
    add("Identity", [name(scores)], "scores")
    add("Identity", [name(boxes)], "boxes")
    for node in nodes:
        node.input[:] = ["image" if k == name(image) else k for k in node.input]
    onnx_graph = helper.make_graph(
        nodes,
        "face_detection_short_range",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, (1, 3, 128, 128))],
        [
            helper.make_tensor_value_info("scores", TensorProto.FLOAT, (1, 896, 1)),
            helper.make_tensor_value_info("boxes", TensorProto.FLOAT, (1, 896, 16)),
        ],
        [numpy_helper.from_array(value, key) for key, value in constants.items()],
    )
    proto = helper.make_model(onnx_graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    package = "@mediapipe/face_detection"
    helper.set_model_props(proto, {"from": f"{package} {PACKAGES[package]}", "license": "Apache-2.0"})
    onnx.checker.check_model(proto, full_check=True)
    return proto


def make_vendor() -> None:
    runtime = npm_files("onnxruntime-web")
    detector = npm_files("@mediapipe/face_detection")
    files = {
        "ort.wasm.min.mjs": runtime["dist/ort.wasm.min.mjs"],
        "ort-wasm-simd-threaded.mjs": runtime["dist/ort-wasm-simd-threaded.mjs"],
        # Packed, since not every static server packs what it sends: 2.9 MB in place of 11.2.
        "ort-wasm-simd-threaded.wasm.gz": gzip.compress(runtime["dist/ort-wasm-simd-threaded.wasm"], 9, mtime=0),
        "face_detection_short_range.onnx": detector_onnx(
            detector["face_detection_short_range.tflite"]
        ).SerializeToString(deterministic=True),
    }
    for name, data in files.items():
        write(DEMO / "vendor" / name, data)
    sums = "".join(f"{hashlib.sha256(data).hexdigest()}  {name}\n" for name, data in files.items())
    write(DEMO / "vendor" / "SHA256SUMS", sums.encode())


if __name__ == "__main__":
    makers = {"model": make_model, "samples": make_samples, "vendor": make_vendor}
    if not sys.argv[1:] or not set(sys.argv[1:]) <= set(makers):
        sys.exit(__doc__)
    for wanted in sys.argv[1:]:
        makers[wanted]()
