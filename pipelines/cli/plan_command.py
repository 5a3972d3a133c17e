"""``autofreeze plan``."""

from pathlib import Path
from typing import Annotated

import typer

from afcore.config import CHOOSING_MODES, OWN_MODES, load_config
from afcore.errors import ConfigError
from pipelines.cli.consoles import console, wide
from pipelines.cli.exit_codes import exit_codes
from pipelines.cli.options import (
    ConfigPath,
    FigurePath,
    Overrides,
    ReportPath,
    check_writable,
    parse_modes,
    write_figure,
    write_report,
)

__all__ = ["plan_command"]


def plan_command(
    config: ConfigPath,
    overrides: Overrides = None,
    modes: Annotated[
        str | None,
        typer.Option(
            help=f"Comma-separated, of: {', '.join(OWN_MODES)}. Default: full,freeze,cached, and "
            "with several workers performance,efficiency"
        ),
    ] = None,
    report: ReportPath = None,
    trace: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Predict for the boundaries of this recorded report too"),
    ] = None,
    figure: FigurePath = None,
) -> None:
    """Predict seconds, bytes and dollars of a training before they are spent.

    A few batches are measured on this machine; nothing is trained. What will freeze is not known
    beforehand, so totals are given for the ends of what the policy may decide.
    """
    with exit_codes():
        resolved = load_config(config, overrides or [])
        several = ",performance,efficiency" if resolved.workers.max > 1 else ""
        wanted = parse_modes(modes or f"full,freeze,cached{several}", OWN_MODES)
        check_writable(report)
        check_writable(figure, "--figure")
        chooses = resolved.workers.max > 1 and not set(wanted).isdisjoint(CHOOSING_MODES)
        if figure is not None and not chooses:
            raise ConfigError(f"--figure {figure}: with one worker there is nothing to choose from")
        searches = resolved.search is not None and resolved.search.varies
        training = resolved
        if searches:
            from afcore.search.label_studies import label_configs
            from afcore.search.space import check_space

            studies = list(label_configs(resolved).values())
            for one in studies:
                check_space(one)
            training = studies[0]
        from afcore.launch.launcher import close_launchers
        from afcore.preview import preview_run
        from afcore.results.traces import load_recorded, recorded_trace
        from pipelines.plan_table import boundary_table, run_table, workers_table

        recorded = recorded_trace(load_recorded(trace)) if trace is not None else None
        with console.status("Measuring a few batches"):
            try:
                found = preview_run(training, wanted, recorded)
            finally:
                close_launchers()
        write_report(report, found.model_dump(mode="json"))
        wide().print(boundary_table(found))
        if found.weighs_workers:
            wide().print(workers_table(found))
        wide().print(run_table(found))
        if searches:
            from afcore.search.study_forecast import forecast_study
            from pipelines.search_table import forecast_table

            with console.status("Predicting the trials of its search"):
                study = forecast_study(resolved)
            wide().print(forecast_table(study))
        if figure is not None:
            from pipelines.plan_figures import pareto_figure

            write_figure(figure, pareto_figure(found))
        for note in found.notes:
            console.print(note, markup=False)
