"""Comparisons that say how far they carry: the paper's tables with our rows, and paired tests.

Everything is computed from records and their predictions; no data set has to be there.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fertools.errors import RunError
from fertools.paths import find_data, find_run, run_folders, runs_folder
from fertools.recipes import RECIPES
from fertools.records import Record, differences, load_predictions, percent

if TYPE_CHECKING:
    import pandas as pd

LEVEL = 0.95  # of every interval here


# --- Statistics -------------------------------------------------------------------------------


def cluster_interval(correct: np.ndarray, groups: np.ndarray) -> tuple[float, float]:
    """95 % interval of an accuracy where images of one group are not independent.

    The Wilson interval of the effective sample size, with Student's t for the number of groups
    (Dean and Pagano 2015, "Evaluating confidence interval methods for binomial proportions in
    clustered surveys"): n divided by the design effect, which is the variance of the accuracy
    with whole groups drawn, over p (1 - p) / n. It is taken as no less than 1. Where every
    image is right, or none, there is no variance to see, and the images of a group count as one.

    Args:
        correct: bool, (N,), whether each image was recognised.
        groups: (N,), who is shown, or whatever else makes images alike; at least two.
    """
    from scipy.stats import t

    sums, sizes = _by_group(correct, groups)
    n, k = int(sizes.sum()), len(sizes)
    p = sums.sum() / n
    if 0 < p < 1:
        variance = k / (k - 1) * ((sums - p * sizes) ** 2).sum() / n**2  # of a ratio, linearised
        effect = max(1.0, variance / (p * (1 - p) / n))
    else:
        effect = (sizes**2).sum() / n  # of images that agree wholly within their group
    z2 = t.ppf((1 + LEVEL) / 2, k - 1) ** 2 / (n / effect)  # over the effective sample size
    centre = (p + z2 / 2) / (1 + z2)
    half = math.sqrt(z2 * p * (1 - p) + z2**2 / 4) / (1 + z2)
    return max(0.0, float(centre - half)), min(1.0, float(centre + half))


def recall_intervals(
    labels: np.ndarray, predicted: np.ndarray, groups: np.ndarray, classes: int
) -> list[tuple[float, float]]:
    """The :func:`cluster_interval` of each class's recall; nan where fewer than two groups show the class.

    Args:
        labels, predicted: int, (N,), from 0 to ``classes`` - 1.
        groups: (N,), as :func:`cluster_interval` takes them.
        classes: how many there are.
    """
    found = []
    for label in range(classes):
        of_class = labels == label
        correct, shown = predicted[of_class] == label, groups[of_class]
        enough = len(np.unique(shown)) > 1
        found.append(cluster_interval(correct, shown) if enough else (math.nan, math.nan))
    return found


@dataclass(frozen=True)
class McNemar:
    """The images that only one of two networks recognised, and the exact test of their balance."""

    only_a: int
    only_b: int
    p: float


def mcnemar(correct_a: np.ndarray, correct_b: np.ndarray) -> McNemar:
    """McNemar's exact test: is each of two networks as often the only one to be right?

    Two-sided, from the binomial distribution (McNemar 1947; Dietterich 1998 recommends it for two
    networks that were trained once). It takes the images as independent.

    Args:
        correct_a, correct_b: bool, (N,), whether each network recognised each image.
    """
    from scipy.stats import binomtest

    a, b = _pair(correct_a, correct_b)
    only_a, only_b = int((a & ~b).sum()), int((b & ~a).sum())
    p = float(binomtest(only_a, only_a + only_b).pvalue) if only_a + only_b else 1.0
    return McNemar(only_a, only_b, p)


@dataclass(frozen=True)
class Difference:
    """How much more often the first network is right, with its 95 % interval; shares, not per cent."""

    value: float
    low: float
    high: float


def paired_bootstrap(
    correct_a: np.ndarray,
    correct_b: np.ndarray,
    groups: np.ndarray | None = None,
    draws: int = 10_000,
    seed: int = 0,
) -> Difference:
    """The difference of two accuracies on the same images, with a percentile bootstrap interval.

    Images are drawn anew with replacement, each with both answers; with ``groups``, whole groups
    are (Efron and Tibshirani 1993, chapters 8 and 13). Use it for images of one person.

    Args:
        correct_a, correct_b: bool, (N,).
        groups: (N,), what is drawn as one; None draws images.
        draws: bootstrap samples.
        seed: of the draws.
    """
    a, b = _pair(correct_a, correct_b)
    sums, sizes = _by_group(a.astype(int) - b, np.arange(len(a)) if groups is None else groups)
    # Groups of one size and difference are alike: how often each kind is drawn is multinomial.
    kinds, counts = np.unique(np.stack([sums, sizes], 1), axis=0, return_counts=True)
    drawn = np.random.default_rng(seed).multinomial(len(sums), counts / len(sums), draws) @ kinds  # (draws, 2)
    low, high = np.quantile(drawn[:, 0] / drawn[:, 1], [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Difference(float(sums.sum() / sizes.sum()), float(low), float(high))


def _pair(correct_a: np.ndarray, correct_b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    a, b = np.asarray(correct_a), np.asarray(correct_b)
    if a.dtype != bool or b.dtype != bool or a.ndim != 1 or a.shape != b.shape or not len(a):
        raise ValueError(
            "correct_a and correct_b must be bool of one shape (N,), N > 0, "
            f"not {a.dtype} {a.shape} and {b.dtype} {b.shape}"
        )
    return a, b


def _by_group(values: np.ndarray, groups: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The sum of the values and the number of images of each group."""
    if len(values) != len(groups):
        raise ValueError(f"{len(values)} images need as many groups, not {len(groups)}")
    _, which, sizes = np.unique(groups, return_inverse=True, return_counts=True)
    if len(sizes) < 2:
        raise ValueError("at least two groups are needed to see how they differ")
    return np.bincount(which, weights=values), sizes


# --- Folds ------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Pooled:
    """The test images of all folds together, each predicted by the network that did not train on it.

    Attributes:
        name: the sweep, and which of its rows.
        record: of the first fold; the others differ from it in their fold alone.
        folds: (N,), the fold that each image was tested in.
        labels, predicted: int, (N,), indices into ``record.classes``.
        groups: (N,), who is shown; the fold itself where the sweep left no ``groups.json``.
        grouped_by: ``"person"`` or ``"fold"``.
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
        return self.predicted == self.labels

    @property
    def accuracy(self) -> float:
        """Of the pooled images."""
        return float(self.correct.mean())

    @property
    def interval(self) -> tuple[float, float]:
        """95 % interval of ``accuracy``, see :func:`cluster_interval`.

        It covers the choice of the persons. The networks share most of their training images,
        which no interval from one cross-validation can allow for (Bengio and Grandvalet 2004).
        """
        return cluster_interval(self.correct, self.groups)

    @property
    def fold_accuracies(self) -> np.ndarray:
        return np.array([self.correct[self.folds == fold].mean() for fold in np.unique(self.folds)])

    @property
    def mean(self) -> float:
        """Of the folds' accuracies, as the paper reports it."""
        return float(self.fold_accuracies.mean())

    @property
    def std(self) -> float:
        """Over the folds, with n - 1."""
        return float(self.fold_accuracies.std(ddof=1))

    @property
    def confusion(self) -> np.ndarray:
        """Counts, (true, predicted)."""
        return _confusion(self.labels, self.predicted, len(self.record.classes))

    @property
    def protocol(self) -> str:
        """In words: how many folds, by what, from which start, and which of them are still missing."""
        config = self.record.identity["config"]
        start = "from the weights of another run, " if self.record.identity["init"] else ""
        words = f"{config['folds']} folds by {config['protocol']}, {start}{self.record.selected['by']}"
        have = len(np.unique(self.folds))
        return words if have == config["folds"] else f"{words}; only {have} of the folds"


def _confusion(labels: np.ndarray, predicted: np.ndarray, k: int) -> np.ndarray:
    from sklearn.metrics import confusion_matrix

    found: np.ndarray = confusion_matrix(labels, predicted, labels=np.arange(k))
    return found


def rows(sweep: str | Path, runs: str | Path | None = None) -> list[str]:
    """The rows of a sweep over folds, for :func:`pooled`: its runs' names without ``fold-K``, each once."""
    folder = find_run(sweep, runs)
    found = (path.parent for path in sorted(folder.glob("*/record.json")))
    return sorted({_row(path.name) for path in found if "fold" in Record.load(path).metrics})


def _row(name: str) -> str:
    return "_".join(part for part in name.split("_") if not re.fullmatch(r"fold-\d+", part))


def pooled(sweep: str | Path, row: str = "", tta: str = "single-crop", runs: str | Path | None = None) -> Pooled:
    """Pools the finished folds of a sweep.

    Args:
        sweep: its name under ``runs``, or its folder.
        row: where more than the fold varies, one of :func:`rows`.
        tta: ``"single-crop"``, ``"flip"``, or ``"ten-crop"``.
        runs: the folder of the runs.

    Raises:
        RunError: fewer than two folds have their records, or they differ in more than the fold.
    """
    folder = find_run(sweep, runs)
    paths = [path.parent for path in folder.glob("*/record.json") if _row(path.parent.name) == row]
    records = [record for record in map(Record.load, paths) if "fold" in record.metrics]
    records.sort(key=lambda record: record.identity["config"]["fold"])
    if len(records) < 2:
        known = ", ".join(map(repr, rows(folder))) or "none"
        raise RunError(f"{folder} has {len(records)} finished folds of the row {row!r}; its rows are: {known}")
    from fertools.training.sweeps import load_groups

    numbers = [record.identity["config"]["fold"] for record in records]
    for record in records:
        others = [d for d in differences(records[0].identity, record.identity) if not d.startswith("config.fold ")]
        if others or numbers.count(record.identity["config"]["fold"]) > 1:
            raise RunError(f"{folder}: {records[0].name} and {record.name} are not two folds of one experiment")

    known_groups = load_groups(folder)
    predictions = [load_predictions(folder / record.name) for record in records]
    labels = [found["fold/labels"] for found in predictions]
    folds = np.repeat(numbers, [len(part) for part in labels])
    by_person = all(len(known_groups.get(r.name, ())) == len(part) for r, part in zip(records, labels, strict=True))
    groups = np.concatenate([known_groups[record.name] for record in records]) if by_person else folds
    return Pooled(
        name=f"{folder.name}/{row}" if row else folder.name,
        record=records[0],
        folds=folds,
        labels=np.concatenate(labels),
        predicted=np.concatenate([found[f"fold/{tta}"].argmax(1) for found in predictions]),
        groups=groups,
        grouped_by="person" if by_person else "fold",
    )


# --- Two networks -----------------------------------------------------------------------------


@dataclass(frozen=True)
class Comparison:
    """Two networks, or two sets of them, on the same test images; see :func:`compare_runs`."""

    names: tuple[str, str]
    part: str
    n: int
    accuracies: tuple[float, float]
    grouped_by: str  # what the bootstrap draws: "image" or "person"
    test: McNemar
    difference: Difference

    @property
    def ranked(self) -> bool:
        """Whether the images allow a ranking: the interval leaves out 0, and McNemar's test agrees.

        Both, since the bootstrap is too sure where the two differ on a handful of images.
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
        lines = [f"{self.part}, {self.n:,} images"]
        width = max(map(len, self.names))
        only = (self.test.only_a, self.test.only_b)
        for name, accuracy, alone in zip(self.names, self.accuracies, only, strict=True):
            lines.append(f"  {name:<{width}}  {accuracy:7.2%}  alone right on {alone:,}")
        d = self.difference
        lines.append(
            f"  difference {100 * d.value:+.2f} points, 95 % interval {100 * d.low:+.2f} to {100 * d.high:+.2f} "
            f"(paired bootstrap, one {self.grouped_by} at a time)"
        )
        caution = (
            "" if self.grouped_by == "image" else "; too small, since it takes images of one person as independent"
        )
        lines.append(f"  McNemar's exact test: p = {self.test.p:.3g}{caution}")
        lines += [self.verdict, "It is about these trained networks: the same recipes with another seed give others."]
        return "\n".join(lines)


def compare_runs(a: str | Path, b: str | Path, tta: str = "single-crop", runs: str | Path | None = None) -> Comparison:
    """A paired comparison of two runs on their test images, or of two sweeps over the same folds.

    Runs are compared on PrivateTest, or on their fold. A sweep with several rows is named
    ``SWEEP/ROW``.

    Raises:
        RunError: no such run or sweep, or the two were not tested on the same images.
    """
    first, second = (_tested(run, tta, runs) for run in (a, b))
    _same_images(first, second)
    one, two = first.predicted == first.labels, second.predicted == second.labels
    return Comparison(
        names=(first.name, second.name),
        part=first.part,
        n=len(one),
        accuracies=(float(one.mean()), float(two.mean())),
        grouped_by=first.grouped_by,
        test=mcnemar(one, two),
        difference=paired_bootstrap(one, two, first.groups),
    )


@dataclass(frozen=True, eq=False)
class _Tested:
    """The answers of a run to its test images, or of the runs of a sweep to those of all folds."""

    name: str
    folder: Path  # of the sweep, or of the run
    record: Record
    part: str
    images: tuple[Any, ...]  # equal where the test images are
    labels: np.ndarray
    predicted: np.ndarray
    groups: np.ndarray | None  # what is drawn as one; None draws images
    grouped_by: str


def _same_images(first: _Tested, second: _Tested) -> None:
    """Raises RunError where two cannot be paired."""
    if first.images != second.images or not np.array_equal(first.labels, second.labels):
        raise RunError(f"{first.name} and {second.name} were not tested on the same images of the same data")
    for tested in (first, second):
        if tested.grouped_by == "fold":
            raise RunError(
                f"{tested.folder} does not say which test images are of one person: run `fertools sweep` "
                "on its file once where the data is, and it writes groups.json"
            )


def _tested(run: str | Path, tta: str, runs: str | Path | None) -> _Tested:
    folder, row = _find(run, runs)
    if not (folder / "record.json").exists():
        sweep = pooled(folder, row, tta)
        images = _images(sweep.record, sweep.folds)
        whole = (sweep.labels, sweep.predicted, sweep.groups, sweep.grouped_by)
        return _Tested(sweep.name, folder, sweep.record, sweep.protocol, images, *whole)

    from fertools.training.sweeps import load_groups

    record, found = Record.load(folder), load_predictions(folder)
    name = _name(folder, runs)
    part = "PrivateTest" if "PrivateTest" in record.metrics else "fold"
    labels, predicted = found[f"{part}/labels"], found[f"{part}/{tta}"].argmax(1)
    if part == "PrivateTest":
        images = (part, record.identity["data"])
        return _Tested(name, folder, record, part, images, labels, predicted, None, "image")
    folds = np.full(len(labels), record.identity["config"]["fold"])
    groups = load_groups(folder.parent).get(folder.name)
    by = "fold" if groups is None else "person"
    images = _images(record, folds)
    part = "{1} folds by {2}, fold {0}".format(*images)
    return _Tested(name, folder, record, part, images, labels, predicted, groups, by)


def _name(folder: Path, runs: str | Path | None) -> str:
    for base in run_folders(runs):
        if folder.is_relative_to(base):
            return str(folder.relative_to(base))
    return str(folder)


def _images(record: Record, folds: np.ndarray) -> tuple[Any, ...]:
    """What decides which images were tested on folds."""
    config = record.identity["config"]
    return *np.unique(folds), config["folds"], config["protocol"], record.identity["seed"], record.identity["data"]


def _find(run: str | Path, runs: str | Path | None) -> tuple[Path, str]:
    """The folder of a run or a sweep, and the row of the sweep that was named."""
    path = Path(run)
    for folder in (path, *(base / path for base in run_folders(runs))):
        if any(folder.glob("record.json")) or any(folder.glob("*/record.json")):
            return folder, ""
        if len(path.parts) > 1 and any(folder.parent.glob("*/record.json")):
            return folder.parent, folder.name
    known = sorted({p.relative_to(base).parts[0] for base in run_folders(runs) for p in base.rglob("record.json")})
    raise RunError(f"there is no finished run or sweep {str(run)!r}; there are: {', '.join(known) or 'none'}")


def ablation(
    sweep: str | Path, baseline: str = "baseline", tta: str = "single-crop", runs: str | Path | None = None
) -> pd.DataFrame:
    """What each row of a sweep changes against its baseline, over paired seeds or folds.

    The interval is that of :func:`paired_bootstrap` with an image's (or a person's) answers from
    all seeds drawn as one. It does not cover the luck of the seeds, of which there are few.

    Returns:
        One line a row, best first: ``row``, ``parameters``, ``operations`` (see :func:`operations`),
        ``pairs`` (finished runs whose partner in the baseline is finished), and in per cent or points
        ``accuracy`` (mean over the pairs), ``difference``, ``low``, ``high``.

    Raises:
        RunError: no run of the baseline is finished.
    """
    import pandas as pd

    folder = find_run(sweep, runs)
    found: dict[str, dict[str, Path]] = {}  # row -> seed, fold -> run
    for path in sorted(folder.glob("*/record.json")):
        row, _, rest = path.parent.name.partition("_")
        found.setdefault(row, {})[rest] = path.parent
    if baseline not in found:
        raise RunError(f"{folder} has no finished run of the row {baseline!r}; it has: {', '.join(found) or 'none'}")
    base = {rest: _tested(path, tta, runs) for rest, path in found[baseline].items()}
    lines = []
    for row, paths in found.items():
        pairs = [(_tested(paths[rest], tta, runs), base[rest]) for rest in paths.keys() & base.keys()]
        if not pairs:
            continue
        for mine, theirs in pairs:
            _same_images(mine, theirs)
        ours, base_ours = (np.concatenate([pair[i].predicted == pair[i].labels for pair in pairs]) for i in (0, 1))
        groups = [np.arange(len(m.labels)) if m.groups is None else m.groups for m, _ in pairs]
        d = paired_bootstrap(ours, base_ours, np.concatenate(groups))
        record = pairs[0][0].record
        lines.append((row, record.parameters, operations(record), len(pairs), ours.mean(), d.value, d.low, d.high))
    columns = ["row", "parameters", "operations", "pairs", "accuracy", "difference", "low", "high"]
    table = pd.DataFrame(lines, columns=columns)
    table[["accuracy", "difference", "low", "high"]] *= 100
    return table.sort_values("accuracy", ascending=False, ignore_index=True)


def operations(record: Record) -> int:
    """The multiply-accumulates that a run's network needs for one face, as PyTorch counts them.

    Convolutions and matrix products are counted; normalisations, ReLUs and sums are not.
    """
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    from fertools.models.registry import build
    from fertools.recipes import TrainConfig

    config = replace(TrainConfig.from_dict(record.identity["config"]).network, classes=len(record.classes))
    counter = FlopCounterMode(display=False)
    with torch.device("meta"), counter:  # shapes without numbers
        build(config)(torch.empty(1, 1, 48, 48))
    return counter.get_total_flops() // 2  # each is a product and a sum


# --- The paper --------------------------------------------------------------------------------


def paper_tables(runs: str | Path | None = None, paper: Path | None = None) -> pd.DataFrame:
    """Tables 1 and 2 of the paper with our rows among them, best first.

    Ours are every FER2013 run (one line for one view, one for ten crops), also one that was cut
    short, and every sweep over folds of CK+ that has at least two. They are measured; the others are
    what the paper prints.

    Returns:
        ``table``, ``method``, ``accuracy`` in per cent (over folds: of the pooled images), ``low``
        and ``high`` (its 95 % interval), ``mean`` and ``std`` over the folds, ``protocol``, which
        is ``"not stated"`` where the paper states none, and ``ours``.
    """
    import pandas as pd

    stated = pd.read_csv(paper or find_data("paper_results.csv"))
    stated = stated[stated["class"].isna()]
    theirs = stated[["table", "method", "accuracy"]].assign(
        protocol=stated["protocol"].fillna("not stated"), ours=False, low=np.nan, high=np.nan, mean=np.nan, std=np.nan
    )
    lines = []
    folders = set()
    for path in sorted(path for base in run_folders(runs) for path in base.rglob("record.json")):
        record = Record.load(path.parent)
        if record.data["name"] in ("ckplus", "ckplus48") and "fold" in record.metrics:
            folders.add(path.parent.parent)
        if record.data["name"] == "fer2013" and "PrivateTest" in record.metrics:
            for tta, words in {"single-crop": "single crop", "ten-crop": "ten-crop"}.items():
                found = record.metrics["PrivateTest"][tta]
                low, high = found["accuracy_interval"]
                how = f"PrivateTest, {words}; {record.selected['by']} chose the epoch; seed {record.identity['seed']}"
                cut, recipe = [], RECIPES.get(record.recipe)
                if recipe and record.identity["config"]["epochs"] < recipe.epochs:
                    cut = [f"only {record.identity['config']['epochs']} of the recipe's {recipe.epochs} epochs"]
                lines.append(
                    {
                        "table": "Table 1",
                        "method": _name(path.parent, runs),
                        "accuracy": 100 * found["accuracy"],
                        "low": 100 * low,
                        "high": 100 * high,
                        "protocol": "; ".join([how, *cut, *record.notes]),
                    }
                )
    for folder in sorted(folders):
        names = [_row(path.parent.name) for path in folder.glob("*/record.json")]
        for row in rows(folder):
            if names.count(row) < 2:
                continue
            sweep = pooled(folder, row)
            low, high = sweep.interval
            lines.append(
                {
                    "table": "Table 2",
                    "method": sweep.name,
                    "accuracy": 100 * sweep.accuracy,
                    "low": 100 * low,
                    "high": 100 * high,
                    "mean": 100 * sweep.mean,
                    "std": 100 * sweep.std,
                    "protocol": f"{sweep.record.data['name']}, {sweep.protocol}; interval by {sweep.grouped_by}",
                }
            )
    columns = ["table", "method", "accuracy", "low", "high", "mean", "std", "protocol", "ours"]
    ours = pd.DataFrame(lines, columns=columns).assign(ours=True)
    both = pd.concat([theirs[columns], ours]) if lines else theirs[columns]
    return both.sort_values(["table", "accuracy"], ascending=[True, False], ignore_index=True)


def folds_table(runs: str | Path | None = None) -> str:
    """The README's second table: what every sweep over folds reached that has all of them, in Markdown."""
    lines = [
        "| sweep | parameters | folds by | starts from | all images, % | folds: mean, standard deviation |",
        "|---|---|---|---|---|---|",
    ]
    for folder in sorted({path.parent.parent for path in runs_folder(runs).glob("*/*/record.json")}):
        names = [_row(path.parent.name) for path in folder.glob("*/record.json")]
        for row in rows(folder):
            if names.count(row) < 2:
                continue
            found = pooled(folder, row)
            first, config = found.record, found.record.identity["config"]
            if names.count(row) < config["folds"]:
                continue
            start = "other weights" if first.identity["init"] else "random weights"
            cells = [f"`{found.name}`", f"{first.parameters:,}", config["protocol"], start]
            cells += [percent(found.accuracy, found.interval), f"{100 * found.mean:.2f}, {100 * found.std:.2f}"]
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def tables_text(tables: pd.DataFrame) -> str:
    """What :func:`paper_tables` gave, to be printed; our rows are marked with ``*``."""
    lines = []
    for name, table in tables.groupby("table"):
        lines.append(f"{name} of the paper, with our rows (*)")
        width = table["method"].str.len().max()
        for row in table.to_dict("records"):
            interval = f"[{row['low']:5.2f}, {row['high']:5.2f}]" if row["ours"] else ""
            over_folds = not math.isnan(row["std"])
            spread = f"; over folds {row['mean']:.2f}, std {row['std']:.2f}" if over_folds else ""
            line = f"{row['method']:<{width}}  {row['accuracy']:5.2f} %  {interval:<14}  {row['protocol']}{spread}"
            lines.append(f"{'*' if row['ours'] else ' '} {line}")
        claims = table[~table["ours"]]
        silent = int((claims["protocol"] == "not stated").sum())
        lines.append(
            f"  For {silent} of the {len(claims)} claims the paper states no protocol. In brackets: 95 % intervals.\n"
        )
    return "\n".join(lines).rstrip()


