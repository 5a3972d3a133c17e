"""The flow ``search``: many trials as runs of one store, and the best one tested and published.

What is done is known by Optuna's storage and the records in the store, not by Prefect's states.
"""

import shutil
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prefect import flow, task
from prefect.artifacts import create_markdown_artifact
from prefect.cache_policies import NO_CACHE
from prefect.runtime import flow_run

from afcore.config import Config
from afcore.errors import StoppedError
from afcore.interrupt import catch_sigterm, stop_requested
from afcore.launch.launcher import close_launchers, open_launcher
from afcore.search.conduct_study import StudyConductor, prepare_study
from afcore.search.label_studies import file_of_label, label_configs
from afcore.search.out_of_fold import PREDICTIONS_OPTION, write_out_of_fold
from afcore.search.search_report import LabelsReport, MemberRow, SearchReport, TrialRow
from afcore.search.space import search_of
from afcore.search.study import TrialHandle
from afcore.search.study_figures import study_figures
from afcore.search.winner_file import config_text, write_config
from afcore.storage.outputs import new_file
from afcore.tracking.tracker import Tracker
from pipelines.device_lock import one_run_a_device
from pipelines.environment import configure_logging
from pipelines.finetune import finetune
from pipelines.search_table import search_markdown

__all__ = ["search"]


def _run_name() -> str:
    config: Config = flow_run.parameters["config"]
    wanted = search_of(config)
    keys = ", ".join(key.rpartition(".")[2] for key in sorted(wanted.vary))
    if wanted.folds is not None:
        keys = f"{keys}, {wanted.folds} folds" if keys else f"{wanted.folds} folds"
    keys = keys or f"{wanted.seeds} seeds"
    return f"search-{config.tracking.experiment}: {keys}"


@task(name="trial", task_run_name="trial-{number}", persist_result=False, cache_policy=NO_CACHE)
def train_trial(number: int, train: Callable[[], TrialRow]) -> dict[str, Any]:
    """Train a trial to its end; its headline figures."""
    row = train()
    return {"number": number, "state": row.state, "score": row.score, "shared": row.shared()}


@flow(name="search", flow_run_name=_run_name, validate_parameters=True)
def search(
    config: Config,
    best_file: str | None = None,
    predictions_file: str | None = None,
    fresh: bool = False,
) -> dict[str, Any]:
    """Vary settings of a training, share what trials have in common, publish the best one.

    Started again after any interruption, it goes on: finished trials are not trained again, those
    that ran resume from their last epoch.

    Args:
        config: The training, with the section search.
        best_file: Where the best configuration is written, as a file that ``run`` takes.
        predictions_file: Where, of folds, the best trial's predictions of all rows are written.
        fresh: Forget the trials of an earlier study of this configuration; their runs are found.
    """
    configure_logging()
    prepared = {label: prepare_study(one) for label, one in label_configs(config).items()}
    reports, spent = {}, (0.0, 0.0)
    for label, one in prepared.items():
        paths = (file and file_of_label(file, label) for file in (best_file, predictions_file))
        files = _Files(*paths)
        conductor = StudyConductor(one, fresh=fresh, spent=spent)
        reports[label] = _conduct(conductor, label, files)
        spent = conductor.spent
    if search_of(config).labels is None:
        return reports[""].model_dump(mode="json", by_alias=True)
    return LabelsReport(schema_version=1, labels=reports).model_dump(mode="json", by_alias=True)


@dataclass(frozen=True)
class _Files:
    """What a study writes beside the user."""

    best: str | None
    predictions: str | None


def _conduct(conductor: StudyConductor, label: str, files: _Files) -> SearchReport:
    """One study, from its first trial to the published winner."""
    prepared = conductor.prepared
    config, wanted = prepared.config, prepared.search
    tracker = Tracker(config.tracking.uri, config.tracking.experiment)
    keys = (key.rpartition(".")[2] for key in wanted.vary)
    parent = tracker.begin(
        f"search-{prepared.study_id}",
        " ".join(("search", label, *keys)).replace("  ", " ").strip(),
        mode="search",
        parameters={**config.model_dump(mode="json"), "study_id": prepared.study_id},
    )
    try:
        open_launcher(config.workers)
        with catch_sigterm():
            _train_trials(conductor, tracker, parent)
        report = conductor.report(importance=False)
        # Another label column may have used up what there was for all; what it found counts.
        if not (label and report.best is None and report.stopped):
            with conductor.publication():
                report = _publish(conductor, tracker, parent, files)
    except BaseException as error:
        tracker.finish(parent, error)
        raise
    finally:
        close_launchers()
    tracker.finish(parent)
    return report


