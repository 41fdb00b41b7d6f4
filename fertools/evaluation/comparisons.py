"""Runs against runs: folds pooled, two runs on the same images, and the variants of an ablation.

Everything is computed from records and their predictions; no data set is needed.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fertools import IMAGE_SIZE
from fertools.errors import RunError
from fertools.evaluation.statistics import LEVEL, Difference, McNemar, cluster_interval, mcnemar, paired_bootstrap
from fertools.paths import find_run, run_folders
from fertools.records import Record, differences, load_groups, load_predictions

if TYPE_CHECKING:
    import pandas as pd

FOLDS = {"image": "image-level", "sequence": "sequence-level", "subject": "subject-independent"}  # by protocol


# --- Folds ------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Pooled:
    """The test images of all folds together, each predicted by the network that did not train on it.

    Attributes:
        name: the sweep, and which of its variants.
        record: of the first fold; the others differ from it only in their fold.
        folds: (N,), the fold in which each image was tested.
        labels, predicted: int, (N,), indices into ``record.classes``.
        groups: (N,), the subject by number; the fold itself if the sweep left no ``groups.json``.
        grouped_by: ``"subject"`` or ``"fold"``.
    """

    name: str
    record: Record
    folds: np.ndarray
    labels: np.ndarray
    predicted: np.ndarray
    groups: np.ndarray
    grouped_by: str

    @property
    def correct(self) -> np.ndarray:
        """bool, (N,)."""
        return self.predicted == self.labels

    @property
    def accuracy(self) -> float:
        """Of the pooled images."""
        return float(self.correct.mean())

    @property
    def interval(self) -> tuple[float, float]:
        """95 % interval of ``accuracy``, see :func:`~fertools.evaluation.statistics.cluster_interval`.

        It covers the choice of subjects. The networks share most of their training images, and no
        interval from a single cross-validation can account for that (Bengio and Grandvalet 2004).
        """
        return cluster_interval(self.correct, self.groups)

    @property
    def fold_accuracies(self) -> np.ndarray:
        """(folds,), in the order of their numbers."""
        return np.array([self.correct[self.folds == fold].mean() for fold in np.unique(self.folds)])

    @property
    def mean(self) -> float:
        """Of the folds' accuracies, as the paper reports it."""
        return float(self.fold_accuracies.mean())

    @property
    def std(self) -> float:
        """Standard deviation over the folds, with n - 1."""
        return float(self.fold_accuracies.std(ddof=1))

    @property
    def confusion(self) -> np.ndarray:
        """Counts, (true, predicted)."""
        from sklearn.metrics import confusion_matrix

        found: np.ndarray = confusion_matrix(self.labels, self.predicted, labels=range(len(self.record.classes)))
        return found

    @property
    def protocol(self) -> str:
        """In words, e.g. ``"10 subject-independent folds, last epoch"``, and which folds are missing."""
        config = self.record.identity["config"]
        start = "fine-tuned from another run, " if self.record.identity["init"] else ""
        words = f"{config['folds']} {FOLDS[config['protocol']]} folds, {start}{self.record.selected['by']}"
        have = len(np.unique(self.folds))
        return words if have == config["folds"] else f"{words}; only {have} of them finished"


def variants(sweep: str | Path, runs: str | Path | None = None) -> list[str]:
    """The variants of a sweep over folds, for :func:`pool_folds`: its runs' names without ``fold-K``, each once."""
    folder = find_run(sweep, runs)
    found = (path.parent for path in sorted(folder.glob("*/record.json")))
    return sorted({variant_of(path.name) for path in found if "fold" in Record.load(path).metrics})


def variant_of(run: str) -> str:
    """The variant that a run of a sweep over folds belongs to, from the run's name.

    >>> variant_of("one-branch_fold-3_seed-1")
    'one-branch_seed-1'
    """
    return "_".join(part for part in run.split("_") if not re.fullmatch(r"fold-\d+", part))


