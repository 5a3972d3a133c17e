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
from prefect.cache_policies import NO_CACHE
from prefect.runtime import flow_run

from afcore.config import Config
from afcore.errors import NoWinnerError, StoppedError
from afcore.interrupt import catch_sigint, stop_requested
from afcore.launch.launcher import close_launchers, open_launcher
from afcore.search.conduct_study import PreparedStudy, StudyConductor, prepare_study
from afcore.search.label_studies import file_of_label, label_configs, names_of_labels
from afcore.search.out_of_fold import PREDICTIONS_OPTION, write_out_of_fold
from afcore.search.search_report import LabelsReport, SearchReport, TrialRow
from afcore.search.space import search_of, trial_config
from afcore.search.study import TrialHandle
from afcore.search.study_figures import study_figures
from afcore.search.tracked_study import TrackedStudy
from afcore.search.winner_file import config_text, write_config
from afcore.storage.outputs import new_file
from afcore.tracking.tracker import Tracker
from pipelines.device_lock import one_run_a_device
from pipelines.environment import configure_logging
from pipelines.finetune import finetune
from pipelines.prefect_artifacts import show_search_table, wait_until_shown
from pipelines.run_titles import search_title
from pipelines.search_table import search_markdown

__all__ = ["search"]


def _run_name() -> str:
    config: Config = flow_run.parameters["config"]
    return search_title(config)


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
    prepared = _prepared(config)
    names = names_of_labels(prepared)
    reports, failed, spent = dict[str, SearchReport](), dict[str, NoWinnerError](), (0.0, 0.0)
    for label, one in prepared.items():
        given, name = (best_file, predictions_file), names[label]
        files = (file and file_of_label(file, name) for file in given)
        conductor = StudyConductor(one, fresh=fresh, spent=spent)
        try:
            tracked = TrackedStudy(one, fresh=fresh, waits=bool(reports))
            reports[label] = _conduct(conductor, tracked, *files)
        except NoWinnerError as error:
            reports[label], failed[label] = conductor.report(importance=False), error
        spent = conductor.spent
    wait_until_shown()
    report: SearchReport | LabelsReport = LabelsReport(schema_version=1, labels=reports)
    if search_of(config).labels is None:
        report = reports[""]
    result = report.model_dump(mode="json", by_alias=True)
    if failed:
        said = (f"label column {label!r}: {e}" if label else str(e) for label, e in failed.items())
        lacking = NoWinnerError("; ".join(said))
        lacking.report = result
        raise lacking
    return result


def _prepared(config: Config) -> dict[str, PreparedStudy]:
    """The studies by label column, all checked before the first one begins."""
    found: dict[str, PreparedStudy] = {}
    for label, one in label_configs(config).items():
        found[label] = prepare_study(one)
        if len(found) > 1:  # a model and data of each, which are opened again when it is its turn
            found[label].inputs.clear()
    return found


def _conduct(
    conductor: StudyConductor,
    tracked: TrackedStudy,
    best_file: str | None,
    predictions_file: str | None,
) -> SearchReport:
    """One study, from its first trial to the published winner."""
    prepared = conductor.prepared
    try:
        open_launcher(prepared.config.workers)
        _train_trials(conductor, tracked)
        tracked.complete(conductor.rows())
        report = conductor.report(importance=False)
        # Another label column may have used up what there was for all; what it found counts.
        if not (prepared.search.labels and report.best is None and report.stopped):
            with conductor.publication():
                report = _publish(conductor, tracked, best_file, predictions_file)
    except NoWinnerError as error:
        tracked.complete(conductor.rows())
        _log_report(tracked, conductor.report(importance=False))
        tracked.tracker.finish(tracked.run_id, error)
        raise
    except BaseException as error:
        tracked.tracker.finish(tracked.run_id, error)
        raise
    finally:
        close_launchers()
        prepared.inputs.clear()
    tracked.tracker.finish(tracked.run_id)
    return report


