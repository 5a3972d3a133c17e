"""What a run has done and would do next, read from its records; nothing is changed.

Works on a run that is at work, was killed, is finished, or has damaged records: what cannot be read
is listed, and taken for what a restart takes it for.
"""

from typing import Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict

from afcore.activations.building import is_being_built, open_sound
from afcore.config import PEER_MODES, Config
from afcore.errors import IntegrityError, UserError
from afcore.results.report import EpochReport, RunReport
from afcore.runs.checkpoint import part_key
from afcore.runs.identify import decisive_settings
from afcore.runs.records import (
    RECORD_NAMES,
    CheckpointRecord,
    EpochPlan,
    EpochStart,
    LostTries,
    PartialRecord,
    StateRecord,
)
from afcore.runs.run import (
    Run,
    RunRecord,
    TrackedAs,
    lease_folder,
    read_record,
    record_key,
    result_key,
    run_folder,
    trainings_of,
)
from afcore.storage.lease import attempts, is_held
from afcore.storage.objects import Storage

__all__ = ["EpochStatus", "RunStatus", "SetStatus", "find_status"]

_REPLACEABLE = ("run", "partial", "lost", "result", "tracked")
"""Names of records that are made anew when they are damaged."""
_Kind = TypeVar("_Kind", bound=BaseModel)


class _Status(BaseModel):
    model_config = ConfigDict(frozen=True, ser_json_inf_nan="null")


class SetStatus(_Status):
    """An activation set that an epoch reads."""

    name: str
    folder: str
    state: Literal["there", "being built", "not there"]
    num_bytes: int | None


class EpochStatus(_Status):
    """An epoch that was begun or decided.

    Attributes:
        epoch: its number.
        committed: names of its records that are there.
        plan: how it is to be trained; None where that cannot be read.
        reads: the set that it reads; None: it starts from tokens.
        state: committed after all of its steps, or some.
        report: once it is done.
        lost_tries: how often workers died in it.
    """

    epoch: int
    committed: list[str]
    plan: EpochPlan | None
    reads: SetStatus | None
    state: CheckpointRecord | PartialRecord | None
    report: EpochReport | None
    lost_tries: int


class RunStatus(_Status):
    """A run.

    Attributes:
        run_id: names it.
        record: what it is; None where that cannot be read.
        state: of the run.
        attempts: how often it was begun.
        worker: machine and process of the last attempt.
        epochs: that were begun or decided, in order.
        next_step: what a restart does, or the process at work.
        damaged: records that cannot be read.
        folder: of its records.
        tracked: where MLflow has it; None before the first epoch, or where that cannot be read.
        report: once it is finished.
    """

    run_id: str
    record: RunRecord | None
    state: Literal["at work", "stopped", "finished"]
    attempts: int
    worker: str | None
    epochs: list[EpochStatus]
    next_step: str
    damaged: list[str]
    folder: str
    tracked: TrackedAs | None
    report: RunReport | None


def find_status(storage: Storage, wanted: str | Config) -> RunStatus:
    """The run of this id, or of this configuration.

    Of a configuration whose data or model have changed since, the run that was begun last.

    Args:
        storage: where it is.
        wanted: a run's id or the beginning of one; or a configuration.

    Raises:
        UserError: when there is none, or several begin alike.
    """
    known = storage.folders("runs")
    if isinstance(wanted, Config):
        found = [run_id for run_id in known if _is_of(storage, run_id, wanted)]
        found = sorted(found, key=lambda run_id: _last_begun(storage, run_id))[-1:]
        what = "run of this configuration"
    else:
        found = [run_id for run_id in known if run_id.startswith(wanted)]
        what = f"run {wanted!r}"
    if len(found) > 1:
        raise UserError(f"{len(found)} runs begin with {wanted!r}: {', '.join(found)}")
    if not found:
        others = f"it has {', '.join(known)}" if known else "it has no runs"
        raise UserError(f"no {what} in {storage.root}; {others}")
    return _Reader(storage, found[0]).status()


def _is_of(storage: Storage, run_id: str, config: Config) -> bool:
    record = read_record(storage, record_key(run_id), RunRecord, replaceable=True)
    if record is None:
        return False
    known = record.config
    same_inputs = (known.data, known.model) == (config.data, config.model)
    return same_inputs and decisive_settings(known) == decisive_settings(config)


def _last_begun(storage: Storage, run_id: str) -> float:
    rows = attempts(storage, lease_folder(run_id)).values()
    return max((row.acquired for row in rows), default=0.0)


