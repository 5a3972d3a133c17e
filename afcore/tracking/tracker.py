"""One MLflow run per training, one parent per comparison.

A training is found again by the tag :data:`.TRAINING_TAG`. Metrics carry the time at which they
were measured, as it was recorded with the epoch; MLflow keeps one copy of equal metrics, so logging
an epoch again adds nothing. A resumed training goes on in its run.
"""

import functools
import getpass
import json
import logging
import math
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, TypeAlias, TypeVar

from matplotlib.figure import Figure

from afcore.disk_space import is_full
from afcore.errors import (
    AutoFreezeError,
    TrackingError,
    TrackingUnreachableError,
    UserError,
    in_one_line,
    stop_behind,
)
from afcore.results.report import EpochReport, RunReport
from afcore.tasks.task import Task
from afcore.tracking.database import sqlite_path
from afcore.tracking.experiments import (
    TRAINING_TAG,
    find_run,
    forget_run,
    open_experiment,
    restore_run,
    trial_runs,
)
from afcore.tracking.models import MODEL_TAG, fetch_folder, load_model, save_model
from afcore.tracking.tracking_store import (
    TrackingStore,
    cause_of_outage,
    transfer_settings,
    without_password,
)

__all__ = ["Metric", "Tracker", "flat_parameters"]

_VIEW = "autofreeze"
_VIEW_TAG = f"mlflow.sharedViewState.{_VIEW}"
"""Of an experiment: a view of its table that has the headline figures as columns."""
_FOR_TRAININGS = "workflowType=machine_learning"
"""In an address: which of its two faces MLflow shows; else that is a setting of the browser."""
_TRIAL_STATE_TAG = "trial_state"
"""Of a trial's run: how it ended; there once all of it is logged."""
_METRICS_PER_BATCH = 1000
_PARAMETERS_PER_BATCH = 100
_VALUE_CHARACTERS = 6000
_NAME_CHARACTERS = 500
_DIGEST_CHARACTERS = 36
_log = logging.getLogger(__name__)
Metric: TypeAlias = tuple[str, float, float, int]
"""Name, value, when it was measured (seconds since the epoch, UTC), and the step."""
P = ParamSpec("P")
R = TypeVar("R")


def _about_a_run(
    method: Callable[Concatenate["Tracker", str, P], R],
) -> Callable[Concatenate["Tracker", str, P], R]:
    """Explain what MLflow raises; a run that was deleted is restored, and written to again.

    A server that does not answer is waited for by a tracker that waits.
    """

    def once(tracker: "Tracker", run_id: str, /, *args: P.args, **kwargs: P.kwargs) -> R:
        with tracker._explained():
            try:
                return method(tracker, run_id, *args, **kwargs)
            except tracker._mlflow.exceptions.MlflowException as error:
                if cause_of_outage(error) is not None or not restore_run(tracker._client, run_id):
                    raise
            return method(tracker, run_id, *args, **kwargs)

    @functools.wraps(method)
    def call(tracker: "Tracker", run_id: str, /, *args: P.args, **kwargs: P.kwargs) -> R:
        return tracker._ask(once, tracker, run_id, *args, **kwargs)

    return call


