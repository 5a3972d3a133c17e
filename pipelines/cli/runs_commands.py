"""``autofreeze runs ...``."""

from typing import Annotated

import typer

from pipelines.cli.consoles import console, wide
from pipelines.cli.exit_codes import exit_codes
from pipelines.cli.options import DEFAULT_STORE, StoreUri

__all__ = ["runs_app", "runs_gc", "runs_ls"]

runs_app = typer.Typer(no_args_is_help=True, help="Look at runs, and delete what is old.")


@runs_app.command("ls")
def runs_ls(store: StoreUri = DEFAULT_STORE) -> None:
    """List runs: whether they are done, and the bytes that they take."""
    with exit_codes():
        from pipelines.cli.runs_shown import print_runs

        print_runs(store, wide())


@runs_app.command("gc")
def runs_gc(
    store: StoreUri = DEFAULT_STORE,
    older_than_days: Annotated[
        float, typer.Option(min=0, help="Delete runs that nobody worked on for so many days")
    ] = 30.0,
    published_days: Annotated[
        float,
        typer.Option(
            min=0, help="Delete checkpoints of runs whose model is in MLflow for so many days"
        ),
    ] = 0.0,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say it, but delete nothing")] = False,
) -> None:
    """Delete old runs, and checkpoints that a published run no longer needs.

    Models in MLflow stay, and so does what a live run needs. Of registered models, versions go
    where `retrain.keep_versions` says how many to keep. Activation sets: cache gc.
    """
    with exit_codes():
        from afcore.retraining.version_retention import collect_versions
        from afcore.runs.retention import collect_runs
        from pipelines.cli.runs_shown import print_removals

        removals = collect_runs(
            store,
            max_idle_seconds=older_than_days * 86400,
            published_idle_seconds=published_days * 86400,
            dry_run=dry_run,
        )
        removals += collect_versions(store, dry_run=dry_run)
        print_removals(removals, console, dry_run)
