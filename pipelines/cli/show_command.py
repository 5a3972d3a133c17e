"""``autofreeze show``."""

from typing import Annotated

import typer

from pipelines.cli.consoles import say, wide
from pipelines.cli.exit_codes import exit_codes
from pipelines.cli.options import DEFAULT_STORE, Overrides

__all__ = ["show_command"]


def show_command(
    wanted: Annotated[
        str, typer.Argument(metavar="CONFIG|RUN_ID", help="YAML file, or how a run's id begins")
    ],
    store: Annotated[
        str | None,
        typer.Option(help=f"Root of the store. Default: CONFIG's; of a run's id {DEFAULT_STORE}"),
    ] = None,
    overrides: Overrides = None,
    why: Annotated[
        bool, typer.Option("--why", help="From which statistics each decision came")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="All that is known, as JSON")] = False,
) -> None:
    """Show what a run has done, epoch by epoch, what it would do next, and where all of it is.

    The run may be at work, stopped, finished or damaged; nothing is changed, and nothing trained.
    """
    with exit_codes():
        from pipelines.cli.status_shown import find_run_status, print_status

        status = find_run_status(wanted, overrides or [], store, DEFAULT_STORE)
        if as_json:
            say(status.model_dump_json(indent=1))
        else:
            print_status(status, wide(), why)