class _Reader:
    """Reads a run's records, and notes those that it cannot read."""

    def __init__(self, storage: Storage, run_id: str) -> None:
        self._storage = storage
        self._run_id = run_id
        self._damaged: list[str] = []

    def status(self) -> RunStatus:
        """Of all of it."""
        storage, run_id = self._storage, self._run_id
        rows = attempts(storage, lease_folder(run_id))
        last = rows[max(rows)] if rows else None
        record = self._read(record_key(run_id), RunRecord)
        trainings = [record.training_id] if record else trainings_of(storage, run_id)
        report, tracked, epochs, folder = None, None, list[EpochStatus](), run_folder(run_id)
        step = "refuse: which training counts cannot be read. Train anew with --fresh"
        if len(trainings) == 1:
            # Of a damaged record all that keys need.
            ids: dict[str, Any] = {"run_id": run_id, "training_id": trainings[0]}
            run = Run(storage, record or RunRecord.model_construct(**ids))
            report = self._read(result_key(run), RunReport)
            tracked = self._read(run.tracked_key, TrackedAs)
            epochs, folder = self._epochs(run), run.folder
            step = self._next_step(run, epochs) if report is None else "return the recorded result"
        held = is_held(storage, lease_folder(run_id))
        return RunStatus(
            run_id=run_id,
            record=record,
            state="finished" if report else "at work" if held else "stopped",
            attempts=len(rows),
            worker=f"{last.process.host}, process {last.process.pid}" if last else None,
            epochs=epochs,
            next_step=step,
            damaged=self._damaged,
            folder=storage.uri(folder),
            tracked=tracked,
            report=report,
        )

    def _epochs(self, run: Run) -> list[EpochStatus]:
        """Those that were begun or decided, in order."""
        epochs: list[EpochStatus] = []
        plan = self._record(run, 0, EpochPlan)
        while True:
            epoch = len(epochs) + 1
            start = self._record(run, epoch, EpochStart)
            partial = self._record(run, epoch, PartialRecord)
            checkpoint = self._record(run, epoch, CheckpointRecord)
            report = self._record(run, epoch, EpochReport)
            found = [one for one in (start, partial, checkpoint, report) if one is not None]
            if plan is None and not found:
                return epochs
            lost = self._record(run, epoch, LostTries)
            epochs.append(
                EpochStatus(
                    epoch=epoch,
                    committed=[RECORD_NAMES[type(one)] for one in found],
                    plan=plan,
                    reads=self._set(plan) if plan is not None else None,
                    state=checkpoint or partial,
                    report=report,
                    lost_tries=len(lost.tries) if lost is not None else 0,
                )
            )
            plan = checkpoint.next if checkpoint is not None else None

    def _next_step(self, run: Run, epochs: list[EpochStatus]) -> str:
        names = [uri.rpartition("/")[2].removesuffix(".json") for uri in self._damaged]
        fatal = [
            uri for uri, name in zip(self._damaged, names, strict=True) if name not in _REPLACEABLE
        ]
        if fatal:
            return f"refuse: {fatal[0]} is damaged. Train anew with --fresh"
        if hasattr(run.record, "config") and run.config.mode in PEER_MODES:
            return "train from the start: the Trainer's modes commit nothing before the end"
        epochs = [self._without_lost_steps(run, status) for status in epochs]
        states = [status.state for status in epochs if status.state is not None]
        missing = self._missing_part(run, states[-1]) if states else None
        if missing:
            return f"refuse: checkpoint part {missing} is missing. Train anew with --fresh"
        for number, status in enumerate(epochs):
            if status.report is None:
                following = epochs[number + 1].plan if number + 1 < len(epochs) else None
                return _rest_of(status, following)
        return "test and publish the best epoch's model" if epochs else "decide how to begin"

    def _without_lost_steps(self, run: Run, status: EpochStatus) -> EpochStatus:
        """Of an epoch that was stopped within: without that, where a part of it is missing."""
        state = status.state
        if isinstance(state, PartialRecord) and self._missing_part(run, state) is not None:
            return status.model_copy(update={"state": None})
        return status

    def _missing_part(self, run: Run, state: StateRecord) -> str | None:
        there = self._storage.list(run.parts_folder)
        missing = (p for p, d in state.parts.items() if part_key(run.parts_folder, d) not in there)
        return next(missing, None)

    def _set(self, plan: EpochPlan) -> SetStatus | None:
        if plan.read_from is None:
            return None
        folder = plan.read_from.folder
        found = open_sound(self._storage, folder)
        building = found is None and is_being_built(self._storage, folder)
        return SetStatus(
            name=plan.source,
            folder=self._storage.uri(folder),
            state="there" if found else "being built" if building else "not there",
            num_bytes=found.manifest.num_bytes if found is not None else None,
        )

    def _record(self, run: Run, epoch: int, kind: type[_Kind]) -> _Kind | None:
        return self._read(run.epoch_key(epoch, RECORD_NAMES[kind]), kind)

    def _read(self, key: str, kind: type[_Kind]) -> _Kind | None:
        try:
            return read_record(self._storage, key, kind)
        except IntegrityError:
            self._damaged.append(self._storage.uri(key))
            return None


def _rest_of(status: EpochStatus, following: EpochPlan | None) -> str:
    """What is left to do of an epoch that is not done."""
    epoch = status.epoch
    if isinstance(status.state, CheckpointRecord):
        build = f"build {following.source} and " if following and following.build else ""
        return f"{build}finish epoch {epoch}, whose training is committed"
    how = ""
    if status.plan is not None:
        workers = f" on {status.plan.num_workers} workers" if status.plan.num_workers > 1 else ""
        how = f", reading {status.plan.source}{workers}"
    if status.state is not None:
        return f"go on with epoch {epoch} after its step {len(status.state.trained.steps)}{how}"
    if "started" in status.committed:
        return f"train epoch {epoch} again from its start{how}"
    return f"train epoch {epoch}{how}"
