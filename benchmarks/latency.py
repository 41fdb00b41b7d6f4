"""The time that one face takes on one thread, for the network of every recipe: PyTorch and onnxruntime.

    python benchmarks/latency.py

The networks have random weights, since the time doesn't depend on them. They take turns, so that all are measured in
the same minutes; a time is the smallest of many, which other work on the machine disturbs least. The result is
``data/latency.csv``, which the book's chapter on the architecture reads.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch.utils.flop_counter import FlopCounterMode
from tqdm import tqdm

from fertools import IMAGE_SIZE
from fertools.files import atomic_write
from fertools.inference.export import export_onnx
from fertools.inference.fusing import fuse
from fertools.models.registry import build
from fertools.models.weights import ModelMetadata, save_network
from fertools.paths import package_data
from fertools.recipes import RECIPES
from fertools.records import environment

EXPORTED = "network.onnx"


def measure(methods: dict[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """The smallest time of each method, in milliseconds."""
    best = dict.fromkeys(methods, np.inf)
    for _ in tqdm(range(rounds), unit="rounds"):
        for name, method in methods.items():
            for _ in range(3):
                start = time.perf_counter()
                method()
                best[name] = min(best[name], 1000 * (time.perf_counter() - start))
    return best


def operations(net: torch.nn.Module) -> float:
    """Multiplications with an addition for one face, in millions."""
    counter = FlopCounterMode(display=False)
    with counter, torch.no_grad():
        net(torch.zeros(1, 1, IMAGE_SIZE, IMAGE_SIZE))
    return counter.get_total_flops() / 2e6


def main(rounds: int) -> None:
    import onnxruntime

    torch.set_num_threads(1)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    face = torch.zeros(1, 1, IMAGE_SIZE, IMAGE_SIZE)
    lines, methods = {}, {}
    with tempfile.TemporaryDirectory() as place, torch.inference_mode():
        for name, recipe in tqdm(RECIPES.items(), unit="networks"):
            if not name.endswith("-fer2013"):
                continue
            torch.manual_seed(0)
            net = build(recipe.network).eval()
            folder = Path(place, name)
            folder.mkdir()
            classes = tuple("abcdefg")
            save_network(folder / "model.safetensors", net, ModelMetadata(recipe.network, classes, 128.0, 64.0))
            session = onnxruntime.InferenceSession(
                export_onnx(folder, folder / EXPORTED), options, providers=["CPUExecutionProvider"]
            )
            parameters = sum(p.numel() for p in net.parameters())
            lines[name] = {"parameters": parameters, "million_macs": round(operations(net), 1)}
            fused = fuse(net)
            methods[f"{name} pytorch"] = lambda fused=fused: fused(face)
            methods[f"{name} onnxruntime"] = lambda s=session: s.run(None, {"pixels": face.numpy()})
        best = measure(methods, rounds)
    for name, line in lines.items():
        line |= {f"{backend}_ms": round(best[f"{name} {backend}"], 2) for backend in ("pytorch", "onnxruntime")}
    table = pd.DataFrame(lines).T.rename_axis("recipe").convert_dtypes()
    table["cpu"] = environment()["cpu"]
    with atomic_write(package_data() / "latency.csv") as part:
        table.to_csv(part, lineterminator="\n")
    print(table.to_string())


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Measure the time that one face takes, for every network.")
    parser.add_argument("--rounds", type=int, default=60)
    main(parser.parse_args().rounds)
