"""The command line: ``fertools data``, ``audit``, ``train``, ``evaluate``, ``predict``, ``sweep``,
``compare``, ``export``.

Exit codes: 0 done; 1 failed; 2 usage error; 75 stopped with a checkpoint, and the same command
continues; 130 interrupted by Ctrl-C.

A failure that the user can fix is one line on standard error, written in one place: :class:`_Commands`.
Each command imports the modules that it needs, so that ``--help`` is quick.
"""

from __future__ import annotations

import errno
import os
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from fertools import __version__
from fertools.errors import FertoolsError, RunError

_EPILOG = """\b
Exit codes:
  0    done
  1    failed
  2    usage error
  75   stopped with a checkpoint; the same command continues
  130  interrupted by Ctrl-C

\b
Data sets are searched for in data/, runs in data/runs/ and runs/, then in what
is installed with the package. FERTOOLS_DATA and FERTOOLS_RUNS name other
folders.
"""

_WAY_OUT = {
    errno.EACCES: "choose a place that you may read and write, or change its permissions",
    errno.EISDIR: "give a file rather than a folder",
    errno.ENOENT: "check the spelling; the folder has to exist",
    errno.ENOSPC: "free some space, or choose a place on another disk",
    errno.ENOTDIR: "give a folder rather than a file",
    errno.EROFS: "choose a place that can be written to",
}


