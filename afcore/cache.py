"""Which activation set an epoch of a run reads, and when a new one is written."""

import logging
import time
from collections.abc import Mapping
from typing import Any

from afcore.activations.held import HeldShards
from afcore.activations.layout import plan_layout
from afcore.activations.materialize import PrefixRunner, materialize
from afcore.activations.sets import ITEM_BYTES, ActivationSet, open_set
from afcore.blocks import SplitModel
from afcore.compute import Compute
from afcore.data.prepare import Examples
from afcore.digest import ContentDigest, recipe_digest
from afcore.errors import IntegrityError
from afcore.planning import Rates, plan_materialize
from afcore.pretrained import forward_settings
from afcore.records import SetReference
from afcore.runs import Run, run_folder
from afcore.training import TrainedEpoch

__all__ = ["RunCache"]

_ASSUMED_WRITE_BYTES_PER_SECOND = {"s3": 100e6}
_ASSUMED_READ_BYTES_PER_SECOND = {"s3": 100e6}
_LOCAL_BYTES_PER_SECOND = 500e6

_log = logging.getLogger(__name__)


class RunCache:
    """The activation sets of one run.

    Attributes:
        held: what this process holds of sets, if anything.
        seconds: spent in building sets.
        bytes_written: of the sets built.
    """

    def __init__(
        self,
        run: Run,
        split: SplitModel,
        examples: Examples,
        compute: Compute,
        held: HeldShards | None = None,
    ) -> None:
        self._run = run
        self._split = split
        self._examples = examples
        self._compute = compute
        self.held = held
        self.seconds = 0.0
        self.bytes_written = 0
        self.runner = PrefixRunner(
            split, examples, run.record.pad_token_id, compute, run.config.cache.dtype
        )

    @property
    def allowed(self) -> bool:
        """Whether this run may cache at all."""
        config = self._run.config
        wanted = config.mode == "cached" and config.cache.mode != "off"
        return wanted and self._run.record.uncacheable is None

    def first_source(
        self, boundary: int, weights: Mapping[str, ContentDigest]
    ) -> SetReference | None:
        """What epoch 1 reads when a prefix is frozen from the start.

        A set in the store is used. Else one is built when ``cache.mode`` is ``on``, or when more
        than one epoch will read it: nothing is measured yet that a finer estimate could use.
        """
        if not boundary or not self.allowed:
            return None
        reference = self._reference([boundary], weights)
        worthwhile = self._run.config.cache.mode == "on" or self._run.config.training.epochs > 1
        found = self._open_sound(reference.folder) is not None
        return reference if worthwhile or found else None

    def next_source(
        self,
        boundary: int,
        weights: Mapping[str, ContentDigest],
        current: SetReference | None,
    ) -> SetReference:
        """The set at a grown boundary, to be built from the current one."""
        return self._reference([*(current.lineage if current else []), boundary], weights)

    def should_build(
        self,
        boundary: int,
        weights: Mapping[str, ContentDigest],
        current: SetReference | None,
        trained: TrainedEpoch,
        epochs_left: int,
    ) -> bool:
        """Whether to have the set at ``boundary`` before the next epoch."""
        read_boundary = current.boundary if current else 0
        if not self.allowed or epochs_left < 1 or boundary <= read_boundary:
            return False
        folder = self.next_source(boundary, weights, current).folder
        if self._run.config.cache.mode == "on" or self._open_sound(folder):
            return True
        protocol = self._run.storage.protocol
        plan = plan_materialize(
            Rates(
                prefix_seconds=trained.prefix_seconds,
                prefix_block_tokens=trained.prefix_block_tokens,
                suffix_seconds=trained.suffix_seconds,
                suffix_block_tokens=trained.suffix_block_tokens,
                read_bytes_per_second=_ASSUMED_READ_BYTES_PER_SECOND.get(
                    protocol, _LOCAL_BYTES_PER_SECOND
                ),
                write_bytes_per_second=_ASSUMED_WRITE_BYTES_PER_SECOND.get(
                    protocol, _LOCAL_BYTES_PER_SECOND
                ),
            ),
            num_tokens=len(self._examples.tokens),
            hidden_bytes=self.runner.hidden_size * ITEM_BYTES[self.runner.dtype],
            read_boundary=read_boundary,
            boundary=boundary,
            epochs_left=epochs_left,
        )
        _log.info(
            "activations@%d: %.0f MB would cost %.1f s and spare %.1f s in %d epochs: %s",
            *(boundary, plan.num_bytes / 1e6, plan.cost_seconds, plan.saving_seconds),
            *(epochs_left, "written" if plan.pays else "not written"),
        )
        return plan.pays

    def window_shards(self, source: SetReference | None) -> int | None:
        """Shards in a window of the order in which an epoch reads ``source``; None: no windows."""
        if source is None or self.held is None:
            return None
        row_bytes = self.runner.hidden_size * ITEM_BYTES[self.runner.dtype]
        self.held.fit(plan_layout(self._examples.lengths, row_bytes=row_bytes), row_bytes)
        return self.held.window

    def open_or_build(
        self,
        reference: SetReference,
        weights: Mapping[str, ContentDigest],
        below: SetReference | None,
    ) -> ActivationSet:
        """Open a set; build it when it is not there (not yet, or no longer)."""
        storage, record = self._run.storage, self._run.record
        found = self._open_sound(reference.folder)
        if found is not None:
            _log.info("activations@%d: found in the store", reference.boundary)
        else:
            clock = time.perf_counter()
            found = materialize(
                storage,
                reference.folder,
                self.runner,
                key=reference.key,
                recipe=self._recipe(reference.lineage, weights),
                lineage=reference.lineage,
                source=self._open_sound(below.folder) if below else None,
                producer=record.run_id,
                held=self.held,
            )
            self.seconds += time.perf_counter() - clock
            self.bytes_written += found.manifest.num_bytes
        found.record_use(record.run_id, run_folder(record.run_id))
        return found

    def _open_sound(self, folder: str) -> ActivationSet | None:
        """Open a set; one whose manifest or index is damaged is deleted, to be built again."""
        try:
            found = open_set(self._run.storage, folder)
            if found is not None:
                _ = found.layout
        except IntegrityError as error:
            _log.warning("%s; building the set again", error)
            self._run.storage.delete_folder(folder)
            return None
        return found

    def _reference(self, lineage: list[int], weights: Mapping[str, ContentDigest]) -> SetReference:
        key = recipe_digest(self._recipe(lineage, weights))
        folder = f"{self._run.activations_folder}/{key[:32]}"
        return SetReference(folder=folder, key=key, lineage=lineage)

    def _recipe(self, lineage: list[int], weights: Mapping[str, ContentDigest]) -> dict[str, Any]:
        """Everything that decides the numbers in a set."""
        record, model = self._run.record, self._split.model
        return {
            "schema": 1,
            "weights": {part: weights[part] for part in self._split.frozen_parts(lineage[-1])},
            "forward": forward_settings(record.architecture),
            "attention": model.config._attn_implementation,
            "precision": self._compute.precision,
            "device": self._compute.device.type,
            "dtype": self.runner.dtype,
            "data": self._examples.digest,
            "versions": record.versions,
            "lineage": lineage,
        }
