"""A study in MLflow: a run, and one below it for each of its trials.

MLflow only watches: while it does not answer trials go on, and what it lacks is logged from their
rows before the study ends. Metrics carry the times at which they were measured, so that to log a
row again adds nothing.
"""

import logging
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager

from afcore.errors import TrackingUnreachableError
from afcore.search.conduct_study import PreparedStudy
from afcore.search.search_report import TrialRow
from afcore.search.study import study_folder, waited_for
from afcore.storage.lease import Lease
from afcore.storage.objects import Storage
from afcore.tracking.tracker import Metric, Tracker

__all__ = ["TrackedStudy"]

_log = logging.getLogger(__name__)


class TrackedStudy:
    """The run of a study, found or made, and those of its trials.

    Args:
        prepared: the study.
        fresh: forget the trials of an earlier one of its name.
        waits: for a server that does not answer, as others were trained before, maybe for hours.

    Attributes:
        run_id: of the study, in MLflow.
        tracker: of its experiment.
    """

    def __init__(
        self, prepared: PreparedStudy, *, fresh: bool = False, waits: bool = False
    ) -> None:
        self._prepared = prepared
        self._trial_runs: dict[int, str] = {}
        self._is_silent = False
        tracker = self._open(waits=waits)
        search, study_id = prepared.search, prepared.study_id
        keys = (key.rpartition(".")[2] for key in search.vary)
        with self._alone():
            self.run_id = tracker.begin(
                f"search-{study_id}",
                " ".join(("search", *(search.labels or ()), *keys)),
                mode="search",
                parameters={**prepared.config.model_dump(mode="json"), "study_id": study_id},
            )
            if fresh:
                tracker.forget_trials(self.run_id)
        self.tracker = self._open(waits=False)

    def _open(self, *, waits: bool) -> Tracker:
        tracking = self._prepared.config.tracking
        return Tracker(tracking.uri, tracking.experiment, waits=waits)

    def _alone(self) -> AbstractContextManager[Lease]:
        """One process of the study at a time: a run that none has found yet is made once."""
        folder = f"{study_folder(self._prepared.study_id)}/tracked"
        storage = Storage(self._prepared.config.store, waits=True)
        return waited_for(Lease(storage, folder, "the study's run in MLflow", logged=False))

    def log(self, row: TrialRow) -> None:
        """Log how far a trial is, and its end; while MLflow does not answer, nothing."""
        try:
            self._log_row(row)
            self._is_silent = False
        except TrackingUnreachableError as error:
            if not self._is_silent:
                silence = str(error).partition(". See that")[0]
                _log.warning("%s. Trials go on; MLflow gets what it lacks later", silence)
            self._is_silent = True

    def stop(self, number: int, error: BaseException) -> None:
        """Close the run of a trial that did not come to its end."""
        run_id = self._trial_runs.pop(number, None)
        if run_id is not None:
            self.tracker.finish(run_id, error)

    def complete(self, rows: Sequence[TrialRow]) -> None:
        """Log the ends of which MLflow did not hear; it is waited for from now on."""
        self.tracker = self._open(waits=True)
        with self._alone():
            known = self.tracker.ended_trials(self.run_id)
            for row in rows:
                if row.state != "running" and self._training_id(row.number) not in known:
                    self._log_row(row)

    def _training_id(self, number: int) -> str:
        return f"search-{self._prepared.study_id}-{number}"

    def _log_row(self, row: TrialRow) -> None:
        if row.number not in self._trial_runs:
            self._trial_runs[row.number] = self.tracker.begin(
                self._training_id(row.number),
                f"trial-{row.number:03d}",
                mode="trial",
                parent=self.run_id,
                parameters=row.values,
            )
        tracker, run_id = self.tracker, self._trial_runs[row.number]
        if run_ids := [member.run_id for member in row.members if member.run_id]:
            tracker.set_tag(run_id, "run_ids", ",".join(run_ids))
            tracker.log_course(run_id, self._course(row))
        if row.state == "running":
            return
        ended = max((epoch.finished for epoch in row.epochs), default=0.0) or time.time()
        tracker.log_summary(run_id, _summary(row), ended)
        if row.why:
            tracker.log_text(run_id, row.why + "\n", "why.txt")
        tracker.end_trial(run_id, row.state)
        del self._trial_runs[row.number]

    def _course(self, row: TrialRow) -> list[Metric]:
        """Scores of all epochs; while it runs, of the last one of each training."""
        first = -1 if row.state == "running" else 0
        several = self._prepared.search.num_members > 1
        found = [
            (f"{member.name}/".replace(" ", "") if several else "", epoch)
            for member in row.members
            for epoch in member.epochs[first:]
        ]
        return [
            (f"{where}validation/{name}", value, epoch.finished, epoch.epoch)
            for where, epoch in found
            for name, value in epoch.validation.items()
        ]


def _summary(row: TrialRow) -> dict[str, float]:
    values = {
        "seconds": row.seconds,
        "cost_usd": row.cost_usd,
        "epochs": float(len(row.epochs)),
        "epochs_shared": float(sum(not epoch.is_own for epoch in row.epochs)),
        "sets_built": float(sum(len(e.built) for e in row.epochs if e.is_own)),
    }
    return values if row.score is None else {"score": row.score, **values}