class _Commands(TyperGroup):
    """All commands: here every failure becomes one line on standard error and an exit code."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except FertoolsError as error:
            _fail(str(error), error.exit_code)
        except BrokenPipeError:  # the reader of our output has seen enough
            raise
        except OSError as error:
            where = f"{printable(str(error.filename))}: " if error.filename else ""
            way_out = _WAY_OUT.get(error.errno or 0)
            _fail(f"{where}{error.strerror or error}{f'; {way_out}' if way_out else ''}", 1)
        except KeyboardInterrupt:
            _fail("interrupted", 130)


def _fail(message: str, code: int) -> None:
    typer.echo(f"fertools: {message}", err=True)
    raise typer.Exit(code)


app = typer.Typer(
    cls=_Commands,
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # rich takes longer to import than everything else together
    epilog=_EPILOG,
)

DataDir = Annotated[
    Path | None,
    typer.Option(
        "--data-dir",
        help="The only folder to search for data sets.",
        metavar="DIR",
        exists=True,
        file_okay=False,
        show_default=False,
    ),
]
Device = Annotated[
    str, typer.Option(help="cpu, cuda, or cuda:1. By default a GPU if there is one.", show_default=False)
]
Minutes = Annotated[float | None, typer.Option(help="Stop after this many minutes; the same command continues.", min=0)]


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"fertools {__version__}")
        raise typer.Exit


@app.callback()
def _fertools(
    version: Annotated[
        bool, typer.Option("--version", help="Show the version.", callback=_show_version, is_eager=True)
    ] = False,
) -> None:
    """Facial expression recognition with the multi-scale feature fusion network: the data, the training,
    and the evaluation behind the book.
    """


@app.command()
def data(data_dir: DataDir = None) -> None:
    """List the data sets: which are available, what they contain, and where to get the others."""
    from fertools.data import inventory

    for entry in inventory(data_dir):
        typer.echo(str(entry))


@app.command()
def audit(
    name: Annotated[str, typer.Argument(help="A data set, as listed by `fertools data`.", metavar="DATASET")],
    output: Annotated[
        Path | None, typer.Option(help="Also write the numbers to this JSON file.", metavar="FILE", dir_okay=False)
    ] = None,
    data_dir: DataDir = None,
) -> None:
    """Count duplicates, train-test overlap, conflicting labels, and blank images in a data set."""
    import json

    from fertools.data import load
    from fertools.data.audit import audit_faces, summary
    from fertools.files import atomic_write

    faces = load(name, data_dir)
    found = audit_faces(faces)
    typer.echo(str(found))
    if output is not None:
        with atomic_write(output) as part:
            part.write_text(json.dumps(summary(faces, found), indent=1, allow_nan=False) + "\n")


@app.command()
def train(
    output: Annotated[
        str | None, typer.Option(help="The new run: a name, or a folder.  [default: the recipe's name]", metavar="RUN")
    ] = None,
    resume: Annotated[
        str | None,
        typer.Option(help="Continue this stopped run with its own settings.", metavar="RUN", show_default=False),
    ] = None,
    recipe: Annotated[
        str | None, typer.Option(help="A named recipe; an unknown name lists them.  [default: cpu-synthetic]")
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(help="A data set, as listed by `fertools data`.  [default: synthetic]", metavar="DATASET"),
    ] = None,
    seed: Annotated[int | None, typer.Option(help="The random seed.  [default: 0]", min=0)] = None,
    epochs: Annotated[int | None, typer.Option(help="Short for --set epochs=...")] = None,
    lr: Annotated[float | None, typer.Option(help="Short for --set learning_rate=...")] = None,
    batch_size: Annotated[int | None, typer.Option(help="Short for --set batch_size=...")] = None,
    set: Annotated[
        list[str] | None,
        typer.Option(help="Override a field of the recipe, e.g. network.width=16; repeatable.", metavar="FIELD=VALUE"),
    ] = None,
    init: Annotated[
        str | None,
        typer.Option(help="Fine-tune the weights of this finished run.", metavar="RUN", show_default=False),
    ] = None,
    teacher: Annotated[
        list[str] | None,
        typer.Option(
            help="Learn from this finished run's probabilities, too: --set distill=0.5 is their weight; repeatable.",
            metavar="RUN",
            show_default=False,
        ),
    ] = None,
    device: Device = "",
    minutes: Minutes = None,
    tensorboard: Annotated[bool, typer.Option("--tensorboard", help="Also write TensorBoard files.")] = False,
    data_dir: DataDir = None,
) -> None:
    """Train a network and record the run. The same command continues a stopped run, and so does --resume.

    Under torchrun, several processes share each batch, with the same result as one:
    torchrun --nproc-per-node 2 -m fertools train ...
    """
    shorthands = {"epochs": epochs, "learning_rate": lr, "batch_size": batch_size}
    overrides = [f"{name}={value}" for name, value in shorthands.items() if value is not None] + (set or [])
    chosen = {
        "recipe": recipe,
        "data": data,
        "seed": seed,
        "overrides": overrides or None,
        "init": init,
        "teachers": teacher or None,
    }
    if output is None and resume is None:
        output = recipe or _RECIPE  # a name to find it by
    output, resume = output or None, resume or None  # "" is what a shell makes of a variable that isn't set
    if (output is None) == (resume is None):
        raise typer.BadParameter("give one of --output, for a new run, and --resume, for a stopped one")
    if resume is not None and any(value is not None for value in chosen.values()):
        raise typer.BadParameter("--resume takes the run's own settings; only --device, --minutes, "
                                 "--tensorboard, and --data-dir can be added")  # fmt: skip

    from fertools.data import load
    from fertools.errors import require
    from fertools.paths import find_run, run_path
    from fertools.training import distributed
    from fertools.training.checkpoints import lock_folder
    from fertools.training.runtime import keep_freed_memory
    from fertools.training.trainer import train as run

    if resume is not None:
        folder = find_run(resume)
        settings = _read_settings(folder)
    else:
        folder = run_path(output or "")
        defaults = {"recipe": _RECIPE, "data": "synthetic", "seed": 0, "overrides": [], "init": None, "teachers": []}
        settings = defaults | {name: value for name, value in chosen.items() if value is not None}
    config = _config(settings["recipe"], settings["overrides"])
    weights = find_run(settings["init"]) / "model.safetensors" if settings["init"] else None
    faces = load(settings["data"], data_dir)
    where = _device(device)
    if tensorboard:
        require("tensorboard", "tensorboard")  # before anything is written
    if resume is None and distributed.start()[0] == 0:
        with lock_folder(folder):  # the settings of a run that another process trains stay as they are
            _write_settings(folder, settings)
    keep_freed_memory()
    record = run(
        config,
        faces,
        folder,
        seed=settings["seed"],
        device=where,
        init=weights,
        teachers=[find_run(name) for name in settings["teachers"]],
        recipe=settings["recipe"],
        overrides=settings["overrides"],
        minutes=minutes,
        tensorboard=tensorboard,
    )
    (folder / _SETTINGS).unlink(missing_ok=True)  # the record has them now
    if distributed.start()[0] == 0:
        typer.echo(record.summary())


_RECIPE = "cpu-synthetic"  # a small network on the synthetic faces, minutes on two cores
_SETTINGS = "settings.json"  # in the folder of an unfinished run: what --resume needs to know


def _write_settings(folder: Path, settings: dict[str, Any]) -> None:
    """Keeps the settings of a run that begins; those of one under way stay, since training checks them."""
    import json

    from fertools.files import atomic_write

    if not any((folder / name).exists() for name in ("checkpoint.safetensors", "record.json")):
        with atomic_write(folder / _SETTINGS) as part:
            part.write_text(json.dumps(settings, indent=1) + "\n")


def _read_settings(folder: Path) -> dict[str, Any]:
    import json

    from fertools.records import Record

    if (folder / "record.json").exists():
        raise RunError(f"{Record.load(folder).name} has finished; there is nothing to resume")
    try:
        found: dict[str, Any] = json.loads((folder / _SETTINGS).read_text())
        return {name: found[name] for name in ("recipe", "data", "seed", "overrides", "init", "teachers")}
    except FileNotFoundError:
        raise RunError(
            f"{folder} was not started by `fertools train`; start the same sweep, or the same call of train(), again"
        ) from None
    except (ValueError, KeyError, TypeError) as error:
        raise RunError(
            f"{folder / _SETTINGS} is damaged ({error}); start the same `fertools train` again instead"
        ) from None


def _config(recipe: str, overrides: list[str]) -> Any:
    from fertools.recipes import recipe as named

    fields = [override.partition("=")[0].strip() for override in overrides]
    for field in fields:
        if fields.count(field) > 1:
            raise typer.BadParameter(f"{field} is set twice")
    try:
        return named(recipe, overrides)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None


def _device(name: str) -> str | None:
    from fertools.hardware import pick_device

    try:
        return str(pick_device(name)) if name else None
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--device") from None


@app.command()
def evaluate(
    run: Annotated[str, typer.Argument(help="A finished run: its name, or its folder.", metavar="RUN")],
    split: Annotated[str, typer.Option(help="One test set. By default all that were recorded.")] = "",
    device: Device = "",
    data_dir: DataDir = None,
) -> None:
    """Evaluate a finished run's network again, and check the predictions against its record."""
    from fertools.data import load
    from fertools.evaluation.runs import check_run
    from fertools.paths import find_run
    from fertools.records import Record

    folder = find_run(run)
    record = Record.load(folder)
    if split and split not in record.metrics:
        raise typer.BadParameter(f"{record.name} recorded {', '.join(record.metrics)}, not {split!r}")
    names = [split] if split else list(record.metrics)
    check = check_run(folder, load(record.data["name"], data_dir), names, _device(device))
    typer.echo(str(check))
    if not check.ok:
        raise RunError(f"{record.name}: the predictions are not the recorded ones")


