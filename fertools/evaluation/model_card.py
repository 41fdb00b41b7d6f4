"""The measured part of a model card, computed from what a run recorded."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from fertools.errors import RunError
from fertools.evaluation.calibration import TARGET_ACCURACY, apply_temperature
from fertools.evaluation.metrics import wilson_interval
from fertools.evaluation.tables import markdown
from fertools.files import atomic_write
from fertools.paths import find_run
from fertools.recipes import RECIPES
from fertools.records import Record, differences, load_predictions, percent

BEGIN, END = "<!-- measured -->\n", "\n<!-- /measured -->"  # around the measured part of README.md


def write_card(run: str | Path, runs: str | Path | None = None) -> None:
    """Puts :func:`card_tables` between the marks of the run's ``README.md``; the rest stays as it is.

    Raises:
        RunError: as :func:`card_tables` does; or there is no card, or it has no marks.
    """
    path = find_run(run, runs) / "README.md"
    text = path.read_text() if path.exists() else ""
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise RunError(f"{path} has no place for the measured part: write {BEGIN.strip()} and {END.strip()} into it")
    with atomic_write(path) as part:
        part.write_text(before + begin + card_tables(run, runs) + end + after)


def card_tables(run: str | Path, runs: str | Path | None = None) -> str:
    """Markdown tables of a run on FER2013: training, accuracy, calibration, abstention, and each class on PrivateTest.

    Confidence is that of the single crop, calibrated by the record's temperature, as
    :class:`fertools.inference.predictor.Predictor` computes it. Next to the run's own numbers are mean and standard
    deviation over its seeds: all runs in the same folder whose records differ from it only in the seed.

    Raises:
        RunError: there is no such run, it has not finished, or it was not validated on PublicTest.
    """
    folder = find_run(run, runs)
    record = Record.load(folder)
    if record.temperature is None or record.threshold is None or "PrivateTest" not in record.metrics:
        raise RunError(f"{folder} has no temperature and threshold from PublicTest: only runs on splits have a card")
    temperature, threshold = record.temperature, record.threshold
    predictions = load_predictions(folder)
    labels = {name: predictions[f"{name}/labels"] for name in record.metrics}
    p = {name: np.exp(apply_temperature(predictions[f"{name}/single-crop"], temperature)) for name in record.metrics}
    kept = {name: p[name].max(1) >= threshold for name in p}
    correct = {name: p[name].argmax(1) == labels[name] for name in p}

    training = [
        ("recipe", f"{_recipe(record)}, seed {record.identity['seed']}"),
        ("parameters", f"{record.parameters:,}"),
        ("training images", f"{record.data['training']:,} of {record.data['name']}"),
        ("epoch", f"{record.selected['epoch']} of {len(record.history)}, chosen by {record.selected['by']}"),
        (
            "training time",
            f"{record.seconds / 3600:.1f} hours on {record.environment['gpu'] or record.environment['cpu']}",
        ),
        ("temperature", f"{temperature:.3f}, fitted on PublicTest"),
        ("threshold", f"{threshold:.3f}, the lowest with an accuracy of {TARGET_ACCURACY:.0%} on PublicTest"),
    ]
    seeds = _seeds(folder, record)
    if len(seeds) > 1:
        for tta in ("single-crop", "ten-crop"):
            values = [100 * other.metrics["PrivateTest"][tta]["accuracy"] for other in seeds]
            text = f"mean {np.mean(values):.2f}, standard deviation {np.std(values, ddof=1):.2f}"
            training.append(
                (f"PrivateTest over {len(seeds)} seeds, {tta.replace('single-crop', 'single crop')}, %", text)
            )

    overall = {
        "images (number)": {name: f"{len(labels[name]):,}" for name in p},
        "accuracy": {name: _proportion(correct[name]) for name in p},
        "accuracy, ten-crop": {
            name: percent(found["accuracy"], found["accuracy_interval"])
            for name, found in ((name, record.metrics[name]["ten-crop"]) for name in p)
        },
        "balanced accuracy": {
            name: f"{100 * record.metrics[name]['single-crop']['balanced_accuracy']:.2f}" for name in p
        },
        "calibration error": {
            name: f"{100 * record.metrics[name]['calibrated']['calibration_error']:.2f}" for name in p
        },
        "coverage": {name: _proportion(kept[name]) for name in p},
        "selective accuracy": {name: _proportion(correct[name][kept[name]]) for name in p},
    }

    test = "PrivateTest"
    predicted = p[test].argmax(1)
    by_class = []
    for label, name in enumerate(record.classes):
        of, said = labels[test] == label, predicted == label
        by_class.append(
            {
                "PrivateTest, single crop, %": name,
                "images": f"{of.sum():,}",
                "recall": _proportion(correct[test][of]),
                "precision": _proportion(correct[test][said]),
                "coverage": _proportion(kept[test][of]),
                "selective precision": _proportion(correct[test][said & kept[test]]),
            }
        )
    return "\n\n".join(
        [
            markdown([{"training": name, "": value} for name, value in training]),
            markdown([{"single crop, %": name, **cells} for name, cells in overall.items()]),
            markdown(by_class),
        ]
    )


def _recipe(record: Record) -> str:
    """The recipe that has a run's settings; or the one that it started from, with the overrides."""
    for name, config in RECIPES.items():
        if not differences({"config": config.to_dict()}, {"config": record.identity["config"]}):
            return f"`{name}`"
    return " ".join(f"`{text}`" for text in (record.recipe, *record.overrides))


def _seeds(folder: Path, record: Record) -> list[Record]:
    """The finished runs next to a run that differ from it only in their seed, and itself."""
    found = []
    for path in sorted(folder.parent.glob("*/record.json")):
        other = Record.load(path.parent)
        if all(difference.startswith("seed ") for difference in differences(record.identity, other.identity)):
            found.append(other)
    return found


def _proportion(which: Sequence[bool] | np.ndarray) -> str:
    """``"66.37 (64.81 to 67.90)"``: the percentage that is true, with its 95 % Wilson interval."""
    n = len(which)
    return percent(sum(which) / n, wilson_interval(int(sum(which)), n)) if n else "none"
