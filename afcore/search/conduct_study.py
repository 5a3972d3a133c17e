"""A study from its name to its best trial, one trial after the other; the flow calls these.

What is done is known by Optuna's storage and by the runs' records: started again after any kill,
finished trials are found, and those that ran go on from their last epoch.
"""

import contextlib
import logging
import math
import re
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import numpy as np
import optuna
from scipy import stats

from afcore.activations.residency import release_shards
from afcore.config import Config, SearchConfig, check_extras
from afcore.digest import recipe_digest
from afcore.errors import ConfigError, NoWinnerError
from afcore.launch.launcher import check_devices
from afcore.runs.common_inputs import CommonInputs
from afcore.runs.identify import identify_run
from afcore.runs.run import RunRecord
from afcore.search.common_epochs import CommonEpochs
from afcore.search.sampling import asks_beforehand, make_pruner
from afcore.search.search_report import MemberRow, SearchReport, TrialRow, best_number
from afcore.search.sharing_order import sharing_of
from afcore.search.space import (
    Space,
    check_space,
    search_of,
    sought_score,
    trial_config,
    winner_config,
)
from afcore.search.study import (
    SharedStudy,
    TrialHandle,
    database_explained,
    study_folder,
    waited_for,
)
from afcore.search.trial_run import (
    OUT_OF_MEMORY,
    failure_line,
    fold_of,
    member_configs,
    train_member,
)
from afcore.search.trials_to_come import late_settings_to_come, may_share_epochs
from afcore.storage.lease import Lease
from afcore.storage.objects import Storage
from afcore.tasks.scores import Score

__all__ = ["PreparedStudy", "StudyConductor", "prepare_study"]

_USUAL_TRIALS = 20
_FAILURES_THAT_STOP = 5
_LEAST_FOR_IMPORTANCE = 4
_MORE_LOOKS = 3
_NUMBERS = re.compile(r"\d+([.,]\d+)*(e[+-]?\d+)?( ?[kKMGT]i?B\b)?")
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class PreparedStudy:
    """What is known before the first trial.

    Attributes:
        config: of the search.
        space: what is varied.
        record: of the run that the configuration describes without its search.
        score: what is sought to be best.
        num_trials: that are wanted.
        made_tokens: whether the data was tokenized just now.
        inputs: what the trials of this process open together.
    """

    config: Config
    space: Space
    record: RunRecord
    score: Score
    num_trials: int
    made_tokens: bool
    inputs: CommonInputs

    @property
    def search(self) -> SearchConfig:
        """How it is done."""
        return search_of(self.config)

    @cached_property
    def study_id(self) -> str:
        """Digest of all that decides what is tried; more trials, or another limit, change nothing.

        The plain run's name stands for data, model, settings and versions.
        """
        named = {"vary", "sampler", "pruner", "seed", "seeds"}
        named |= {"folds"} if self.search.folds is not None else set()
        named |= {"proxy"} if self.search.proxy else set()
        search = self.search.model_dump(mode="json", include=named)
        return recipe_digest(
            {"run": self.record.run_id, "search": search, "score": self.score.name}
        )[:16]


def prepare_study(config: Config) -> PreparedStudy:
    """Check everything that can be checked before anything is trained.

    Raises:
        UserError: for a space, data, a model or settings that cannot be used.
    """
    space, search = check_space(config), search_of(config)
    score = sought_score(config)
    num_trials = search.trials or (_USUAL_TRIALS if search.vary else 1)
    if search.sampler == "grid":
        whole = space.grid_size()
        num_trials = min(search.trials or whole, whole)
    plain = config.model_copy(update={"search": None})
    check_extras(plain)
    check_devices(plain.workers, plain.store)
    storage = Storage(config.store)
    storage.check()
    before = storage.usage.bytes_written
    # Of each training of a trial, and the one without folds; beside them a few of other trials.
    inputs = CommonInputs(most_looks=search.num_members + _MORE_LOOKS)
    record = identify_run(plain, storage, common=inputs)
    if search.folds is not None:  # which looks at all folds
        identify_run(member_configs(plain, search)[0], storage, common=inputs)
    _check_depths(config, space, record)
    made_tokens = storage.usage.bytes_written > before
    return PreparedStudy(config, space, record, score, num_trials, made_tokens, inputs)