@app.command()
def predict(
    # readable=False leaves the check to the predictor, so that one unreadable photo doesn't stop the others.
    files: Annotated[list[Path], typer.Argument(help="Photos, and folders of photos.", metavar="FILE", readable=False)],
    as_json: Annotated[bool, typer.Option("--json", help="JSON Lines: one object per photo.")] = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="CSV: one row per face.")] = False,
    annotate: Annotated[
        Path | None,
        typer.Option(
            help="Also write copies with boxes and labels into this folder, as PNG; existing files are kept.",
            metavar="DIR",
            file_okay=False,
        ),
    ] = None,
    model: Annotated[
        str,
        typer.Option(help="A run, its folder, or a .safetensors file.  [default: the network that is shipped]"),
    ] = "",
    threshold: Annotated[
        float | None,
        typer.Option(help="Abstain below this confidence. By default the one chosen in training.", min=0, max=1),
    ] = None,
) -> None:
    """Label the expression of each face in photos.

    A label is what people would call the expression in the photo. It is not what the person feels, and not a
    reason to judge anyone. Where the network is not confident enough, it says "unsure".

    One result per photo, in the order given. Exit code 1 if a photo could not be read or a copy could not
    be written; the other photos are labeled all the same.
    """
    import csv
    import io
    import json
    from dataclasses import replace

    if as_json and as_csv:
        raise typer.BadParameter("choose one of --json and --csv")
    if annotate:
        try:
            annotate.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise typer.BadParameter(str(error), param_hint="--annotate") from None

    from tqdm import tqdm

    from fertools.data.faces import images_in
    from fertools.inference.detection import available_cores, ignore_pillow_warnings
    from fertools.inference.output import COLUMNS, describe, rows
    from fertools.inference.predictor import SHIPPED, Predictor

    ignore_pillow_warnings()
    predictor = Predictor.from_pretrained(model or SHIPPED, threshold=threshold)
    photos: list[Path] = []
    for file in files:
        # A folder without photos stays in the list, and is reported like a file that isn't one.
        photos += (images_in(file) if os.path.isdir(file) else []) or [file]  # a name may be too long for file.is_dir()
    bar = tqdm(photos, desc="predict", unit="photo", disable=len(photos) < 10)
    workers = available_cores() if len(photos) >= 30 else 1  # starting processes takes as long as ten photos

    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # a file's name need not be text
    table = csv.DictWriter(sys.stdout, [*COLUMNS, *predictor.classes], lineterminator="\n")
    if as_csv:
        table.writeheader()
    elif not as_json:
        print("Labels that people would give to the expression in the photo, not what anybody feels:")
    failed = False
    for photo, result in zip(photos, predictor.stream(bar, workers=workers), strict=True):
        failed |= result.failed
        shown = replace(result, source=printable(result.source), message=result.message and printable(result.message))
        with tqdm.external_write_mode():
            if as_json:
                print(json.dumps(result.to_dict(), allow_nan=False))
            elif as_csv:
                table.writerows({name: csv_cell(value) for name, value in row.items()} for row in rows(shown))
                if result.message:
                    print(describe(shown), file=sys.stderr)
            else:
                print(describe(shown))
            if annotate and result.faces:
                from fertools.inference.drawing import save_annotated

                try:
                    save_annotated(photo, result, annotate)
                except (OSError, FertoolsError) as error:
                    failed = True
                    print(f"{printable(str(photo))}: no copy was written: {printable(str(error))}", file=sys.stderr)
    if failed:
        raise typer.Exit(1)