def pool_folds(
    sweep: str | Path, variant: str = "", tta: str = "single-crop", runs: str | Path | None = None
) -> Pooled:
    """Pools the finished folds of a sweep.

    Args:
        sweep: its name, or its folder.
        variant: one of :func:`variants`, where more than the fold varies.
        tta: ``"single-crop"``, ``"flip"``, or ``"ten-crop"``.
        runs: the only folder to search, see :mod:`fertools.paths`.

    Raises:
        RunError: fewer than two folds have finished, or they differ in more than the fold.
    """
    folder = find_run(sweep, runs)
    paths = [path.parent for path in folder.glob("*/record.json") if variant_of(path.parent.name) == variant]
    records = [record for record in map(Record.load, paths) if "fold" in record.metrics]
    records.sort(key=lambda record: record.identity["config"]["fold"])
    if len(records) < 2:
        known = ", ".join(map(repr, variants(folder))) or "none"
        raise RunError(f"{folder} has {len(records)} finished folds of the variant {variant!r}; its variants: {known}")

    numbers = [record.identity["config"]["fold"] for record in records]
    for record in records:
        others = [d for d in differences(records[0].identity, record.identity) if not d.startswith("config.fold ")]
        if others or numbers.count(record.identity["config"]["fold"]) > 1:
            raise RunError(
                f"{folder}: {records[0].name} and {record.name} are not two folds of one experiment"
                + (f" ({'; '.join(others[:3])})" if others else "")
            )

    predictions = [load_predictions(folder / record.name) for record in records]
    labels = [found["fold/labels"] for found in predictions]
    folds = np.repeat(numbers, [len(part) for part in labels])
    subjects = load_groups(folder)
    known_subjects = all(len(subjects.get(r.name, ())) == len(part) for r, part in zip(records, labels, strict=True))
    return Pooled(
        name=f"{folder.name}/{variant}" if variant else folder.name,
        record=records[0],
        folds=folds,
        labels=np.concatenate(labels),
        predicted=np.concatenate([found[f"fold/{tta}"].argmax(1) for found in predictions]),
        groups=np.concatenate([subjects[record.name] for record in records]) if known_subjects else folds,
        grouped_by="subject" if known_subjects else "fold",
    )


# --- Predictions that can be paired -----------------------------------------------------------


@dataclass(frozen=True, eq=False)
class TestedRun:
    """A run's predictions for its test images, or those of a sweep for the images of all folds.

    Attributes:
        name: the run's, or the sweep's with its variant.
        folder: of the run or of the sweep.
        record: of the run, or of the sweep's first fold.
        test_set: in words.
        images: what decides which images were tested; equal if and only if these are.
        labels, predicted: int, (N,), indices into ``record.classes``.
        groups: (N,), what a bootstrap resamples as one; None resamples images.
        grouped_by: ``"image"``, ``"subject"`` or ``"fold"``.
    """

    __test__ = False  # not one of pytest's classes

    name: str
    folder: Path
    record: Record
    test_set: str
    images: tuple[Any, ...]
    labels: np.ndarray
    predicted: np.ndarray
    groups: np.ndarray | None
    grouped_by: str

    @property
    def correct(self) -> np.ndarray:
        """Bool, (N,): whether each image was classified correctly."""
        right: np.ndarray = self.predicted == self.labels
        return right


def load_tested(run: str | Path, tta: str = "single-crop", runs: str | Path | None = None) -> TestedRun:
    """The predictions of a run or a sweep.

    Args:
        run: the name or folder of a run or a sweep; ``"SWEEP/VARIANT"`` where the sweep has several.
        tta: ``"single-crop"``, ``"flip"``, or ``"ten-crop"``.
        runs: the only folder to search.

    Raises:
        RunError: there is no such run or sweep, or it has not finished.
    """
    folder, variant = _find(run, runs)
    if not (folder / "record.json").exists():
        sweep = pool_folds(folder, variant, tta)
        images = _fold_images(sweep.record, sweep.folds)
        whole = (sweep.labels, sweep.predicted, sweep.groups, sweep.grouped_by)
        return TestedRun(sweep.name, folder, sweep.record, sweep.protocol, images, *whole)

    record, found = Record.load(folder), load_predictions(folder)
    name = run_name(folder, runs)
    if "PrivateTest" in record.metrics:
        labels, predicted = found["PrivateTest/labels"], found[f"PrivateTest/{tta}"].argmax(1)
        images = ("PrivateTest", record.identity["data"])
        return TestedRun(name, folder, record, "PrivateTest", images, labels, predicted, None, "image")
    config = record.identity["config"]
    labels, predicted = found["fold/labels"], found[f"fold/{tta}"].argmax(1)
    groups = load_groups(folder.parent).get(folder.name)
    by = "fold" if groups is None else "subject"
    images = _fold_images(record, np.array([config["fold"]]))
    test_set = f"fold {config['fold']} of {config['folds']} {FOLDS[config['protocol']]} folds"
    return TestedRun(name, folder, record, test_set, images, labels, predicted, groups, by)


