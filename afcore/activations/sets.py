"""One activation set on Zarr: open, read, replace a shard, verify.

Under the set's folder::

    index-<generation>/          [n, 3] int64: shard, first row, rows of each example
    examples-<generation>/       [n, 2] uint64: a digest of each example
    shards/00000-<generation>/   [t, w] of one shard: one chunk, one object, uncompressed
    manifest.json                last; without it there is no set
    users/<run>.json             who opened it, and when
    build/                       lease of who builds or evicts it
    repair/                      lease of who replaces a shard
    kept_by/<set>.json           another set whose manifest names shards of this one

What one of the ``t`` rows is: :mod:`afcore.activations.codec`. How it is written:
:mod:`afcore.activations.writer`.
"""

import contextlib
import json
import logging
import time
from collections.abc import Iterator
from dataclasses import replace
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
from tenacity import Retrying, retry_if_exception_type, stop_after_delay, wait_random

from afcore.activations.arrays import check_metadata, read_array
from afcore.activations.codec import STORED_AS
from afcore.activations.layout import RaggedLayout
from afcore.activations.manifest import ActivationManifest
from afcore.activations.shards import Shard, new_generation, write_shard
from afcore.activations.stored_sets import StoredSet, noted_use, stored_sets
from afcore.digest import recipe_digest
from afcore.errors import IntegrityError, LeaseHeldError, in_one_line
from afcore.storage.explain import raise_explained
from afcore.storage.lease import EXPIRY_SECONDS, Lease
from afcore.storage.objects import Storage

__all__ = [
    "ActivationSet",
    "committed_sets",
    "kept_by_others",
    "list_sets",
    "open_set",
    "opened_sets",
    "prefix_folder",
    "prefix_key",
    "users_of",
]

_log = logging.getLogger(__name__)
_INDEX_COLUMNS = 3
_DIGEST_COLUMNS = 2
_until_repaired = Retrying(
    retry=retry_if_exception_type(LeaseHeldError),
    stop=stop_after_delay(EXPIRY_SECONDS + 10),  # who has died by then is succeeded
    wait=wait_random(0.05, 0.2),
    reraise=True,
)


class ActivationSet:
    """A committed set, open for reading."""

    def __init__(self, storage: Storage, folder: str, manifest: ActivationManifest) -> None:
        self._storage = storage
        self.folder = folder
        self.manifest = manifest

    @cached_property
    def layout(self) -> RaggedLayout:
        """Where each example lies.

        Raises:
            IntegrityError: when the index is missing or damaged.
        """
        index = self._checked(self.manifest.entries[0])
        layout = RaggedLayout(*np.ascontiguousarray(index.T))
        rows = np.asarray([shard.num_rows for shard in self.manifest.shards], dtype=np.int64)
        return (
            layout
            if np.array_equal(layout.rows_by_shard, rows)
            else replace(layout, shard_rows=rows)
        )

    @property
    def example_digests(self) -> npt.NDArray[np.uint64] | None:
        """[n, 2], a digest of what the model gets of each example; None of an older release.

        Raises:
            IntegrityError: when they are missing or damaged.
        """
        entry = self.manifest.examples
        return self._checked(entry) if entry is not None else None

    def read_shard(self, shard: int, out: npt.NDArray[Any] | None = None) -> npt.NDArray[Any]:
        """Read one shard whole.

        Args:
            shard: its number.
            out: read into this array, else into a new one.

        Returns:
            [t, w] stored rows, see :mod:`afcore.activations.codec`.

        Raises:
            IntegrityError: when it is missing or its bytes are not those that were written.
        """
        return self._checked(self.manifest.shards[shard], out)

    def replace_shard(self, shard: int, rows: npt.NDArray[Any]) -> None:
        """Write a damaged shard anew, as a new generation, and the manifest after it.

        Shards that other runs have mended since this set was opened stay theirs; who mends at the
        same time waits for the other.
        """
        old = self.manifest.shards[shard]
        with self._repair_lease():
            newest = self._newest_manifest()
            self.manifest = newest or self.manifest
            if self.manifest.shards[shard] != old:
                return
            shards = [*self.manifest.shards]
            shards[shard] = write_shard(self._storage, self.folder, shard, rows, new_generation())
            self.manifest = self.manifest.model_copy(update={"shards": shards})
            if newest is not None:  # one that was evicted stays so
                self._storage.put(f"{self.folder}/manifest.json", self.manifest.to_json())
        if old.folder is None:  # else it is not this set's to delete
            self._storage.delete_folder(f"{self.folder}/{old.name}")

    @contextlib.contextmanager
    def _repair_lease(self) -> Iterator[None]:
        """Alone, as far as one can: who has waited for too long goes on, and may undo a repair."""
        lease = Lease(
            self._storage, f"{self.folder}/repair", f"repair of {self.folder}", logged=False
        )
        with contextlib.ExitStack() as stack:
            try:
                _until_repaired(stack.enter_context, lease)
            except LeaseHeldError as error:
                _log.warning("%s Going on without waiting longer.", error)
            yield

    def _newest_manifest(self) -> ActivationManifest | None:
        """As it is now, also of one built anew since; None when there is none any more.

        A damaged one, or one that is laid out otherwise, counts as the one that was opened.
        """
        try:
            newest = open_set(self._storage, self.folder)
        except IntegrityError:
            return self.manifest
        if newest is None or newest.manifest.index_checksum == self.manifest.index_checksum:
            return newest.manifest if newest else None
        return self.manifest

    def record_use(self, run_id: str, run_folder: str) -> None:
        """Note who reads this set, so that it is not collected meanwhile."""
        note = {"run": run_folder, "time": time.time()}
        self._storage.put(f"{self.folder}/users/{run_id}.json", json.dumps(note).encode())

    def verify(self) -> list[str]:
        """Read everything; what is wrong, one line each."""
        problems = []
        for entry in self.manifest.entries:
            try:
                self._checked(entry, metadata=True)
            except IntegrityError as error:
                problems.append(str(error))
        return problems

    def _checked(
        self, entry: Shard, out: npt.NDArray[Any] | None = None, metadata: bool = False
    ) -> npt.NDArray[Any]:
        folder = f"{entry.folder or self.folder}/{entry.name}"
        where = self._storage.uri(folder)
        manifest = self.manifest
        dtype, width = STORED_AS[manifest.dtype], manifest.format.width
        if entry.name == manifest.index:
            dtype, width = np.int64, _INDEX_COLUMNS
        elif entry == manifest.examples:
            dtype, width = np.uint64, _DIGEST_COLUMNS
        shape = (entry.num_rows, width)
        try:
            rows, found = read_array(self._storage, folder, shape, dtype, out)
            if metadata:
                check_metadata(self._storage, folder, shape, dtype)
        except FileNotFoundError as error:
            raise IntegrityError(f"{where} is missing") from error
        except (ValueError, TypeError, KeyError, RuntimeError) as error:
            # Zarr has its own words for torn metadata.
            raise IntegrityError(f"{where} is damaged: {error}") from error
        except Exception as error:
            raise_explained(error, f"cannot read {where}")
        if found != entry.checksum:
            raise IntegrityError(f"{where} is damaged: xxh3 {found}, written as {entry.checksum}")
        return rows


