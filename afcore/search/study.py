"""A study in Optuna's storage, on which one or several processes work, each killed at any instant.

Optuna knows that a trial runs, but not whether its process lives: that is said by a lease a trial
in the store of the runs. Who holds the lease works on it; a trial whose holder is dead goes on.
"""

import contextlib
import json
import logging
import time
import uuid
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
from optuna.exceptions import StorageInternalError
from optuna.pruners import BasePruner
from optuna.storages import RDBStorage
from optuna.trial import FrozenTrial, Trial, TrialState
from sqlalchemy.exc import SQLAlchemyError

from afcore.config import SearchConfig
from afcore.errors import (
    ConfigError,
    LeaseHeldError,
    StoppedError,
    StoreLostError,
    StoreUnreachableError,
    causes,
    in_one_line,
)
from afcore.interrupt import stop_requested
from afcore.search.sampling import (
    PerTrialSampler,
    ask_pruner,
    asks_beforehand,
    listed_proposals,
    suggest,
)
from afcore.search.search_report import TrialRow
from afcore.search.sharing_order import Sharing, in_sharing_order
from afcore.search.space import Space
from afcore.storage.lease import Lease, is_held
from afcore.storage.objects import Storage

__all__ = [
    "SharedStudy",
    "TrialHandle",
    "database_explained",
    "open_database",
    "study_folder",
    "waited_for",
]

_SQLITE = "sqlite:///"
_ROW = "autofreeze"
_VERDICT = "autofreeze.verdict"
_LISTED = "autofreeze.listed"
_BEGINNING = "beginning"
_POLL_SECONDS = 1.0
_SAID_AFTER_SECONDS = 5.0
_log = logging.getLogger(__name__)


@contextlib.contextmanager
def database_explained(kind: type[StoreUnreachableError] = StoreLostError) -> Iterator[None]:
    """Around what asks Optuna's storage.

    Args:
        kind: of the error where it fails; in the middle of a study, that it was lost.

    Raises:
        StoreUnreachableError: of this kind.
    """
    try:
        yield
    except (KeyError, StorageInternalError, SQLAlchemyError) as error:  # or no such record
        *_, cause = causes(error)
        raise kind(
            f"search.storage does not answer as it should: {in_one_line(cause, 300)}. See to it; "
            "what is committed stands, and the same command goes on from there"
        ) from error


@dataclass(frozen=True)
class TrialHandle:
    """A trial that this process works on.

    Attributes:
        trial: Optuna's.
        values: of the varied keys.
        row: as recorded until now.
    """

    trial: Trial
    values: dict[str, Any]
    row: TrialRow

    @property
    def number(self) -> int:
        """From 0."""
        return self.trial.number

    @database_explained()
    def note(self, row: TrialRow) -> None:
        """Record how far it is."""
        self.trial.set_user_attr(_ROW, json.loads(row.model_dump_json()))

    @database_explained()
    def is_pruned(self, step: int, score: float) -> bool:
        """Report a score after a step, once; whether the pruner ends the trial.

        The pruner is asked once, too. What it says is recorded together with what it would keep of
        the trial, and that is written afterwards: a kill in between is made up for at the next
        start.
        """
        storage, trial_id = self.trial.study._storage, self.trial._trial_id
        known = storage.get_trial(trial_id)
        last = known.last_step
        if last is not None and step < last:
            return False
        if step != last:
            self.trial.report(score, step)
            known = storage.get_trial(trial_id)
        verdict = known.user_attrs.get(_VERDICT)
        if verdict is None or verdict["step"] != step:
            pruned, kept = ask_pruner(self.trial.study, known)
            verdict = {"step": step, "pruned": pruned, "kept": kept}
            self.trial.set_user_attr(_VERDICT, verdict)
        for key, value in verdict["kept"].items():
            storage.set_trial_system_attr(trial_id, key, value)
        return bool(verdict["pruned"])


def study_folder(study_id: str) -> str:
    """Of what the processes of a study tell each other, and what its trials have in common."""
    return f"searches/{study_id}"


