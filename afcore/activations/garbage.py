"""What of a store can go: by reachability, by age, by budget; and what interrupted writers left.

Deleted, in this order:

1. sets that no run will read again (:func:`_unreachable`);
2. sets that no run opened for a given time;
3. the least recently opened sets, until the others fit a budget;
4. leftovers: sets never committed, shards and indices that no manifest lists (of builders that
   were killed or overtaken), drafts of local writers, and trainings that ``--fresh`` replaced. They
   are taken for leftovers once nothing was written to them for :data:`UNFINISHED_SECONDS`.

A set that a live run has noted itself for is never deleted, nor one that is just being built. What
is deleted by mistake costs time, not results: a run builds a set that is gone anew.
"""

import json
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

from afcore.activations.building import evict, is_being_built
from afcore.activations.maintenance import duration, last_use, live_users
from afcore.activations.sets import ActivationSet, list_sets
from afcore.storage.lease import is_held
from afcore.storage.objects import Storage, Stored
from afcore.storage.store_version import check_store_version

__all__ = ["UNFINISHED_SECONDS", "Removal", "collect_garbage"]

UNFINISHED_SECONDS = 86400.0


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
    storage = Storage(store)
    check_store_version(storage)
    storage.check_there()
    sets = list_sets(storage)
    removed = []
    for found, why, freed in _choose_sets(storage, sets, max_idle_seconds, max_bytes):
        if dry_run or evict(storage, found.folder, partial(_is_live, storage, found)):
            removed.append(Removal(found.folder, why, freed))
    for removal in _leftovers(storage, sets):
        removed.append(removal)
        if not dry_run and removal.folder.endswith(".draft"):
            storage.delete(removal.folder)
        elif not dry_run:
            storage.delete_folder(removal.folder)
    return removed


def _is_live(storage: Storage, found: ActivationSet) -> bool:
    return live_users(storage, found) > 0


def _choose_sets(
    storage: Storage, sets: list[ActivationSet], max_idle_seconds: float, max_bytes: int | None
) -> Iterator[tuple[ActivationSet, str, int]]:
    now = time.time()
    shards, kept = _SharedShards(sets), []
    for found in sorted(sets, key=last_use):
        held = _is_live(storage, found) or is_being_built(storage, found.folder)
        idle = now - last_use(found)
        why = _unreachable(storage, found)
        if why is None and idle >= max_idle_seconds:
            why = f"not used for {duration(idle)}"
        if why is not None and not held:
            yield found, why, shards.let_go(found)
        elif not held:
            kept.append(found)
    for found in kept:
        if max_bytes is not None and shards.num_bytes > max_bytes:
            why = f"least recently used, {duration(now - last_use(found))} ago"
            yield found, why, shards.let_go(found)


class _SharedShards:
    """Bytes of shards, several sets of which may have one in common."""

    def __init__(self, sets: list[ActivationSet]) -> None:
        self._bytes = {key: size for found in sets for key, size in _shards_of(found).items()}
        self._users = Counter(key for found in sets for key in _shards_of(found))
        self.num_bytes = sum(self._bytes.values())

    def let_go(self, found: ActivationSet) -> int:
        """A set goes; bytes that no other one keeps."""
        freed = 0
        for key in _shards_of(found):
            self._users[key] -= 1
            freed += 0 if self._users[key] else self._bytes[key]
        self.num_bytes -= freed
        return freed


def _shards_of(found: ActivationSet) -> dict[tuple[str, str], int]:
    size = found.manifest.format.row_bytes
    return {(s.folder or found.folder, s.name): s.num_rows * size for s in found.manifest.shards}


def _unreachable(storage: Storage, found: ActivationSet) -> str | None:
    """Why no run that was begun, started again, would read the set; None when one may.

    A set of pre-trained weights may serve any new run, so it goes only when its users are gone.
    """
    if found.folder.startswith("runs/"):
        return _unreachable_private(storage, found)
    runs = {user["run"]: _read_run(storage, user["run"]) for user in found.users()}
    known = {folder: run for folder, run in runs.items() if run is not None}
    if any(storage.exists(f"{folder}/run.json") for folder in runs.keys() - known.keys()):
        return None  # its record is damaged, which a later run mends
    if runs and not known:
        return "the runs that used it are gone"
    prefix = found.manifest.recipe.get("weights", {}).items()
    pretrained = any(prefix <= run["weights"].items() for run in known.values())
    if known and not pretrained and all(_is_finished(storage, *item) for item in known.items()):
        return "only finished runs trained the weights it is made from"
    return None


def _unreachable_private(storage: Storage, found: ActivationSet) -> str | None:
    folder, _, training_id = found.folder.partition("/activations/")[0].rpartition("/")
    run = _read_run(storage, folder)
    if run is None:
        return None if storage.exists(f"{folder}/run.json") else "its run is gone"
    if run["training_id"] != training_id:
        return "its run was trained anew"
    if _is_finished(storage, folder, run):
        return "its run is finished"
    if found.folder not in _read_next(storage, f"{folder}/{training_id}/epochs"):
        return "its run has gone on to another set"
    return None


