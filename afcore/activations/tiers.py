"""Where the shards of a set are held, within byte budgets. Pure: no I/O, no torch.

Tiers are filled in the order device memory, host memory, local disk; the object store has
everything. A set that does not fit in memory is trained on window by window: whole shards are
drawn at random, and examples are shuffled within a window of them. About a quarter of the host
budget is the window, another quarter is for the next one, which is loaded meanwhile; the rest holds
shards for good.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

__all__ = ["Budgets", "Tier", "choose_window", "place", "room_beside", "window_bytes"]

Tier = Literal["device memory", "host memory", "local disk", "object store"]
_SHARE_OF_FREE = 0.5
_WINDOW_SHARE = 4
_WINDOWS_AT_ONCE = 2


@dataclass(frozen=True)
class Budgets:
    """Most bytes of activations to hold in each tier."""

    device_bytes: int
    host_bytes: int
    disk_bytes: int


def room_beside(free_bytes: int, needed_bytes: int = 0) -> int:
    """The budget of a tier where none is given: half of what is free and not needed otherwise."""
    return int(max(0, free_bytes - needed_bytes) * _SHARE_OF_FREE)


def choose_window(shard_bytes: Sequence[int], budgets: Budgets) -> int | None:
    """Shards in a window; None when device and host memory hold the whole set.

    Args:
        shard_bytes: of each shard.
        budgets: at least one shard is a window, whatever they say.
    """
    if _fill(shard_bytes, budgets.device_bytes, budgets.host_bytes, 0)[1] == len(shard_bytes):
        return None
    return max(1, round(budgets.host_bytes / _WINDOW_SHARE / max(shard_bytes)))


def place(shard_bytes: Sequence[int], budgets: Budgets, window: int | None) -> list[Tier]:
    """The tier of each shard: in their order, each into the first tier that still has room.

    Args:
        shard_bytes: of each shard.
        budgets: of them, host memory first gives up what the windows need.
        window: shards in a window, None: no windows.
    """
    host_bytes = max(0, budgets.host_bytes - window_bytes(shard_bytes, window))
    ends = _fill(shard_bytes, budgets.device_bytes, host_bytes, budgets.disk_bytes)
    names: tuple[Tier, ...] = ("device memory", "host memory", "local disk", "object store")
    counts = [end - start for start, end in zip((0, *ends), (*ends, len(shard_bytes)), strict=True)]
    return [name for name, count in zip(names, counts, strict=True) for _ in range(count)]


def window_bytes(shard_bytes: Sequence[int], window: int | None) -> int:
    """Of host memory, what the windows need that are there at once; 0 without windows."""
    return _WINDOWS_AT_ONCE * window * max(shard_bytes) if window else 0


def _fill(shard_bytes: Sequence[int], *room_bytes: int) -> list[int]:
    """For each tier, the number of the first shard that is beyond it."""
    ends, shard = [], 0
    for room in room_bytes:
        while shard < len(shard_bytes) and shard_bytes[shard] <= room:
            room -= shard_bytes[shard]
            shard += 1
        ends.append(shard)
    return ends
