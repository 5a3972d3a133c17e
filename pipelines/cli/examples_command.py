"""``autofreeze examples``."""

from pathlib import Path
from typing import Annotated

import typer

from pipelines.cli.consoles import say
from pipelines.cli.exit_codes import exit_codes

__all__ = ["examples_command"]


def examples_command(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="New folder to write")] = Path(
        "examples"
    ),
) -> None:
    """Write the files that come with the package: to run, to deploy, to simulate, to change.

    Configurations and a Prefect deployment; prices, clusters, workloads and a recorded trace.
    """
    from pipelines.example_configs import write_examples

    with exit_codes():
        for path in write_examples(folder):
            say(str(path))