def per_class(
    confusion: np.ndarray | Sequence[Sequence[int]],
    classes: Sequence[str],
    dataset: str,
    paper: Path | None = None,
    intervals: Sequence[tuple[float, float]] | None = None,
) -> pd.DataFrame:
    """Each class's recall beside the figure that section 3.3 of the paper states for it.

    Args:
        confusion: counts, (true, predicted).
        classes: its class names.
        dataset: ``"FER2013"`` or ``"CK+"``, as the paper's tables call it.
        paper: the file of the paper's numbers.
        intervals: of each class's recall, as shares, e.g. :func:`recall_intervals`. Where they
            are not given, Wilson's, which take images as independent.

    Returns:
        By class, in per cent: ``recall``, ``low`` and ``high`` (its 95 % interval), ``images``,
        ``paper`` (nan where it states no figure), ``difference`` in points, and ``note``, the
        paper's words where it gives no number.
    """
    import pandas as pd

    from fertools.evaluation.metrics import wilson_interval

    counts = np.asarray(confusion)
    stated = pd.read_csv(paper or find_data("paper_results.csv"))
    stated = stated[(stated["dataset"] == dataset) & stated["class"].notna()].set_index("class")
    lines = []
    for k, (name, row, right) in enumerate(zip(classes, counts, counts.diagonal(), strict=True)):
        n = int(row.sum())
        if intervals is not None:
            low, high = intervals[k]
        else:
            low, high = wilson_interval(int(right), n) if n else (math.nan, math.nan)
        lines.append((name, right / n if n else math.nan, low, high))
    table = 100 * pd.DataFrame(lines, columns=["class", "recall", "low", "high"]).set_index("class")
    table["images"] = counts.sum(1)
    table["paper"] = stated["accuracy"].reindex(table.index)
    table["difference"] = table["recall"] - table["paper"]
    table["note"] = stated["note"].reindex(table.index).fillna("")
    return table


