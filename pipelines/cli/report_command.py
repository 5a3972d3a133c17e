"""``autofreeze report``."""

from pathlib import Path
from typing import Annotated

import typer

from pipelines.cli.consoles import say
from pipelines.cli.exit_codes import exit_codes
from pipelines.cli.options import DEFAULT_STORE

__all__ = ["report_command"]


def report_command(
    wanted: Annotated[
        list[str],
        typer.Argument(
            metavar="RUN...",
            help="JSON that --report wrote, YAML file of a run, or how a run's id begins",
        ),
    ],
    output: Annotated[Path, typer.Option(metavar="FILE", help="HTML file to write")] = Path(
        "report.html"
    ),
    store: Annotated[
        str | None,
        typer.Option(help=f"Root of the store. Default: CONFIG's; of a run's id {DEFAULT_STORE}"),
    ] = None,
) -> None:
    """Write runs as one page: scores, seconds, dollars, what froze and why, what was predicted.

    The page needs nothing beside it: it can be mailed, or kept for years.
    """
    with exit_codes():
        from pipelines.cli.report_shown import write_report_page

        count = write_report_page(wanted, output, store, DEFAULT_STORE)
        runs = "1 run" if count == 1 else f"{count} runs"
        say(f"{output}: {runs}")