def open_set(storage: Storage, folder: str) -> ActivationSet | None:
    """Open a committed set; None when there is no manifest.

    Raises:
        IntegrityError: when the manifest is damaged.
    """
    try:
        data = storage.get(f"{folder}/manifest.json")
    except KeyError:
        return None
    try:
        manifest = ActivationManifest.from_json(data)
    except ValueError as error:
        where = f"{storage.uri(folder)}/manifest.json"
        raise IntegrityError(f"{where} is damaged: {in_one_line(error)}") from error
    return ActivationSet(storage, folder, manifest)


def prefix_folder(folder: str, recipe: dict[str, Any]) -> str:
    """Of notes of the sets beside ``folder`` whose recipes differ from this one in the data alone.

    Args:
        folder: of a set.
        recipe: of it.
    """
    prefix = {key: value for key, value in recipe.items() if key != "data"}
    return f"{folder.rpartition('/')[0]}_by_prefix/{recipe_digest(prefix)[:32]}"


def prefix_key(folder: str, recipe: dict[str, Any]) -> str:
    """Of the note of a set in :func:`prefix_folder`."""
    return f"{prefix_folder(folder, recipe)}/{folder.rpartition('/')[2]}.json"


def kept_by_others(storage: Storage, folder: str) -> set[str]:
    """Names of the shards of a set, committed or not, that manifests of other sets name."""
    names: set[str] = set()
    for key in storage.list(f"{folder}/kept_by"):
        with contextlib.suppress(KeyError, ValueError, TypeError, IntegrityError):
            other = open_set(storage, str(json.loads(storage.get(key))["folder"]))
            if other is not None:
                names |= {shard.name for shard in other.manifest.shards if shard.folder == folder}
    return names


def users_of(storage: Storage, folder: str) -> dict[str, float]:
    """Runs that noted themselves for a set, by their folder, and when they last did.

    By the names of the notes and their age: a thousand notes are one question to the store, and a
    damaged one counts too.
    """
    notes = storage.walk(f"{folder}/users")
    return dict(noted_use(key.rpartition("/")[2], stored.modified) for key, stored in notes)


def opened_sets(
    storage: Storage,
) -> Iterator[tuple[StoredSet, ActivationSet | IntegrityError]]:
    """As :func:`committed_sets`; of one with a damaged manifest what is wrong with it."""
    for stored in stored_sets(storage):
        try:
            found = open_set(storage, stored.folder) if stored.is_committed else None
        except IntegrityError as error:
            yield stored, error
            continue
        if found is not None:
            yield stored, found


def committed_sets(storage: Storage) -> Iterator[tuple[StoredSet, ActivationSet]]:
    """Every committed set in the store, one after the other, with what the listing tells of it.

    One with a damaged manifest is warned of and left out.
    """
    for stored, found in opened_sets(storage):
        if isinstance(found, IntegrityError):
            _log.warning("%s", found)
        else:
            yield stored, found


def list_sets(storage: Storage) -> list[ActivationSet]:
    """All of :func:`committed_sets`, at once."""
    return [found for _, found in committed_sets(storage)]
