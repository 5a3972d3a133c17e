"""Room for a new set below a limit: the least recently used sets go that no live run reads."""

import logging
from functools import partial

from afcore.activations.building import evict, is_being_built
from afcore.activations.sets import ActivationSet, kept_by_others, list_sets
from afcore.storage.lease import is_held
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
        if evict(storage, found.folder, partial(_is_live, storage, found)):
            free += size
            _log.info(
                "activations@%d, %.1f MB, least recently used, is gone: cache.max_bytes",
                *(found.manifest.boundary, size / 1e6),
            )
        if free >= wanted:
            return


def _idle_sets(storage: Storage, above: str) -> list[ActivationSet]:
    """Those that can go, the least recently used first."""
    idle = [
        found
        for found in list_sets(storage)
        if found.folder.startswith(f"{above}/")
        and not _is_live(storage, found)
        and not is_being_built(storage, found.folder)
        and not kept_by_others(storage, found.folder)
    ]
    return sorted(idle, key=_last_use)


def _num_bytes(storage: Storage, found: ActivationSet) -> int:
    return sum(storage.list(found.folder).values())


def _is_live(storage: Storage, found: ActivationSet) -> bool:
    return any(is_held(storage, f"{run}/lease") for run in found.users())


def _last_use(found: ActivationSet) -> float:
    return max([found.manifest.created, *found.users().values()])
