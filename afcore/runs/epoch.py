"""One epoch of a run, from committed state to committed state.

Each step is skipped when its result is already there, so a retry repeats nothing that was
committed::

    plan.json        where to read from, on how many workers: recorded before anything is trained
    checkpoint.json  trained and evaluated: parts first, this record after them
    (set)            the activation set at the new boundary, when it pays
    report.json      the epoch is done

An epoch that is stopped within its training commits ``partial.json``, the state after that step,
and goes on from it. The calls are every worker's; the first alone commits.
"""

import copy
import logging
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel

from afcore.activations.feed import HiddenFeed
from afcore.activations.residency import hold_shards, release_shards
from afcore.activations.resident_shards import ResidentShards
from afcore.activations.sets import ActivationSet
from afcore.data.order import windowed_batches
from afcore.data.prepare import Examples
from afcore.digest import code_digest
from afcore.distributed import ALONE, WorkerGroup
from afcore.errors import StoppedError
from afcore.interrupt import committing
from afcore.model.split_model import SplitModel
from afcore.results.report import EpochReport
from afcore.runs.batches import batches_of, training_schedule
from afcore.runs.cache import RunCache
from afcore.runs.checkpoint import collect_parts, load_weights
from afcore.runs.decide import lacks_profile
from afcore.runs.device_room import training_bytes
from afcore.runs.epoch_report import epoch_cost, predictions, show_epoch
from afcore.runs.records import (
    CheckpointRecord,
    EpochPlan,
    EpochRecord,
    NextEpoch,
    SetReference,
    best_epoch,
    decision_reports,
    interval_reports,
)
from afcore.runs.run import Run, check_lease, read_record
from afcore.runs.state import OpenState, commit_partial, epoch_records, initial_policy, open_state
from afcore.trainee import Trainee
from afcore.training.evaluate import evaluate
from afcore.training.loop import Course, train_epoch
from afcore.training.schedule import Schedule
from afcore.training.steps import StepSettings
from afcore.training.trained import TrainedEpoch

__all__ = ["decide_first_epoch", "run_epoch"]

_Record = TypeVar("_Record", bound=BaseModel)
_log = logging.getLogger(__name__)


def run_epoch(
    run: Run,
    epoch: int,
    attempt: int,
    group: WorkerGroup = ALONE,
    stop: Callable[[], bool] = lambda: False,
    launched: float | None = None,
) -> EpochRecord:
    """Train, evaluate, checkpoint and materialize epoch ``epoch``, counted from 1.

    Args:
        run: the caller holds its lease.
        epoch: every epoch before it is done.
        attempt: the number of this attempt at the run, from 1.
        group: the workers, each of which calls this; the first one commits.
        stop: asked after each step; when it says yes, the state is committed and the epoch ends.
        launched: when the workers were started, or this began, seconds since the epoch (UTC).

    Returns:
        The epoch's record, made now or found.

    Raises:
        StoppedError: when it was stopped.
        ConfigError: when workers have different code or data.
    """
    found = read_record(run.storage, run.epoch_key(epoch, "report"), EpochRecord)
    if found is not None:
        return found
    with hold_shards(
        **run.config.cache.model_dump(include={"device_bytes", "host_bytes", "disk_bytes"}),
        device=run.compute.device,
        store_is_local=run.storage.protocol == "file",
        num_sharing=group.local_count,
        needed_bytes=training_bytes(run),
    ) as held:
        record = _Epoch(run, epoch, attempt, held, group, stop, launched).run()
    if record.next is None:
        release_shards()
    return record