def _check_depths(config: Config, space: Space, record: RunRecord) -> None:
    """Boundaries that the model has not, before a trial fails of them."""
    proxy = search_of(config).proxy
    dimensions = {dimension.key: dimension for dimension in space.dimensions}
    if "model.name" in dimensions or "model.name" in proxy:  # with its own number of blocks
        return
    depths = dimensions.get("freezing.depth")
    tried = [given for value in depths.ends for given in depths.given(value)] if depths else []
    found = [("search.vary", changes) for changes in tried]
    found += [("search.proxy", {})] if "freezing.depth" in proxy else []
    for where, changes in found:
        try:
            trial_config(config, changes).freezing.begin(record.num_blocks)
        except ValueError as error:
            raise ConfigError(f"{where}: freezing.depth: {error}") from error


class StudyConductor:
    """Trains the trials of a prepared study.

    Args:
        prepared: what is known of it.
        fresh: forget the trials of an earlier study of this name; their runs are found.
        spent: seconds and dollars of studies before it, which its limits count too.
    """

    def __init__(
        self,
        prepared: PreparedStudy,
        *,
        fresh: bool = False,
        spent: tuple[float, float] = (0.0, 0.0),
    ) -> None:
        self.prepared = prepared
        self._spent_before = spent
        self._storage = Storage(prepared.config.store, waits=True)
        search = prepared.search
        self._study = SharedStudy(
            search,
            prepared.study_id,
            self._storage,
            prepared.space,
            higher_is_better=prepared.score.higher_is_better,
            pruner=make_pruner(search, _most_epochs(prepared)),
            fresh=fresh,
        )
        self._stopped: str | None = None

    @contextlib.contextmanager
    def next_trial(self) -> Iterator[TrialHandle | None]:
        """A trial to be trained; None when all were begun, or a limit is reached.

        Other processes may be at work on theirs then: :meth:`wait_for_others`.

        Raises:
            NoWinnerError: when the first ones all failed for one reason.
        """
        rows = self.rows()
        _check_failures(rows)
        prepared = self.prepared
        count = prepared.num_trials
        self._stopped = None
        if len(rows) < count:
            self._stopped = _limit_reached(prepared.search, *self.spent)
        if self._stopped is not None:
            count = 0
        elif asks_beforehand(prepared.search):
            record = prepared.record
            sharing = sharing_of(prepared.config, record.num_blocks, record.num_pretrained)
            self._study.list_proposals(count, sharing)
        with self._study.next_trial(count) as handle:
            if handle is None:  # only further trials of this process would have used them
                prepared.inputs.clear()
                release_shards()
            yield handle

    def beginning(self) -> contextlib.AbstractContextManager[object]:
        """Others wait, as long as this process is inside, for trials that it may begin.

        Outside, where it has found none, it waits for them: :meth:`wait_for_others`.
        """
        return self._study.beginning()

    def wait_for_others(self) -> bool:
        """Wait while other processes train, or may begin to; whether a trial was left meanwhile.

        Raises:
            StoppedError: when this process was asked to stop meanwhile.
        """
        return self._study.wait_for_others()

    def train(
        self, handle: TrialHandle, tell: Callable[[TrialRow], None] | None = None
    ) -> TrialRow:
        """Train a trial to its end, and record it.

        Args:
            handle: of the trial.
            tell: told after each epoch how far it is.

        Raises:
            StoppedError: when this process was asked to stop; the trial goes on later.
        """
        row = handle.row
        if row.state == "running":
            common = self._common_epochs(handle)
            row = _TrialTraining(self.prepared, self._storage, handle, common, tell).run()
            if common is not None:
                common.forget()
        self._study.end(handle, row)
        self._tell_progress(row)
        return row

    def _common_epochs(self, handle: TrialHandle) -> CommonEpochs | None:
        """Of a trial with others; None where it can have none."""
        space = self.prepared.space
        if not may_share_epochs(space, handle.values):
            return None
        to_come = partial(self._late_settings_to_come, handle)
        return CommonEpochs(self._storage, study_folder(self.prepared.study_id), to_come)

    def _late_settings_to_come(self, handle: TrialHandle) -> list[dict[str, Any]]:
        """Of trials that may begin as this one, as far as is known now."""
        listed = None
        if asks_beforehand(self.prepared.search):
            numbered = self._study.listed_to_come().items()
            listed = [labels for number, labels in numbered if number != handle.number]
        return late_settings_to_come(self.prepared.space, handle.values, listed)

    @contextlib.contextmanager
    def publication(self) -> Iterator[None]:
        """The winner is tested and published inside, by one process; the next one finds it done.

        Afterwards :meth:`clean_up` is called.

        Raises:
            StoppedError: when this process was asked to stop while another one was at work.
        """
        study_id = self.prepared.study_id
        folder, what = f"{study_folder(study_id)}/winner", f"the winner of study {study_id}"
        with waited_for(Lease(self._storage, folder, what, logged=False), seconds=1.0):
            yield
            self.clean_up()

    def clean_up(self) -> None:
        """Delete what only trials that are still to come would have used."""
        if all(row.state != "running" for row in self.rows()) and not self._study.may_begin():
            self._storage.delete_folder(study_folder(self.prepared.study_id))

    @property
    def spent(self) -> tuple[float, float]:
        """Seconds and dollars, those of studies before it too."""
        rows, (seconds, usd) = self.rows(), self._spent_before
        seconds += sum(row.seconds for row in rows)
        return seconds, usd + sum(row.cost_usd for row in rows)

    def rows(self) -> list[TrialRow]:
        """Of all trials that were begun."""
        return self._study.rows()

    def report(self, *, importance: bool = True) -> SearchReport:
        """What is known now; without each key's importance, which takes a while, if not wanted."""
        rows, score = self.rows(), self.prepared.score
        return SearchReport(
            schema_version=1,
            study_id=self.prepared.study_id,
            score=score.name,
            score_title=score.title,
            in_percent=score.in_percent,
            higher_is_better=score.higher_is_better,
            trials=rows,
            best=best_number(rows, score.higher_is_better),
            tokens="made" if self.prepared.made_tokens else "found",
            stopped=self._stopped,
            importance=self._importance() if importance else {},
            proxy=self.prepared.search.proxy,
        )

    def winner(self, report: SearchReport | None = None) -> Config:
        """The configuration of the best trial, of its best seed, without ``search.proxy``.

        Args:
            report: that says which one it is; None: as is known now.

        Raises:
            NoWinnerError: when no trial has finished.
        """
        report = report or self.report(importance=False)
        row = report.best_row
        if row is None:
            why = f": no more were begun, as {report.stopped}" if report.stopped else ""
            failed = next((one for one in report.trials if one.why), None)
            why += "" if failed is None else f". Trial {failed.number} failed: {_remedy(failed)}"
            raise NoWinnerError(f"no trial has finished, so there is none to be published{why}")
        sign = 1.0 if report.higher_is_better else -1.0
        member = max(row.members, key=lambda one: sign * (one.score or 0.0))
        config = winner_config(self.prepared.config, row.values)
        return config.replace(**{"training.seed": member.seed})

    @database_explained()
    def _importance(self) -> dict[str, float]:
        study = self._study.study
        done = study.get_trials(deepcopy=False, states=(optuna.trial.TrialState.COMPLETE,))
        if len(done) < _LEAST_FOR_IMPORTANCE or len({trial.value for trial in done}) < 2:
            return {}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            evaluator = optuna.importance.PedAnovaImportanceEvaluator()
            found = optuna.importance.get_param_importances(study, evaluator=evaluator)
        return {key: float(value) for key, value in found.items() if math.isfinite(value)}

    def progress(self, report: SearchReport) -> str:
        """Trials done, the best so far, and seconds left, in words."""
        done = [one for one in report.trials if one.state != "running"]
        left = max(0, self.prepared.num_trials - len(done))
        mean = sum(one.seconds for one in done) / max(1, len(done))
        best = report.best_row
        found = f"{report.shown(best.score)} of trial {best.number}" if best else "none yet"
        return (
            f"{len(done)} of {self.prepared.num_trials} trials, best {found}; about "
            f"{left * mean:.0f} s left"
        )

    def _tell_progress(self, row: TrialRow) -> None:
        report = self.report(importance=False)
        said = (
            f"{report.score_title} {report.shown(row.score)}" if row.score is not None else row.why
        )
        _log.info(
            "trial %d %s: %s after %.1f s (%s). %s",
            *(row.number, row.state, said or "-", row.seconds, row.shared() or "nothing trained"),
            self.progress(report),
        )


