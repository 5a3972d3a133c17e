"""``autofreeze cache ...``."""

from typing import Annotated

import typer

from afcore.errors import UserError
from pipelines.cli.consoles import console, errors, say, wide
from pipelines.cli.exit_codes import exit_codes
from pipelines.cli.options import DEFAULT_STORE, StoreUri
from pipelines.tables import ALL, table

__all__ = ["cache_app", "cache_gc", "cache_ls", "cache_verify"]

cache_app = typer.Typer(no_args_is_help=True, help="Look at, check and clean the activation cache.")


@cache_app.command("ls")
def cache_ls(store: StoreUri = DEFAULT_STORE) -> None:
    """List activation sets: boundary, size, age, last use, and the runs that used them."""
    from afcore.activations.maintenance import describe_sets

    with exit_codes():
        columns = ["key", "boundary", "lineage", "dtype", "examples", "MB"]
        columns += ["age", "last use", "users"]
        rows = describe_sets(store)
        wide().print(table(None, columns, rows, left=ALL, wrapped=ALL))
        say(f"activation sets in {store}: {len(rows)}")


@cache_app.command("verify")
def cache_verify(store: StoreUri = DEFAULT_STORE) -> None:
    """Read every shard and check its checksum; exit 1 when anything is damaged.

    A run that meets a damaged shard computes it again; nothing needs to be done by hand.
    """
    from afcore.activations.maintenance import verify_sets

    with exit_codes():
        num_sets, problems = verify_sets(store)
        for problem in problems:
            say(problem, errors)
        console.print(f"{num_sets} activation sets read, {len(problems)} problems")
        if problems:
            raise typer.Exit(1)


@cache_app.command("gc")
def cache_gc(
    store: StoreUri = DEFAULT_STORE,
    older_than_days: Annotated[
        float, typer.Option(min=0, help="Delete sets not used for so many days")
    ] = 30.0,
    max_gb: Annotated[
        float | None,
        typer.Option(
            min=0, max=1e9, help="Then delete the least recently used until so many GB are left"
        ),
    ] = None,
    max_bytes: Annotated[int | None, typer.Option(min=0, help="The same, in bytes")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say it, but delete nothing")] = False,
) -> None:
    """Delete activation sets that nobody used for long, or can use again, and what writers left.

    What a live run may read is never deleted.
    """
    from afcore.activations.garbage import collect_garbage

    with exit_codes():
        if max_gb is not None and max_bytes is not None:
            raise UserError("--max-gb and --max-bytes say the same; give one of them")
        removals = collect_garbage(
            store,
            max_idle_seconds=older_than_days * 86400,
            max_bytes=max_bytes if max_gb is None else int(max_gb * 1e9),
            dry_run=dry_run,
        )
        from pipelines.cli.runs_shown import print_removals

        print_removals(removals, console, dry_run)
