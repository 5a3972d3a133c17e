"""``autofreeze runs``: what a store has of runs; and what ``runs gc`` and ``cache gc`` deleted."""

import time
from collections.abc import Sequence

from rich.console import Console

from afcore.activations.garbage import Removal
from afcore.activations.maintenance import duration
from afcore.runs.retention import list_runs
from afcore.storage.objects import Storage
from pipelines.cli.consoles import say
from pipelines.tables import ALL, table

__all__ = ["print_removals", "print_runs"]


def print_runs(store: str, console: Console) -> None:
    """A line a run, the one that was worked on last first."""
    storage = Storage(store)
    storage.check_there()
    columns = ("run", "state", "mode", "model", "score", "last worked on", "checkpoints MB", "MB")
    runs = list_runs(storage)
    rows = [
        (
            one.run_id,
            one.state,
            one.known.mode if one.known else "",
            one.known.model if one.known else "",
            one.known.score if one.known else "",
            f"{duration(one.idle(time.time()))} ago",
            f"{one.checkpoint_bytes / 1e6:.1f}",
            f"{one.num_bytes / 1e6:.1f}",
        )
        for one in runs
    ]
    console.print(table(None, columns, rows, left=ALL, wrapped=ALL))
    say(f"runs in {store}: {len(runs)}", console)


def print_removals(removals: Sequence[Removal], console: Console, dry_run: bool) -> None:
    """A line each, and their sum."""
    for removal in removals:
        line = f"{removal.folder}: {removal.why}, {removal.num_bytes / 1e6:.1f} MB"
        say(line, console)
    freed = sum(removal.num_bytes for removal in removals) / 1e6
    done = ("would be deleted", "would be freed") if dry_run else ("deleted", "freed")
    console.print(f"{len(removals)} {done[0]}, {freed:.1f} MB {done[1]}")