def run_name(folder: Path, runs: str | Path | None = None) -> str:
    """A run's folder, as short as it can be given: relative to the folder of the runs that it is in."""
    for base in run_folders(runs):
        if folder.is_relative_to(base):
            return str(folder.relative_to(base))
    return str(folder)


def _fold_images(record: Record, folds: np.ndarray) -> tuple[Any, ...]:
    """What decides which images were tested on folds."""
    config, identity = record.identity["config"], record.identity
    return tuple(np.unique(folds)), config["folds"], config["protocol"], identity["seed"], identity["data"]


def _find(run: str | Path, runs: str | Path | None) -> tuple[Path, str]:
    """The folder of a run or a sweep, and the variant of the sweep that was named."""
    path = Path(run)
    for folder in (path, *(base / path for base in run_folders(runs))):
        if any(folder.glob("record.json")) or any(folder.glob("*/record.json")):
            return folder, ""
        if len(path.parts) > 1 and any(folder.parent.glob("*/record.json")):
            return folder.parent, folder.name
    known = sorted({p.relative_to(base).parts[0] for base in run_folders(runs) for p in base.rglob("record.json")})
    raise RunError(f"there is no finished run or sweep {str(run)!r}; there are: {', '.join(known) or 'none'}")


# --- Two networks -----------------------------------------------------------------------------


@dataclass(frozen=True)
class Comparison:
    """Two networks, or two sweeps, on the same test images; see :func:`compare_runs`.

    Attributes:
        names: of the two.
        test_set: in words.
        n: images.
        accuracies: 0 to 1.
        grouped_by: what the bootstrap resamples: ``"image"`` or ``"subject"``.
        test: McNemar's.
        difference: of the accuracies, first minus second.
    """

    names: tuple[str, str]
    test_set: str
    n: int
    accuracies: tuple[float, float]
    grouped_by: str
    test: McNemar
    difference: Difference

    @property
    def ranked(self) -> bool:
        """Whether the images allow a ranking: the interval excludes 0, and McNemar's test agrees.

        Both are asked for because the bootstrap is overconfident where the two networks differ on
        only a handful of images.
        """
        apart = self.difference.low > 0 or self.difference.high < 0
        return apart and self.test.p < 1 - LEVEL

    @property
    def verdict(self) -> str:
        """One sentence for people."""
        (a, b), d = self.names, self.difference
        interval = f"95 % interval {100 * d.low:+.2f} to {100 * d.high:+.2f} points"
        if not self.ranked:
            return f"These images do not allow a ranking of {a} and {b} ({interval})."
        better, worse = (a, b) if d.value > 0 else (b, a)
        return f"{better} is right more often than {worse}, by {100 * abs(d.value):.2f} points ({interval} for {a})."

    def __str__(self) -> str:
        lines = [f"{self.test_set}, {self.n:,} images"]
        width = max(map(len, self.names))
        only = (self.test.only_a, self.test.only_b)
        for name, accuracy, alone in zip(self.names, self.accuracies, only, strict=True):
            lines.append(f"  {name:<{width}}  {accuracy:7.2%}  the only one right on {alone:,}")
        d = self.difference
        lines.append(
            f"  difference {100 * d.value:+.2f} points, 95 % interval {100 * d.low:+.2f} to {100 * d.high:+.2f} "
            f"(paired bootstrap over {self.grouped_by}s)"
        )
        caution = "" if self.grouped_by == "image" else "; too small, since it takes a subject's images as independent"
        lines.append(f"  McNemar's exact test: p = {self.test.p:.3g}{caution}")
        lines += [
            self.verdict,
            "This holds for these trained networks; the same recipes give others with another seed.",
        ]
        return "\n".join(lines)


