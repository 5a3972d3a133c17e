"""Which activation set an epoch of a run reads, and when a new one is written."""

import logging
import time
from collections.abc import Mapping
from typing import Any

from afcore.activations.materialize import PrefixRunner, materialize
from afcore.activations.sets import ActivationSet, open_set
from afcore.blocks import SplitModel
from afcore.compute import Compute
from afcore.data.prepare import Examples
from afcore.decide import SourcePlanner
from afcore.digest import ContentDigest, recipe_digest
from afcore.errors import IntegrityError
from afcore.planning import SourceDecision
from afcore.pretrained import forward_settings
from afcore.records import SetReference
from afcore.runs import Run, run_folder
from afcore.training import TrainedEpoch

__all__ = ["RunCache"]

_log = logging.getLogger(__name__)


class RunCache:
    """The activation sets of one run.

    Attributes:
        seconds: spent in building sets.
        bytes_written: of the sets built.
    """

    def __init__(self, run: Run, split: SplitModel, examples: Examples, compute: Compute) -> None:
        self._run = run
        self._split = split
        self._examples = examples
        self._compute = compute
        self.seconds = 0.0
        self.bytes_written = 0
        self.runner = PrefixRunner(
            split, examples, run.record.pad_token_id, compute, run.config.cache.dtype
        )
        self.planner = SourcePlanner(run, split, examples, compute, self.runner)

    @property
    def allowed(self) -> bool:
        """Whether this run may cache at all."""
        config = self._run.config
        wanted = config.mode == "cached" and config.cache.mode != "off"
        return wanted and self._run.record.uncacheable is None

    @property
    def _measured(self) -> bool:
        """Whether measurements decide; ``cache.mode`` may say it outright."""
        return self.allowed and self._run.config.cache.mode == "auto"

    def has(self, boundary: int, weights: Mapping[str, ContentDigest]) -> bool:
        """Whether the store has the set at ``boundary``, built from tokens."""
        if not boundary or not self.allowed:
            return False
        return self._open_sound(self._reference([boundary], weights).folder) is not None

    def first_source(
        self, boundary: int, weights: Mapping[str, ContentDigest]
    ) -> tuple[SetReference | None, SourceDecision | None]:
        """What epoch 1 reads, and the decision when it was measured."""
        if not self.allowed:
            return None, None
        reference = self._reference([boundary], weights) if boundary else None
        if not self._measured:
            return reference, None
        exists = self.has(boundary, weights)
        decision = self.planner.decide(1, boundary=boundary, read_boundary=0, exists=exists)
        return reference if decision.source == "set" else None, decision

    def next_source(
        self,
        boundary: int,
        weights: Mapping[str, ContentDigest],
        current: SetReference | None,
    ) -> SetReference:
        """The set at a grown boundary, to be built from the current one."""
        return self._reference([*(current.lineage if current else []), boundary], weights)

    def next_decision(
        self,
        boundary: int,
        weights: Mapping[str, ContentDigest],
        current: SetReference | None,
        trained: TrainedEpoch,
        epoch: int,
    ) -> SourceDecision | None:
        """What the epoch after ``epoch`` should read; None when nothing is measured."""
        if not self._measured or epoch >= self._run.config.training.epochs:
            return None
        read_boundary = current.boundary if current else 0
        exists = False
        if boundary > read_boundary:
            folder = self.next_source(boundary, weights, current).folder
            exists = self._open_sound(folder) is not None
        return self.planner.decide(
            epoch + 1,
            boundary=boundary,
            read_boundary=read_boundary,
            exists=exists,
            scale=self.planner.scale(epoch, read_boundary, trained),
        )

    def should_build(
        self,
        boundary: int,
        current: SetReference | None,
        decision: SourceDecision | None,
        epochs_left: int,
    ) -> bool:
        """Whether to have the set at ``boundary`` before the next epoch."""
        read_boundary = current.boundary if current else 0
        if not self.allowed or epochs_left < 1 or boundary <= read_boundary:
            return False
        return decision is None or decision.source == "set"

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
