"""``autofreeze retrain``."""

from afcore.config import load_config
from pipelines.cli.consoles import say
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

__all__ = ["retrain_command"]


def retrain_command(
    config: ConfigPath,
    overrides: Overrides = None,
    report: ReportPath = None,
    fresh: Fresh = False,
) -> None:
    """Train again if the data has changed since the last time, and keep the better model.

    Unchanged rows end it in seconds. A new model becomes a version in MLflow's model registry; the
    alias champion moves to it only where it is not worse than the champion on the same test rows,
    by more than retrain.margin allows. For every night, by a deployment or by cron.
    """
    with exit_codes(commits=True):
        resolved = load_config(config, overrides or [])
        check_writable(report)
        result = run_flow("retrain", resolved, fresh=fresh)
        write_report(report, result)
        if result["trained"]:
            show_comparison(result["report"])
            show_uis(resolved)
        for line in result["lines"]:
            say(line)
