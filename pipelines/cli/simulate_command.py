"""``autofreeze simulate``."""

from pathlib import Path
from typing import Annotated

import typer

from pipelines.cli.consoles import wide
from pipelines.cli.exit_codes import exit_codes
from pipelines.cli.options import FigurePath, ReportPath, check_writable

__all__ = ["simulate_command"]


def simulate_command(
    cluster: Annotated[
        str, typer.Option(metavar="FILE", help="YAML, or the name of a shipped one")
    ],
    trace: Annotated[
        Path | None,
        typer.Option(metavar="REPORT", help="JSON of run or compare whose boundaries are followed"),
    ] = None,
    workload: Annotated[
        str | None,
        typer.Option(metavar="FILE", help="YAML, or the name of a shipped one"),
    ] = None,
    global_batch: Annotated[
        int | None, typer.Option(min=1, help="Examples of a step over all workers")
    ] = None,
    report: ReportPath = None,
    figure: FigurePath = None,
) -> None:
    """Predict time and cost of a recorded training on a described cluster, in every mode.

    Nothing is measured or trained. Without --trace the boundaries are those of a recorded run of
    the paper's policy that comes with the package.
    """
    with exit_codes():
        check_writable(report)
        check_writable(figure, "--figure")
        from pipelines.cli.simulate_shown import simulate_report

        simulate_report(cluster, trace, workload, global_batch, report, figure, wide())