def printable(text: str) -> str:
    r"""The text with control characters escaped: a file's name must not steer a terminal.

    >>> printable("caf\u00e9\x1b[2J.jpg")
    'café\\x1b[2J.jpg'
    """
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)


def csv_cell(value: Any) -> Any:
    """The value, with text that a spreadsheet would run as a formula quoted.

    >>> csv_cell("=1+1.jpg"), csv_cell(-1)
    ("'=1+1.jpg", -1)
    """
    return f"'{value}" if isinstance(value, str) and value.startswith(("=", "+", "-", "@")) else value


@app.command()
def sweep(
    file: Annotated[Path, typer.Argument(help="A sweep file, e.g. data/sweeps/ckplus48-subject.toml.", metavar="FILE")],
    list_: Annotated[bool, typer.Option("--list", help="Only list the runs and their state.")] = False,
    jobs: Annotated[
        int | None,
        typer.Option(help="Runs at a time, one thread each. By default one per core on a CPU.", min=1),
    ] = None,
    device: Device = "",
    minutes: Minutes = None,
    ray: Annotated[bool, typer.Option("--ray", help="Run on Ray, several runs at a time.")] = False,
    address: Annotated[str, typer.Option(help="With --ray: a cluster's address. By default Ray starts here.")] = "",
    gpus_per_run: Annotated[
        float | None,
        typer.Option(help="With --ray: the fraction of a GPU for a run. By default 0.25 if there are any.", min=0),
    ] = None,
    cpus_per_run: Annotated[float, typer.Option(help="With --ray: the cores for a run.", min=0)] = 1,
    data_dir: DataDir = None,
) -> None:
    """Train every run of a sweep that has no record yet. The same command continues a stopped sweep."""
    from fertools.data import load
    from fertools.training.runtime import keep_freed_memory
    from fertools.training.scheduler import OnRay, run_sweep
    from fertools.training.sweeps import Sweep

    if not ray and (address or gpus_per_run is not None):
        raise typer.BadParameter("--address and --gpus-per-run say how to run on Ray: give --ray too")
    if ray and jobs is not None:
        raise typer.BadParameter("choose one of --jobs and --ray")
    wanted = Sweep.read(file)
    if list_:
        for run in wanted.runs:
            typer.echo(f"{wanted.state(run):<10}  {run.name}  {' '.join(run.overrides)}")
        return
    keep_freed_memory()
    run_sweep(
        wanted,
        load(wanted.data, data_dir),
        device=_device(device),
        minutes=minutes,
        jobs=jobs,
        ray=OnRay(address, gpus_per_run, cpus_per_run) if ray else None,
        say=typer.echo,
    )


