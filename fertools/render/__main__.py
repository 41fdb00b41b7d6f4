"""``python -m fertools.render MODEL``: renders the synthetic faces again."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from fertools.data import synthetic
from fertools.errors import FertoolsError
from fertools.render.produce import render, render_all_frames


def main(
    model: Annotated[Path, typer.Argument(help="The face model's folder: packed, or ICT-FaceKit's FaceXModel.")],
    out: Annotated[Path, typer.Option(help="Where to write the data set.")] = synthetic.FOLDER,
    seed: Annotated[int, typer.Option(help="Seed of everything random.", min=0)] = 0,
    processes: Annotated[int, typer.Option(help="How many processes render.", min=1)] = os.cpu_count() or 1,
    all_frames: Annotated[
        bool,
        typer.Option("--all-frames", help="Instead: all 327 sequences with every frame, 170 MB, in CK+'s layout."),
    ] = False,
) -> None:
    """Render the synthetic faces. If it was stopped, the same command continues."""
    if all_frames:
        if out == synthetic.FOLDER:
            raise typer.BadParameter("--all-frames needs a folder of its own: --out FOLDER")
        render_all_frames(model, out, seed, processes)
    else:
        render(model, out, seed, processes)


if __name__ == "__main__":
    try:
        typer.run(main)
    except (FertoolsError, ImportError) as error:
        sys.exit(f"fertools.render: {error}")
