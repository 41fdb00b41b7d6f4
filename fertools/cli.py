"""The command line: ``fertools data``, ``audit``, ``train``, ``evaluate``, ``predict``, ``sweep``,
``compare``, ``export``.

Exit codes: 0 done, 1 it failed, 2 the call was wrong.
"""

from __future__ import annotations

import csv
import io
import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from fertools.errors import FertoolsError, RunError

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Facial expression recognition with the multi-scale feature fusion network: the data, "
    "the training and the evaluation behind the book.",
)

Root = Annotated[Path, typer.Option(help="The folder that holds the data sets.")]


@app.command()
def data(root: Root = Path("data")) -> None:
    """Show which data sets are here, what they hold, and where a missing one is had."""
    from fertools.data import inventory

    for entry in inventory(root):
        typer.echo(str(entry))


@app.command()
def audit(
    name: Annotated[str, typer.Argument(help="A data set, as `fertools data` names it.", metavar="SET")],
    out: Annotated[Path | None, typer.Option(help="Also write the numbers, as JSON.", metavar="FILE")] = None,
    root: Root = Path("data"),
) -> None:
    """Count duplicates, leaks between splits, conflicting labels and blank images in a set."""
    from fertools.data import load
    from fertools.data.audit import audit as find
    from fertools.data.audit import summary
    from fertools.files import atomic_write

    faces = load(name, root)
    found = find(faces)
    typer.echo(str(found))
    if out is not None:
        with atomic_write(out) as part:
            part.write_text(json.dumps(summary(faces, found), indent=1) + "\n")


@app.command()
def train(
    out: Annotated[str, typer.Option(help="The run: a name under data/runs, or a folder.", metavar="RUN")],
    recipe: Annotated[str, typer.Option(help="A named recipe; a wrong name lists them.")] = "cpu-synthetic",
    data: Annotated[str, typer.Option(help="A data set, as `fertools data` names it.", metavar="SET")] = "synthetic",
    seed: Annotated[int, typer.Option(help="Seed of everything random.", min=0)] = 0,
    set: Annotated[
        list[str] | None,
        typer.Option(help="Change a field of the recipe: epochs=5, network.width=16.", metavar="FIELD=VALUE"),
    ] = None,
    init: Annotated[str, typer.Option(help="Start from the weights of this finished run.", metavar="RUN")] = "",
    device: Annotated[str, typer.Option(help="cpu or cuda; by default a GPU where there is one.")] = "",
    minutes: Annotated[
        float | None, typer.Option(help="Stop after so long; the same command continues.", min=0)
    ] = None,
    tensorboard: Annotated[bool, typer.Option("--tensorboard", help="Also write TensorBoard files.")] = False,
    root: Root = Path("data"),
) -> None:
    """Train a network and record the run. The same command continues a run that was stopped.

    Under torchrun, several processes share each batch, with the result of one:
    torchrun --nproc-per-node 2 -m fertools train ...
    """
    from fertools.data import load
    from fertools.recipes import recipe as named
    from fertools.training import distributed
    from fertools.training.trainer import train as run

    overrides = set or []
    try:
        config = named(recipe, overrides)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None
    folder = run_folder(out)
    record = run(
        config,
        load(data, root),
        folder,
        seed=seed,
        device=device or None,
        init=run_folder(init) / "model.safetensors" if init else None,
        recipe=recipe,
        overrides=overrides,
        minutes=minutes,
        tensorboard=tensorboard,
    )
    if distributed.start()[0] == 0:
        typer.echo(record.summary())