@catch_sigint()  # and SIGTERM; the next step is committed
def _train_trials(conductor: StudyConductor, tracked: TrackedStudy) -> None:
    """All trials, until no process is at work on one, or may begin one."""
    with conductor.beginning():
        while _train_next(conductor, tracked):
            pass
    while conductor.wait_for_others():
        _train_next(conductor, tracked)
    _check_stop()


def _train_next(conductor: StudyConductor, tracked: TrackedStudy) -> bool:
    """A trial, if there is one for this process; nobody waits for others with a device in hand."""
    with one_run_a_device(conductor.prepared.config.workers), conductor.next_trial() as handle:
        if handle is not None:
            train_trial(handle.number, _ShownTrial(conductor, handle, tracked).train)
    _check_stop()
    return handle is not None


def _check_stop() -> None:
    if stop_requested():
        raise StoppedError("between two trials")


@dataclass(frozen=True)
class _ShownTrial:
    """A trial, logged to MLflow as it goes, with the study's table in Prefect at its end."""

    conductor: StudyConductor
    handle: TrialHandle
    tracked: TrackedStudy

    def train(self) -> TrialRow:
        """Train it."""
        self.tracked.log(self.handle.row)
        try:
            row = self.conductor.train(self.handle, self.tracked.log)
        except BaseException as error:
            self.tracked.stop(self.handle.number, error)
            raise
        self.tracked.log(row)
        report = self.conductor.report(importance=False)
        show_search_table(f"{self.conductor.progress(report)}\n\n{search_markdown(report)}")
        return row


def _publish(
    conductor: StudyConductor,
    tracked: TrackedStudy,
    best_file: str | None,
    predictions_file: str | None,
) -> SearchReport:
    """Test and publish the best trial; log table and pictures."""
    tracker, parent = tracked.tracker, tracked.run_id
    report = conductor.report()  # once: others may end a better trial while it is tested
    winner = conductor.winner(report)
    result = finetune(winner, parent_mlflow_run_id=parent)
    result.pop("recorded", None)
    report = report.model_copy(update={"winner": result, "config_file": best_file})
    best = report.best_row
    assert best is not None
    if best_file is not None:
        said = f"trial {best.number} of study {report.study_id}: {report.shown(best.score)}"
        write_config(winner, Path(best_file), f"The best of a search, {said} on validation")
    if conductor.prepared.search.folds is not None:
        trial = trial_config(conductor.prepared.config, best.values)
        _write_predictions(trial, best, tracker, parent, predictions_file)
        report = report.model_copy(update={"predictions_file": predictions_file})
    values = {"best/score": best.score or 0.0, "trials": float(len(report.trials))}
    test = result["totals"]["test"] or {}
    values |= {f"test/{name}": value for name, value in test.items()}
    values |= {f"importance/{key}": share for key, share in report.importance.items()}
    tracker.log_summary(parent, values, time.time())
    _log_report(tracked, report)
    tracker.log_text(parent, config_text(winner), "best.yaml")
    for name, figure in study_figures(report).items():
        tracker.log_figure(parent, figure, f"figures/{name}.png")
    return report


def _log_report(tracked: TrackedStudy, report: SearchReport) -> None:
    """All of it to MLflow, and its table to MLflow and Prefect."""
    table, text = search_markdown(report), report.model_dump_json(by_alias=True, indent=1)
    tracked.tracker.log_text(tracked.run_id, table, "search.md")
    tracked.tracker.log_text(tracked.run_id, text, "search.json")
    show_search_table(table)


def _write_predictions(
    trial: Config, best: TrialRow, tracker: Tracker, parent: str, file: str | None
) -> None:
    """What the folds of the best trial predict, to MLflow and beside the user."""
    with tempfile.TemporaryDirectory(prefix="autofreeze-") as folder:
        path = Path(folder) / "out_of_fold.csv"
        with one_run_a_device(trial.workers):
            write_out_of_fold(trial, best.members, path)
        tracker.log_folder(parent, folder, "predictions")
        if file is not None:
            with new_file(Path(file), PREDICTIONS_OPTION) as draft:
                shutil.copyfile(path, draft)
