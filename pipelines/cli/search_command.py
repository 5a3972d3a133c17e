"""``autofreeze search``."""

from pathlib import Path
from typing import Annotated

import typer

from afcore.config import load_config
from afcore.errors import NoWinnerError
from pipelines.cli.consoles import console, wide
from pipelines.cli.exit_codes import exit_codes
from pipelines.cli.options import ConfigPath, Overrides, ReportPath, check_writable, write_report
from pipelines.cli.run_flow import run_flow
from pipelines.cli.show_results import show_uis

__all__ = ["search_command"]


def search_command(
    config: ConfigPath,
    over: Annotated[
        list[str] | None,
        typer.Option(
            "--over",
            metavar="KEY=VALUES",
            help="Vary a key: 1,2,3 or LOW..HIGH, with :log or :step=S behind it; may be given "
            "several times, beside search.vary in CONFIG",
        ),
    ] = None,
    proxy: Annotated[
        list[str] | None,
        typer.Option(
            "--proxy",
            metavar="KEY.PATH=VALUE",
            help="What trials have in place of the configuration's, to cost less; the best one is "
            "trained as configured; may be given several times",
        ),
    ] = None,
    trials: Annotated[
        int | None, typer.Option(min=1, help="How many. Default: 20, or the whole grid")
    ] = None,
    sampler: Annotated[
        str | None, typer.Option(help="tpe (the default), random, grid, qmc or gp")
    ] = None,
    pruner: Annotated[
        str | None,
        typer.Option(help="none (the default), median, successive_halving or hyperband"),
    ] = None,
    seeds: Annotated[
        int | None, typer.Option(min=1, help="Train each trial with so many seeds; take the mean")
    ] = None,
    folds: Annotated[
        int | None, typer.Option(min=2, help="Cross-validate each trial on so many folds")
    ] = None,
    labels: Annotated[
        str | None,
        typer.Option(metavar="A,B", help="Search for the best of each of these label columns"),
    ] = None,
    overrides: Overrides = None,
    best: Annotated[
        Path | None,
        typer.Option(
            "--best",
            metavar="FILE",
            help="Write the best configuration there. Default: CONFIG's name with .best.yaml, in "
            "the current folder",
        ),
    ] = None,
    predictions: Annotated[
        Path | None,
        typer.Option(
            "--predictions",
            metavar="FILE",
            help="With --folds, write what each predicts of its rows there, as CSV. Default: "
            "CONFIG's name with .out_of_fold.csv, in the current folder",
        ),
    ] = None,
    figures: Annotated[
        Path | None, typer.Option("--figures", metavar="DIR", help="Write the pictures there too")
    ] = None,
    report: ReportPath = None,
    fresh: Annotated[
        bool,
        typer.Option("--fresh", help="Forget this study's trials; what they trained is found"),
    ] = False,
) -> None:
    """Try many settings, share what their trainings have in common, publish the best.

    Killed and started again, the same command goes on: finished trials stay, running ones resume
    from their last epoch. Several processes with the same CONFIG work on one study. The test set
    is read for the best trial alone, at the end.
    """
    with exit_codes(commits=True):
        from pipelines.cli.search_shown import (
            best_path,
            check_figures,
            predictions_path,
            resolve_search,
            show_searches,
        )

        options = {"trials": trials, "sampler": sampler, "pruner": pruner, "seeds": seeds}
        options |= {"folds": folds, "labels": labels}
        given = load_config(config, overrides or [])
        resolved = resolve_search(given, over or [], proxy or [], options)
        check_writable(report)
        check_figures(figures)
        path = best_path(config, resolved, best)
        files = {
            "best_file": str(path),
            "predictions_file": predictions_path(config, resolved, predictions),
        }
        failed = None
        try:
            result = run_flow("search", resolved, **files, fresh=fresh)
        except NoWinnerError as error:
            failed, result = error, error.report or {}
        write_report(report, result)
        show_searches(result, figures, wide(), console)
        show_uis(resolved)
        if failed is not None:
            raise failed