class SharedStudy:
    """A study of this name; made when there is none.

    Args:
        search: how it is done.
        study_id: names it.
        storage: where the runs lie.
        space: what is varied.
        higher_is_better: direction of the score.
        pruner: of its trials.
        fresh: forget the trials of an earlier one.

    Raises:
        LeaseHeldError: where they are to be forgotten while others work on them.
    """

    def __init__(
        self,
        search: SearchConfig,
        study_id: str,
        storage: Storage,
        space: Space,
        *,
        higher_is_better: bool,
        pruner: BasePruner,
        fresh: bool = False,
    ) -> None:
        self._search = search
        self._storage = storage
        self._space = space
        self._folder = study_folder(study_id)
        kind = search.sampler if search.sampler in ("tpe", "gp") else "random"
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        database, name = open_database(search.storage), f"autofreeze-{study_id}"
        if fresh and self._is_held_below(self._folder):
            raise LeaseHeldError(
                f"study {study_id} is being worked on by another process, of which --fresh would "
                "take the trials away. Wait for it, or stop it first; without --fresh both work "
                "on it together"
            )
        with database_explained(StoreUnreachableError):
            if fresh:
                with contextlib.suppress(KeyError):
                    optuna.delete_study(study_name=name, storage=database)
            self._study = optuna.create_study(
                storage=database,
                study_name=name,
                direction="maximize" if higher_is_better else "minimize",
                sampler=PerTrialSampler(kind, search.seed),
                pruner=pruner,
                load_if_exists=True,
            )

    @property
    def study(self) -> optuna.Study:
        """Optuna's."""
        return self._study

    @database_explained()
    def list_proposals(self, count: int, sharing: Sharing) -> None:
        """Enqueue the proposals of a sampler that looks at no score, those that share together.

        Args:
            count: of all trials.
            sharing: says what two of them have in common.
        """
        with self._listing():
            listed = list(self._study.user_attrs.get(_LISTED, []))
            if len(listed) < count:
                found = listed_proposals(self._search, self._space, count)[len(listed) :]
                listed += [self._space.labels(one) for one in in_sharing_order(found, sharing)]
                self._study.set_user_attr(_LISTED, listed)
            for labels in listed[len(self._study.get_trials(deepcopy=False)) : count]:
                self._study.enqueue_trial(labels)

    @database_explained()
    def listed_to_come(self) -> dict[int, dict[str, Any]]:
        """Labels of the proposals that were listed and whose trials have not ended, by number."""
        listed = self._study.user_attrs.get(_LISTED, [])
        states = (TrialState.WAITING, TrialState.RUNNING)
        trials = self._study.get_trials(deepcopy=False, states=states)
        return {one.number: listed[one.number] for one in trials if one.number < len(listed)}

    @contextlib.contextmanager
    def next_trial(self, count: int) -> Iterator[TrialHandle | None]:
        """A trial for this process, as long as inside: one that was left, else a new one.

        None when ``count`` trials were begun and nobody has left one; others may be at work then.
        """
        with contextlib.ExitStack() as stack:
            yield self._claim(count, stack)

    def beginning(self) -> Lease:
        """Held by a process until it finds no more trials to begin; several may hold theirs."""
        folder = f"{self._folder}/{_BEGINNING}/{uuid.uuid4().hex}"
        return Lease(self._storage, folder, "who may begin trials", logged=False)

    def may_begin(self) -> bool:
        """Whether a process may still begin a trial: it is at work, and has not found none."""
        return self._is_held_below(f"{self._folder}/{_BEGINNING}")

    def _is_held_below(self, folder: str) -> bool:
        folders = {row.rpartition("/")[0] for row in self._storage.list(folder)}
        return any(is_held(self._storage, one) for one in folders)

    @database_explained()
    def wait_for_others(self) -> bool:
        """Wait while trials run, each with a process at work on it, and while more may be begun.

        Returns:
            Whether one was left behind meanwhile, for this process to go on with; else none runs.

        Raises:
            StoppedError: when this process was asked to stop meanwhile.
        """
        said = False
        while True:
            is_left, numbers, may_begin = self._storage.ask(self._look)
            if is_left:
                return True
            if not numbers and not may_begin:
                return False
            if stop_requested():
                raise StoppedError("while other processes were at work")
            if not said:
                trials = ", ".join(map(str, numbers))
                _log.info(
                    "waiting for other processes, which %s",
                    f"work on trial {trials}" if numbers else "may begin more trials",
                )
            said = True
            time.sleep(_POLL_SECONDS)

    def _look(self) -> tuple[bool, list[int], bool]:
        """(Whether a trial was left, those that run, whether more may be begun)."""
        may_begin = self.may_begin()  # before: what was begun meanwhile runs, or was left
        numbers = [frozen.number for frozen in self._running()]
        return self._is_left(numbers) and self._one_is_left(), numbers, may_begin

    def _is_left(self, numbers: Iterable[int]) -> bool:
        """Whether nobody is at work on one of these trials."""
        return not all(is_held(self._storage, self._lease_folder(number)) for number in numbers)

    def _one_is_left(self) -> bool:
        """Whether nobody is at work on one that runs: not where one is just being begun."""
        with self._listing():
            return self._is_left(frozen.number for frozen in self._running())

    def _running(self) -> list[FrozenTrial]:
        return self._study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))

    @database_explained()
    def _claim(self, count: int, stack: contextlib.ExitStack) -> TrialHandle | None:
        while True:
            for frozen in self._running():
                if self._holds(frozen.number, stack):
                    return self._opened(Trial(self._study, frozen._trial_id))
            with self._listing():
                trials = self._study.get_trials(deepcopy=False)
                begun = sum(trial.state != TrialState.WAITING for trial in trials)
                if begun >= count or (asks_beforehand(self._search) and begun == len(trials)):
                    return None
                trial = self._study.ask()
                if self._holds(trial.number, stack):
                    # Here, so that whoever asks next sees what this one tries, and keeps away.
                    return self._opened(trial)
            # Another process saw it run before its lease was taken, and has taken it up.

    @contextlib.contextmanager
    def _listing(self) -> Iterator[None]:
        """One process at a time; another one waits, for moments."""
        with waited_for(Lease(self._storage, f"{self._folder}/list", "the list", logged=False)):
            yield

    def _lease_folder(self, number: int) -> str:
        return f"{self._folder}/{number:05d}"

    def _holds(self, number: int, stack: contextlib.ExitStack) -> bool:
        lease = Lease(self._storage, self._lease_folder(number), f"trial {number}", logged=False)
        with contextlib.ExitStack() as taken:
            try:
                taken.enter_context(lease)
            except LeaseHeldError:
                return False
            state = self._study.get_trials(deepcopy=False)[number].state
            if state != TrialState.RUNNING:  # its process has just ended it
                return False
            stack.enter_context(taken.pop_all())
        return True

    def _opened(self, trial: Trial) -> TrialHandle:
        values = self._space.propose(lambda dimension: suggest(trial, dimension))
        row = trial.user_attrs.get(_ROW)
        known = TrialRow.model_validate(row) if row else None
        return TrialHandle(
            trial, values, known or TrialRow(number=trial.number, state="running", values=values)
        )

    @database_explained()
    def end(self, handle: TrialHandle, row: TrialRow) -> None:
        """Mark a trial as finished, pruned or failed."""
        handle.note(row)
        states = {
            "finished": TrialState.COMPLETE,
            "pruned": TrialState.PRUNED,
            "failed": TrialState.FAIL,
        }
        values = row.score if row.state == "finished" else None
        self._study.tell(handle.number, values, state=states[row.state])

    @database_explained()
    def rows(self) -> list[TrialRow]:
        """Of all trials that were begun, by number."""
        found = []
        for frozen in self._study.get_trials(deepcopy=False):
            if frozen.state == TrialState.WAITING:
                continue
            row = frozen.user_attrs.get(_ROW)
            found.append(
                TrialRow.model_validate(row)
                if row
                else TrialRow(number=frozen.number, state="running", values=dict(frozen.params))
            )
        return found