@app.command()
def evaluate(
    run: Annotated[str, typer.Argument(help="A finished run: its name under data/runs, or its folder.")],
    split: Annotated[str, typer.Option(help="One part of the data; all that were recorded if not given.")] = "",
    root: Root = Path("data"),
) -> None:
    """Run a finished network on its data again and hold the result against its record."""
    from fertools.data import load
    from fertools.evaluation.runs import evaluate_run
    from fertools.records import Record

    record = Record.load(run)
    if split and split not in record.metrics:
        raise typer.BadParameter(f"{record.name} recorded {', '.join(record.metrics)}, not {split!r}")
    again = evaluate_run(run_folder(run), load(record.data["name"], root), [split] if split else list(record.metrics))
    typer.echo(record.summary(again))
    for part, views in again.items():
        for view, found in views.items():
            if found["confusion"] != record.metrics[part][view]["confusion"]:
                wanted = record.metrics[part][view]["accuracy"]
                raise RunError(f"{part}, {view}: the record has other counts, {wanted:.2%}")


@app.command()
def predict(
    files: Annotated[list[Path], typer.Argument(help="Pictures, and folders of pictures.", metavar="FILES...")],
    as_json: Annotated[bool, typer.Option("--json", help="JSON Lines: an object per picture.")] = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="CSV: a row per face.")] = False,
    annotate: Annotated[
        Path | None,
        typer.Option(
            help="Also write copies as PNG into this folder, with box and label; never over a file that is there.",
            metavar="DIR",
            file_okay=False,
        ),
    ] = None,
    run: Annotated[
        str, typer.Option(help="A run under data/runs, its folder, or a .safetensors file.")
    ] = "cpu-fer2013",
    threshold: Annotated[
        float | None,
        typer.Option(help="Abstain below this confidence. By default the run's validation set it.", min=0, max=1),
    ] = None,
) -> None:
    """Label the expression of each face in pictures.

    A label says what people would call the expression in the picture. It is not what the person feels, and
    nothing to judge anybody by. Where the network is not sure enough it says "unsure".

    One result per picture, in the order given. Exit code 1 if a picture could not be read or a copy not
    written; the others are answered all the same.
    """
    if as_json and as_csv:
        raise typer.BadParameter("choose one of --json and --csv")
    if annotate:
        try:
            annotate.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise typer.BadParameter(str(error), param_hint="--annotate") from None

    from tqdm import tqdm

    from fertools.inference.predictor import COLUMNS, Predictor, describe, pictures_in, rows, save_annotated

    predictor = Predictor.from_pretrained(run, threshold=threshold)
    pictures: list[Path] = []
    for file in files:
        # A folder without pictures stays in the list, and gets its word there like a file that is none.
        pictures += (pictures_in(file) if file.is_dir() else []) or [file]
    bar = tqdm(pictures, desc="predict", unit="picture", disable=len(pictures) < 10)

    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # a file's name need not be text
    table = csv.DictWriter(sys.stdout, [*COLUMNS, *predictor.classes], lineterminator="\n")
    if as_csv:
        table.writeheader()
    elif not as_json:
        print("Labels that people would give to the expression in the picture, not what anybody feels:")
    failed = False
    for picture, result in zip(pictures, predictor.stream(bar), strict=True):
        failed |= result.failed
        with tqdm.external_write_mode():
            if as_json:
                print(json.dumps(asdict(result)))
            elif as_csv:
                table.writerows(rows(result))
                if result.problem:
                    print(describe(result), file=sys.stderr)
            else:
                print(describe(result))
            if annotate and result.faces:
                try:
                    save_annotated(picture, result, annotate)
                except (OSError, FertoolsError) as error:
                    failed = True
                    print(f"{picture}: no copy was written: {error}", file=sys.stderr)
    if failed:
        raise typer.Exit(1)


