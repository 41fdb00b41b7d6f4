"""The synthetic faces' data card says what was measured."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from types import ModuleType

import pytest

from fertools.data import load, synthetic
from fertools.records import Record

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / synthetic.FOLDER


@pytest.fixture(scope="module")
def benchmark() -> ModuleType:
    spec = importlib.util.spec_from_file_location("benchmark", ROOT / "benchmarks" / "synthetic.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_cards_numbers_are_the_measured_ones(benchmark: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    checks = json.loads((FOLDER / "checks.json").read_text())
    card = (FOLDER / "README.md").read_text()
    between = card.split(benchmark.MARKS[0])[1].split(benchmark.MARKS[1])[0]
    assert between.strip() == benchmark.tables(checks)


def test_they_were_measured_on_the_faces_that_ship(benchmark: ModuleType) -> None:
    fingerprint = load("synthetic", ROOT / "data").fingerprint
    assert json.loads((FOLDER / "checks.json").read_text())["fingerprint"] == fingerprint
    assert Record.load(benchmark.TRAINED, ROOT / "data/runs").identity["data"]["content"] == fingerprint
