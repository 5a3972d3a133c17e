"""Looking after a store: list and verify activation sets.

Deleting them is :mod:`afcore.activations.garbage`'s.

A run that opens a set notes itself as its user. While it holds its lease it is live, and may read
the set at any moment.
"""

import time
from datetime import timedelta

from afcore.activations.known_runs import KnownRuns
from afcore.activations.manifest import ActivationManifest
from afcore.activations.sets import committed_sets, opened_sets
from afcore.errors import IntegrityError
from afcore.storage.objects import Storage

__all__ = ["describe_sets", "duration", "verify_sets"]


def describe_sets(store: str) -> list[tuple[str, ...]]:
    """One row a set: key, boundary, lineage, dtype, examples, MB, age, last use, users.

    Raises:
        StoreError: when there is no such store, or it cannot be read.
    """
    storage = Storage(store)
    storage.check_there()
    now, runs = time.time(), KnownRuns(storage)
    rows: list[tuple[str, ...]] = []
    for stored, found in committed_sets(storage):
        manifest = found.manifest
        rows.append(
            (
                manifest.key[:12],
                str(manifest.boundary),
                ">".join(map(str, manifest.lineage)),
                manifest.dtype,
                str(manifest.num_examples),
                _size(manifest),
                duration(now - manifest.created),
                f"{duration(now - stored.last_use)} ago",
                f"{len(stored.users)}, {sum(map(runs.is_live, stored.users))} live",
            )
        )
    return rows


def _size(manifest: ActivationManifest) -> str:
    """In MB; of one that keeps shards of others, also of those that it wrote."""
    own = "" if manifest.own_bytes == manifest.num_bytes else f"{manifest.own_bytes / 1e6:.1f} of "
    return f"{own}{manifest.num_bytes / 1e6:.1f}"


def verify_sets(store: str) -> tuple[int, list[str]]:
    """Read everything; the number of sets and what is wrong, one line each.

    Raises:
        StoreError: when there is no such store, or it cannot be read.
    """
    storage = Storage(store)
    storage.check_there()
    num_sets, problems = 0, []
    for _, found in opened_sets(storage):
        num_sets += 1
        problems += [str(found)] if isinstance(found, IntegrityError) else found.verify()
    return num_sets, problems


def duration(seconds: float) -> str:
    """As days and h:mm:ss."""
    return str(timedelta(seconds=round(seconds)))
