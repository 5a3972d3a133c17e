"""Looking after a store: list and verify activation sets.

Deleting them is :mod:`afcore.activations.garbage`'s.

A run that opens a set notes itself as its user. While it holds its lease it is live, and may read
the set at any moment.
"""

import time
from datetime import timedelta

from afcore.activations.sets import ActivationManifest, ActivationSet, list_sets
from afcore.storage.lease import is_held
from afcore.storage.objects import Storage

__all__ = ["describe_sets", "duration", "last_use", "live_users", "verify_sets"]


def describe_sets(store: str) -> list[tuple[str, ...]]:
    """One row a set: key, boundary, lineage, dtype, examples, MB, age, last use, users.

    Raises:
        StoreError: when there is no such store, or it cannot be read.
    """
    storage = Storage(store)
    storage.check_there()
    now = time.time()
    rows: list[tuple[str, ...]] = []
    for found in list_sets(storage):
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
                f"{duration(now - last_use(found))} ago",
                f"{len(found.users())}, {live_users(storage, found)} live",
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
    sets = list_sets(storage)
    return len(sets), [problem for found in sets for problem in found.verify()]


def last_use(found: ActivationSet) -> float:
    """When a run last opened it, or it was written; seconds since the epoch."""
    return max([found.manifest.created, *(float(user["time"]) for user in found.users())])


def live_users(storage: Storage, found: ActivationSet) -> int:
    """How many of its users are at work now."""
    return sum(is_held(storage, f"{user['run']}/lease") for user in found.users())


def duration(seconds: float) -> str:
    """As days and h:mm:ss."""
    return str(timedelta(seconds=round(seconds)))
