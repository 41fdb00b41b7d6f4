"""The measured part of a model card, computed from what a run recorded."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from fertools.evaluation.calibration import TARGET_ACCURACY, apply_temperature
from fertools.evaluation.metrics import wilson_interval
from fertools.paths import find_run
from fertools.records import Record, load_predictions, percent


def measured(run: str | Path, runs: str | Path | None = None) -> str:
    """Markdown tables of a run on FER2013: recipe, accuracy, calibration, abstention, and each class on PrivateTest.

    Confidence is that of one view, calibrated by the record's temperature, as
    :class:`fertools.inference.predictor.Predictor` gives it.

    Raises:
        RunError: no such run, or one that has not finished.
    """
    record = Record.load(run, runs)
    folder = find_run(run, runs)
    temperature = record.temperature or 1.0
    threshold = recorded_threshold(folder, temperature)
    predictions = load_predictions(folder)
    labels = {part: predictions[f"{part}/labels"] for part in record.metrics}
    p = {part: np.exp(apply_temperature(predictions[f"{part}/one"], temperature)) for part in record.metrics}
    answered = {part: p[part].max(1) >= threshold for part in p}
    right = {part: p[part].argmax(1) == labels[part] for part in p}

    hours = record.seconds / 3600
    recipe = [
        ("recipe", f"`{record.recipe}`, seed {record.identity['seed']}"),
        ("parameters", f"{record.parameters:,}"),
        ("trained on", f"{record.data['training']:,} images of {record.data['name']}"),
        ("epoch", f"{record.selected['epoch']} of {len(record.history)}, chosen by {record.selected['by']}"),
        ("training time", f"{hours:.1f} hours on {record.environment['gpu'] or record.environment['cpu']}"),
        ("temperature", f"{temperature:.3f}, fitted on PublicTest"),
        (
            "threshold",
            f"{threshold:.3f}, the lowest at which {TARGET_ACCURACY:.0%} of the answers on PublicTest are right",
        ),
    ]
    over_parts = [
        ("images (number)", {part: f"{len(labels[part]):,}" for part in p}),
        ("accuracy", {part: _share(right[part]) for part in p}),
        ("balanced accuracy", {part: f"{100 * record.metrics[part]['one']['balanced_accuracy']:.2f}" for part in p}),
        ("calibration error", {part: f"{100 * _calibrated(record, part)['calibration_error']:.2f}" for part in p}),
        ("answered", {part: _share(answered[part]) for part in p}),
        ("accuracy of the answers", {part: _share(right[part][answered[part]]) for part in p}),
    ]
    lines = ["| | |", "|---|---|", *(f"| {name} | {value} |" for name, value in recipe), ""]
    lines += [_row("of one view, %", *p), _row(*["---"] * (len(p) + 1))]
    lines += [_row(name, *cells.values()) for name, cells in over_parts]

    test = "PrivateTest"
    predicted = p[test].argmax(1)
    lines += ["", _row("PrivateTest, %", "images", "recall", "precision", "answered", "precision of the answers")]
    lines += [_row(*["---"] * 6)]
    for label, name in enumerate(record.classes):
        of, said = labels[test] == label, predicted == label
        shares = [right[test][of], right[test][said], answered[test][of], right[test][said & answered[test]]]
        lines.append(_row(name, f"{of.sum():,}", *map(_share, shares)))
    return "\n".join(lines)


def _calibrated(record: Record, part: str) -> dict[str, float]:
    views = record.metrics[part]
    return views.get("calibrated", views["one"])


def _share(yes: np.ndarray) -> str:
    """``"66.37 (64.81 to 67.90)"``: how many of a hundred, with the 95 % Wilson interval."""
    if not len(yes):
        return "none"
    return percent(yes.mean(), wilson_interval(int(yes.sum()), len(yes)))


def _row(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"
