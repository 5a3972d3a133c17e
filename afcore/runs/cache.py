"""Which activation set an epoch of a run reads, and when a new one is written."""

import contextlib
import logging
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from afcore.activations.building import open_or_build, open_sound
from afcore.activations.codec import canonical_lineage, lineages_below
from afcore.activations.extending import Extension, find_extension, note_extendable
from afcore.activations.layout import plan_layout
from afcore.activations.manifest import NewSet
from afcore.activations.materialize import PrefixRunner, materialize
from afcore.activations.resident_shards import ResidentShards
from afcore.activations.room import make_room, room_bytes
from afcore.activations.sets import ActivationSet, open_set
from afcore.activations.writer import SetPlan
from afcore.digest import ContentDigest, recipe_digest
from afcore.errors import LeaseLostError
from afcore.model.pretrained import forward_settings
from afcore.model.split_model import adapter_part
from afcore.numerics import numerics_of
from afcore.planning.choose import EpochChoice
from afcore.planning.choose_workers import Standing
from afcore.runs.decide import RunPlanner
from afcore.runs.records import EpochPlan, SetReference
from afcore.runs.run import Run, run_folder
from afcore.trainee import Trainee
from afcore.training.trained import TrainedEpoch

__all__ = ["RunCache"]

_SOON_BUILT = 10  # a tenth of the set
_log = logging.getLogger(__name__)


