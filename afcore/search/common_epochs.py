"""The first epochs that two trials have in common are trained once and continued by both.

An epoch's **beginning** is a digest of all that decides the training up to its end: data, model,
order, seed, and the learning rate of every step. What decides nothing until then (how long the
training lasts, when it may stop) has no part in it; whether the policy, asked with the length of
the other training, decides the same is tried on the recorded statistics.

A study keeps, in its own folder, what its trials reach and a trial still to come may continue; when
none may any more, it is deleted.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from pydantic import BaseModel, ConfigDict

from afcore.config import TrainingConfig
from afcore.digest import recipe_digest
from afcore.freezing.policy import FreezeState, Interval
from afcore.model.pretrained import forward_settings
from afcore.results.report import EpochReport
from afcore.runs.batches import run_schedule
from afcore.runs.checkpoint import collect_parts, part_key
from afcore.runs.identify import decisive_numerics, decisive_settings
from afcore.runs.records import (
    CheckpointRecord,
    EpochPlan,
    EpochStart,
    best_epoch,
    commit_record,
    done_reports,
    plan_of,
    record_of,
)
from afcore.runs.run import Run, read_record
from afcore.runs.state import initial_policy
from afcore.storage.objects import Storage
from afcore.training.loop import settled_by_scores
from afcore.training.schedule import Schedule

__all__ = ["LATE_KEYS", "CommonEpochs", "beginning_digest"]

LATE_KEYS = ("epochs", "schedule", "steps", "warmup_ratio", "decay_ratio", "stop")
"""Of ``training``: what may decide nothing in the first epochs."""
_log = logging.getLogger(__name__)


class _Beginning(BaseModel):
    """An epoch as a trial has trained it: all records of it."""

    model_config = ConfigDict(frozen=True)

    plan: EpochPlan
    start: EpochStart
    checkpoint: CheckpointRecord
    report: EpochReport


class CommonEpochs:
    """The beginnings that the trials of a study have reached, as one of its trials sees them.

    Args:
        storage: where.
        folder: of the study.
        to_come: how trials still to come go on that may begin like this one: of each, what it has
            of :data:`LATE_KEYS` in place of this one's.
    """

    def __init__(
        self,
        storage: Storage,
        folder: str,
        to_come: Callable[[], Sequence[Mapping[str, Any]]],
    ) -> None:
        self._storage = storage
        self._folder = f"{folder}/beginnings"
        self._parts = f"{folder}/parts"
        self._to_come = to_come
        self._opened: dict[str, tuple[Run, Schedule]] = {}
        self._num_wanted: dict[str, int] = {}

    def offer(self, run: Run, epoch: int) -> None:
        """Keep an epoch that was just done, where a trial to come begins like this one."""
        run_id = run.record.run_id
        if run_id not in self._num_wanted:
            self._num_wanted[run_id] = self._num_in_common(run)
        if epoch > self._num_wanted[run_id]:
            return
        key = self._key(run, epoch)
        records = (
            plan_of(run, epoch),
            record_of(run, epoch, EpochStart),
            record_of(run, epoch, CheckpointRecord),
            record_of(run, epoch, EpochReport),
        )
        if key is None or None in records:
            return
        plan, start, checkpoint, report = records
        assert checkpoint is not None
        kept = self._read(key)
        # How to go on is known of an epoch that was not the last; so it is worth more.
        if kept is not None and (kept.checkpoint.next is not None or checkpoint.next is None):
            return
        try:
            self._copy(checkpoint, run.parts_folder, self._parts)
        except KeyError:  # of a run that was done before, and keeps its last and best epoch alone
            return
        made = _Beginning.model_validate(
            {"plan": plan, "start": start, "checkpoint": checkpoint, "report": report}
        )
        self._storage.put(key, made.model_dump_json().encode())

    def adopt(self, run: Run, attempt: int) -> int:
        """Give a run the epochs that it has in common with an earlier trial; how many they are.

        Args:
            run: the caller holds its lease; a run whose own training has begun is left as it is
                from there on.
            attempt: the lease's number.
        """
        taken, course = 0, _Course(run, self._schedule(run))
        for epoch in range(1, run.config.training.num_epochs + 1):
            found = self._find(run, epoch)
            known = record_of(run, epoch, EpochReport)
            if found is None or (known is None and record_of(run, epoch, EpochStart) is not None):
                break
            following = course.follow(found)
            if following is None:
                break
            if known is None:
                try:
                    self._write(run, following, attempt)
                except KeyError:  # who kept its parts was killed while deleting, or just deletes
                    break
                taken += 1
            if following.checkpoint.next is None:
                break
        if taken:
            self._let_go(run)
            _log.info("%d epochs are taken over from a trial with the same beginning", taken)
        return taken

    def forget(self) -> None:
        """Delete what this trial has reached or taken over, and none to come begins with.

        A part that another process keeps in this very moment may go with it: the epoch is then
        trained by whoever looks for it.
        """
        kept = self._storage.list(self._folder).keys()
        if not kept:
            return
        unwanted: set[str | None] = set()
        for run, schedule in self._opened.values():
            epochs = range(self._num_in_common(run) + 1, schedule.num_epochs + 1)
            unwanted |= {self._key(run, epoch) for epoch in epochs} & kept
        if unwanted:
            self._storage.delete_all(filter(None, unwanted))
            left = (self._read(key) for key in self._storage.list(self._folder))
            parts = [found.checkpoint.parts for found in left if found is not None]
            collect_parts(self._storage, self._parts, parts)

    def _num_in_common(self, run: Run) -> int:
        """First epochs of a run that some trial to come begins with."""
        to_come = self._to_come()
        if not to_come:
            return 0
        schedule, examples = self._schedule(run), run.data().train
        others = [run_schedule(_going_on(run, late), examples) for late in to_come]
        for epoch in range(1, schedule.num_epochs + 1):
            others = [other for other in others if _have_epoch(schedule, other, epoch)]
            if not others:
                return epoch - 1
        return schedule.num_epochs

    def _write(self, run: Run, found: _Beginning, attempt: int) -> None:
        """As the epoch would have committed it: parts first."""
        self._copy(found.checkpoint, self._parts, run.parts_folder)
        if found.report.epoch == 1:
            commit_record(run, found.plan, attempt)
        commit_record(run, found.start, attempt)
        own = {"attempt": attempt}
        commit_record(run, found.checkpoint.model_copy(update=own), attempt)
        commit_record(run, found.report.model_copy(update={**own, "resumed": False}), attempt)

    def _let_go(self, run: Run) -> None:
        """Of what was copied, keep what a run keeps."""
        reports = done_reports(run, run.config.training.num_epochs)
        kept = {reports[-1].epoch, best_epoch(reports, run.config.main_score).epoch}
        records = [record_of(run, epoch, CheckpointRecord) for epoch in kept]
        collect_parts(run.storage, run.parts_folder, [one.parts for one in records if one])

    def _copy(self, checkpoint: CheckpointRecord, source: str, target: str) -> None:
        for digest in set(checkpoint.parts.values()):
            self._storage.copy(part_key(source, digest), part_key(target, digest))

    def _find(self, run: Run, epoch: int) -> _Beginning | None:
        key = self._key(run, epoch)
        return None if key is None else self._read(key)

    def _read(self, key: str) -> _Beginning | None:
        return read_record(self._storage, key, _Beginning, replaceable=True)

    def _key(self, run: Run, epoch: int) -> str | None:
        digest = beginning_digest(run, self._schedule(run), epoch)
        return None if digest is None else f"{self._folder}/{digest[:32]}.json"

    def _schedule(self, run: Run) -> Schedule:
        """Of a run, made once: it takes all tokens of its data."""
        run_id = run.record.run_id
        if run_id not in self._opened:
            self._opened[run_id] = run, run_schedule(run, run.data().train)
        return self._opened[run_id][1]


class _Course:
    """A training whose epochs are those of another one, as long as it decides the same."""

    def __init__(self, run: Run, schedule: Schedule) -> None:
        self._run = run
        self._schedule = schedule
        self._policy, self._freeze = initial_policy(run)
        self._validations: list[Mapping[str, float]] = []

    def follow(self, found: _Beginning) -> _Beginning | None:
        """The next epoch, as this training has it; None where it decides otherwise."""
        run, epoch, checkpoint = self._run, found.report.epoch, found.checkpoint
        self._validations.append(checkpoint.trained.validation)
        freeze = self._freeze
        for interval in checkpoint.trained.intervals:
            decided = self._decide(freeze, interval)
            if decided is None:
                return None
            freeze = decided
        if (freeze.boundary, freeze.rate) != (checkpoint.freeze.boundary, checkpoint.freeze.rate):
            return None
        ends = self._schedule.ends_cycle(epoch)
        if (self._policy is None or not self._policy.stops) and ends:
            settled = settled_by_scores(run.config.main_score, self._validations)
            freeze = replace(freeze, settled=settled)
        following = None
        stops = run.config.stops and freeze.settled and ends
        if epoch < run.config.training.num_epochs and not stops:
            following = _next_plan(found)
            if following is None:
                return None
        self._freeze = freeze
        candidate = not run.config.stops or ends
        return found.model_copy(
            update={
                "checkpoint": checkpoint.model_copy(
                    update={
                        "freeze": freeze,
                        "candidate": candidate,
                        "next": following,
                        "seconds": {},
                    }
                ),
                "report": found.report.model_copy(update={"candidate": candidate}),
                "plan": _plain(found.plan),
            }
        )

    def _decide(self, freeze: FreezeState, interval: Interval) -> FreezeState | None:
        """The policy on recorded statistics, with the length of this training; None: otherwise."""
        policy = self._policy
        last_trains = freeze.boundary >= self._run.record.num_blocks - 1
        if policy is None or (policy.keeps_statistics and last_trains):
            return freeze  # it is asked no more
        statistics = interval.statistics.model_copy(
            update={
                "total_steps": self._schedule.total_steps,
                "num_epochs": self._schedule.num_epochs,
                "cycle_share": self._schedule.cycle_share(interval.statistics.epoch),
            }
        )
        decided, decision = policy.decide(freeze, statistics)
        pairs = (decision, interval.decision)
        after, recorded = (None if one is None else one.boundary_after for one in pairs)
        return decided if after == recorded else None


def _next_plan(found: _Beginning) -> EpochPlan | None:
    """What the next epoch reads: as the other training decided, or on from where it read."""
    if found.checkpoint.next is not None:
        return _plain(found.checkpoint.next)
    if found.checkpoint.boundary_start != found.checkpoint.freeze.boundary:
        return None
    return _plain(found.plan)


def _plain(plan: EpochPlan) -> EpochPlan:
    """Without the reasons, which were another training's; a set that is not there is built then."""
    return plan.model_copy(update={"build": False, "choice": None, "notes": []})


