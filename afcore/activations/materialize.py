"""Compute what a frozen prefix puts out and write it as a set, shard by shard.

Hidden states are rounded to bf16 (fp32: not at all) after every block, so what a set holds does not
depend on what it was built from. int8 is coarser: there the **lineage** says at which boundaries
they were also rounded to int8 (the sets that this one was built from, bottom first, its own
boundary last), so that a shard computed again from tokens gives the numbers that building from the
lower set gave.
"""

import logging
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from afcore.activations.codec import (
    STORED_AS,
    RowFormat,
    round_block,
    round_boundary,
)
from afcore.activations.manifest import NewSet
from afcore.activations.resident_shards import ResidentShards
from afcore.activations.sets import ActivationSet, open_set
from afcore.activations.shards import new_generation
from afcore.activations.writer import ActivationWriter, SetPlan
from afcore.compute import HiddenDtype
from afcore.data.order import inference_batches
from afcore.distributed import ALONE, WorkerGroup
from afcore.errors import IntegrityError
from afcore.model.forwards import Batch, Hidden, evaluating
from afcore.storage.objects import Storage
from afcore.trainee import Trainee

__all__ = ["PrefixRunner", "materialize", "read_or_repair", "read_resident"]

_PROGRESS_SECONDS = 5.0
_log = logging.getLogger(__name__)


class PrefixRunner:
    """Runs the frozen prefix over examples in length-sorted batches.

    Args:
        trainee: whose prefix must not change meanwhile.
        lengths: [n] rows at the boundary of each example, where they are not as many as tokens.
    """

    def __init__(self, trainee: Trainee, lengths: npt.NDArray[np.int64] | None = None) -> None:
        self.trainee = trainee
        self.split, self.examples = trainee.split, trainee.examples
        self.lengths = self.examples.lengths if lengths is None else lengths
        self.dtype: HiddenDtype = trainee.dtype
        self.format = RowFormat(self.dtype, self.split.widths)
        self._compute = trainee.compute

    @property
    def num_bytes(self) -> int:
        """Bytes of a whole set."""
        return int(self.lengths.sum()) * self.format.row_bytes

    def rows(
        self,
        ids: npt.NDArray[np.int64],
        lineage: list[int],
        start: int = 0,
        source: npt.NDArray[Any] | None = None,
    ) -> npt.NDArray[Any]:
        """Hidden states at ``lineage[-1]``, without padding.

        Args:
            ids: example ids; their rows come out in this order.
            lineage: boundaries at which to round to ``dtype``, those up to ``start`` already done.
            start: 0 to begin from tokens, else the boundary that ``source`` is of.
            source: [t, w] stored rows of the same examples in the same order.

        Returns:
            [t, w] stored rows, see :mod:`afcore.activations.codec`.
        """
        lengths = self.lengths[ids]
        first = np.concatenate([[0], np.cumsum(lengths)])
        rows = np.empty((int(first[-1]), self.format.width), dtype=STORED_AS[self.dtype])
        given = None if source is None else self.format.decode(source)
        with evaluating(self.split.model), torch.no_grad(), self._compute.autocast():
            for batch_rows in inference_batches(lengths):
                batch = self.trainee.inputs(ids[batch_rows])
                spans = [(int(first[i]), int(first[i + 1])) for i in batch_rows]
                hidden = None
                if given is not None:
                    hidden = {
                        name: pad([values[a:b] for a, b in spans]).to(self._compute.device)
                        for name, values in given.items()
                    }
                stored = self._run(batch, lineage, start, hidden).cpu().numpy()
                for row, (a, b) in zip(stored, spans, strict=True):
                    rows[a:b] = row[: b - a]
        return rows

    def _run(self, batch: Batch, lineage: list[int], start: int, hidden: Hidden | None) -> Tensor:
        """[b, s, w] stored rows at the last boundary, padding included."""
        rounding = partial(round_block, dtype=self.dtype)
        for stop in lineage[:-1]:
            if stop > start:
                hidden = self.split.hidden(batch, stop, start, hidden, rounding)
                hidden, start = round_boundary(hidden, self.dtype), stop
        hidden = self.split.hidden(batch, lineage[-1], start, hidden, rounding)
        return self.format.encode(hidden)


