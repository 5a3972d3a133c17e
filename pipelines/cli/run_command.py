"""``autofreeze run``."""

from typing import Annotated

import typer

from afcore.config import load_config
from pipelines.cli.consoles import console, say
from pipelines.cli.exit_codes import exit_codes
from pipelines.cli.options import (
    ConfigPath,
    Fresh,
    Overrides,
    ReportPath,
    check_writable,
    write_report,
)
from pipelines.cli.run_flow import run_flow
from pipelines.cli.show_results import show_comparison, show_uis

__all__ = ["run_command"]


def run_command(
    config: ConfigPath,
    overrides: Overrides = None,
    report: ReportPath = None,
    output: Annotated[
        str | None,
        typer.Option(
            metavar="DIR",
            help="Write the model to this folder: weights, tokenizer, labels, model card. A model "
            "that --output wrote before is replaced; a folder with anything else is refused",
        ),
    ] = None,
    fresh: Fresh = False,
) -> None:
    """Fine-tune a model as CONFIG says.

    Killed and started again, the same command goes on from the last epoch that was done. A
    finished run returns its recorded result, unless --fresh; with --output it writes its model.
    """
    with exit_codes(commits=True):
        resolved = load_config(config, overrides or [])
        check_writable(report)
        folder = None
        if output is not None:
            from afcore.runs.model_folder import check_output

            folder = check_output(output, resolved)
        result = run_flow("finetune", resolved, fresh=fresh)
        recorded = result.pop("recorded", False)
        write_report(report, result)
        if folder is not None:
            from afcore.runs.model_folder import write_model_folder

            write_model_folder(resolved, result["run_id"], folder)
        show_comparison(result)
        if recorded:
            console.print(
                "This run was finished before; the result is the recorded one. --fresh trains anew."
            )
        if folder is not None:
            say(f"Model: {folder}")
        show_uis(resolved, recorded)
