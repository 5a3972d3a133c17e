"""What a listing tells of activation sets, one after the other: no object is asked for.

A listing is sorted, so what is in the folder of a set comes in one piece.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field

from afcore.storage.objects import Storage

__all__ = ["ARRAYS", "StoredSet", "array_name", "noted_use", "split_key", "stored_sets"]

ARRAYS = ("shards/", "index-", "examples-")
"""How the paths of arrays begin, in the folder of a set."""
_ROOTS = ("activations", "runs")


@dataclass
class StoredSet:
    """The folder of a set, committed or not.

    Attributes:
        folder: of it.
        is_committed: there is a manifest.
        written: when that was; seconds since the epoch.
        users: when each run last opened it, by the run's folder; seconds since the epoch.
        is_shared: notes of sets that keep shards of it are there.
        was_leased: somebody builds or evicts it, or died of that.
    """

    folder: str
    is_committed: bool = False
    written: float = 0.0
    users: dict[str, float] = field(default_factory=dict)
    is_shared: bool = False
    was_leased: bool = False

    @property
    def last_use(self) -> float:
        """When a run last opened it, else when it was written; by the store's clock."""
        return max([self.written, *self.users.values()])


def split_key(key: str) -> tuple[str, str] | None:
    """The folder of the set that an object belongs to, and its path in there; None: to no set."""
    above, separator, below = key.partition("activations/")
    name, slash, part = below.partition("/")
    if not separator or not slash or (above and not above.endswith("/")):
        return None
    return f"{above}activations/{name}", part


def array_name(part: str) -> str:
    """Of the array that an object belongs to, by its path in the folder of a set."""
    return "/".join(part.split("/")[: 2 if part.startswith("shards/") else 1])


def noted_use(name: str, modified: float) -> tuple[str, float]:
    """What a note of :meth:`.ActivationSet.record_use` says by its name and age: run, and when."""
    return f"runs/{name.removesuffix('.json')}", modified


def stored_sets(storage: Storage) -> Iterator[StoredSet]:
    """Every set in the store, shared ones first, then those of single runs."""
    for root in _ROOTS:
        found: StoredSet | None = None
        for key, stored in storage.walk(root):
            place = split_key(key)
            if place is None:
                continue
            folder, part = place
            if found is None or found.folder != folder:
                if found is not None:
                    yield found
                found = StoredSet(folder)
            _note(found, part, stored.modified)
        if found is not None:
            yield found


def _note(found: StoredSet, part: str, modified: float) -> None:
    top, _, name = part.partition("/")
    if part == "manifest.json":
        found.is_committed, found.written = True, modified
    elif top == "users":
        found.users |= [noted_use(name, modified)]
    elif top == "kept_by":
        found.is_shared = True
    elif top == "build":
        found.was_leased = True
