"""One activation set on Zarr: write shards, commit, open, read, replace a shard, verify.

Under the set's folder::

    index-<generation>/          [n, 3] int64: shard, first row, rows of each example
    examples-<generation>/       [n, 2] uint64: a digest of each example
    shards/00000-<generation>/   [t, w] of one shard: one chunk, one object, uncompressed
    manifest.json                last; without it there is no set
    users/<run>.json             who opened it, and when
    build/                       lease of who builds or evicts it
    repair/                      lease of who replaces a shard
    kept_by/<set>.json           another set whose manifest names shards of this one

What one of the ``t`` rows is: :mod:`afcore.activations.codec`. Writers never share an object: each
has its own generation, and the first manifest wins (:meth:`Storage.put_new`).
"""

import contextlib
import json
import logging
import time
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
from tenacity import Retrying, retry_if_exception_type, stop_after_delay, wait_random

from afcore.activations.arrays import check_metadata, read_array, write_array
from afcore.activations.codec import STORED_AS, RowFormat
from afcore.activations.layout import RaggedLayout, plan_layout
from afcore.activations.stored_sets import StoredSet, noted_use, stored_sets
from afcore.compute import HiddenDtype
from afcore.digest import RecipeDigest, recipe_digest
from afcore.errors import AutoFreezeError, IntegrityError, LeaseHeldError
from afcore.model.stacks import HIDDEN_STATES
from afcore.storage.explain import raise_explained
from afcore.storage.lease import EXPIRY_SECONDS, Lease
from afcore.storage.objects import Storage