def compare_runs(a: str | Path, b: str | Path, tta: str = "single-crop", runs: str | Path | None = None) -> Comparison:
    """A paired comparison of two runs on their test images, or of two sweeps over the same folds.

    Runs are compared on PrivateTest, or on their fold.

    Args:
        a, b: each as :func:`load_tested` accepts it.
        tta: ``"single-crop"``, ``"flip"``, or ``"ten-crop"``.
        runs: the only folder to search.

    Raises:
        RunError: there is no such run or sweep, or the two were not tested on the same images.
    """
    first, second = (load_tested(run, tta, runs) for run in (a, b))
    _check_pair(first, second)
    one, two = first.correct, second.correct
    return Comparison(
        names=(first.name, second.name),
        test_set=first.test_set,
        n=len(one),
        accuracies=(float(one.mean()), float(two.mean())),
        grouped_by=first.grouped_by,
        test=mcnemar(one, two),
        difference=paired_bootstrap(one, two, first.groups),
    )


def _check_pair(first: TestedRun, second: TestedRun) -> None:
    """Raises RunError where two cannot be paired."""
    if first.images != second.images or not np.array_equal(first.labels, second.labels):
        raise RunError(f"{first.name} and {second.name} were not tested on the same images of the same data")
    for tested in (first, second):
        if tested.grouped_by == "fold":
            raise RunError(
                f"{tested.folder} does not say which test images show the same person: run `fertools sweep` "
                "on its file once where the data is, and it writes groups.json"
            )


# --- Ablations --------------------------------------------------------------------------------


def ablation(
    sweep: str | Path, baseline: str = "baseline", tta: str = "single-crop", runs: str | Path | None = None
) -> pd.DataFrame:
    """How each variant of a sweep differs from its baseline, over paired seeds or folds.

    The interval is that of :func:`~fertools.evaluation.statistics.paired_bootstrap`, which resamples
    an image (or a subject) together with its predictions from all seeds. It covers the sampling of the
    test images. It does not cover the variance across random seeds, of which there are few.

    Returns:
        One line per variant, best first: ``variant``, ``parameters``, ``operations`` (see
        :func:`operations`), ``pairs`` (finished runs whose partner in the baseline has finished), and in
        percent or points ``accuracy`` (mean over the pairs), ``difference``, ``low``, ``high``.

    Raises:
        RunError: no run of the baseline has finished.
    """
    import pandas as pd

    folder = find_run(sweep, runs)
    found: dict[str, dict[str, Path]] = {}  # variant -> seed, fold -> run
    for path in sorted(folder.glob("*/record.json")):
        variant, _, rest = path.parent.name.partition("_")
        found.setdefault(variant, {})[rest] = path.parent
    if baseline not in found:
        known = ", ".join(found) or "none"
        raise RunError(f"{folder} has no finished run of the variant {baseline!r}; it has: {known}")
    base = {rest: load_tested(path, tta, runs) for rest, path in found[baseline].items()}
    lines = []
    for variant, paths in found.items():
        pairs = [(load_tested(paths[rest], tta, runs), base[rest]) for rest in paths.keys() & base.keys()]
        if not pairs:
            continue
        for mine, theirs in pairs:
            _check_pair(mine, theirs)
        ours, base_ours = (np.concatenate([pair[i].predicted == pair[i].labels for pair in pairs]) for i in (0, 1))
        groups = [np.arange(len(m.labels)) if m.groups is None else m.groups for m, _ in pairs]
        d = paired_bootstrap(ours, base_ours, np.concatenate(groups))
        record = pairs[0][0].record
        lines.append((variant, record.parameters, operations(record), len(pairs), ours.mean(), d.value, d.low, d.high))
    columns = ["variant", "parameters", "operations", "pairs", "accuracy", "difference", "low", "high"]
    table = pd.DataFrame(lines, columns=columns)
    table[["accuracy", "difference", "low", "high"]] *= 100
    return table.sort_values("accuracy", ascending=False, ignore_index=True)


def operations(record: Record) -> int:
    """The multiply-accumulates that a run's network needs for one face, as PyTorch counts them.

    Convolutions and matrix products are counted; normalization, ReLUs, and sums are not.
    """
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    from fertools.models.registry import build
    from fertools.recipes import TrainConfig

    config = replace(TrainConfig.from_dict(record.identity["config"]).network, classes=len(record.classes))
    counter = FlopCounterMode(display=False)
    with torch.device("meta"):  # shapes without numbers
        net = build(config)  # outside the counter: a baseline tries its layers while it is built
        with counter:
            net(torch.empty(1, 1, IMAGE_SIZE, IMAGE_SIZE))
    return counter.get_total_flops() // 2  # each is a product and a sum
