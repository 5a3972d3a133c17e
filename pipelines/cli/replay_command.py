"""``autofreeze replay``."""

from pathlib import Path
from typing import Annotated

import typer

from pipelines.cli.consoles import wide
from pipelines.cli.exit_codes import exit_codes

__all__ = ["replay_command"]


def replay_command(
    report: Annotated[Path, typer.Argument(metavar="REPORT", help="JSON of run or compare")],
    policy: Annotated[
        str, typer.Option(help="Freezing policy to replay, as freezing.policy")
    ] = "gradient_norm",
    overrides: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Change a value of the section freezing"),
    ] = None,
) -> None:
    """Replay a freezing policy on recorded statistics, and show how noisy they are.

    Nothing is trained. A run of mode freeze with --set freezing.policy=none records the statistics
    of all blocks.
    """
    from pipelines.cli.replay_shown import replay_report

    with exit_codes():
        replay_report(report, policy, overrides or [], wide())