class _TrialTraining:
    """One trial at work in this process."""

    def __init__(
        self,
        prepared: PreparedStudy,
        storage: Storage,
        handle: TrialHandle,
        common: CommonEpochs | None,
        tell: Callable[[TrialRow], None] | None,
    ) -> None:
        self._prepared = prepared
        self._tell = tell
        self._common = common
        self._storage = storage
        self._handle = handle
        self._members = {(member.seed, member.fold): member for member in handle.row.members}
        self._seconds = handle.row.seconds
        self._began = time.perf_counter()
        self._pruned = False

    def run(self) -> TrialRow:
        """To its end."""
        failed: list[str] = []
        with failure_line(failed):
            trial = trial_config(self._prepared.config, self._handle.values)
            for config in member_configs(trial, self._prepared.search):
                known = self._members.get((config.training.seed, fold_of(config)))
                if known is not None and known.done:
                    continue
                train_member(
                    config,
                    self._storage,
                    self._prepared.score,
                    known,
                    self._common,
                    self._note,
                    self._prepared.inputs,
                )
                if self._pruned:  # else the next trial would begin beside its model, on a device
                    self._prepared.inputs.drop_state()
                    break
        scores = [member.score for member in self._members.values() if member.score is not None]
        if not failed and not all(map(math.isfinite, scores)):
            failed.append(f"{self._prepared.score.title} is not a number")
        if failed:
            return self._row("failed", why=failed[0])
        if self._pruned:
            return self._row("pruned", score=scores[0])
        interval = None
        if len(scores) > 1:
            error = float(np.std(scores, ddof=1)) / math.sqrt(len(scores))
            interval = float(stats.t.ppf(0.975, len(scores) - 1)) * error
        return self._row("finished", score=float(np.mean(scores)), interval=interval)

    def _note(self, member: MemberRow) -> bool:
        """How far one is; whether it should go on, of which the trial's first one decides."""
        self._members[member.seed, member.fold] = member
        row = self._row("running")
        self._handle.note(row)
        if self._tell is not None and member.epochs:
            self._tell(row)
        if member is next(iter(self._members.values())) and member.epochs and not member.done:
            last = member.epochs[-1]
            value = last.validation[self._prepared.score.name]
            self._pruned = math.isfinite(value) and self._handle.is_pruned(last.epoch, value)
        return not self._pruned

    def _row(self, state: str, **known: object) -> TrialRow:
        seconds = self._seconds + time.perf_counter() - self._began
        members = list(self._members.values())
        changes = {"state": state, "members": members, "seconds": seconds, **known}
        return self._handle.row.model_copy(update=changes)


