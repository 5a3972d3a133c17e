"""Tables and addresses behind a training."""

import contextlib
from collections.abc import Sequence
from typing import Any

from afcore.config import Config
from afcore.errors import AutoFreezeError
from pipelines.cli.consoles import console, say, wide

__all__ = ["show_comparison", "show_uis"]


def show_comparison(result: dict[str, Any]) -> None:
    """Runs as a table, what happened in them, and what a reader should know.

    Args:
        result: report of a comparison, or of one run.
    """
    from afcore.results.comparison import compare_report
    from afcore.results.report import CompareReport, RunReport
    from pipelines.comparison_table import classes_table, comparison_table, stories

    if "runs" in result:
        comparison = CompareReport.model_validate(result)
    else:
        comparison = compare_report([RunReport.model_validate(result)])
    console.print()
    wide().print(comparison_table(comparison))
    for line in stories(comparison):
        console.print(line, markup=False)
    for line in _notes(comparison.runs):
        console.print(line, markup=False)
    classes = comparison.runs[0].test_classes
    if len(comparison.runs) == 1 and classes is not None:
        wide().print(classes_table(classes))
        console.print(f"The confusion matrix as a picture, in MLflow: {classes.figure}")


def _notes(runs: Sequence[Any]) -> list[str]:
    """What a reader should know; once, where it holds for every run."""
    of_all = [note for note in runs[0].notes if all(note in run.notes for run in runs)]
    of_all = of_all if len(runs) > 1 else []
    return [f"every run: {note}" for note in of_all] + [
        f"{run.mode}, seed {run.seed}: {note}"
        for run in runs
        for note in run.notes
        if note not in of_all
    ]


def show_uis(config: Config, recorded: bool = False) -> None:
    """Where MLflow and Prefect show it."""
    uri = config.tracking.uri
    if uri.startswith("http") and not recorded:  # what was finished before needs no MLflow
        from afcore.tracking.tracker import Tracker

        with contextlib.suppress(AutoFreezeError):
            uri = Tracker(uri, config.tracking.experiment).experiment_address() or uri
    name = config.tracking.experiment
    say(f"MLflow, experiment {name!r}: {uri}")
    if uri.startswith("sqlite:"):
        say(
            f"Look at it with: mlflow ui --backend-store-uri {uri}\n"
            "and at the Prefect flows with: prefect server start",
        )