@app.command()
def sweep(
    file: Annotated[Path, typer.Argument(help="A sweep: a file of data/sweeps.", metavar="FILE")],
    list_: Annotated[bool, typer.Option("--list", help="Only show the runs and how far they are.")] = False,
    device: Annotated[str, typer.Option(help="cpu or cuda; by default a GPU where there is one.")] = "",
    minutes: Annotated[
        float | None, typer.Option(help="Stop after so long; the same command continues.", min=0)
    ] = None,
    ray: Annotated[bool, typer.Option("--ray", help="Run on Ray, several runs at a time.")] = False,
    address: Annotated[str, typer.Option(help="With --ray: of a cluster; by default Ray starts here.")] = "",
    gpus_per_run: Annotated[
        float | None, typer.Option(help="With --ray: a run's share of a GPU; by default 0.25 if there are any.", min=0)
    ] = None,
    cpus_per_run: Annotated[float, typer.Option(help="With --ray: the cores of a run.", min=0)] = 1,
    root: Root = Path("data"),
) -> None:
    """Make all runs of a sweep that have no record yet. The same command continues a stopped sweep."""
    from fertools.data import load
    from fertools.training.sweeps import OnRay, Sweep, run_sweep

    if not ray and (address or gpus_per_run is not None):
        raise typer.BadParameter("--address and --gpus-per-run say how to run on Ray: give --ray too")
    wanted = Sweep.read(file)
    if list_:
        for run in wanted.runs:
            typer.echo(f"{wanted.state(run):<10}  {run.name}  {' '.join(run.overrides)}")
        return
    run_sweep(
        wanted,
        load(wanted.data, root),
        device=device or None,
        minutes=minutes,
        ray=OnRay(address, gpus_per_run, cpus_per_run) if ray else None,
        say=typer.echo,
    )


@app.command()
def compare(
    runs: Annotated[
        list[str] | None, typer.Argument(help="None, one or two runs or sweeps (SWEEP/ROW).", metavar="[RUN [RUN]]")
    ] = None,
    view: Annotated[str, typer.Option(help="one, flip or ten-crop.")] = "one",
) -> None:
    """Without a run: the paper's tables with our rows. With one: its recall of each class beside
    the paper's. With two: whether the one is better than the other on the same images.
    """
    from fertools.evaluation import comparisons as the

    if view not in ("one", "flip", "ten-crop"):
        raise typer.BadParameter(f"view must be one, flip or ten-crop, not {view!r}")
    match runs or []:
        case []:
            typer.echo(the.tables_text(the.paper_tables()))
        case [run]:
            typer.echo(the.class_text(run, view))
        case [a, b]:
            typer.echo(str(the.compare_runs(a, b, view)))
        case _:
            raise typer.BadParameter("compare takes two runs at most")


@app.command()
def export(
    run: Annotated[str, typer.Argument(help="A finished run: its name under data/runs, or its folder.")],
    out: Annotated[Path, typer.Option(help="The file to write.", metavar="FILE", dir_okay=False)],
    fp16: Annotated[bool, typer.Option("--fp16", help="Half the size.")] = False,
    int8: Annotated[bool, typer.Option("--int8", help="A third of the size; a few labels change.")] = False,
    calibration: Annotated[
        str, typer.Option(help="With --int8: the set whose training images set its ranges; the run's own if not given.")
    ] = "",
    root: Root = Path("data"),
) -> None:
    """Write a trained network as ONNX, for onnxruntime, and hold it against PyTorch first."""
    from fertools.data import load
    from fertools.inference.export import export_onnx

    if fp16 and int8:
        raise typer.BadParameter("choose one of --fp16 and --int8")
    if calibration and not int8:
        raise typer.BadParameter("--calibration is for --int8")
    images = None
    if int8:
        faces = load(calibration or Record.load(run).data["name"], root)
        images = (faces if faces.split is None else faces.of_split("Training")).images
    path = export_onnx(run, out, "int8" if int8 else "fp16" if fp16 else "fp32", images)
    typer.echo(f"{path}: {path.stat().st_size:,} bytes, checked against PyTorch")


def main() -> None:
    """The entry point: the library's own errors become one readable message and exit code 1."""
    try:
        app()
    except FertoolsError as error:
        sys.exit(f"fertools: {error}")