class RunCache:
    """The activation sets of one run.

    Attributes:
        trainee: what is trained.
        held: what this process holds of sets, if anything.
        seconds: spent in building sets, and in waiting for other runs that built them.
        bytes_written: of the sets built.
    """

    def __init__(
        self,
        run: Run,
        trainee: Trainee,
        held: ResidentShards | None = None,
    ) -> None:
        self._run = run
        self.trainee = trainee
        self._group = trainee.group
        self._split, self._examples = trainee.split, trainee.examples
        self._compute = trainee.compute
        self.held = held
        self.seconds = 0.0
        self.bytes_written = 0
        self.runner = PrefixRunner(trainee)
        self.planner = RunPlanner(run, self.runner)
        self._extensions: dict[str, Extension | None] = {}

    @property
    def allowed(self) -> bool:
        """Whether this run may cache at all."""
        return self.planner.allowed.sets != "off"

    def has(self, boundary: int, weights: Mapping[str, ContentDigest]) -> bool:
        """Whether the store has the set at ``boundary``, or most of its rows."""
        if not boundary or not self.allowed:
            return False
        return self._is_at_hand(self._reference([boundary], weights), weights)

    def key(self, boundary: int, weights: Mapping[str, ContentDigest]) -> str:
        """Of the set at ``boundary`` that is built from the examples."""
        return self._reference([boundary], weights).key

    def first_epoch(self, boundary: int) -> EpochPlan:
        """How epoch 1 is to be trained."""
        weights = self._run.record.weights
        self.planner.check_limits()
        at = replace(self.planner.start(boundary), exists=self.has(boundary, weights))
        choice = self.planner.choose(at, max_set_bytes=self._room_bytes())
        refusal = self._refused(boundary, weights, None)
        reads = bool(boundary) and self.allowed and refusal is None
        if choice is not None:
            reads = reads and choice.forecast.setup.read_boundary == boundary
        return EpochPlan(
            read_from=self._reference([boundary], weights) if reads else None,
            choice=choice,
            notes=[refusal] if refusal else [],
            **self._workers(choice, self._run.config.workers.max),
        )

    def next_epoch(
        self,
        boundary: int,
        weights: Mapping[str, ContentDigest],
        current: SetReference | None,
        trained: TrainedEpoch,
        epoch: int,
    ) -> EpochPlan:
        """How the epoch after ``epoch`` is to be trained.

        Args:
            boundary: after ``epoch``.
            weights: likewise.
            current: the set that ``epoch`` read, as far as nothing of it has thawed.
            trained: of ``epoch``.
            epoch: the one that is being committed.
        """
        read_boundary, allowed = current.boundary if current else 0, self.planner.allowed
        exists, scale = False, 1.0
        if allowed.sets == "auto":
            scale = self.planner.scale(epoch, read_boundary, trained, self._group.count)
        if allowed.measures and self.allowed and boundary > read_boundary:
            exists = self._is_at_hand(self.next_source(boundary, weights, current), weights)
        at = Standing(
            epoch=epoch + 1,
            num_epochs=self._run.config.training.num_epochs,
            boundary=boundary,
            set_at_hand=read_boundary,
            exists=exists,
            builders=self._group.count,
            scale=scale,
        )
        choice = self.planner.choose(
            at,
            worked_seconds=trained.train_seconds + trained.evaluate_seconds,
            max_set_bytes=self._room_bytes(),
        )
        refusal = self._refused(boundary, weights, current)
        wanted = boundary if allowed.sets == "on" else read_boundary
        if choice is not None:
            wanted = choice.forecast.setup.read_boundary
        read_from, build = current if wanted else None, wanted > read_boundary and refusal is None
        if build:
            read_from = self.next_source(boundary, weights, current)
        return EpochPlan(
            read_from=read_from,
            build=build,
            choice=choice,
            notes=[refusal] if refusal else [],
            **self._workers(choice, self._group.count),
        )

    def _workers(self, choice: EpochChoice | None, present: int) -> dict[str, Any]:
        workers = self._run.config.workers
        if choice is not None and choice.workers is not None:
            # Kept where it cuts nothing too: should workers be lost, the others' shares grow.
            setup = choice.forecast.setup
            return {"num_workers": setup.num_workers, "micro_batch": setup.micro_batch}
        count = present if self.planner.allowed.chooses else workers.max
        return {"num_workers": count, "micro_batch": workers.micro_batch}

    def next_source(
        self,
        boundary: int,
        weights: Mapping[str, ContentDigest],
        current: SetReference | None,
    ) -> SetReference:
        """The set at a grown boundary, when the current one is at hand."""
        return self._reference([*(current.lineage if current else []), boundary], weights)

    def _refused(
        self,
        boundary: int,
        weights: Mapping[str, ContentDigest],
        current: SetReference | None,
    ) -> str | None:
        """Why the set at ``boundary`` may not be written for the next epoch: ``cache.max_bytes``.

        None when it may, when it is there, or when nobody would want it.
        """
        wanted = boundary > (current.boundary if current else 0)
        if not self.allowed or not wanted:
            return None
        reference = self.next_source(boundary, weights, current)
        room = self._room_bytes()
        if room is None or self.runner.num_bytes <= room:
            return None
        if self._is_at_hand(reference, weights):
            return None
        limit = self._run.config.cache.max_bytes or 0
        text = (
            f"activations@{reference.boundary} not written: its {self.runner.num_bytes / 1e6:.1f} "
            f"MB beside {(limit - room) / 1e6:.1f} MB of others would exceed cache.max_bytes "
            f"({limit / 1e6:.1f} MB); the blocks below run in every epoch"
        )
        _log.warning("%s", text)
        return text

    def _room_bytes(self) -> int | None:
        """Left of ``cache.max_bytes``, with what can go for it; None without a limit."""
        limit = self._run.config.cache.max_bytes
        if limit is None:
            return None
        above, wanted = self._run.activations_folder, self.runner.num_bytes
        return room_bytes(self._run.storage, above, limit, wanted)

    def _make_room(self, wanted: int) -> None:
        limit = self._run.config.cache.max_bytes
        if limit is not None:
            make_room(self._run.storage, self._run.activations_folder, limit, wanted)

    def window_shards(self, source: SetReference | None) -> int | None:
        """Shards in a window of the order in which an epoch reads ``source``; None: no windows."""
        if source is None or self.held is None:
            return None
        size = self.runner.format.row_bytes
        self.held.fit(plan_layout(self._examples.lengths, row_bytes=size), size)
        return self.held.window

    def open_or_build(
        self, reference: SetReference, weights: Mapping[str, ContentDigest]
    ) -> ActivationSet:
        """Open a set; build it when it is not there (not yet, or no longer).

        When another run is building it, this one waits for it. The first worker decides, and
        whenever it says so, all of them write their shards.
        """
        if not self._group.is_first:
            while (told := self._group.tell()) is not None:
                lineage_below, plan = told
                with contextlib.suppress(LeaseLostError):  # then the first one waits, or asks again
                    below = self._open_below(lineage_below, weights)
                    self._build(reference, weights, below, plan)
            found = open_sound(self._run.storage, reference.folder)
            assert found is not None
            return found

        def build(check: Callable[[], None]) -> ActivationSet:
            found, plan, below = self._extension(reference, weights), None, None
            new = self.runner.num_bytes if found is None else self._num_new_bytes(found)
            self._make_room(new)
            if found is None:
                below = self._nearest_below(reference, weights)
            else:
                plan = found.plan
                _log.info(
                    "activations@%d: the rows of %d of %d examples are in the store; the others "
                    "are computed",
                    reference.boundary,
                    found.num_kept,
                    len(self._examples),
                )
            self._group.tell((below.manifest.lineage if below else [], plan))
            return self._build(reference, weights, below, plan, check)

        opened = open_or_build(
            self._run.storage,
            reference.folder,
            build,
            what=f"activations@{reference.boundary}",
            num_bytes=self.runner.num_bytes,
            note_use=self._note_use,
        )
        self._group.tell(None)
        self.seconds += opened.seconds
        if opened.built:
            self.bytes_written += opened.activation_set.manifest.own_bytes
            if self._run.config.cache.share:
                note_extendable(self._run.storage, opened.activation_set)
        else:
            _log.info("activations@%d: found in the store", reference.boundary)
        return opened.activation_set

    def _build(
        self,
        reference: SetReference,
        weights: Mapping[str, ContentDigest],
        below: ActivationSet | None,
        plan: SetPlan | None,
        check: Callable[[], None] = lambda: None,
    ) -> ActivationSet:
        new = NewSet(
            reference.folder,
            reference.key,
            self._recipe(reference.lineage, weights),
            reference.lineage,
            self._run.record.run_id,
        )
        return materialize(
            self._run.storage,
            new,
            self.runner,
            below,
            check=check,
            resident=self.held,
            group=self._group,
            plan=plan,
        )

    def _is_at_hand(self, reference: SetReference, weights: Mapping[str, ContentDigest]) -> bool:
        """Whether the set is there; or so much of it that the rest is soon built, and has room."""
        if open_sound(self._run.storage, reference.folder) is not None:
            return True
        found, room = self._extension(reference, weights), self._room_bytes()
        if found is None:
            return False
        missing = self._num_new_bytes(found)
        return missing * _SOON_BUILT <= self.runner.num_bytes and (room is None or missing <= room)

    def _num_new_bytes(self, found: Extension) -> int:
        return found.num_new_rows * self.runner.format.row_bytes

    def _extension(
        self, reference: SetReference, weights: Mapping[str, ContentDigest]
    ) -> Extension | None:
        """What is kept of a set of other rows, an earlier night's say; None where none has most.

        Looked for once. A run that shares no sets has no others beside its own.
        """
        folder = reference.folder
        if not self._run.config.cache.share:
            return None
        if folder not in self._extensions:
            self._extensions[folder] = find_extension(
                self._run.storage,
                folder,
                self._recipe(reference.lineage, weights),
                self.runner.lengths,
                lambda: self._examples.example_digests,
            )
        found = self._extensions[folder]
        if found is None:
            return None
        self._note_use(found.found)
        # Who evicts looks for users last of all; see open_or_build.
        now = open_set(self._run.storage, found.found.folder)
        return found if now is not None and now.manifest == found.found.manifest else None

    def _open_below(
        self, lineage: list[int], weights: Mapping[str, ContentDigest]
    ) -> ActivationSet | None:
        if not lineage:
            return None
        return open_sound(self._run.storage, self._reference(lineage, weights).folder)

    def _nearest_below(
        self, reference: SetReference, weights: Mapping[str, ContentDigest]
    ) -> ActivationSet | None:
        """The highest set in the store that this one can be built from, whoever wrote it."""
        for lineage in lineages_below(reference.lineage, self.runner.dtype):
            found = open_sound(self._run.storage, self._reference(lineage, weights).folder)
            if found is not None:
                self._note_use(found)
                return found
        return None

    def _note_use(self, activation_set: ActivationSet) -> None:
        run_id = self._run.record.run_id
        activation_set.record_use(run_id, run_folder(run_id))

    def _reference(self, lineage: list[int], weights: Mapping[str, ContentDigest]) -> SetReference:
        lineage = canonical_lineage(lineage, self.runner.dtype)
        key = recipe_digest(self._recipe(lineage, weights))
        folder = f"{self._run.activations_folder}/{key[:32]}"
        return SetReference(folder=folder, key=key, lineage=lineage)

    def _recipe(self, lineage: list[int], weights: Mapping[str, ContentDigest]) -> dict[str, Any]:
        """Everything that decides the numbers in a set."""
        record, model = self._run.record, self._split.model
        frozen = self._split.frozen_parts(lineage[-1])
        # Without adapters below, the set is one of runs without any.
        adapters = {adapter_part(index) for index in range(lineage[-1])}
        unused = set() if adapters & set(frozen) else {"peft"}
        quantized: dict[str, Any] = {}
        if (kind := self._run.config.quantization) is not None:
            lowest = min(lineage[-1], self._run.first_freeze.boundary)
            quantized = {"quantization": {"kind": kind, "blocks": lowest}}
        return {
            **quantized,
            "schema": 3,
            "numerics": numerics_of("model", "activations"),
            "weights": {part: weights[part] for part in frozen},
            "forward": forward_settings(record.architecture),
            "attention": model.config._attn_implementation,
            "pad_token_id": record.task.pad_token_id,
            "precision": self._compute.precision,
            "device": self._compute.device.type,
            "dtype": self.runner.dtype,
            "data": self._examples.digest,
            "versions": {name: v for name, v in record.versions.items() if name not in unused},
            "lineage": lineage,
        }