def beginning_digest(run: Run, schedule: Schedule, epoch: int) -> str | None:
    """Digest of all that decides epoch ``epoch``; None where that is not known beforehand."""
    record, config = run.record, run.config
    if config.workers.max > 1 or epoch > schedule.num_epochs:
        return None
    if schedule.steps_in(epoch) < schedule.steps_per_epoch:
        return None
    settings = decisive_settings(config)
    training = {k: v for k, v in settings["training"].items() if k not in LATE_KEYS}
    return recipe_digest(
        {
            "numerics": decisive_numerics(config),
            "settings": {**settings, "training": training},
            "architecture": forward_settings(record.architecture),
            "data": record.data,
            "task": record.task.model_dump(),
            "weights": record.weights,
            "precision": record.precision,
            "versions": record.versions,
            "factors": _factors(schedule, epoch),
        }
    )


def _going_on(run: Run, late: Mapping[str, Any]) -> Run:
    """A run as this one, but for how it goes on."""
    config = run.config
    training = TrainingConfig.model_validate(config.training.model_dump() | dict(late))
    config = config.model_copy(update={"training": training})
    return replace(run, record=run.record.model_copy(update={"config": config}))


def _have_epoch(one: Schedule, other: Schedule, epoch: int) -> bool:
    """Whether both have this whole epoch, at the same rates; those of its end differ soonest."""
    steps = one.steps_per_epoch
    if min(one.steps_in(epoch), other.steps_in(epoch)) < steps:
        return False
    backwards = reversed(range((epoch - 1) * steps, epoch * steps))
    return all(one.factor(step) == other.factor(step) for step in backwards)


def _factors(schedule: Schedule, epoch: int) -> list[float]:
    """On the learning rate, of all steps until the end of an epoch."""
    return [schedule.factor(step) for step in range(epoch * schedule.steps_per_epoch)]