def decide_first_epoch(run: Run) -> NextEpoch:
    """How epoch 1 should be trained, decided before there are workers, and recorded.

    A profile that was lost is measured anew: that, too, takes a process that has no workers yet.
    """
    key = run.epoch_key(0, "next")
    found = read_record(run.storage, key, NextEpoch)
    if found is not None and not lacks_profile(run):
        return found
    cache = RunCache(run, run.trainee(run.pretrained(), run.data().train))
    if lacks_profile(run):
        cache.planner.measure(record=True)
    if found is None:
        found = cache.first_epoch(initial_policy(run)[1].boundary)
        run.storage.put(key, found.model_dump_json().encode())
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
        launched: float | None,
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

    def run(self) -> EpochRecord:
        """From what is committed to the epoch's record."""
        run, epoch, group = self._run, self._epoch, self._group
        plan = self._read("plan", EpochPlan)
        before = read_record(run.storage, run.epoch_key(epoch - 1, "report"), EpochRecord)
        resumed = plan is not None or (
            before is not None and before.report.attempt != self._attempt
        )
        checkpoint = self._read("checkpoint", CheckpointRecord)
        group.wait()  # until everybody has seen what is there
        if group.count > 1:
            group.check_same("code or data", [code_digest(), self._data.train.digest])
        if checkpoint is None:
            checkpoint, cache = self._train(plan)
        else:
            _log.info("epoch %d: training was committed before; going on after it", epoch)
            split = run.architecture()
            if checkpoint.materialize:
                load_weights(run.storage, run.parts_folder, split, checkpoint.parts)
            cache = self._cache(split)
        read_from = self._materialize(cache, checkpoint)
        report = self._complete(cache, checkpoint, resumed)

        def finish() -> EpochRecord:
            decided = checkpoint.next
            record = EpochRecord(
                report=report,
                next=decided and decided.model_copy(update={"read_from": read_from}),
                finished=time.time(),
            )
            self._commit("report", record)
            _collect(run, epoch)
            show_epoch(run, report)
            return record

        return self._by_first("report", EpochRecord, finish)

    def _train(self, plan: EpochPlan | None) -> tuple[CheckpointRecord, RunCache]:
        """Train as planned and commit the checkpoint; or as much of both as there is time for."""
        run, group = self._run, self._group
        schedule = training_schedule(
            run.config.training, len(self._data.train), cycle_epochs=run.config.cycle_epochs
        )
        num_steps = schedule.steps_in(self._epoch)
        state = open_state(run, self._epoch, num_steps)
        cache = self._cache(state.split)
        if self._launched is not None:
            self._launch_seconds = time.time() - self._launched
        if plan is None:
            plan = self._by_first("plan", EpochPlan, lambda: self._make_plan(cache, state))
        trained, measured = self._train_steps(plan, state, cache, schedule)
        if len(trained.steps) < num_steps:
            with committing():
                if group.is_first:
                    check_lease(run, self._attempt)
                    commit_partial(run, self._epoch, self._attempt, state, trained)
                group.wait()
            raise StoppedError(f"in epoch {self._epoch} after step {state.training.step}")
        checkpoint = self._by_first(
            "checkpoint",
            CheckpointRecord,
            lambda: self._commit_checkpoint(plan, state, cache, schedule, trained, measured),
        )
        # What follows is added to the record, which has what was built for the epoch's start.
        cache.seconds, cache.bytes_written = 0.0, 0
        return checkpoint, cache

    def _make_plan(self, cache: RunCache, state: OpenState) -> EpochPlan:
        before = read_record(
            self._run.storage, self._run.epoch_key(self._epoch - 1, "report"), EpochRecord
        )
        decided = before.next if before else None
        if self._epoch == 1:
            decided = read_record(self._run.storage, self._run.epoch_key(0, "next"), NextEpoch)
            decided = decided or cache.first_epoch(state.boundary_start)
        assert decided is not None
        plan = EpochPlan(
            **decided.model_dump(),
            started=time.time(),
            window_shards=cache.window_shards(decided.read_from),
        )
        self._commit("plan", plan)
        return plan

    def _train_steps(
        self, plan: EpochPlan, state: OpenState, cache: RunCache, schedule: Schedule
    ) -> tuple[TrainedEpoch, dict[str, Any]]:
        """Train, and what of the report is known only here."""
        run, config, data = self._run, self._run.config, self._data
        read_before = run.storage.usage.bytes_read
        activation_set, feed, open_seconds = None, None, 0.0
        if plan.read_from is not None:
            weights = state.parts or run.record.weights
            activation_set = cache.open_or_build(plan.read_from, weights)
            clock = time.perf_counter()
            feed = HiddenFeed(
                activation_set, cache.runner, cache.held, plan.window_shards, run.compute.device
            )
            open_seconds = time.perf_counter() - clock
        self._group.wait()  # with patience: within a step, who is silent is taken to be dead
        trained = train_epoch(
            cache.trainee,
            state.training,
            _order(run, self._epoch, plan, data.train, activation_set),
            Course(
                epoch=self._epoch,
                schedule=schedule,
                policy=state.policy,
                intervals_per_epoch=config.freezing.intervals_per_epoch,
                validations=_validations(run, self._epoch),
                score=config.training.score,
                validate=partial(self._evaluate, cache.trainee, plan.read_from),
                solve_head=config.freezes and config.freezing.solves_head,
            ),
            StepSettings(
                seed=config.training.seed,
                max_grad_norm=config.training.max_grad_norm,
                micro_batch=plan.micro_batch,
                compile_backend="inductor" if config.training.compile else None,
            ),
            feed=feed,
            stop=self._stop,
            done=copy.deepcopy(state.partial.trained) if state.partial else None,
        )
        read = run.storage.usage.bytes_read - read_before
        return trained, {
            "train_seconds": trained.train_seconds + open_seconds,
            "read_seconds": trained.read_seconds + open_seconds,
            "store_bytes_read": sum(self._group.gather(read)) if feed else 0,
            "tier_bytes": feed.tier_bytes if feed else {},
        }

    def _commit_checkpoint(
        self,
        plan: EpochPlan,
        state: OpenState,
        cache: RunCache,
        schedule: Schedule,
        trained: TrainedEpoch,
        measured: dict[str, Any],
    ) -> CheckpointRecord:
        run, epoch, training = self._run, self._epoch, state.training
        clock = time.perf_counter()
        saved = state.save(run)
        earlier = state.partial.checkpoint_seconds if state.partial else 0.0
        report = EpochReport(
            epoch=epoch,
            num_steps=len(trained.steps),
            boundary_start=state.boundary_start,
            boundary_end=training.freeze.boundary,
            read_from=f"activations@{plan.read_from.boundary}" if plan.read_from else "tokens",
            prefix_seconds=trained.prefix_seconds,
            suffix_seconds=trained.suffix_seconds,
            checkpoint_seconds=time.perf_counter() - clock + earlier,
            materialize_seconds=cache.seconds,
            evaluate_seconds=trained.evaluate_seconds,
            train_loss=trained.mean_loss,
            validation=trained.validation,
            candidate=not run.config.stops or schedule.ends_cycle(epoch),
            activation_bytes_written=cache.bytes_written,
            activation_bytes_read=trained.activation_bytes_read,
            order=plan.order,
            num_workers=self._group.count,
            launch_seconds=self._launch_seconds,
            gradient_bytes_reduced=trained.bytes_reduced,
            cost_usd=0.0,
            resumed=False,
            attempt=self._attempt,
            **measured,
        )
        last = epoch == run.config.training.num_epochs or (
            run.config.stops and training.freeze.settled
        )
        # Not of what has thawed since.
        source = plan.read_from
        if source is not None and source.boundary > training.freeze.boundary:
            source = None
        decided = None
        if not last:
            decided = cache.next_epoch(training.freeze.boundary, saved, source, trained, epoch)
        report = report.model_copy(update=predictions(cache, plan, decided, trained, report))
        build = cache.should_build(
            training.freeze.boundary,
            source,
            decided.choice if decided else None,
            last=last,
        )
        refusal = cache.refused(training.freeze.boundary, saved, source, last=last)
        record = CheckpointRecord(
            step=training.step,
            freeze=training.freeze,
            parts=saved,
            materialize=build and refusal is None,
            notes=[refusal] if refusal else [],
            read_from=source,
            next=decided,
            report=report,
            decisions=decision_reports(trained),
            intervals=interval_reports(trained),
            interval_times=[interval.time for interval in trained.intervals],
            steps=trained.steps,
            earlier_seconds=state.partial.seconds if state.partial else {},
        )
        self._commit("checkpoint", record)
        run.storage.delete(run.epoch_key(epoch, "partial"))
        return record

    def _materialize(self, cache: RunCache, checkpoint: CheckpointRecord) -> SetReference | None:
        """Write the set at the new boundary if that was decided; what the next epoch reads."""
        read_from = checkpoint.read_from
        if not checkpoint.materialize:
            choice = checkpoint.next.choice if checkpoint.next else None
            return read_from if choice is None or choice.forecast.setup.read_boundary else None
        reference = cache.next_source(checkpoint.freeze.boundary, checkpoint.parts, read_from)
        cache.open_or_build(reference, checkpoint.parts)
        return reference

    def _evaluate(self, trainee: Trainee, read_from: SetReference | None) -> dict[str, float]:
        """On the validation split; below the set that the epoch read, nothing runs twice."""
        validation, group = self._data.validation, self._group
        boundary, held = 0, None
        if read_from is not None:
            boundary, held = read_from.boundary, self._held.evaluated
            held.open(
                (read_from.key, validation.digest, group.rank, group.count), self._held.room_bytes
            )
        answers = evaluate(trainee.on(validation), boundary=boundary, held=held)
        return answers.scores(len(self._run.record.label_names))

    def _complete(
        self, cache: RunCache, checkpoint: CheckpointRecord, resumed: bool
    ) -> EpochReport:
        """The epoch's report with what came after its checkpoint."""
        run, usage, trained = self._run, self._run.storage.usage, checkpoint.report
        report = trained.model_copy(
            update={
                "materialize_seconds": trained.materialize_seconds + cache.seconds,
                "activation_bytes_written": trained.activation_bytes_written + cache.bytes_written,
                "resumed": resumed,
                "attempt": self._attempt,
            }
        )
        requests = (usage.puts - self._usage.puts, usage.gets - self._usage.gets)
        puts, gets = (sum(each) for each in zip(*self._group.gather(requests), strict=True))
        return report.model_copy(update={"cost_usd": epoch_cost(run, report, puts, gets)})

    def _cache(self, split: SplitModel) -> RunCache:
        trainee = self._run.trainee(split, self._data.train, self._group)
        return RunCache(self._run, trainee, self._held)

    def _by_first(self, name: str, kind: type[_Record], commit: Callable[[], _Record]) -> _Record:
        """A record that the first worker commits; the others wait for it and read it."""
        with committing():
            record = commit() if self._group.is_first else None
            self._group.wait()
        if record is None:
            record = self._read(name, kind)
            assert record is not None
        return record

    def _read(self, name: str, kind: type[_Record]) -> _Record | None:
        return read_record(self._run.storage, self._run.epoch_key(self._epoch, name), kind)

    def _commit(self, name: str, record: BaseModel) -> None:
        check_lease(self._run, self._attempt)
        key = self._run.epoch_key(self._epoch, name)
        self._run.storage.put(key, record.model_dump_json().encode())


