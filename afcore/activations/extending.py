"""A set that holds most of another one's rows: their shards are kept, and the others computed.

Rows are those of the same examples under the same prefix: of sets whose recipes differ in the data
alone. A kept shard stays where it is, in the folder of the set that wrote it; the new manifest
names it. What its examples are is told by a digest of each (:attr:`.Examples.example_digests`).
A note of each set in a folder of its prefix lets it be found by one listing of that folder.
Examples that left are not in the new index, and their rows stay in the shard.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from afcore.activations.layout import SHARD_BYTES, RaggedLayout, plan_layout
from afcore.activations.sets import ActivationSet, open_set, prefix_folder, prefix_key
from afcore.activations.shards import Shard
from afcore.activations.writer import SetPlan
from afcore.errors import IntegrityError
from afcore.storage.objects import Storage

__all__ = ["Extension", "extension_of", "find_extension", "note_extendable"]

_NEWEST = 100
_ENOUGH = 0.9
_LEAST_USED = 0.5
_SMALL_BYTES = SHARD_BYTES // 32
_MOST_SMALL = 32
_Digests = npt.NDArray[np.uint64]


@dataclass(frozen=True)
class Extension:
    """What a new set takes over from another one.

    Attributes:
        found: the other one.
        plan: of the new set.
        num_kept: examples whose rows are there.
    """

    found: ActivationSet
    plan: SetPlan
    num_kept: int

    @property
    def num_new_rows(self) -> int:
        """Rows that are computed and written."""
        rows = self.plan.layout.rows_by_shard
        return int(rows.sum() - sum(rows[number] for number in self.plan.kept))


def find_extension(
    storage: Storage,
    folder: str,
    recipe: dict[str, Any],
    lengths: Any,
    digests: Callable[[], _Digests],
) -> Extension | None:
    """The set with most of the rows, of the newest hundred under one prefix; None: none has half.

    One that lacks a tenth at most is taken without looking at older ones.

    Args:
        storage: where.
        folder: of the new set; others lie beside it.
        recipe: of the new set.
        lengths: [n] rows of each of its examples.
        digests: gives [n, 2] of these; asked where there is a set under the same prefix.
    """
    above = folder.rpartition("/")[0]
    notes = storage.listing(prefix_folder(folder, recipe))
    newest = sorted(notes, key=lambda key: -notes[key].modified)[:_NEWEST]
    best: Extension | None = None
    written = 0.0
    for key in newest:
        # S3 tells times in whole seconds: which of one second is the newest is not known.
        is_older = notes[key].modified < written
        if best is not None and is_older and best.num_kept >= _ENOUGH * len(lengths):
            break
        other = f"{above}/{key.rpartition('/')[2].removesuffix('.json')}"
        if other == folder:
            continue
        try:
            found = open_set(storage, other)
            if found is None or _prefix(found.manifest.recipe) != _prefix(recipe):
                continue
            extension = extension_of(found, lengths, digests(), folder)
        except IntegrityError:
            continue
        if extension is not None and (best is None or extension.num_kept > best.num_kept):
            best, written = extension, notes[key].modified
    return best


def note_extendable(storage: Storage, found: ActivationSet) -> None:
    """Let a committed set be found by :func:`find_extension`; its eviction deletes the note."""
    note = json.dumps({"folder": found.folder}).encode()
    storage.put(prefix_key(found.folder, found.manifest.recipe), note)


def extension_of(
    found: ActivationSet, lengths: npt.NDArray[np.int64], digests: _Digests, folder: str = ""
) -> Extension | None:
    """How a set of other examples would take over rows; None: fewer than half of its examples'.

    Args:
        found: a set under the same prefix.
        lengths: [n] rows of each example.
        digests: [n, 2] of these.
        folder: of the new set, whose own shards another one may have kept.

    Raises:
        IntegrityError: when the other set is damaged.
    """
    known = found.example_digests
    if known is None:
        return None
    layout, manifest = found.layout, found.manifest
    there = _positions(known, digests)
    has = there >= 0
    has[has] = layout.lengths[there[has]] == lengths[has]
    keeps = _kept_shards(layout, np.unique(there[has]), manifest.format.row_bytes)
    has[has] = keeps[layout.shard[there[has]]]
    num_kept = int(has.sum())
    if num_kept * 2 < len(lengths):
        return None
    numbers = np.cumsum(keeps) - 1
    rows = layout.rows_by_shard[keeps]
    shard, start = np.zeros((2, len(lengths)), dtype=np.int64)
    shard[has], start[has] = numbers[layout.shard[there[has]]], layout.start[there[has]]
    if num_kept < len(lengths):
        fresh = plan_layout(lengths[~has], row_bytes=manifest.format.row_bytes)
        shard[~has], start[~has] = fresh.shard + len(rows), fresh.start
        rows = np.concatenate([rows, fresh.rows_by_shard])
    kept = [_of(found, manifest.shards[old], folder) for old in np.flatnonzero(keeps)]
    plan = SetPlan(RaggedLayout(shard, start, lengths, rows), dict(enumerate(kept)))
    return Extension(found, plan, num_kept)


def _kept_shards(
    layout: RaggedLayout, used: npt.NDArray[np.int64], row_bytes: int
) -> npt.NDArray[np.bool_]:
    """[s], shards most of whose rows are wanted; of small ones not many, or nights would add up."""
    rows = layout.rows_by_shard
    wanted = np.bincount(layout.shard[used], weights=layout.lengths[used], minlength=len(rows))
    keeps = wanted >= _LEAST_USED * rows
    small = keeps & (rows * row_bytes < _SMALL_BYTES)
    if small.sum() > _MOST_SMALL:
        keeps &= ~small
    return keeps


def _positions(known: _Digests, wanted: _Digests) -> npt.NDArray[np.int64]:
    """[n], where each of the wanted stands among those known; -1: nowhere."""
    # As bytes, which numpy sorts; what it leaves out of them, zeros at the end, changes no order.
    one, other = (np.ascontiguousarray(d).view("S16").reshape(-1) for d in (known, wanted))
    order = np.argsort(one, kind="stable")
    at = np.minimum(np.searchsorted(one[order], other), len(one) - 1)
    return np.where(one[order][at] == other, order[at], -1)


def _of(found: ActivationSet, shard: Shard, folder: str) -> Shard:
    """A shard of a set as another set names it."""
    written = shard.folder or found.folder
    return replace(shard, folder=None if written == folder else written)


def _prefix(recipe: dict[str, Any]) -> dict[str, Any]:
    """All of a recipe but the data."""
    return {key: value for key, value in recipe.items() if key != "data"}
