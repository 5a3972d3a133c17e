"""Looking after a store: list, verify and collect activation sets.

A set may be read by a live run when the run noted itself as its user and holds its lease; such a
set is never collected. Objects without a manifest are what an interrupted writer left; they are
collected once they are older than :data:`UNFINISHED_SECONDS`.
"""

import time
from datetime import timedelta

from afcore.activations.sets import ActivationSet, list_sets
from afcore.lease import is_held
from afcore.storage import Storage

__all__ = ["UNFINISHED_SECONDS", "collect_garbage", "describe_sets", "verify_sets"]

UNFINISHED_SECONDS = 86400.0


def describe_sets(store: str) -> list[tuple[str, ...]]:
    """One row a set: key, boundary, lineage, dtype, examples, MB, age, last use, in use."""
    storage = Storage(store)
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
                f"{manifest.num_bytes / 1e6:.1f}",
                _duration(now - manifest.created),
                f"{_duration(now - _last_use(found))} ago",
                "yes" if _in_use(storage, found) else "no",
            )
        )
    return rows


def verify_sets(store: str) -> tuple[int, list[str]]:
    """Read everything; the number of sets and what is wrong, one line each."""
    sets = list_sets(Storage(store))
    return len(sets), [problem for found in sets for problem in found.verify()]


def collect_garbage(
    store: str, max_idle_seconds: float, *, dry_run: bool = False
) -> tuple[list[str], int]:
    """Delete sets that nobody used for ``max_idle_seconds``, and leftovers of writers.

    Returns:
        What was (or would be) deleted, one line each, and its bytes.
    """
    storage = Storage(store)
    now = time.time()
    deleted, num_bytes = [], 0
    sets = list_sets(storage)
    for found in sets:
        idle = now - _last_use(found)
        if idle < max_idle_seconds or _in_use(storage, found):
            continue
        deleted.append(f"{found.folder}: not used for {_duration(idle)}")
        num_bytes += found.manifest.num_bytes
        if not dry_run:
            found.evict()
    for folder, size in _unfinished(storage, {found.folder for found in sets}).items():
        deleted.append(f"{folder}: unfinished")
        num_bytes += size
        if not dry_run:
            storage.delete_folder(folder)
    return deleted, num_bytes


def _last_use(found: ActivationSet) -> float:
    return max([found.manifest.created, *(float(user["time"]) for user in found.users())])


def _in_use(storage: Storage, found: ActivationSet) -> bool:
    return any(is_held(storage, f"{user['run']}/lease") for user in found.users())


def _unfinished(storage: Storage, committed: set[str]) -> dict[str, int]:
    """Folders of sets without a manifest whose newest object is old, with their bytes."""
    sizes: dict[str, int] = {}
    newest: dict[str, float] = {}
    for root in ("activations", "runs"):
        for key, size in storage.list(root).items():
            head, found, rest = key.partition("activations/")
            if not found:
                continue
            folder = f"{head}{found}{rest.partition('/')[0]}"
            if folder not in committed:
                sizes[folder] = sizes.get(folder, 0) + size
                newest[folder] = max(newest.get(folder, 0.0), storage.modified(key))
    return {
        folder: size
        for folder, size in sizes.items()
        if time.time() - newest[folder] > UNFINISHED_SECONDS
    }


def _duration(seconds: float) -> str:
    return str(timedelta(seconds=round(seconds)))
