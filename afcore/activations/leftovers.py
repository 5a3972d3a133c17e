"""What interrupted writers left: it is named by nothing, and nobody works on it.

A second look at the whole store, of which only what may go is kept in memory, summed up.
"""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass

from afcore.activations.known_runs import KnownRuns
from afcore.activations.sets import open_set
from afcore.activations.stored_sets import ARRAYS, array_name, split_key
from afcore.errors import IntegrityError
from afcore.storage.lease import is_held
from afcore.storage.objects import Storage
from afcore.storage.stored import StoredSum

__all__ = ["UNFINISHED_SECONDS", "Leftover", "delete_leftovers", "find_leftovers"]

UNFINISHED_SECONDS = 86400.0


@dataclass(frozen=True)
class _Place:
    """Where an object that nothing names belongs.

    Attributes:
        folder: that would be deleted.
        why: it would.
        within: the folder of the set or training that it lies in, or itself.
        lease: which who works there holds.
    """

    folder: str
    why: str
    within: str
    lease: str


@dataclass(kw_only=True)
class Leftover(StoredSum):
    """A folder that would be deleted, or the draft of a file.

    Attributes:
        place: where.
    """

    place: _Place

    def is_untouched(self, now: float) -> bool:
        """Whether nothing was written there for a day."""
        return self.idle(now) > UNFINISHED_SECONDS


def find_leftovers(
    storage: Storage,
    runs: KnownRuns,
    committed: Collection[str],
    kept: Mapping[str, Collection[str]],
    now: float,
) -> Iterator[list[Leftover]]:
    """What can go; what lies in one folder of a set or a training together.

    Args:
        storage: where.
        runs: of the store.
        committed: folders of the sets that were there before.
        kept: names of shards that sets keep of others, by the folder of these.
        now: by the store's clock, seconds since the epoch.
    """
    places = _Places(storage, runs, committed, kept)
    found: dict[str, dict[str, Leftover]] = {}
    for root in ("activations", "runs", "probes"):
        for key, stored in storage.walk(root):
            place = places.of(key)
            if place is not None:
                there = found.setdefault(place.within, {})
                there.setdefault(place.folder, Leftover(place=place)).add(stored)
    untouched = {
        within: [one for one in there.values() if one.is_untouched(now)]
        for within, there in found.items()
    }
    leases = {within: left[0].place.lease for within, left in untouched.items() if left}
    # Unwatched first, all of them: so hearts that seem to be still are watched side by side.
    still = [within for within, lease in leases.items() if not is_held(storage, lease)]
    for within in still:
        if is_held(storage, leases[within], watched=True):
            continue
        there = found[within]
        # Once more, for who began and ended since.
        for key, stored in storage.walk(within):
            place = places.of(key)
            if place is not None and place.folder in there:
                known = there[place.folder]
                known.modified = max(known.modified, stored.modified)
        if left := [one for one in untouched[within] if one.is_untouched(now)]:
            yield left


def delete_leftovers(storage: Storage, leftovers: list[Leftover]) -> None:
    """Delete some of one folder, by as few requests as the store has."""
    within = leftovers[0].place.within
    folders = {one.place.folder for one in leftovers}
    if within in folders:
        storage.delete_folder(within)
        return
    keys = (key for key, _ in storage.walk(within))
    start = len(within) + 1
    storage.delete_all(key for key in keys if f"{within}/{array_name(key[start:])}" in folders)


class _Places:
    """Finds the leftover folder that a key lies in; keys of one set come one after the other."""

    def __init__(
        self,
        storage: Storage,
        runs: KnownRuns,
        committed: Collection[str],
        kept: Mapping[str, Collection[str]],
    ) -> None:
        self._storage = storage
        self._runs = runs
        self._committed = committed
        self._kept = kept
        self._opened = ""
        self._own: Collection[str] | None = None

    def of(self, key: str) -> _Place | None:
        """Where an object belongs; None when something names it, or it is not ours."""
        if key.count("/") < (3 if key.startswith("runs/") else 2):
            return None
        if key.startswith("probes/"):
            folder = "/".join(key.split("/")[:2])
            return _Place(folder, "left when workers were measured", folder, f"{folder}/lease")
        if key.startswith("runs/") and not self._counts(*key.split("/")[1:3]):
            folder = "/".join(key.split("/")[:3])
            lease = f"{folder.rpartition('/')[0]}/lease"
            return _Place(folder, "its run was trained anew, or is gone", folder, lease)
        place = split_key(key)
        return self._of_set(*place) if place is not None else None

    def _counts(self, run: str, training_id: str) -> bool:
        """Whether the training is the one that counts, or nobody can tell; or it is no training."""
        if training_id in ("lease", "run.json"):
            return True
        record = self._runs.find(f"runs/{run}")
        return record is not None and (record.is_damaged or record.training_id == training_id)

    def _of_set(self, folder: str, part: str) -> _Place | None:
        name, lease = array_name(part), f"{folder}/build"
        kept = self._kept.get(folder, ())
        if name in kept:
            return None  # of a set that is gone too, where another one keeps it
        own = self._own_arrays(folder) if folder in self._committed else ()
        if own is None or name in own:
            return None
        if folder not in self._committed and not kept:
            return _Place(folder, "never finished", folder, lease)
        if not part.startswith(ARRAYS):
            return None
        gone = folder not in self._committed
        why = "kept by no other set any more" if gone else "not part of the set any more"
        return _Place(f"{folder}/{name}", why, folder, lease)

    def _own_arrays(self, folder: str) -> Collection[str] | None:
        """Names of the arrays that a set is made of, as it is now; None: it is gone, or damaged."""
        if self._opened != folder:
            try:
                found = open_set(self._storage, folder)
            except IntegrityError:
                found = None
            entries = found.manifest.entries if found is not None else ()
            self._own = {one.name for one in entries if not one.folder} if found else None
            self._opened = folder
        return self._own