@app.command()
def compare(
    runs: Annotated[
        list[str] | None,
        typer.Argument(help="Zero, one, or two runs or sweep variants (SWEEP/VARIANT).", metavar="RUN"),
    ] = None,
    tta: Annotated[str, typer.Option(help="Test-time augmentation: single-crop, flip, or ten-crop.")] = "single-crop",
) -> None:
    """Compare results. Without a run: the paper's tables with our rows. With one run: its recall of each
    class next to the paper's. With two: paired tests on the same images.
    """
    choices = ("single-crop", "flip", "ten-crop")
    if tta not in choices:
        raise typer.BadParameter(f"{tta!r} is not one of {', '.join(choices)}", param_hint="--tta")
    if len(runs or []) > 2:
        raise typer.BadParameter("compare takes at most two runs")

    from fertools.evaluation.comparisons import compare_runs
    from fertools.evaluation.tables import class_text, paper_tables, tables_text

    match runs or []:
        case [a, b]:
            typer.echo(str(compare_runs(a, b, tta)))
        case [run]:
            typer.echo(class_text(run, tta))
        case _:
            typer.echo(tables_text(paper_tables()))


@app.command()
def export(
    run: Annotated[str, typer.Argument(help="A finished run: its name, or its folder.", metavar="RUN")],
    output: Annotated[Path, typer.Option(help="The file to write.", metavar="FILE", dir_okay=False)],
    fp16: Annotated[bool, typer.Option("--fp16", help="Half the size.")] = False,
    int8: Annotated[bool, typer.Option("--int8", help="A third of the size; a few labels change.")] = False,
    calibration: Annotated[
        str,
        typer.Option(
            help="With --int8: the data set whose training images set the ranges. By default the run's own.",
            metavar="DATASET",
        ),
    ] = "",
    data_dir: DataDir = None,
) -> None:
    """Write a trained network as ONNX, after checking it against PyTorch."""
    from fertools.data import load
    from fertools.inference.export import export_onnx
    from fertools.records import Record

    if fp16 and int8:
        raise typer.BadParameter("choose one of --fp16 and --int8")
    if calibration and not int8:
        raise typer.BadParameter("--calibration is for --int8")
    images = None
    if int8:
        faces = load(calibration or Record.load(run).data["name"], data_dir)
        images = (faces if faces.split is None else faces.of_split("Training")).images
    path = export_onnx(run, output, "int8" if int8 else "fp16" if fp16 else "fp32", images)
    typer.echo(f"{path}: {path.stat().st_size:,} bytes, checked against PyTorch")


def main() -> None:
    """The entry point."""
    app()
