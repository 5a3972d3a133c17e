"""What of a store can go: by reachability, by age, by budget; and what interrupted writers left.

Deleted, in this order:

1. sets that no run will read again (:func:`_unreachable`);
2. sets that no run opened for a given time;
3. the least recently opened sets, until the others fit a budget;
4. leftovers: sets never committed, shards and indices that no manifest lists (of builders that
   were killed or overtaken), drafts of local writers, and trainings that ``--fresh`` replaced, once
   nothing was written to them for a day (:mod:`afcore.activations.leftovers`).

A set that a live run has noted itself for is never deleted, nor one that is just being built. What
is deleted by mistake costs time, not results: a run builds a set that is gone anew.

Requests grow with pages of the listing, sets and runs; memory with sets, runs, and shards that sets
share: the shards of a set are looked at while it is, and forgotten.
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

from afcore.activations.building import evict, is_being_built, is_read
from afcore.activations.known_runs import KnownRuns
from afcore.activations.leftovers import UNFINISHED_SECONDS, delete_leftovers, find_leftovers
from afcore.activations.maintenance import duration
from afcore.activations.sets import ActivationSet, committed_sets
from afcore.activations.stored_sets import StoredSet
from afcore.storage.objects import Storage
from afcore.storage.store_version import open_for_cleaning, time_for_cleaning

__all__ = ["Removal", "collect_garbage"]


@dataclass(frozen=True)
class Removal:
    """Something that was, or would be, deleted: its key in the store."""

    folder: str
    why: str
    num_bytes: int


def collect_garbage(
    store: str,
    *,
    max_idle_seconds: float,
    max_bytes: int | None = None,
    dry_run: bool = False,
) -> list[Removal]:
    """Delete what the module says.

    Args:
        store: root URI.
        max_idle_seconds: sets not opened for so long go.
        max_bytes: budget of all sets together; those in use count, but stay. None: no budget.
        dry_run: delete nothing.

    Returns:
        What was (or would be) deleted.

    Raises:
        StoreError: when there is no such store, or it cannot be used.
    """
    storage = open_for_cleaning(store)
    now = time_for_cleaning(storage, dry_run)
    runs, sets = KnownRuns(storage), [_collected(*found) for found in committed_sets(storage)]
    shards, removed = _SharedShards(sets), []
    chosen = _choose_sets(storage, runs, sets, shards, (max_idle_seconds, max_bytes), now)
    for found, why, freed in chosen:
        if dry_run or evict(storage, found.folder, partial(is_read, storage, found.folder)):
            removed.append(Removal(found.folder, why, freed))
    committed = {found.folder for found in sets}
    for leftovers in find_leftovers(storage, runs, committed, shards.names, now):
        removed += [Removal(one.place.folder, one.place.why, one.num_bytes) for one in leftovers]
        if not dry_run:
            delete_leftovers(storage, leftovers)
    return [*removed, *_collect_drafts(storage, now, dry_run)]


@dataclass(frozen=True)
class _CollectedSet:
    """Of a committed set, what decides whether it goes.

    Attributes:
        folder: of it.
        last_use: when a run last opened it, or it was written; seconds since the epoch.
        users: folders of the runs that did.
        weights: digests of the parts below its boundary.
        was_leased: as of :class:`.StoredSet`.
        alone_bytes: of its shards that no other set can have in common with it.
        shared: bytes of the others, by the folder of the set that wrote them and their name.
    """

    folder: str
    last_use: float
    users: frozenset[str]
    weights: dict[str, str]
    was_leased: bool
    alone_bytes: int
    shared: dict[tuple[str, str], int]


def _collected(stored: StoredSet, found: ActivationSet) -> _CollectedSet:
    manifest, size = found.manifest, found.manifest.format.row_bytes
    return _CollectedSet(
        folder=stored.folder,
        last_use=stored.last_use,
        users=frozenset(stored.users),
        weights=manifest.recipe.get("weights", {}),
        was_leased=stored.was_leased,
        alone_bytes=0 if stored.is_shared else manifest.own_bytes,
        shared={
            (shard.folder or stored.folder, shard.name): shard.num_rows * size
            for shard in manifest.shards
            if shard.folder or stored.is_shared
        },
    )


def _choose_sets(
    storage: Storage,
    runs: KnownRuns,
    sets: list[_CollectedSet],
    shards: "_SharedShards",
    limits: tuple[float, int | None],
    now: float,
) -> Iterator[tuple[_CollectedSet, str, int]]:
    """Sets that go, why, and the bytes that go with them; ``limits``: idle seconds, and bytes."""
    kept = []
    max_idle_seconds, max_bytes = limits
    for found in sorted(sets, key=lambda one: one.last_use):
        held = any(map(runs.is_live, found.users)) or (
            found.was_leased and is_being_built(storage, found.folder)
        )
        idle = now - found.last_use
        why = _unreachable(runs, found)
        if why is None and idle >= max_idle_seconds:
            why = f"not used for {duration(idle)}"
        if why is not None and not held:
            yield found, why, shards.let_go(found)
        elif not held:
            kept.append(found)
    for found in kept:
        if max_bytes is not None and shards.num_bytes > max_bytes:
            why = f"least recently used, {duration(now - found.last_use)} ago"
            yield found, why, shards.let_go(found)


class _SharedShards:
    """Bytes of shards, several sets of which may have one in common.

    Attributes:
        num_bytes: of all that are left.
        names: of shards that sets keep of others, by the folder of these.
    """

    def __init__(self, sets: list[_CollectedSet]) -> None:
        self._bytes: dict[tuple[str, str], int] = {}
        self._users: Counter[tuple[str, str]] = Counter()
        self.names: dict[str, set[str]] = {}
        for found in sets:
            self._bytes |= found.shared
            self._users.update(found.shared.keys())
            for folder, name in found.shared:
                if folder != found.folder:
                    self.names.setdefault(folder, set()).add(name)
        self.num_bytes = sum(self._bytes.values()) + sum(found.alone_bytes for found in sets)

    def let_go(self, found: _CollectedSet) -> int:
        """A set goes; bytes that no other one keeps."""
        freed = found.alone_bytes
        for key in found.shared:
            self._users[key] -= 1
            freed += 0 if self._users[key] else self._bytes[key]
        self.num_bytes -= freed
        return freed


def _unreachable(runs: KnownRuns, found: _CollectedSet) -> str | None:
    """Why no run that was begun, started again, would read the set; None when one may.

    A set of pre-trained weights may serve any new run, so it goes only when its users are gone.
    """
    if found.folder.startswith("runs/"):
        return _unreachable_private(runs, found.folder)
    records = {folder: runs.find(folder) for folder in found.users}
    known = {folder: run for folder, run in records.items() if run is not None}
    if any(run.is_damaged for run in known.values()):
        return None  # which a later run mends
    if records and not known:
        return "the runs that used it are gone"
    prefix = found.weights.items()
    pretrained = any(prefix <= run.weights.items() for run in known.values())
    if known and not pretrained and all(map(runs.is_finished, known)):
        return "only finished runs trained the weights it is made from"
    return None


def _unreachable_private(runs: KnownRuns, set_folder: str) -> str | None:
    training, _, _ = set_folder.partition("/activations/")
    folder, _, training_id = training.rpartition("/")
    run = runs.find(folder)
    if run is None:
        return "its run is gone"
    if run.is_damaged:
        return None
    if run.training_id != training_id:
        return "its run was trained anew"
    if runs.is_finished(folder):
        return "its run is finished"
    if set_folder not in runs.next_sets(training):
        return "its run has gone on to another set"
    return None


def _collect_drafts(storage: Storage, now: float, dry_run: bool) -> Iterator[Removal]:
    """What killed writers of this machine left half written."""
    for key, stored in storage.drafts().items():
        if now - stored.modified > UNFINISHED_SECONDS:
            yield Removal(key, "draft of a killed writer", stored.num_bytes)
            if not dry_run:
                storage.delete(key)
