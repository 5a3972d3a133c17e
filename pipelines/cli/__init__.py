"""The command line ``autofreeze``.

Exit codes: 0; 2 for a user's mistake; 143 or 130 when told to stop (SIGTERM, Ctrl-C); 1 for
anything else.
"""

from pipelines.cli.application import app
from pipelines.cli.cache_commands import cache_app
from pipelines.cli.check_model_command import check_model_command
from pipelines.cli.compare_command import compare_command
from pipelines.cli.examples_command import examples_command
from pipelines.cli.exit_codes import exit_codes
from pipelines.cli.plan_command import plan_command
from pipelines.cli.predict_command import predict_command
from pipelines.cli.replay_command import replay_command
from pipelines.cli.report_command import report_command
from pipelines.cli.retrain_command import retrain_command
from pipelines.cli.run_command import run_command
from pipelines.cli.runs_commands import runs_app
from pipelines.cli.search_command import search_command
from pipelines.cli.show_command import show_command
from pipelines.cli.simulate_command import simulate_command
from pipelines.cli.stack_commands import stack_app
from pipelines.environment import set_defaults

__all__ = ["app", "exit_codes", "main"]

for _name, _command in {
    "run": run_command,
    "predict": predict_command,
    "compare": compare_command,
    "search": search_command,
    "retrain": retrain_command,
    "plan": plan_command,
    "replay": replay_command,
    "show": show_command,
    "report": report_command,
    "check-model": check_model_command,
    "simulate": simulate_command,
    "examples": examples_command,
}.items():
    app.command(_name)(_command)
app.add_typer(cache_app, name="cache")
app.add_typer(runs_app, name="runs")
app.add_typer(stack_app, name="stack")


def main() -> None:
    """Entry point of the console script."""
    set_defaults()
    app()
