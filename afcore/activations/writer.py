"""Write an activation set on Zarr: its shards, its index, and the manifest that commits it.

Writers never share an object: each has its own generation, and the first manifest wins
(:meth:`.Storage.put_new`).
"""

import contextlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from afcore.activations.arrays import write_array
from afcore.activations.codec import STORED_AS, RowFormat
from afcore.activations.layout import RaggedLayout, plan_layout
from afcore.activations.manifest import ActivationManifest, NewSet
from afcore.activations.sets import ActivationSet, open_set
from afcore.activations.shards import Shard, new_generation, shard_name, write_shard
from afcore.errors import AutoFreezeError
from afcore.storage.explain import raise_explained
from afcore.storage.objects import Storage

__all__ = ["ActivationWriter", "SetPlan"]


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
            self.shards[shard] = write_shard(
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
            name = shard_name(shard, self._generation)
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
