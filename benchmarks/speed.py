"""Images per second of training and of inference: this library's and a plain loop's.

    make bench

"plain" is what a first version of such a script does: fp32, PyTorch's default memory layout, an eager
loop, and a DataLoader that pads, crops, flips, and normalizes image by image. "fertools" is
:class:`fertools.training.trainer.Trainer` and :class:`fertools.inference.predictor.Predictor`. Both train
the same network on the same number of random images with the same batch size. Each measurement runs in a
process of its own, one after the other, so the peak memory is its own, and the two numbers of a ratio come
from one machine at one time.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

WIDTHS = (16, 32, 64)
TEST_BATCH = 64


def measure(way: str, width: int, batch: int, seconds: float) -> dict[str, float]:
    """Images per second of training and inference, and peak memory in MiB, of this process."""
    import numpy as np
    import torch

    from fertools.data import FaceSet
    from fertools.network import NetworkConfig
    from fertools.recipes import TrainConfig

    n = 20 * batch
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (n, 48, 48), dtype=np.uint8)
    split = np.array(["Training"] * (n - 2 * batch) + ["PublicTest"] * batch + ["PrivateTest"] * batch)
    faces = FaceSet("noise", images, rng.integers(0, 7, n), tuple("abcdefg"), split=split)
    config = TrainConfig(epochs=1, network=NetworkConfig(width=width), batch_size=batch)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    train, infer = (plain if way == "plain" else ours)(config, faces, device)
    found = {"training": rate(train, batch, seconds), "inference": rate(infer, TEST_BATCH, seconds)}
    if device == "cuda":
        found["memory"] = torch.cuda.max_memory_allocated() / 2**20
    else:
        found["memory"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10
    return found


def ours(config: Any, faces: Any, device: str) -> tuple[Any, Any]:
    import torch

    from fertools.inference.predictor import Predictor
    from fertools.models.weights import ModelMetadata
    from fertools.training.runtime import keep_freed_memory
    from fertools.training.trainer import Trainer

    keep_freed_memory()  # as `fertools train` does
    trainer = Trainer.from_config(config, faces, Path("unused"), device=device)
    metadata = ModelMetadata(config.network, faces.classes, trainer.mean, trainer.std)
    predictor = Predictor(trainer.net, metadata, device=device, precision="auto")  # fused on first use

    def train() -> None:
        trainer.net.train()
        trainer.step(torch.randint(len(trainer.labels), (config.batch_size,), device=device))

    def infer() -> None:
        predictor.classify(faces.images[:TEST_BATCH])

    return train, infer


def plain(config: Any, faces: Any, device: str) -> tuple[Any, Any]:
    import torch
    import torch.nn.functional as F
    from torch.utils.data import DataLoader, Dataset
    from torchvision.transforms import v2

    from fertools.network import MultiScaleFusionNet

    random = v2.Compose([v2.Pad(4), v2.RandomCrop(48), v2.RandomHorizontalFlip()])
    normalize = v2.Compose([v2.ToDtype(torch.float32, scale=True), v2.Normalize([0.5], [0.25])])

    class Images(Dataset):
        def __init__(self, transform: Any) -> None:
            self.transform = transform

        def __len__(self) -> int:
            return 1 << 20  # enough for any measurement: the images repeat

        def __getitem__(self, i: int) -> tuple[torch.Tensor, int]:
            i %= len(faces)
            return self.transform(torch.from_numpy(faces.images[i])[None]), int(faces.labels[i])

    net = MultiScaleFusionNet(config.network).to(device)
    optimizer = torch.optim.SGD(net.parameters(), config.learning_rate, config.momentum, weight_decay=5e-4)
    batches = iter(DataLoader(Images(v2.Compose([random, normalize])), config.batch_size, num_workers=0))
    tests = iter(DataLoader(Images(normalize), TEST_BATCH, num_workers=0))

    def train() -> None:
        net.train()
        x, y = next(batches)
        loss = F.cross_entropy(net(x.to(device)), y.to(device))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        loss.item()

    def infer() -> None:
        net.eval()
        with torch.no_grad():
            net(next(tests)[0].to(device)).softmax(1).cpu()

    return train, infer


def rate(step: Any, images: int, seconds: float) -> float:
    """Images per second of the median step."""
    import torch
    from torch.utils.benchmark import Timer

    for _ in range(8):  # allocators and caches settle over the first steps
        step()
    timer = Timer("step()", globals={"step": step}, num_threads=torch.get_num_threads())
    return images / timer.blocked_autorange(min_run_time=seconds).median


def processor() -> str:
    """The CPU with what decides its speed here: vector widths and bf16 arithmetic."""
    import torch

    from fertools.records import environment

    probes = {
        "avx2": torch.cpu._is_avx2_supported,
        "avx512": torch.cpu._is_avx512_supported,
        "avx512_bf16": torch.cpu._is_avx512_bf16_supported,
        "amx": torch.cpu._is_amx_tile_supported,
    }
    features = [name for name, supported in probes.items() if supported()]
    return f"{environment()['cpu']}; {', '.join(features) or 'no vector extensions'}; {torch.get_num_threads()} threads"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=64, help="images per training step; the paper's is 16")
    parser.add_argument("--widths", type=int, nargs="+", default=WIDTHS)
    parser.add_argument("--seconds", type=float, default=10.0, help="time for each measurement")
    parser.add_argument("--one", nargs=2, metavar=("WAY", "WIDTH"), help=argparse.SUPPRESS)  # the process's own
    call = parser.parse_args()
    if call.one:
        print(json.dumps(measure(call.one[0], int(call.one[1]), call.batch, call.seconds)))
        return

    def run(way: str, width: int) -> dict[str, float]:
        words = ["--batch", str(call.batch), "--seconds", str(call.seconds), "--one", way, str(width)]
        done = subprocess.run([sys.executable, __file__, *words], stdout=subprocess.PIPE, check=True)
        return json.loads(done.stdout)

    print(processor())
    print(f"images/s at batch {call.batch}; inference at batch {TEST_BATCH}; memory is the process's peak")
    print(f"{'width':>5} {'':<10} {'plain':>10} {'fertools':>10} {'ratio':>7}")
    for width in call.widths:
        a, b = run("plain", width), run("fertools", width)
        for what in ("training", "inference"):
            print(f"{width:>5} {what:<10} {a[what]:>10.1f} {b[what]:>10.1f} {b[what] / a[what]:>6.2f}x")
        print(f"{width:>5} {'memory':<10} {a['memory']:>6.0f} MiB {b['memory']:>6.0f} MiB", flush=True)


if __name__ == "__main__":
    main()
