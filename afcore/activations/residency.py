"""What this process holds of activation sets, from one epoch to the next, within which budgets."""

import contextlib
import sys
import tempfile
import threading
import weakref
from collections.abc import Iterator

import psutil
import torch

from afcore.activations.resident_shards import ResidentShards
from afcore.activations.tiers import Budgets, room_beside
from afcore.memory import available_memory

__all__ = ["hold_shards", "measure_budgets", "release_shards"]

_kept: tuple[object, ResidentShards] | None = None
_keeping = threading.Lock()
# The kept one and those in use, each with the number of workers that hold as much.
_all_held: weakref.WeakKeyDictionary[ResidentShards, int] = weakref.WeakKeyDictionary()


@contextlib.contextmanager
def hold_shards(
    *,
    device_bytes: int | None,
    host_bytes: int | None,
    disk_bytes: int | None,
    device: torch.device,
    store_is_local: bool,
    num_sharing: int = 1,
    needed_bytes: int = 0,
) -> Iterator[ResidentShards]:
    """What this process holds, for one epoch; kept afterwards for the next.

    Nobody else gets it meanwhile: a second training in the same process begins with nothing.
    Budgets that are None are measured when there is nothing yet.

    Args:
        device_bytes: most bytes in device memory.
        host_bytes: most bytes in host memory.
        disk_bytes: most bytes in a local file.
        device: that trains.
        store_is_local: see :class:`ResidentShards`.
        num_sharing: workers of this machine, each of which has a part of its memory and disk.
        needed_bytes: see :func:`measure_budgets`.
    """
    global _kept
    key = (device_bytes, host_bytes, disk_bytes, device, store_is_local, num_sharing)
    with _keeping:
        found, _kept = _kept, None
    held = found[1] if found is not None and found[0] == key else None
    del found
    if held is None:
        budgets = measure_budgets(
            device_bytes,
            host_bytes,
            disk_bytes,
            device,
            store_is_local,
            num_sharing,
            needed_bytes,
        )
        held = ResidentShards(budgets, device, store_is_local)
        _all_held[held] = num_sharing
    try:
        yield held
    finally:
        with _keeping:
            _kept = (key, held)


def release_shards() -> None:
    """Let go of what this process holds."""
    global _kept
    with _keeping:
        _kept = None


def measure_budgets(
    device_bytes: int | None,
    host_bytes: int | None,
    disk_bytes: int | None,
    device: torch.device,
    store_is_local: bool,
    num_sharing: int = 1,
    needed_bytes: int = 0,
    *,
    held_is_free: bool = False,
) -> Budgets:
    """One worker's part of the budgets as given; those that are None are half of what is free.

    Of a GPU this is asked before the model is on it, and again when it is: what this process has
    taken counts as free, and ``needed_bytes``, which the training takes of it, do not. Of host
    memory and disk, what is held counts as free if ``held_is_free``: for who plans meanwhile.
    """
    held = list(_all_held.items()) if held_is_free else []
    if device.type != "cuda":
        device_bytes = 0
    elif device_bytes is None:
        free = torch.cuda.mem_get_info(device)[0] + torch.cuda.memory_reserved(device)
        device_bytes = room_beside(free, needed_bytes)
    if host_bytes is None:
        held_bytes = sum(shards.host_bytes * count for shards, count in held)
        host_bytes = room_beside(available_memory() + held_bytes)
    if store_is_local:
        disk_bytes = sys.maxsize
    elif disk_bytes is None:
        file_bytes = sum(shards.file_bytes * count for shards, count in held)
        disk_bytes = room_beside(psutil.disk_usage(tempfile.gettempdir()).free + file_bytes)
    return Budgets(device_bytes, host_bytes // num_sharing, disk_bytes // num_sharing)