def _train_trials(conductor: StudyConductor, tracker: Tracker, parent: str) -> None:
    """All trials, until no process is at work on one; nobody waits with a device in hand."""
    at_work = True
    while at_work:
        with one_run_a_device(conductor.prepared.config.workers), conductor.next_trial() as handle:
            if handle is not None:
                logged = _TrialLog(conductor, handle, tracker, parent)
                train_trial(handle.number, logged.train)
        at_work = handle is not None or conductor.wait_for_others()
        if stop_requested():
            raise StoppedError("between two trials")


class _TrialLog:
    """A trial with its run in MLflow, below the study's."""

    def __init__(
        self, conductor: StudyConductor, handle: TrialHandle, tracker: Tracker, parent: str
    ) -> None:
        self._conductor = conductor
        self._handle = handle
        self._tracker = tracker
        self._parent = parent

    def train(self) -> TrialRow:
        """Train it, and log it as it ends."""
        study_id = self._conductor.prepared.study_id
        run_id = self._tracker.begin(
            f"search-{study_id}-{self._handle.number}",
            f"trial-{self._handle.number:03d}",
            mode="trial",
            parent=self._parent,
            parameters=self._handle.values,
        )
        try:
            row = self._conductor.train(self._handle)
        except BaseException as error:
            self._tracker.finish(run_id, error)
            raise
        self._tracker.log_summary(run_id, _metrics(row), time.time())
        for member in row.members:
            self._tracker.log_course(run_id, _course(member, len(row.members) > 1))
        if row.why:
            self._tracker.log_text(run_id, row.why + "\n", "why.txt")
        self._tracker.end_trial(run_id, row.state)
        return row


def _metrics(row: TrialRow) -> dict[str, float]:
    values = {
        "seconds": row.seconds,
        "cost_usd": row.cost_usd,
        "epochs": float(len(row.epochs)),
        "epochs_shared": float(sum(not epoch.is_own for epoch in row.epochs)),
        "sets_built": float(sum(len(e.built) for e in row.epochs if e.is_own)),
    }
    return values if row.score is None else {"score": row.score, **values}


def _course(member: MemberRow, several: bool) -> list[tuple[str, float, float, int]]:
    where = f"{member.name}/".replace(" ", "") if several else ""
    return [
        (f"{where}validation/{name}", value, time.time(), epoch.epoch)
        for epoch in member.epochs
        for name, value in epoch.validation.items()
    ]


def _publish(
    conductor: StudyConductor, tracker: Tracker, parent: str, files: _Files
) -> SearchReport:
    """Test and publish the best trial; log table and pictures."""
    winner = conductor.winner()
    result = finetune(winner, parent_mlflow_run_id=parent)
    result.pop("recorded", None)
    update = {"winner": result, "config_file": files.best}
    report = conductor.report().model_copy(update=update)
    best = report.best_row
    assert best is not None
    if files.best is not None:
        said = f"trial {best.number} of study {report.study_id}: {report.shown(best.score)}"
        write_config(winner, Path(files.best), f"The best of a search, {said} on validation")
    if conductor.prepared.search.folds is not None:
        _write_predictions(winner, best, tracker, parent, files.predictions)
        report = report.model_copy(update={"predictions_file": files.predictions})
    values = {"best/score": best.score or 0.0, "trials": float(len(report.trials))}
    test = result["totals"]["test"] or {}
    values |= {f"test/{name}": value for name, value in test.items()}
    values |= {f"importance/{key}": share for key, share in report.importance.items()}
    tracker.log_summary(parent, values, time.time())
    table = search_markdown(report)
    tracker.log_text(parent, table, "search.md")
    tracker.log_text(parent, report.model_dump_json(by_alias=True, indent=1), "search.json")
    tracker.log_text(parent, config_text(winner), "best.yaml")
    for name, figure in study_figures(report).items():
        tracker.log_figure(parent, figure, f"figures/{name}.png")
    create_markdown_artifact(table, key="search", description="trials of the search")
    return report


def _write_predictions(
    winner: Config, best: TrialRow, tracker: Tracker, parent: str, file: str | None
) -> None:
    """What the folds of the best trial predict, to MLflow and beside the user."""
    with tempfile.TemporaryDirectory(prefix="autofreeze-") as folder:
        path = Path(folder) / "out_of_fold.csv"
        with one_run_a_device(winner.workers):
            write_out_of_fold(winner, best.members, path)
        tracker.log_folder(parent, folder, "predictions")
        if file is not None:
            with new_file(Path(file), PREDICTIONS_OPTION) as draft:
                shutil.copyfile(path, draft)