def _read_next(storage: Storage, epochs_folder: str) -> set[str]:
    """Folders of the sets that a run, started again, reads first."""
    keys = storage.list(epochs_folder)
    deciding = sorted(key for key in keys if key.endswith(("next.json", "checkpoint.json")))
    # The last epoch may have to be trained again, or its set to build the next one from.
    records = [_read(storage, key) or {} for key in deciding[-2:]]
    decided = [record.get("next", record) or {} for record in records]
    references = [decision.get("read_from") for decision in decided]
    return {reference["folder"] for reference in references if reference}


def _leftovers(storage: Storage, sets: list[ActivationSet]) -> Iterator[Removal]:
    """What nothing names and nobody works on, once nothing was written to it for a day."""
    now = time.time()
    found = _Leftovers(storage, sets)
    for top in ("activations", "runs", "probes"):
        for key, stored in storage.listing(top).items():
            found.add(key, stored)
    for folder, objects in found.objects.items():
        if not _untouched(objects, now) or is_held(storage, found.lease_of[folder]):
            continue
        # Once more, for who began and ended since.
        if _untouched(storage.listing(folder).values(), now):
            num_bytes = sum(stored.num_bytes for stored in objects)
            yield Removal(folder, found.why[folder], num_bytes)
    for key, stored in storage.drafts().items():
        if _untouched([stored], now):
            yield Removal(key, "draft of a killed writer", stored.num_bytes)


def _untouched(objects: Iterable[Stored], now: float) -> bool:
    """Whether something is there, and was not written for a day."""
    newest = max((stored.modified for stored in objects), default=now)
    return now - newest > UNFINISHED_SECONDS


class _Leftovers:
    """Sorts keys into the leftover folders that they lie in.

    Attributes:
        objects: by leftover folder.
        why: it is one.
        lease_of: it, which who works on it holds.
    """

    def __init__(self, storage: Storage, sets: list[ActivationSet]) -> None:
        self._storage = storage
        self._committed = {found.folder for found in sets}
        self._named = {
            f"{entry.folder or found.folder}/{entry.name}"
            for found in sets
            for entry in found.manifest.entries
        }
        self._kept_folders = {
            shard.folder for found in sets for shard in found.manifest.shards if shard.folder
        }
        self._training_ids: dict[str, str | None] = {}
        self._damaged: set[str] = set()
        self.objects: dict[str, list[Stored]] = {}
        self.why: dict[str, str] = {}
        self.lease_of: dict[str, str] = {}

    def add(self, key: str, stored: Stored) -> None:
        """Put an object where it belongs; nowhere when something names it, or it is not ours."""
        if key.count("/") < (3 if key.startswith("runs/") else 2):
            return None
        if key.startswith("probes/"):
            folder = "/".join(key.split("/")[:2])
            return self._put(folder, stored, "left when workers were measured", f"{folder}/lease")
        run, training_id = key.split("/")[1:3] if key.startswith("runs/") else ("", "")
        if run and training_id not in ("lease", "run.json", self._training_id(run, training_id)):
            folder, lease = f"runs/{run}/{training_id}", f"runs/{run}/lease"
            return self._put(folder, stored, "its run was trained anew, or is gone", lease)
        above, separator, below = key.partition("activations/")
        if not separator:
            return None
        name, _, part = below.partition("/")
        folder = f"{above}activations/{name}"
        lease = f"{folder}/build"
        depth = 2 if part.startswith("shards/") else 1
        part = "/".join(part.split("/")[:depth])
        if f"{folder}/{part}" in self._named:
            return None  # of a set that is gone too, where another one keeps it
        if folder not in self._committed:
            return self._put_unfinished(folder, part, stored, lease)
        if part.startswith(("shards/", "index-", "examples-")):
            why = "not part of the set any more"
            return self._put(f"{folder}/{part}", stored, why, lease)
        return None

    def _put_unfinished(self, folder: str, part: str, stored: Stored, lease: str) -> None:
        """A whole folder at once, unless shards in it are another set's."""
        if folder not in self._kept_folders:
            return self._put(folder, stored, "never finished", lease)
        if part.startswith(("shards/", "index-", "examples-")):
            return self._put(f"{folder}/{part}", stored, "kept by no other set any more", lease)
        return None

    def _put(self, folder: str, stored: Stored, why: str, lease: str) -> None:
        self.objects.setdefault(folder, []).append(stored)
        self.why[folder], self.lease_of[folder] = why, lease

    def _training_id(self, run: str, found: str) -> str | None:
        """The training that counts; ``found`` itself where the run's record is damaged."""
        if run not in self._training_ids:
            record = _read_run(self._storage, f"runs/{run}")
            self._training_ids[run] = record["training_id"] if record else None
            if record is None and self._storage.exists(f"runs/{run}/run.json"):
                self._damaged.add(run)
        return found if run in self._damaged else self._training_ids[run]


def _is_finished(storage: Storage, folder: str, run: dict[str, Any]) -> bool:
    return storage.exists(f"{folder}/{run['training_id']}/result.json")


def _read(storage: Storage, key: str) -> dict[str, Any] | None:
    """A record as plain values: one of an older release need not fit today's."""
    try:
        tree: Any = json.loads(storage.get(key))
    except (KeyError, ValueError):
        return None
    return tree if isinstance(tree, dict) else None


def _read_run(storage: Storage, folder: str) -> dict[str, Any] | None:
    """A run's record, with what is looked at here."""
    record = _read(storage, f"{folder}/run.json")
    return record if record and {"training_id", "weights"} <= record.keys() else None