__all__ = [
    "ActivationManifest",
    "ActivationSet",
    "ActivationWriter",
    "NewSet",
    "SetPlan",
    "Shard",
    "committed_sets",
    "kept_by_others",
    "list_sets",
    "new_generation",
    "open_set",
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


@dataclass(frozen=True)
class Shard:
    """One committed shard: its array's name below the set, its rows, its xxh3-64.

    ``folder`` is that of the set that wrote it, where it is another one.
    """

    name: str
    num_rows: int
    checksum: str
    folder: str | None = None


@dataclass(frozen=True)
class NewSet:
    """A set that is to be written.

    Attributes:
        folder: where.
        key: the digest of ``recipe``.
        recipe: everything that decides the numbers in it.
        lineage: boundaries at which hidden states are rounded on the way up, its own last.
        producer: the run that writes it.
    """

    folder: str
    key: RecipeDigest
    recipe: dict[str, Any]
    lineage: list[int]
    producer: str

    @property
    def boundary(self) -> int:
        """Its own."""
        return self.lineage[-1]


@dataclass(frozen=True)
class ActivationManifest:
    """What a set is, written last.

    See :class:`NewSet`; ``widths`` are those of the tensors in a row (none given: hidden states
    alone), ``hidden_size`` their sum.
    """

    schema: int
    key: RecipeDigest
    boundary: int
    lineage: list[int]
    dtype: HiddenDtype
    hidden_size: int
    num_examples: int
    num_rows: int
    index: str
    index_checksum: str
    shards: list[Shard]
    recipe: dict[str, Any]
    producer: str
    created: float = field(default_factory=time.time)
    widths: dict[str, int] = field(default_factory=dict)
    examples: Shard | None = None

    @property
    def format(self) -> RowFormat:
        """Of its rows."""
        return RowFormat(self.dtype, self.widths or {HIDDEN_STATES: self.hidden_size})

    @property
    def entries(self) -> list[Shard]:
        """All arrays that the set is made of."""
        index = Shard(self.index, self.num_examples, self.index_checksum)
        return [index, *([self.examples] if self.examples else []), *self.shards]

    @property
    def num_bytes(self) -> int:
        """Bytes of all shards."""
        return sum(shard.num_rows for shard in self.shards) * self.format.row_bytes

    @property
    def own_bytes(self) -> int:
        """Bytes of the shards that were written for this set."""
        own = sum(shard.num_rows for shard in self.shards if shard.folder is None)
        return own * self.format.row_bytes

    def to_json(self) -> bytes:
        """As stored."""
        return json.dumps(asdict(self), indent=1).encode()

    @classmethod
    def from_json(cls, data: bytes) -> "ActivationManifest":
        """The inverse of :meth:`to_json`."""
        tree = json.loads(data)
        examples = tree.get("examples")
        return cls(
            **{
                **tree,
                "shards": [Shard(**shard) for shard in tree["shards"]],
                "examples": Shard(**examples) if examples else None,
            }
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
            shards[shard] = _write_shard(self._storage, self.folder, shard, rows, new_generation())
            self.manifest = replace(self.manifest, shards=shards)
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

    def users(self) -> dict[str, float]:
        """Who noted that by :meth:`record_use`: run folders, and seconds since the epoch."""
        return users_of(self._storage, self.folder)

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


@dataclass(frozen=True)
class SetPlan:
    """Where each example of a new set goes.

    Attributes:
        layout: of the whole set.
        kept: shards that another set has written, by number.
    """

    layout: RaggedLayout
    kept: Mapping[int, Shard] = field(default_factory=dict)


class ActivationWriter:
    """Write the shards of a new set, then :meth:`commit`.

    Args:
        storage: where.
        new: the set.
        lengths: [n] rows of each example.
        row_format: of its rows.
        generation: of all its objects; workers that write a set together have the same.
        plan: where each example goes, and which shards are there already.

    Attributes:
        shards: written so far, by number, or there before.
    """

    def __init__(
        self,
        storage: Storage,
        new: NewSet,
        lengths: npt.NDArray[np.int64],
        row_format: RowFormat,
        generation: str | None = None,
        plan: SetPlan | None = None,
    ) -> None:
        self._storage = storage
        self._new = new
        self._folder = new.folder
        self._format = row_format
        self._generation = generation or new_generation()
        plan = plan or SetPlan(plan_layout(lengths, row_bytes=row_format.row_bytes))
        self.layout = plan.layout
        self.shards: dict[int, Shard] = dict(plan.kept)
        self._kept = plan.kept

    def write_shard(self, shard: int, rows: npt.NDArray[Any]) -> str:
        """Write one shard whole.

        Args:
            shard: its number.
            rows: [t, w] in the order of ``layout.examples(shard)``.

        Returns:
            Its checksum.

        Raises:
            StorageFullError: when there is no space left; what was written is deleted.
        """
        expected = (self.layout.num_rows(shard), self._format.width)
        if rows.shape != expected or rows.dtype != STORED_AS[self._format.dtype]:
            raise ValueError(f"shard {shard} is {rows.dtype}{rows.shape}, expected {expected}")
        with self.cleaned_up():
            self.shards[shard] = _write_shard(
                self._storage, self._folder, shard, rows, self._generation
            )
        return self.shards[shard].checksum

    def commit(self, digests: npt.NDArray[np.uint64] | None = None) -> ActivationSet:
        """Write the index and the manifest; if another writer was first, use theirs.

        Args:
            digests: [n, 2] of the examples, so that a later set can keep their rows.

        Raises:
            ValueError: when a shard has not been written.
        """
        layout = self.layout
        if len(self.shards) != layout.num_shards:
            raise ValueError(f"{len(self.shards)} of {layout.num_shards} shards written")
        index = np.stack([layout.shard, layout.start, layout.lengths], axis=1)
        name = f"index-{self._generation}"
        with self.cleaned_up():
            index_checksum = write_array(self._storage, f"{self._folder}/{name}", index)
            examples = None
            if digests is not None:
                examples = self._write_examples(digests)
            self._note_kept()
            manifest = ActivationManifest(
                schema=1,
                key=self._new.key,
                boundary=self._new.boundary,
                lineage=self._new.lineage,
                dtype=self._format.dtype,
                hidden_size=sum(self._format.widths.values()),
                widths=dict(self._format.widths),
                num_examples=len(layout.lengths),
                num_rows=int(layout.lengths.sum()),
                index=name,
                index_checksum=index_checksum,
                shards=[self.shards[i] for i in range(layout.num_shards)],
                recipe=self._new.recipe,
                producer=self._new.producer,
                examples=examples,
            )
            self._storage.put_new(f"{self._folder}/manifest.json", manifest.to_json())
            committed = open_set(self._storage, self._folder)
            assert committed is not None
            # By its index, not by the answer: that may be lost and the request repeated.
            if committed.manifest.index != name:
                self.discard()
        return committed

    def _write_examples(self, digests: npt.NDArray[np.uint64]) -> Shard:
        name = f"examples-{self._generation}"
        checksum = write_array(self._storage, f"{self._folder}/{name}", digests)
        return Shard(name, len(digests), checksum)

    def _note_kept(self) -> None:
        """Before the manifest that names them: who evicts the other set looks for these notes."""
        name = self._folder.rpartition("/")[2]
        note = json.dumps({"folder": self._folder}).encode()
        for folder in {shard.folder for shard in self._kept.values() if shard.folder}:
            self._storage.put(f"{folder}/kept_by/{name}.json", note)

    def discard(self) -> None:
        """Delete what this writer wrote."""
        for shard in range(self.layout.num_shards):
            name = _shard_name(shard, self._generation)
            self._storage.delete_folder(f"{self._folder}/{name}")
        for kind in ("index", "examples"):
            self._storage.delete_folder(f"{self._folder}/{kind}-{self._generation}")

    @contextlib.contextmanager
    def cleaned_up(self) -> Iterator[None]:
        """Within it, whatever goes wrong deletes what was written."""
        try:
            yield
        except Exception as error:
            with contextlib.suppress(AutoFreezeError):  # what is raised here says more
                self.discard()
            raise_explained(error, f"cannot write {self._storage.uri(self._folder)}")


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
    except (ValueError, TypeError, KeyError) as error:
        raise IntegrityError(f"{storage.uri(folder)}/manifest.json is damaged: {error}") from error
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


def committed_sets(storage: Storage) -> Iterator[tuple[StoredSet, ActivationSet]]:
    """Every committed set in the store, one after the other, with what the listing tells of it.

    One with a damaged manifest is warned of and left out.
    """
    for stored in stored_sets(storage):
        try:
            found = open_set(storage, stored.folder) if stored.is_committed else None
        except IntegrityError as error:
            _log.warning("%s", error)
            continue
        if found is not None:
            yield stored, found


def list_sets(storage: Storage) -> list[ActivationSet]:
    """All of :func:`committed_sets`, at once."""
    return [found for _, found in committed_sets(storage)]


def _write_shard(
    storage: Storage, folder: str, shard: int, rows: npt.NDArray[Any], generation: str
) -> Shard:
    name = _shard_name(shard, generation)
    return Shard(name, len(rows), write_array(storage, f"{folder}/{name}", rows))


def _shard_name(shard: int, generation: str) -> str:
    return f"shards/{shard:05d}-{generation}"


def new_generation() -> str:
    """A name that no other writer has."""
    return uuid.uuid4().hex[:12]
