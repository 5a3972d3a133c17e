"""``autofreeze compare``."""

from typing import Annotated

import typer

from afcore.config import MODES, Config, load_config
from pipelines.cli.consoles import console
from pipelines.cli.exit_codes import exit_codes
from pipelines.cli.options import (
    ConfigPath,
    Fresh,
    Overrides,
    ReportPath,
    check_writable,
    parse_modes,
    write_report,
)
from pipelines.cli.run_flow import run_flow
from pipelines.cli.show_results import show_comparison, show_uis

__all__ = ["compare_command", "wants_to_share"]


def compare_command(
    config: ConfigPath,
    modes: Annotated[
        str,
        typer.Option(
            help=f"Comma-separated, of: {', '.join(MODES)}. The last four are Hugging Face's own "
            "Trainer on the same model and data: with its default order of examples (random), with "
            "its fastest (grouped by length), with that and early stopping, and with LoRA"
        ),
    ] = "full,cached",
    seeds: Annotated[
        int, typer.Option(min=1, help="Number of seeds, counted up from training.seed")
    ] = 1,
    overrides: Overrides = None,
    report: ReportPath = None,
    share: Annotated[
        bool,
        typer.Option("--share", help="Use activation sets of other runs instead of paying anew"),
    ] = False,
    fresh: Fresh = False,
) -> None:
    """Run the same training in several modes and put accuracy, time and cost side by side.

    All modes but those of the Trainer see the same batches. Every run pays for its own activation
    sets, unless --share is given or CONFIG says cache.share: true. Beside full, a column
    says whether a mode's difference to it in the test score is within noise.
    """
    with exit_codes(commits=True):
        resolved = load_config(config, overrides or [])
        wanted = parse_modes(modes)
        check_writable(report)
        result = run_flow(
            "compare",
            resolved,
            modes=wanted,
            seeds=seeds,
            share=share or wants_to_share(resolved),
            fresh=fresh,
        )
        recorded = result.pop("recorded")
        write_report(report, result)
        show_comparison(result)
        if any(recorded):
            console.print(
                f"{sum(recorded)} of {len(recorded)} runs were finished before; their results are "
                "the recorded ones. --fresh trains anew."
            )
        show_uis(resolved, all(recorded))


def wants_to_share(config: Config) -> bool:
    """Whether sharing was asked for; that it is the default of single runs does not count."""
    return "share" in config.cache.model_fields_set and config.cache.share