class Tracker(TrackingStore):
    """One experiment of an MLflow tracking server or database.

    :meth:`begin` makes it when there is none. With a SQLite file, artifacts go to a folder beside
    it. Methods that write raise a :class:`.TrackingError` when MLflow refuses, or does not answer.
    """

    def begin(
        self,
        training_id: str,
        name: str,
        *,
        mode: str | None = None,
        parent: str | None = None,
        parameters: Mapping[str, Any] | None = None,
        source: Mapping[str, str] | None = None,
    ) -> str:
        """Find the MLflow run of a training, or make it.

        Args:
            training_id: names the training.
            name: shown in the UI.
            mode: the tag ``execution_mode``.
            parent: MLflow run id of the comparison this belongs to.
            parameters: the resolved configuration, nested.
            source: tags that say from where it was started.

        Returns:
            The MLflow run id.
        """
        tags = {TRAINING_TAG: training_id, "mlflow.user": _user_name(), **(source or {})}
        if mode is not None:
            tags["execution_mode"] = mode
        if parent is not None:
            tags["mlflow.parentRunId"] = parent
        return self._ask(self._begin, name, tags, flat_parameters(parameters or {}))

    def _begin(self, name: str, tags: dict[str, str], parameters: dict[str, str]) -> str:
        with self._explained():
            experiment_id = self._open_experiment()
            run = find_run(self._client, experiment_id, tags[TRAINING_TAG])
            if run is None:
                run = self._client.create_run(experiment_id, tags=tags, run_name=name)
            else:
                restore_run(self._client, run.info.run_id)
                for key, value in tags.items():
                    self._client.set_tag(run.info.run_id, key, value)
                self._client.update_run(run.info.run_id, status="RUNNING")
            # A kill may have come before all were logged, and none can be changed.
            flat = [
                self._mlflow.entities.Param(key, value[:_VALUE_CHARACTERS])
                for key, value in parameters.items()
                if key not in run.data.params
            ]
            for start in range(0, len(flat), _PARAMETERS_PER_BATCH):
                batch = flat[start : start + _PARAMETERS_PER_BATCH]
                self._client.log_batch(run.info.run_id, params=batch)
            return str(run.info.run_id)

    def runs_at_work(self) -> dict[str, str]:
        """Ids of our runs by those that MLflow has at work for them in the experiment."""
        with self._explained():
            experiment = self._client.get_experiment_by_name(self._experiment)
            if experiment is None:
                return {}
            found = self._client.search_runs(
                [experiment.experiment_id],
                f"attributes.status = 'RUNNING' and tags.`{TRAINING_TAG}` != ''",
            )
            pairs = ((run.info.run_id, run.data.params.get("run_id")) for run in found)
            return {mlflow_run_id: run_id for mlflow_run_id, run_id in pairs if run_id}

    def _open_experiment(self) -> str:
        path = sqlite_path(self._uri)
        artifacts = (path.parent / "mlartifacts").absolute().as_uri() if path else None
        return open_experiment(self._client, self._experiment, artifacts)

    @_about_a_run
    def log_rows(self, run_id: str, context: str, name: str, digest: str, num_rows: int) -> None:
        """Log what a run reads as a dataset of MLflow; once or again, with the same effect.

        Args:
            run_id: of the run.
            context: what the rows are for: ``train``, ``validation``, ``test``.
            name: of their source.
            digest: of the rows.
            num_rows: how many there are.
        """
        entities = self._mlflow.entities
        rows = entities.Dataset(
            name=name[:_NAME_CHARACTERS],
            digest=digest[:_DIGEST_CHARACTERS],
            source_type="local",
            source=json.dumps({"uri": name}),
            profile=json.dumps({"num_rows": num_rows}),
        )
        tags = [entities.InputTag("mlflow.data.context", context)]
        self._client.log_inputs(run_id, [entities.DatasetInput(rows, tags)])

    def set_parent(self, run_id: str, parent: str) -> None:
        """Show a run under a comparison; a run recorded elsewhere cannot be, and is warned of."""
        try:
            self.set_tag(run_id, "mlflow.parentRunId", parent)
        except TrackingError as error:
            _log.warning("MLflow run %s cannot be shown here: %s", run_id, error)

    @_about_a_run
    def log_epoch(self, run_id: str, report: EpochReport, metrics: Iterable[Metric] = ()) -> None:
        """Log an epoch's report and what came within it; once or again, with the same effect."""
        self._committed = f"epoch {report.epoch} is committed"
        values = report.model_dump(exclude={"epoch", "candidate", "finished", "validation"})
        of_epoch = {f"validation/{name}": value for name, value in report.validation.items()} | {
            f"epoch/{name}": value
            for name, value in values.items()
            if isinstance(value, int | float)
        }
        dated = [(name, value, report.finished, report.epoch) for name, value in of_epoch.items()]
        self._log_metrics(run_id, [*metrics, *dated])

    @_about_a_run
    def log_summary(self, run_id: str, values: Mapping[str, float], time: float) -> None:
        """Log headline metrics at step 0."""
        self._log_metrics(run_id, [(name, value, time, 0) for name, value in values.items()])

    def log_speedup(self, run_id: str, gain: float, time: float) -> None:
        """Log what a comparison found of a run; of one recorded elsewhere it cannot be."""
        try:
            self.log_summary(run_id, {"speedup": gain}, time)
        except TrackingUnreachableError:
            raise
        except TrackingError as error:
            _log.warning("the speed-up of MLflow run %s cannot be logged here: %s", run_id, error)

    @_about_a_run
    def log_live(self, run_id: str, values: Mapping[str, float], time: float, step: int) -> None:
        """Log how an epoch is doing; after a kill steps may come twice, so under names apart."""
        named = [(f"live/{name}", value, time, step) for name, value in values.items()]
        self._log_metrics(run_id, named)

    @_about_a_run
    def log_headline(
        self, run_id: str, score: str, values: Mapping[str, float], time: float
    ) -> None:
        """Log the figures to compare runs by, and give the experiment a view that has them."""
        # As many digits as a column has room for.
        self.log_summary(run_id, {n: float(f"{v:.4g}") for n, v in values.items()}, time)
        columns = [f"metrics.`{name}`" for name in (score, "seconds", "speedup", "cost_usd")]
        view = json.dumps({"selectedColumns": [*columns, "attributes.`Source`"]})
        experiment_id = self._client.get_run(run_id).info.experiment_id
        self._client.set_experiment_tag(experiment_id, _VIEW_TAG, view)

    @_about_a_run
    def describe(self, run_id: str, text: str) -> None:
        """Say in Markdown what the run was; shown on top of its page."""
        self._client.set_tag(run_id, "mlflow.note.content", text)

    def run_address(self, run_id: str) -> str | None:
        """Its page; None where the tracking store is no server."""
        if not self._uri.startswith("http"):
            return None
        with self._explained():
            experiment = self._client.get_run(run_id).info.experiment_id
        server = without_password(self._uri).rstrip("/")
        return f"{server}/#/experiments/{experiment}/runs/{run_id}?{_FOR_TRAININGS}"

    def experiment_address(self) -> str | None:
        """The page with its runs and their headline figures; None where there is no server."""
        if not self._uri.startswith("http"):
            return None
        with self._explained():
            found = self._client.get_experiment_by_name(self._experiment)
        if found is None:
            return None
        server = without_password(self._uri).rstrip("/")
        shared = f"&viewStateShareKey={_VIEW}" if _VIEW_TAG in found.tags else ""
        return f"{server}/#/experiments/{found.experiment_id}/runs?{_FOR_TRAININGS}{shared}"

    @_about_a_run
    def log_report(self, run_id: str, report: RunReport, time: float) -> None:
        """Log the totals and ``report.json``.

        The headline figures have names without a group.
        """
        totals = report.totals.model_dump()
        headline = {
            "cost_usd": report.totals.cost_usd,
            "frozen_blocks": report.epochs[-1].boundary_end,
            "seconds": report.totals.wall_seconds,
        }
        summary = {f"test/{k}": v for k, v in (totals.pop("test") or {}).items()}
        summary |= {f"best/validation_{k}": v for k, v in totals.pop("validation").items()}
        del totals["test_rows"]
        summary |= {f"total/{name}": value for name, value in totals.items()}
        self.log_summary(run_id, summary, time)
        self.log_headline(run_id, report.score, {report.score: report.main_score, **headline}, time)
        self.describe(run_id, _description(report))
        self.log_text(run_id, report.model_dump_json(by_alias=True, indent=1), "report.json")

    @_about_a_run
    def log_figure(self, run_id: str, figure: Figure, name: str) -> None:
        """Save a figure as an artifact."""
        self._client.log_figure(run_id, figure, name)

    @_about_a_run
    def log_text(self, run_id: str, text: str, name: str) -> None:
        """Save a text as an artifact."""
        self._client.log_text(run_id, text, name)

    @_about_a_run
    def log_folder(self, run_id: str, folder: str, name: str) -> None:
        """Save a folder's files as artifacts."""
        with transfer_settings():
            self._client.log_artifacts(run_id, folder, name)

    @_about_a_run
    def fetch_folder(self, run_id: str, folder: Path, name: str) -> bool:
        """What :meth:`log_folder` saved, as a folder that is not there yet.

        Returns:
            Whether there was any.

        Raises:
            UserError: when a server that answers does not have it.
        """
        self._mlflow.set_tracking_uri(self._uri)
        self._client.get_run(run_id)
        try:
            return fetch_folder(run_id, folder, name)
        except Exception as error:  # of any artifact store
            raise self._unread(f"the artifacts {name!r}", run_id, error) from error

    @_about_a_run
    def log_model(
        self, run_id: str, model: Any, processor: Any, task: Task, pairs: bool = False
    ) -> str:
        """Save the model, see :func:`.save_model`; the URI of an earlier call if there was one."""
        known = self._client.get_run(run_id).data.tags.get(MODEL_TAG)
        if known is not None:
            return str(known)
        self._mlflow.set_tracking_uri(self._uri)
        uri = save_model(run_id, model, processor, task, pairs)
        self._client.set_tag(run_id, MODEL_TAG, uri)
        return uri

    @_about_a_run
    def load_model(self, run_id: str, auto_class: str) -> Any:
        """The model that :meth:`log_model` saved.

        Args:
            run_id: that it belongs to.
            auto_class: of ``transformers``, which knows its head.

        Raises:
            UserError: when a server that answers does not have it.
        """
        self._mlflow.set_tracking_uri(self._uri)
        tags = self._client.get_run(run_id).data.tags
        try:
            return load_model(tags[MODEL_TAG], auto_class)
        except Exception as error:  # of any artifact store
            raise self._unread("the model", run_id, error) from error

    def _unread(self, what: str, run_id: str, error: Exception) -> AutoFreezeError:
        """Why artifacts cannot be had; a server that is away, or a full disk, took none of them."""
        if is_full(error):
            return self._full(error)
        if cause_of_outage(error) is not None:
            return self._error(error, TrackingError)
        reason = without_password(in_one_line(error))[:300]
        return UserError(
            f"{what} of the MLflow run {run_id} in {self.shown_uri!r} cannot be read: {reason}. "
            "Train anew with --fresh"
        )

    def finish(self, run_id: str, error: BaseException | None = None) -> None:
        """Close the run: finished; or failed, or killed from outside, by this error.

        A second problem never hides ``error``.
        """
        if error is None:
            self._set_terminated(run_id, "FINISHED")
        elif not isinstance(error, TrackingUnreachableError):  # which would not hear that either
            told = stop_behind(error) is not None or not isinstance(error, Exception)
            status = "KILLED" if told else "FAILED"
            try:
                self._set_terminated(run_id, status)
            except TrackingError as refusal:
                _log.warning("MLflow run %s is not marked as %s: %s", run_id, status, refusal)

    def end_trial(self, run_id: str, state: str) -> None:
        """Close the run of a trial of a search: ``finished``, ``pruned`` or ``failed``."""
        statuses = {"finished": "FINISHED", "pruned": "KILLED", "failed": "FAILED"}
        self._set_terminated(run_id, statuses[state])
        self.set_tag(run_id, _TRIAL_STATE_TAG, state)

    @_about_a_run
    def ended_trials(self, run_id: str) -> set[str]:
        """Ids of the trainings of a search's trials that :meth:`end_trial` has closed."""
        found = trial_runs(self._client, run_id)
        return {run.data.tags[TRAINING_TAG] for run in found if _TRIAL_STATE_TAG in run.data.tags}

    @_about_a_run
    def forget_trials(self, run_id: str) -> None:
        """Put the runs of a search's trials in the trash; none of them is gone on with."""
        for run in trial_runs(self._client, run_id):
            forget_run(self._client, run)

    @_about_a_run
    def _set_terminated(self, run_id: str, status: str) -> None:
        self._client.set_terminated(run_id, status)

    @_about_a_run
    def set_tag(self, run_id: str, key: str, value: str) -> None:
        """Say one thing of a run."""
        self._client.set_tag(run_id, key, value)

    @_about_a_run
    def log_course(self, run_id: str, metrics: Iterable[Metric]) -> None:
        """Log metrics with their steps."""
        self._log_metrics(run_id, metrics)

    def _log_metrics(self, run_id: str, metrics: Iterable[Metric]) -> None:
        entities = [
            self._mlflow.entities.Metric(name, float(value), int(time * 1000), step)
            for name, value, time, step in metrics
            if math.isfinite(value)
        ]
        for start in range(0, len(entities), _METRICS_PER_BATCH):
            self._client.log_batch(run_id, metrics=entities[start : start + _METRICS_PER_BATCH])


def _user_name() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a number that has no name, as in some containers
        return "unknown"


def _description(report: RunReport) -> str:
    """A line of figures, and what happened."""
    totals, data = report.totals, report.data
    split = "test" if totals.test else "validation"
    figures = (
        f"**{split} {report.main.title} {report.main.shown(report.main_score)}**, "
        f"{totals.wall_seconds:.1f} s, ${totals.cost_usd:.4f}"
    )
    rows = (
        f"{report.model}, {data.train_examples:,} rows to train on, "
        f"{data.validation_examples:,} to validate, {data.test_examples:,} to test"
    )
    happened = f"{report.happened[:1].upper()}{report.happened[1:]}.\n\n" if report.happened else ""
    return f"{figures}\n\n{happened}{rows}"


def flat_parameters(tree: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Nested mappings as dotted keys with string values."""
    flat: dict[str, str] = {}
    for key, value in tree.items():
        if isinstance(value, Mapping):
            flat |= flat_parameters(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = str(value)
    return flat
