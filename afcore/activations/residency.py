"""What this process holds of activation sets, from one epoch to the next, within which budgets."""

import contextlib
import sys
import tempfile
import threading
import weakref
from collections.abc import Iterator
from dataclasses import dataclass, field

import psutil
import torch

from afcore.activations.resident_shards import ResidentShards
from afcore.activations.tiers import Budgets, room_beside
from afcore.memory import available_memory

__all__ = ["Residency", "hold_shards", "measure_budgets", "release_shards"]


@dataclass(frozen=True)
class Residency:
    """Where one worker holds activations, and how much of them.

    Attributes:
        device: that trains.
        store_is_local: see :class:`ResidentShards`.
        device_bytes: most bytes in device memory; of each tier, None is half of what is free.
        host_bytes: most bytes in host memory.
        disk_bytes: most bytes in a local file.
        num_sharing: workers of this machine, each of which has a part of its memory and disk.
        needed_bytes: of device memory, by the training.
    """

    device: torch.device
    store_is_local: bool = True
    device_bytes: int | None = None
    host_bytes: int | None = None
    disk_bytes: int | None = None
    num_sharing: int = 1
    needed_bytes: int = field(default=0, compare=False)


_kept: tuple[Residency, ResidentShards] | None = None
_keeping = threading.Lock()
# The kept one and those in use, each with the number of workers that hold as much.
_all_held: weakref.WeakKeyDictionary[ResidentShards, int] = weakref.WeakKeyDictionary()


@contextlib.contextmanager
def hold_shards(residency: Residency) -> Iterator[ResidentShards]:
    """What this process holds, for one epoch; kept afterwards for the next.

    Nobody else gets it meanwhile: a second training in the same process begins with nothing.
    Budgets that are None are measured when there is nothing yet.
    """
    global _kept
    with _keeping:
        found, _kept = _kept, None
    held = None
    if found is not None and found[0] == residency and _leaves_enough(found[0], residency):
        residency, held = found
    del found
    if held is None:
        budgets = measure_budgets(residency)
        held = ResidentShards(budgets, residency.device, residency.store_is_local)
        _all_held[held] = residency.num_sharing
    try:
        yield held
    finally:
        with _keeping:
            _kept = (residency, held)


def _leaves_enough(found: Residency, wanted: Residency) -> bool:
    """Whether what was measured beside one training leaves another one what it needs."""
    is_measured = wanted.device.type == "cuda" and wanted.device_bytes is None
    return not is_measured or wanted.needed_bytes <= found.needed_bytes


def release_shards() -> None:
    """Let go of what this process holds."""
    global _kept
    with _keeping:
        _kept = None


def measure_budgets(residency: Residency, *, held_is_free: bool = False) -> Budgets:
    """One worker's part of the budgets as given; those that are None are half of what is free.

    Of a GPU this is asked before the model is on it, and again when it is: what this process has
    taken counts as free, and ``needed_bytes`` do not. Of host memory and disk, what is held counts
    as free if ``held_is_free``: for who plans meanwhile.
    """
    held = list(_all_held.items()) if held_is_free else []
    device, device_bytes = residency.device, residency.device_bytes
    host_bytes, disk_bytes = residency.host_bytes, residency.disk_bytes
    if device.type != "cuda":
        device_bytes = 0
    elif device_bytes is None:
        free = torch.cuda.mem_get_info(device)[0] + torch.cuda.memory_reserved(device)
        device_bytes = room_beside(free, residency.needed_bytes)
    if host_bytes is None:
        held_bytes = sum(shards.host_bytes * count for shards, count in held)
        host_bytes = room_beside(available_memory() + held_bytes)
    if residency.store_is_local:
        disk_bytes = sys.maxsize
    elif disk_bytes is None:
        file_bytes = sum(shards.file_bytes * count for shards, count in held)
        disk_bytes = room_beside(psutil.disk_usage(tempfile.gettempdir()).free + file_bytes)
    sharing = residency.num_sharing
    return Budgets(device_bytes, host_bytes // sharing, disk_bytes // sharing)
