"""The command line: ``fertools data``, ``audit``, ``train``, ``evaluate``.

Exit codes: 0 done, 1 it failed, 2 the call was wrong.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from fertools.errors import FertoolsError, RunError
from fertools.records import Record, run_folder

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
    root: Root = Path("data"),
) -> None:
    """Count duplicates, leaks between splits, conflicting labels and blank images in a set."""
    from fertools.data import load
    from fertools.data.audit import audit as find

    typer.echo(str(find(load(name, root))))


@app.command()
def train(
    out: Annotated[str, typer.Option(help="The run: a name under data/runs, or a folder.", metavar="RUN")],
    recipe: Annotated[str, typer.Option(help="A named recipe; a wrong name lists them.")] = "cpu-fer2013",
    data: Annotated[str, typer.Option(help="A data set, as `fertools data` names it.", metavar="SET")] = "fer2013",
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
    from fertools import distributed
    from fertools.data import load
    from fertools.recipes import recipe as named
    from fertools.trainer import train as run

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
    from fertools.trainer import evaluate_run

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


def main() -> None:
    """The entry point: the library's own errors become one readable message and exit code 1."""
    try:
        app()
    except FertoolsError as error:
        sys.exit(f"fertools: {error}")