def class_text(run: str | Path, tta: str = "single-crop", runs: str | Path | None = None) -> str:
    """What :func:`per_class` gives for a run or a sweep, to be printed."""
    tested = _tested(run, tta, runs)
    classes, data = tested.record.classes, tested.record.data["name"]
    dataset = {"fer2013": "FER2013", "ferplus": "FER2013", "ckplus": "CK+", "ckplus48": "CK+"}.get(data, data)
    groups, by, intervals = tested.groups, "image", None
    if groups is not None:
        by, intervals = tested.grouped_by, recall_intervals(tested.labels, tested.predicted, groups, len(classes))
    lines = [
        f"{tested.name}, {tested.part}: recall of each class in per cent, and the paper's.",
        f"  In brackets: 95 % intervals, by {by}.",
    ]
    confusion = _confusion(tested.labels, tested.predicted, len(classes))
    for row in per_class(confusion, classes, dataset, intervals=intervals).reset_index().to_dict("records"):
        known = not math.isnan(row["paper"])
        paper = f"{row['paper']:.2f}, ours {row['difference']:+.2f}" if known else row["note"] or "not stated"
        recall = f"{row['recall']:6.2f}  [{row['low']:5.2f}, {row['high']:6.2f}]"
        lines.append(f"  {row['class']:<10} {recall}  {row['images']:5,} images   paper: {paper}")
    return "\n".join(lines)
