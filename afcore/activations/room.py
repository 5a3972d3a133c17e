"""Room for a new set below a limit: the least recently used sets go that no live run reads."""

import logging
from functools import partial

from afcore.activations.building import evict, is_being_built, is_read
from afcore.activations.known_runs import KnownRuns
from afcore.activations.sets import ActivationSet, committed_sets, kept_by_others
from afcore.storage.objects import Storage

__all__ = ["make_room", "room_bytes"]

_log = logging.getLogger(__name__)


def room_bytes(storage: Storage, above: str, limit: int, wanted: int) -> int:
    """What a new set may have: what is free, and where that is too little, what can go.

    Args:
        storage: where.
        above: folder of all sets that the limit is for.
        limit: of their bytes.
        wanted: bytes; where so many are free, nothing else is looked at.
    """
    free = limit - sum(storage.list(above).values())
    if free >= wanted:
        return free
    return free + sum(_num_bytes(storage, found) for found in _idle_sets(storage, above))


def make_room(storage: Storage, above: str, limit: int, wanted: int) -> None:
    """Let sets go, the least recently used first, until ``wanted`` bytes are free."""
    free = limit - sum(storage.list(above).values())
    for found in _idle_sets(storage, above) if free < wanted else ():
        size = _num_bytes(storage, found)
        if evict(storage, found.folder, partial(is_read, storage, found.folder)):
            free += size
            _log.info(
                "activations@%d, %.1f MB, least recently used, is gone: cache.max_bytes",
                *(found.manifest.boundary, size / 1e6),
            )
        if free >= wanted:
            return


def _idle_sets(storage: Storage, above: str) -> list[ActivationSet]:
    """Those that can go, the least recently used first."""
    runs, idle = KnownRuns(storage), []
    for stored, found in committed_sets(storage):
        if (
            stored.folder.startswith(f"{above}/")
            and not any(map(runs.is_live, stored.users))
            and not is_being_built(storage, stored.folder)
            and not kept_by_others(storage, stored.folder)
        ):
            idle.append((stored.last_use, found))
    return [found for _, found in sorted(idle, key=lambda one: one[0])]


def _num_bytes(storage: Storage, found: ActivationSet) -> int:
    return sum(storage.list(found.folder).values())