@contextlib.contextmanager
def waited_for(lease: Lease, seconds: float = 0.2) -> Iterator[Lease]:
    """Hold a lease, as soon as whoever has it lets it go; a longer wait is logged.

    Raises:
        StoppedError: when this process was asked to stop meanwhile.
    """
    began, said = time.monotonic(), False
    while True:
        with contextlib.ExitStack() as stack:
            try:
                stack.enter_context(lease)
            except LeaseHeldError as held:
                if stop_requested():
                    raise StoppedError("while another process was at work") from None
                if not said and time.monotonic() - began >= _SAID_AFTER_SECONDS:
                    _log.info("waiting: %s", held)
                    said = True
                time.sleep(seconds)
                continue
            yield lease
            return


def open_database(url: str) -> RDBStorage:
    """Optuna's storage at a URL of SQLAlchemy.

    Raises:
        ConfigError: when it cannot be opened.
    """
    # A server ends connections that lay idle, as they do while a trial trains.
    options: dict[str, Any] = {"pool_pre_ping": True}
    try:
        if url.startswith(_SQLITE):
            Path(url.removeprefix(_SQLITE)).parent.mkdir(parents=True, exist_ok=True)
            options = {"connect_args": {"timeout": 60}}
        with contextlib.suppress(SQLAlchemyError):
            return RDBStorage(url, engine_kwargs=options)
        time.sleep(1.0)  # another process may just have made the tables
        return RDBStorage(url, engine_kwargs=options)
    except Exception as error:  # of any database's driver
        raise ConfigError(
            f"search.storage {url!r} cannot be opened: {' '.join(str(error).split())[:300]}. Give "
            "a URL of SQLAlchemy, as sqlite:///FILE"
        ) from error