def materialize(
    storage: Storage,
    new: NewSet,
    runner: PrefixRunner,
    source: ActivationSet | None = None,
    *,
    check: Callable[[], None] = lambda: None,
    resident: ResidentShards | None = None,
    group: WorkerGroup = ALONE,
    plan: SetPlan | None = None,
) -> ActivationSet:
    """Write a set, from the set below (``source``) when there is one, else from tokens.

    Every worker writes whole shards of its own; the first commits once all have. Shards that
    ``plan`` keeps of another set are not written; with a source, the new set is laid out as it is.

    Shards of the set below come from ``resident`` where they are; there, too, each new one is kept,
    so that the epoch that follows need not read what was just written. ``check`` is called before
    the commit, and by one worker alone before each shard; it may raise to stop.

    Raises:
        LeaseLostError: on every worker, when ``check`` raises it.
        StorageFullError: when there is no space left.

    Whatever is raised, nothing is left behind.
    """
    if source is not None:
        plan = SetPlan(source.layout.compact())
    writer = ActivationWriter(
        storage, new, runner.lengths, runner.format, group.tell(new_generation()), plan
    )
    num_shards = writer.layout.num_shards
    to_write = [number for number in range(num_shards) if number not in writer.shards]
    _log.info(
        "activations@%d: writing %.1f MB in %d shards, from %s",
        new.boundary,
        sum(writer.layout.num_rows(n) for n in to_write) * runner.format.row_bytes / 1e6,
        len(to_write),
        f"activations@{source.manifest.boundary}" if source else "tokens",
    )
    if resident is not None:
        resident.fit(writer.layout, runner.format.row_bytes)
    shown = time.monotonic()
    with writer.cleaned_up():
        for shard in to_write[group.rank :: group.count]:
            if group.count == 1:
                check()
            ids = writer.layout.examples(shard)
            if source is None:
                rows = runner.rows(ids, new.lineage)
            else:
                below = read_resident(source, shard, runner, resident)
                below = below[source.layout.rows_of(ids)]
                rows = runner.rows(ids, new.lineage, source.manifest.boundary, below)
            label = writer.write_shard(shard, rows)
            if resident is not None:
                resident.put(shard, label, rows)
            if time.monotonic() - shown > _PROGRESS_SECONDS:
                shown = time.monotonic()
                _log.info("activations@%d: %d of %d shards", new.boundary, shard + 1, num_shards)
        for shards in group.gather(writer.shards):
            writer.shards.update(shards)
        group.checked_by_first(check)
    committed = None
    if group.is_first:
        committed = writer.commit(runner.examples.example_digests)
    group.wait()
    committed = committed or open_set(storage, new.folder)
    assert committed is not None
    return committed


def read_resident(
    activation_set: ActivationSet,
    shard: int,
    runner: PrefixRunner,
    resident: ResidentShards | None,
) -> npt.NDArray[Any]:
    """A shard from where it is held, else from the store."""
    label = activation_set.manifest.shards[shard].checksum
    rows = resident.get(shard, label) if resident is not None else None
    return read_or_repair(activation_set, shard, runner) if rows is None else rows


def read_or_repair(
    activation_set: ActivationSet, shard: int, runner: PrefixRunner
) -> npt.NDArray[Any]:
    """Read a shard; one that is damaged or missing is computed again from tokens and replaced."""
    try:
        return activation_set.read_shard(shard)
    except IntegrityError as error:
        _log.warning("%s; computing it again", error)
    layout = activation_set.layout
    ids = layout.examples(shard)
    found = runner.rows(ids, activation_set.manifest.lineage)
    # Of examples that have left, rows of zeros, which nobody reads.
    rows = np.zeros((layout.num_rows(shard), found.shape[1]), dtype=found.dtype)
    rows[layout.rows_of(ids)] = found
    activation_set.replace_shard(shard, rows)
    return activation_set.read_shard(shard)


def pad(rows: list[Tensor]) -> Tensor:
    """Ragged [t_i, h] rows to [b, s, h] float32, zeros on the right."""
    return torch.nn.utils.rnn.pad_sequence(rows, batch_first=True).float()
