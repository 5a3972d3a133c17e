"""One epoch of a run, from committed state to committed state.

Each step is skipped when its result is already there, so a retry repeats nothing that was
committed::

    started.json     it has begun, as was decided at the end of the epoch before; in which order
    checkpoint.json  trained and evaluated, and how to go on: parts first, this record after them
    (set)            the activation set at the new boundary, when it pays
    report.json      the epoch is done

An epoch that is stopped within its training commits ``partial.json``, the state after that step,
and goes on from it. The calls are every worker's; the first alone commits.
"""

import contextlib
import copy
import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import TypeVar

import numpy as np
import numpy.typing as npt
from torch import Tensor

from afcore.activations.feed import HiddenFeed
from afcore.activations.residency import hold_shards, release_shards
from afcore.activations.resident_shards import ResidentShards
from afcore.activations.sets import ActivationSet
from afcore.clock import Moment
from afcore.data.examples import Examples
from afcore.digest import ContentDigest, code_digest, recipe_digest
from afcore.distributed import ALONE, WorkerGroup
from afcore.errors import StoppedError
from afcore.interrupt import committing
from afcore.model.split_model import SplitModel
from afcore.results.report import EpochReport
from afcore.runs.batches import batches_of, run_schedule
from afcore.runs.cache import RunCache
from afcore.runs.checkpoints_within import CheckpointsWithin, collect_checkpoints
from afcore.runs.decide import lacks_profile
from afcore.runs.device_room import residency_of
from afcore.runs.epoch_report import epoch_report, show_epoch
from afcore.runs.records import (
    CheckpointRecord,
    EpochPlan,
    EpochStart,
    SetReference,
    commit_record,
    done_reports,
    plan_of,
    record_of,
)
from afcore.runs.run import Run
from afcore.runs.state import OpenState, commit_partial, initial_policy, load_split, open_state
from afcore.training.evaluate import evaluate
from afcore.training.loop import Course, train_epoch
from afcore.training.steps import StepSettings
from afcore.training.trained import TrainedEpoch

__all__ = ["decide_first_epoch", "run_epoch"]

_Record = TypeVar("_Record", EpochPlan, EpochStart, CheckpointRecord, EpochReport)
_log = logging.getLogger(__name__)


def run_epoch(
    run: Run,
    epoch: int,
    attempt: int,
    group: WorkerGroup = ALONE,
    stop: Callable[[], bool] = lambda: False,
    launched: Moment | None = None,
) -> EpochReport:
    """Train, evaluate, checkpoint and materialize epoch ``epoch``, counted from 1.

    Args:
        run: the caller holds its lease.
        epoch: every epoch before it is done.
        attempt: the number of this attempt at the run, from 1.
        group: the workers, each of which calls this; the first one commits.
        stop: asked after each step; when it says yes, the state is committed and the epoch ends.
        launched: when the workers were started, or this began.

    Returns:
        The epoch's report, made now or found.

    Raises:
        StoppedError: when it was stopped.
        ConfigError: when workers have different code or data.
    """
    found = record_of(run, epoch, EpochReport)
    if found is not None:
        return found
    with hold_shards(residency_of(run, group.local_count)) as held:
        report = _Epoch(run, epoch, attempt, held, group, stop, launched).run()
    if plan_of(run, epoch + 1) is None and run.common is None:
        release_shards()
    return report


def decide_first_epoch(run: Run) -> EpochPlan:
    """How epoch 1 should be trained, decided before there are workers, and recorded.

    A profile that was lost is measured anew: that, too, takes a process that has no workers yet.
    """
    found = plan_of(run, 1)
    if found is not None and not lacks_profile(run):
        return found
    cache = RunCache(run, run.trainee(run.pretrained(), run.data().train))
    if lacks_profile(run):
        cache.planner.measure(record=True)
    if found is None:
        found = cache.first_epoch(initial_policy(run)[1].boundary)
        commit_record(run, found)
    del cache
    run.compute.release_memory()  # of a GPU that is a worker's
    return found


