"""Draws the README's picture, book/_static/faces.png: four synthetic faces, labeled by the network that is included.

python book/_tools/faces_picture.py
"""

from __future__ import annotations

from pathlib import Path

from fertools import Predictor
from fertools.data import load
from fertools.evaluation import plots

ROWS = [763, 85, 154, 440]  # of PrivateTest; as on the landing page

if __name__ == "__main__":
    faces = load("synthetic").of_split("PrivateTest").images[ROWS]
    predictor = Predictor.from_pretrained()
    drawn = plots.labeled_faces(faces, predictor.classify(faces), predictor.classes, predictor.threshold)
    drawn.savefig(Path(__file__).parents[1] / "_static" / "faces.png")
