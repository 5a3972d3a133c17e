"""``autofreeze check-model``."""

import signal
from typing import Annotated

import typer

from pipelines.cli.consoles import say, wide
from pipelines.cli.exit_codes import exit_codes

__all__ = ["check_model_command"]


def check_model_command(
    name: Annotated[
        str,
        typer.Argument(
            metavar="MODEL",
            help="Folder or hub id; a folder may hold config.json alone, then weights are random",
        ),
    ],
    task: Annotated[
        str | None,
        typer.Option(
            help="Whose head it gets. Default: that of its architecture, else the first it can have"
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="All that is known, as JSON")] = False,
) -> None:
    """Try whether a model can be split, frozen and cached, and say why not.

    The verdict is cached, freeze only or unsupported; whatever it is, the exit code is 0. Nothing
    is trained or written. docs/models.md has the verdicts of many families.
    """
    with exit_codes():
        from afcore.conformance.verdict import check_model
        from pipelines.cli.check_model_shown import print_conformance

        # Nothing is committed that a stop could spoil, and a model's own errors are all caught.
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        found = check_model(name, task)
        if as_json:
            say(found.model_dump_json(indent=1))
        else:
            print_conformance(found, wide())