class _Epoch:
    """One attempt at an epoch, by one of its workers."""

    def __init__(
        self,
        run: Run,
        epoch: int,
        attempt: int,
        held: ResidentShards,
        group: WorkerGroup,
        stop: Callable[[], bool],
        launched: Moment | None,
    ) -> None:
        self._run = run
        self._epoch = epoch
        self._attempt = attempt
        self._held = held
        self._group = group
        self._stop = stop
        self._data = run.data()
        self._usage = replace(run.storage.usage)
        self._launched = launched
        self._launch_seconds = 0.0
        self._schedule = run_schedule(run, self._data.train)

    def run(self) -> EpochReport:
        """From what is committed to the epoch's report."""
        run, epoch, group = self._run, self._epoch, self._group
        plan, start = plan_of(run, epoch), record_of(run, epoch, EpochStart)
        before = record_of(run, epoch - 1, EpochReport)
        resumed = start is not None or (before is not None and before.attempt != self._attempt)
        checkpoint = record_of(run, epoch, CheckpointRecord)
        group.wait()  # until everybody has seen what is there
        if group.count > 1:
            group.check_same("code or data", [code_digest(), self._data.train.digest])
        state = None
        if checkpoint is None:
            state = open_state(run, epoch, self._schedule.steps_in(epoch))
            state.num_workers = group.count
            cache = self._cache(state.split)
            if self._launched is not None:
                self._launch_seconds = self._launched.seconds
            if plan is None:  # of epoch 1
                first = partial(cache.first_epoch, state.boundary_start)
                plan = self._by_first(0, EpochPlan, first)
            start = start or self._by_first(epoch, EpochStart, partial(self._start, cache, plan))
            checkpoint = self._train(plan, start, state, cache)
        else:
            _log.info("epoch %d: training was committed before; going on after it", epoch)
            if checkpoint.next is not None and checkpoint.next.build:
                split = load_split(run, checkpoint.parts, checkpoint.freeze.boundary)
            else:
                split = run.architecture(checkpoint.parts)
            cache = self._cache(split)
        assert plan is not None
        assert start is not None
        if checkpoint.next is not None and checkpoint.next.build:
            assert checkpoint.next.read_from is not None
            cache.open_or_build(checkpoint.next.read_from, checkpoint.parts)
        make = partial(epoch_report, run, plan, start, checkpoint, cache, self._requests())
        attempt = {"attempt": self._attempt, "resumed": resumed, "finished": time.time()}
        report = self._by_first(epoch, EpochReport, partial(make, **attempt))
        if group.is_first:
            collect_checkpoints(run, epoch)
            show_epoch(run, report)
        if state is not None and run.common is not None and checkpoint.next is not None:
            moments = state.training.optimizer.moments()
            run.common.hand_over(checkpoint.parts, state.split, moments)
        return report

    def _start(self, cache: RunCache, plan: EpochPlan) -> EpochStart:
        window = cache.window_shards(plan.read_from)
        return EpochStart(epoch=self._epoch, started=time.time(), window_shards=window)

    def _train(
        self, plan: EpochPlan, start: EpochStart, state: OpenState, cache: RunCache
    ) -> CheckpointRecord:
        """Train as planned and commit the checkpoint; or as much of both as there is time for."""
        run, group = self._run, self._group
        trained = self._train_steps(plan, start, state, cache)
        if len(trained.steps) < self._schedule.steps_in(self._epoch):
            with committing():
                if group.is_first:
                    commit_partial(run, self._epoch, self._attempt, state, trained)
                group.wait()
            raise StoppedError(f"in epoch {self._epoch} after step {state.training.step}")
        checkpoint = self._by_first(
            self._epoch, CheckpointRecord, lambda: self._checkpoint(plan, state, cache, trained)
        )
        if group.is_first:
            run.storage.delete(run.epoch_key(self._epoch, "partial"))
        # What follows is added to the record, which has what was built for the epoch's start.
        cache.seconds, cache.bytes_written = 0.0, 0
        return checkpoint

    def _train_steps(
        self, plan: EpochPlan, start: EpochStart, state: OpenState, cache: RunCache
    ) -> TrainedEpoch:
        run, config, data = self._run, self._run.config, self._data
        read_before = run.storage.usage.bytes_read
        activation_set, feed, open_seconds = None, None, 0.0
        if plan.read_from is not None:
            activation_set = cache.open_or_build(plan.read_from, self._weights(state))
            clock = time.perf_counter()
            feed = HiddenFeed(
                activation_set, cache.runner, cache.held, start.window_shards, run.compute.device
            )
            open_seconds = time.perf_counter() - clock
        batches = _order(run, start, data.train, activation_set)
        self._group.wait()  # with patience: within a step, who is silent is taken to be dead
        with self._checkpoints_within(state) as within:
            trained = train_epoch(
                cache.trainee,
                state.training,
                batches,
                self._course(plan, state, cache, batches, within),
                StepSettings(
                    seed=config.training.seed,
                    max_grad_norm=config.training.max_grad_norm,
                    micro_batch=plan.micro_batch,
                    augmentation=config.training.augmentation,
                    checkpoints=config.training.gradient_checkpointing,
                    compile_backend="inductor" if config.training.compile else None,
                ),
                feed=feed,
                stop=self._stop,
                done=copy.deepcopy(state.partial.trained) if state.partial else None,
            )
        trained.train_seconds += open_seconds
        trained.read_seconds += open_seconds
        if feed is not None:
            read = run.storage.usage.bytes_read - read_before
            trained.store_bytes_read += sum(self._group.gather(read))
            trained.tier_bytes = feed.tier_bytes
        return trained

    def _checkpoints_within(
        self, state: OpenState
    ) -> contextlib.AbstractContextManager[CheckpointsWithin | None]:
        if not self._group.is_first:
            return contextlib.nullcontext()
        within = CheckpointsWithin(self._run, self._epoch, self._attempt, state)
        intervals = self._run.config.freezing.intervals_per_epoch
        within.tell(self._schedule.steps_in(self._epoch), intervals)
        return within

    def _course(
        self,
        plan: EpochPlan,
        state: OpenState,
        cache: RunCache,
        batches: list[npt.NDArray[np.int64]],
        within: CheckpointsWithin | None,
    ) -> Course:
        run, config = self._run, self._run.config
        before = done_reports(run, self._epoch - 1)
        return Course(
            epoch=self._epoch,
            schedule=self._schedule,
            policy=state.policy,
            intervals_per_epoch=config.freezing.intervals_per_epoch,
            validations=tuple(report.validation for report in before),
            score=config.main_score,
            validate=partial(self._evaluate, cache, plan.read_from, self._weights(state)),
            solved_head=self._solved_head(plan, state, batches),
            keep=within.keep if within is not None else None,
        )

    def _weights(self, state: OpenState) -> dict[str, ContentDigest]:
        """Of all parts: as they are stored, else as they were pre-trained."""
        return self._run.record.weights | state.parts

    def _solved_head(
        self, plan: EpochPlan, state: OpenState, batches: list[npt.NDArray[np.int64]]
    ) -> dict[str, Tensor] | None:
        """For what the head is before the first step; None where it stays as it begins."""
        run, config, training = self._run, self._run.config, self._run.config.training
        if not (config.freezes and config.freezing.solves_head):
            return None
        if run.common is None or training.augmentation is not None:
            return {}
        record, read_from = run.record, plan.read_from
        key = recipe_digest(
            {
                "weights": record.weights,
                "architecture": record.architecture,
                "pooled": training.pooled_last_block,
                "adapter": None if config.adapter is None else config.adapter.model_dump(),
                "quantization": config.quantization,
                "data": record.data,
                "task": record.task.model_dump(),
                "precision": record.precision,
                "dtype": config.cache.dtype,
                "read_from": None if read_from is None else read_from.key,
                "boundary": state.boundary_start,
                "batches": [ids.tolist() for ids in batches],
            }
        )
        return run.common.solved_head(key)

    def _checkpoint(
        self, plan: EpochPlan, state: OpenState, cache: RunCache, trained: TrainedEpoch
    ) -> CheckpointRecord:
        """Save the parts; decide how to go on."""
        run, epoch, freeze = self._run, self._epoch, state.training.freeze
        clock = time.perf_counter()
        further = self._launch_seconds + cache.seconds + trained.evaluate_seconds
        saved = state.save(run, epoch, self._attempt, trained, clock, further)
        if (partial := state.partial) is not None and partial.num_workers != state.num_workers:
            trained = trained.since(partial.trained)  # what so many took tells nothing of others
        ends_cycle = self._schedule.ends_cycle(epoch)
        stops = run.config.stops and freeze.settled and ends_cycle
        following, error = None, None
        if epoch < run.config.training.num_epochs and not stops:
            # Not of what has thawed since.
            source = plan.read_from
            source = source if source and source.boundary <= freeze.boundary else None
            following = cache.next_epoch(freeze.boundary, saved["parts"], source, trained, epoch)
        if plan.choice is not None and plan.choice.source is not None:
            error = cache.planner.error(epoch, plan.choice, trained, state.num_workers)
        return CheckpointRecord(
            **saved,
            attempt=self._attempt,
            launch_seconds=self._launch_seconds,
            build_seconds=cache.seconds,
            built_bytes=cache.bytes_written,
            prediction_error=error,
            candidate=not run.config.stops or ends_cycle,
            next=following,
        )

    def _evaluate(
        self,
        cache: RunCache,
        read_from: SetReference | None,
        weights: Mapping[str, ContentDigest],
    ) -> dict[str, float]:
        """On the validation split; below the set that the epoch read, nothing runs twice."""
        validation, group = self._data.validation, self._group
        boundary, held = 0, None
        if read_from is not None:
            boundary, held = read_from.boundary, self._held.evaluated
            # A set's key holds the weights of all blocks below it, which no others have.
            held.open(
                boundary,
                lambda at: (cache.key(at, weights), validation.digest, group.rank, group.count),
                self._held.room_bytes,
            )
        answers = evaluate(
            cache.trainee.on(validation),
            boundary=boundary,
            held=held,
            score=self._run.config.main_score,
        )
        return answers.scores()

    def _requests(self) -> tuple[int, int]:
        """Writes and reads of the store in this epoch, of all workers."""
        usage = self._run.storage.usage
        own = (usage.puts - self._usage.puts, usage.gets - self._usage.gets)
        puts, gets = (sum(each) for each in zip(*self._group.gather(own), strict=True))
        return puts, gets

    def _cache(self, split: SplitModel) -> RunCache:
        trainee = self._run.trainee(split, self._data.train, self._group)
        return RunCache(self._run, trainee, self._held)

    def _by_first(self, epoch: int, kind: type[_Record], make: Callable[[], _Record]) -> _Record:
        """A record that the first worker makes and commits; the others wait for it and read it."""
        record = None
        with committing():
            if self._group.is_first:
                record = make()
                commit_record(self._run, record, self._attempt)
            self._group.wait()
        if record is None:
            record = record_of(self._run, epoch, kind)
            assert record is not None
        return record


def _order(
    run: Run, start: EpochStart, examples: Examples, activation_set: ActivationSet | None
) -> list[npt.NDArray[np.int64]]:
    """The epoch's batches, in the order with which it was started."""
    windows = None
    if start.window_shards is not None:
        assert activation_set is not None
        windows = activation_set.layout.shard, start.window_shards
    return batches_of(run, examples, start.epoch, windows)
