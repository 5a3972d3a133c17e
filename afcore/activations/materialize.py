"""Compute what a frozen prefix puts out and write it as a set, shard by shard.

Hidden states are rounded at every boundary of the **lineage** (the sets that this one was built
from, bottom first, its own boundary last), so that a shard computed again from tokens gives the
numbers that building from the lower set gave.
"""

import contextlib
import logging
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from afcore.activations.held import HeldShards
from afcore.activations.sets import (
    ITEM_BYTES,
    ActivationSet,
    ActivationWriter,
    HiddenDtype,
)
from afcore.blocks import Batch, SplitModel
from afcore.compute import HIDDEN_DTYPES, Compute, round_hidden
from afcore.data.order import inference_batches
from afcore.data.prepare import Examples
from afcore.digest import RecipeDigest
from afcore.errors import IntegrityError
from afcore.evaluate import INFERENCE_TOKENS
from afcore.storage import Storage
from afcore.tasks.text_classification import collate

__all__ = ["PrefixRunner", "as_hidden", "materialize", "read_held", "read_or_repair"]

_PROGRESS_SECONDS = 5.0
_log = logging.getLogger(__name__)


class PrefixRunner:
    """Runs the frozen prefix over examples in length-sorted batches.

    Args:
        split: the model; its prefix must not change meanwhile.
        examples: the split of the data.
        pad_token_id: of the tokenizer.
        compute: device and precision.
        dtype: type in which hidden states are kept.
    """

    def __init__(
        self,
        split: SplitModel,
        examples: Examples,
        pad_token_id: int,
        compute: Compute,
        dtype: HiddenDtype,
    ) -> None:
        self.split = split
        self.examples = examples
        self.dtype: HiddenDtype = dtype
        self._pad_token_id = pad_token_id
        self._compute = compute

    @property
    def hidden_size(self) -> int:
        """Hidden width, ``h``."""
        return int(self.split.model.config.hidden_size)

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
            lineage: boundaries at which to round, those up to ``start`` already done.
            start: 0 to begin from tokens, else the boundary that ``source`` is of.
            source: [t, h] rows of the same examples in the same order.

        Returns:
            [t, h] uint16 (bf16) or float32.
        """
        lengths = self.examples.lengths[ids]
        first = np.concatenate([[0], np.cumsum(lengths)])
        kept = torch.empty((int(first[-1]), self.hidden_size), dtype=HIDDEN_DTYPES[self.dtype])
        given = None if source is None else as_hidden(source, self.dtype)
        with _evaluating(self.split.model), torch.no_grad(), self._compute.autocast():
            for batch_rows in inference_batches(lengths, max_tokens=INFERENCE_TOKENS):
                batch, _ = collate(
                    self.examples, ids[batch_rows], self._pad_token_id, self._compute.device
                )
                spans = [(int(first[i]), int(first[i + 1])) for i in batch_rows]
                hidden = None
                if given is not None:
                    hidden = pad([given[a:b] for a, b in spans]).to(self._compute.device)
                for row, (a, b) in zip(
                    self._run(batch, lineage, start, hidden), spans, strict=True
                ):
                    kept[a:b] = row[: b - a]
        return as_stored(kept)

    def _run(self, batch: Batch, lineage: list[int], start: int, hidden: Tensor | None) -> Tensor:
        for stop in lineage:
            if stop > start:
                hidden = self.split.hidden(batch, stop, start, hidden)
                hidden = round_hidden(hidden, self.dtype)
                start = stop
        assert hidden is not None
        return hidden


@contextlib.contextmanager
def _evaluating(model: torch.nn.Module) -> Iterator[None]:
    """Eval mode; afterwards each module is as it was: a shard may be mended amid an epoch."""
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True


def materialize(
    storage: Storage,
    folder: str,
    runner: PrefixRunner,
    *,
    key: RecipeDigest,
    recipe: dict[str, Any],
    lineage: list[int],
    source: ActivationSet | None,
    producer: str,
    held: HeldShards | None = None,
) -> ActivationSet:
    """Write the set at ``lineage[-1]``, from the set below when there is one, else from tokens.

    Shards of the set below come from ``held`` where they are; there, too, each new shard is kept,
    so that the epoch that follows need not read what was just written.

    Raises:
        StorageFullError: when there is no space left; nothing is left behind.
    """
    writer = ActivationWriter(
        storage, folder, runner.examples.lengths, runner.hidden_size, runner.dtype
    )
    num_shards = writer.layout.num_shards
    num_bytes = int(runner.examples.lengths.sum()) * runner.hidden_size * ITEM_BYTES[runner.dtype]
    _log.info(
        "activations@%d: writing %.0f MB in %d shards, from %s",
        lineage[-1],
        num_bytes / 1e6,
        num_shards,
        f"activations@{source.manifest.boundary}" if source else "tokens",
    )
    if held is not None:
        held.fit(writer.layout, runner.hidden_size * ITEM_BYTES[runner.dtype])
    shown = time.monotonic()
    for shard in range(num_shards):
        ids = writer.layout.examples(shard)
        if source is None:
            rows = runner.rows(ids, lineage)
        else:
            below = read_held(source, shard, runner, held)
            rows = runner.rows(ids, lineage, source.manifest.boundary, below)
        label = writer.write_shard(shard, rows)
        if held is not None:
            held.put(shard, label, rows)
        if time.monotonic() - shown > _PROGRESS_SECONDS:
            shown = time.monotonic()
            _log.info("activations@%d: %d of %d shards", lineage[-1], shard + 1, num_shards)
    return writer.commit(key, lineage[-1], lineage, recipe, producer)


def read_held(
    activation_set: ActivationSet, shard: int, runner: PrefixRunner, held: HeldShards | None
) -> npt.NDArray[Any]:
    """A shard from where it is held, else from the store."""
    label = activation_set.manifest.shards[shard].checksum
    rows = held.get(shard, label) if held is not None else None
    return read_or_repair(activation_set, shard, runner) if rows is None else rows


def read_or_repair(
    activation_set: ActivationSet, shard: int, runner: PrefixRunner
) -> npt.NDArray[Any]:
    """Read a shard; one that is damaged or missing is computed again from tokens and replaced."""
    try:
        return activation_set.read_shard(shard)
    except IntegrityError as error:
        _log.warning("%s; computing it again", error)
    ids = activation_set.layout.examples(shard)
    activation_set.replace_shard(shard, runner.rows(ids, activation_set.manifest.lineage))
    return activation_set.read_shard(shard)


def as_hidden(rows: npt.NDArray[Any] | Tensor, dtype: HiddenDtype) -> Tensor:
    """Stored rows as a tensor of ``dtype``, sharing memory."""
    tensor = rows if isinstance(rows, Tensor) else torch.from_numpy(rows)
    return tensor.view(torch.bfloat16) if dtype == "bf16" else tensor


def as_stored(hidden: Tensor) -> npt.NDArray[Any]:
    """The inverse of :func:`as_hidden`."""
    stored: npt.NDArray[Any] = (
        hidden.view(torch.uint16) if hidden.dtype == torch.bfloat16 else hidden
    ).numpy()
    return stored


def pad(rows: list[Tensor]) -> Tensor:
    """Ragged [t_i, h] rows to [b, s, h] float32, zeros on the right."""
    return torch.nn.utils.rnn.pad_sequence(rows, batch_first=True).float()