def _validations(run: Run, epoch: int) -> tuple[dict[str, float], ...]:
    """Scores of the epochs before ``epoch``."""
    return tuple(record.report.validation for record in epoch_records(run, epoch - 1))


def _order(
    run: Run,
    epoch: int,
    plan: EpochPlan,
    examples: Examples,
    activation_set: ActivationSet | None,
) -> list[npt.NDArray[np.int64]]:
    """The epoch's batches, in the order that its plan says."""
    if plan.window_shards is None:
        return batches_of(run, examples, epoch)
    assert activation_set is not None
    config = run.config
    whole = windowed_batches(
        examples.lengths,
        activation_set.layout.shard,
        window_shards=plan.window_shards,
        batch_size=config.training.batch_size,
        seed=config.training.seed,
        epoch=epoch,
        batching=config.data.batching,
    )
    return whole[: training_schedule(config.training, len(examples)).steps_in(epoch)]


def _collect(run: Run, epoch: int) -> None:
    """Keep the checkpoints that a restart (the last) or publishing (the best) will open."""
    reports = [record.report for record in epoch_records(run, epoch)]
    best = best_epoch(reports, run.config.training.score)
    kept = [
        read_record(run.storage, run.epoch_key(e, "checkpoint"), CheckpointRecord)
        for e in {best.epoch, epoch}
    ]
    freed = collect_parts(
        run.storage, run.parts_folder, [record.parts for record in kept if record is not None]
    )
    _log.info("kept checkpoints %s, freed %.1f MB", sorted({best.epoch, epoch}), freed / 1e6)