def _most_epochs(prepared: PreparedStudy) -> int:
    """Of any trial."""
    varied = [one for one in prepared.space.dimensions if one.key == "training.epochs"]
    given = [{one.key: end} for one in varied for end in one.ends] or [{}]
    return max(trial_config(prepared.config, one).training.num_epochs for one in given)


def _limit_reached(search: SearchConfig, seconds: float, usd: float) -> str | None:
    if search.max_seconds is not None and seconds >= search.max_seconds:
        return f"search.max_seconds ({search.max_seconds:g}) is reached: {seconds:.0f} s"
    if search.max_usd is not None and usd >= search.max_usd:
        return f"search.max_usd ({search.max_usd:g}) is reached: {usd:.4f} US$"
    return None


def _check_failures(rows: list[TrialRow]) -> None:
    first = [row for row in rows if row.state != "running"][:_FAILURES_THAT_STOP]
    reasons = {_reason(row.why or "") for row in first}
    if len(first) == _FAILURES_THAT_STOP and len(reasons) == 1 and first[0].state == "failed":
        raise NoWinnerError(
            f"the first {_FAILURES_THAT_STOP} trials all failed for one reason: "
            f"{_remedy(first[0], ' No more are begun.')}"
        )


def _reason(why: str) -> str:
    """What is the same when a failure comes again: no numbers, nor units, nor sizes of memory."""
    return OUT_OF_MEMORY if why.startswith(OUT_OF_MEMORY) else _NUMBERS.sub("#", why)


def _remedy(failed: TrialRow, then: str = "") -> str:
    """Why it failed, and what to do."""
    why = (failed.why or "").rstrip(".")
    return f"{why}.{then} Change what it says, or begin the study anew with --fresh"
