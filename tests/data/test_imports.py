"""What must stay away from training: dlib and whatever draws."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
from PIL import Image

ROOT = Path(__file__).parents[2]

SCRIPT = """
import sys
import fertools, fertools.data, fertools.network
from fertools.data import ckplus, faces, faceset, synthetic
ckplus.load_ckplus48(sys.argv[1], verify=False)
print(",".join(sorted({"dlib", "cv2", "matplotlib", "pyvista", "vtk"} & set(sys.modules))))
"""


def test_training_and_reading_import_neither_dlib_nor_opencv_nor_plotting(tmp_path: Path) -> None:
    (tmp_path / "anger").mkdir()
    Image.fromarray(np.zeros((48, 48), np.uint8)).save(tmp_path / "anger" / "S010_004_00000017.png")
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(tmp_path)], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == ""
