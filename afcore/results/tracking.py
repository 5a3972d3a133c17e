"""The only module that knows MLflow: one run per training, one parent per comparison.

A training is found again by the tag :data:`_TRAINING_TAG`. Metrics carry the time at which they
were measured, as it was recorded with the epoch; MLflow keeps one copy of equal metrics, so logging
an epoch again adds nothing. A resumed training goes on in its run. What a training needs and
somebody deleted is taken out of MLflow's trash, with a warning; nothing else is.
"""

import contextlib
import functools
import getpass
import json
import logging
import math
import os
import re
import sqlite3
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, TypeAlias, TypeVar

from matplotlib.figure import Figure

from afcore.disk_space import disk_space, fullest, is_full
from afcore.errors import (
    AutoFreezeError,
    StoppedError,
    StorageFullError,
    TrackingAbsentError,
    TrackingError,
    TrackingUnreachableError,
    UserError,
    causes,
    in_one_line,
)
from afcore.model.truncating_tokenizer import truncating
from afcore.outage import outage_of
from afcore.results.report import EpochReport, RunReport
from afcore.results.tracking_database import make_database, sqlite_path
from afcore.tasks.task import Task

__all__ = ["MODEL_TAG", "Metric", "Tracker", "flat_parameters", "transfer_settings"]

_TRAINING_TAG = "autofreeze.training_id"
MODEL_TAG = "autofreeze.model_uri"
_KIND = ("mlflow.experimentKind", "custom_model_development")
"""Of an experiment: its pages are those of trainings, not those of language models' traces."""
_VIEW = "autofreeze"
_VIEW_TAG = f"mlflow.sharedViewState.{_VIEW}"
"""Of an experiment: a view of its table that has the headline figures as columns."""
_FOR_TRAININGS = "workflowType=machine_learning"
"""In an address: which of its two faces MLflow shows; else that is a setting of the browser."""
_METRICS_PER_BATCH = 1000
_PARAMETERS_PER_BATCH = 100
_VALUE_CHARACTERS = 6000
_NAME_CHARACTERS = 500
_DIGEST_CHARACTERS = 36
_MOST_RUNS = 50_000
_ACTIVE = "active"
_TEXT_PIPELINES = ("text-classification", "token-classification")
_LIBRARIES = ("mlflow", "requests", "urllib3", "sqlalchemy", "botocore", "boto3")
_PATIENCE = {
    # Two seconds for a server that is down; MLflow's own are minutes. Who waits, waits here.
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "15",
}
_UPLOAD_TIMEOUT_SECONDS = 300
_QUIET = {
    "mlflow": logging.WARNING,
    "mlflow.transformers": logging.ERROR,
    "alembic": logging.WARNING,
    # What these say, tracebacks among it, is said by the error that follows.
    "mlflow.store.db.utils": logging.CRITICAL,
    "urllib3.connectionpool": logging.ERROR,
}
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
                if _cause_of_outage(error) is not None or not tracker._restore_run(run_id):
                    raise
            return method(tracker, run_id, *args, **kwargs)

    @functools.wraps(method)
    def call(tracker: "Tracker", run_id: str, /, *args: P.args, **kwargs: P.kwargs) -> R:
        return tracker._ask(once, tracker, run_id, *args, **kwargs)

    return call


class Tracker:
    """One experiment of an MLflow tracking server or database.

    Args:
        uri: tracking URI.
        experiment: name; made by :meth:`begin` when there is none. With a SQLite file, artifacts
            go to a folder beside it.
        waits: a server that does not answer is waited for (:mod:`afcore.outage`), as is right
            once something was trained.

    Raises:
        UserError: when the tracking store cannot be used.
        TrackingAbsentError: when the server does not answer, to who does not wait.
        TrackingUnreachableError: when it was waited for in vain.

    Methods that write raise a :class:`TrackingError` when MLflow refuses, or does not answer.
    """

    def __init__(self, uri: str, experiment: str, *, waits: bool = False) -> None:
        # The import alone takes seconds; nothing but a tracker needs it.
        import mlflow

        for name, level in _QUIET.items():
            logging.getLogger(name).setLevel(level)
        for name, value in _PATIENCE.items():
            os.environ.setdefault(name, value)
        self._mlflow = mlflow
        self._uri = uri
        self._experiment = experiment
        self._committed = "what is committed stands"
        self._waits = waits
        self._client = self._ask(self._connect)

    def _connect(self) -> Any:
        try:
            if (path := sqlite_path(self._uri)) is not None:
                make_database(path)
            client = self._mlflow.MlflowClient(self._uri)
            client.get_experiment_by_name(self._experiment)  # does it answer?
        except Exception as error:
            explained = self._error(error, UserError)
            if isinstance(explained, TrackingUnreachableError) and not self._waits:
                explained = TrackingAbsentError(*explained.args)
            raise explained from error
        return client

    def _ask(self, question: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        if not self._waits:
            return question(*args, **kwargs)
        return outage_of(f"MLflow at {self.shown_uri}").wait_out(
            TrackingUnreachableError, question, *args, **kwargs
        )

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
        tags = {_TRAINING_TAG: training_id, "mlflow.user": _user_name(), **(source or {})}
        if mode is not None:
            tags["execution_mode"] = mode
        if parent is not None:
            tags["mlflow.parentRunId"] = parent
        with self._explained():
            experiment_id = self._open_experiment()
            run = self._find_run(experiment_id, training_id)
            if run is None:
                run = self._client.create_run(experiment_id, tags=tags, run_name=name)
            else:
                self._restore_run(run.info.run_id)
                for key, value in tags.items():
                    self._client.set_tag(run.info.run_id, key, value)
                self._client.update_run(run.info.run_id, status="RUNNING")
            # A kill may have come before all were logged, and none can be changed.
            flat = [
                self._mlflow.entities.Param(key, value[:_VALUE_CHARACTERS])
                for key, value in flat_parameters(parameters or {}).items()
                if key not in run.data.params
            ]
            for start in range(0, len(flat), _PARAMETERS_PER_BATCH):
                batch = flat[start : start + _PARAMETERS_PER_BATCH]
                self._client.log_batch(run.info.run_id, params=batch)
            return str(run.info.run_id)

    @property
    def shown_uri(self) -> str:
        """The tracking URI, without a password."""
        return _without_password(self._uri)

    def runs_at_work(self) -> dict[str, str]:
        """Ids of our runs by those that MLflow has at work for them in the experiment."""
        with self._explained():
            experiment = self._client.get_experiment_by_name(self._experiment)
            if experiment is None:
                return {}
            found = self._client.search_runs(
                [experiment.experiment_id],
                f"attributes.status = 'RUNNING' and tags.`{_TRAINING_TAG}` != ''",
            )
            pairs = ((run.info.run_id, run.data.params.get("run_id")) for run in found)
            return {mlflow_run_id: run_id for mlflow_run_id, run_id in pairs if run_id}

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
            self._set_tag(run_id, "mlflow.parentRunId", parent)
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
        server = _without_password(self._uri).rstrip("/")
        return f"{server}/#/experiments/{experiment}/runs/{run_id}?{_FOR_TRAININGS}"

    def experiment_address(self) -> str | None:
        """The page with its runs and their headline figures; None where there is no server."""
        if not self._uri.startswith("http"):
            return None
        with self._explained():
            found = self._client.get_experiment_by_name(self._experiment)
        if found is None:
            return None
        server = _without_password(self._uri).rstrip("/")
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
        self._client.log_artifacts(run_id, folder, name)

    @_about_a_run
    def log_model(
        self, run_id: str, model: Any, processor: Any, task: Task, pairs: bool = False
    ) -> str:
        """Save the model so that ``mlflow.transformers.load_model`` gives a pipeline.

        It cuts texts at the tokenizer's length, as a pipeline and as ``pyfunc``, which is how
        MLflow serves it. Where Transformers has no pipeline for the task, the folder of the model
        is saved alone.

        Args:
            run_id: that the model belongs to.
            model: on the CPU.
            processor: of it: its tokenizer.
            task: of it.
            pairs: it was trained on pairs of texts.

        Returns:
            The model's URI; that of an earlier call when there was one.
        """
        known = self._client.get_run(run_id).data.tags.get(MODEL_TAG)
        if known is not None:
            return str(known)
        import mlflow.transformers
        import torch
        import transformers

        self._mlflow.set_tracking_uri(self._uri)
        base = Path(model.name_or_path)
        if (
            model.name_or_path and base.exists()
        ):  # else MLflow looks for a card and a licence under that name on the hub
            model.name_or_path = str(base.absolute())
        with transfer_settings(), self._mlflow.start_run(run_id=run_id):
            if task.has_pipeline():
                if task.pipeline_options.get("truncation"):
                    processor = truncating(processor)
                uri = mlflow.transformers.log_model(
                    transformers_model={"model": model, task.processor: processor},
                    name="model",
                    task=task.pipeline_tag,
                    model_config=dict(task.pipeline_options),
                    # It is answered once, which gives the signature.
                    input_example=_input_example(task, pairs),
                    # Given, because finding them out would load the model in another process.
                    pip_requirements=[
                        f"torch=={torch.__version__.partition('+')[0]}",
                        f"transformers=={transformers.__version__}",
                    ],
                ).model_uri
            else:
                uri = self._log_folder(run_id, model, processor)
        self._client.set_tag(run_id, MODEL_TAG, uri)
        return str(uri)

    def _log_folder(self, run_id: str, model: Any, processor: Any) -> str:
        """Laid as the flavor lays it, so that one reader finds both."""
        with tempfile.TemporaryDirectory(prefix="autofreeze-") as folder:
            model.save_pretrained(folder)
            processor.save_pretrained(folder)
            self._mlflow.log_artifacts(folder, "model/model", run_id=run_id)
        return f"runs:/{run_id}/model"

    @_about_a_run
    def load_model(self, run_id: str, auto_class: str) -> Any:
        """The model that :meth:`log_model` saved.

        Args:
            run_id: that it belongs to.
            auto_class: of ``transformers``, which knows its head.

        Raises:
            UserError: when it cannot be had.
        """
        import transformers

        self._mlflow.set_tracking_uri(self._uri)
        tags = self._client.get_run(run_id).data.tags
        with transfer_settings(), tempfile.TemporaryDirectory(prefix="autofreeze-") as folder:
            try:
                uri = tags[MODEL_TAG]
                saved = self._mlflow.artifacts.download_artifacts(uri, dst_path=folder)
                return getattr(transformers, auto_class).from_pretrained(
                    Path(saved) / "model", use_safetensors=True, trust_remote_code=False
                )
            except Exception as error:  # of any artifact store
                raise UserError(
                    f"the model of the MLflow run {run_id} in {self._uri!r} cannot be read: "
                    f"{' '.join(str(error).split())[:300]}. Train anew with --fresh"
                ) from error

    def finish(self, run_id: str, error: BaseException | None = None) -> None:
        """Close the run: finished; or failed, or killed from outside, by this error.

        A second problem never hides ``error``.
        """
        if error is None:
            self._set_terminated(run_id, "FINISHED")
        elif not isinstance(error, TrackingUnreachableError):  # which would not hear that either
            told = isinstance(error, StoppedError) or not isinstance(error, Exception)
            status = "KILLED" if told else "FAILED"
            try:
                self._set_terminated(run_id, status)
            except TrackingError as refusal:
                _log.warning("MLflow run %s is not marked as %s: %s", run_id, status, refusal)

    def end_trial(self, run_id: str, state: str) -> None:
        """Close the run of a trial of a search: ``finished``, ``pruned`` or ``failed``."""
        self._set_tag(run_id, "trial_state", state)
        statuses = {"finished": "FINISHED", "pruned": "KILLED", "failed": "FAILED"}
        self._set_terminated(run_id, statuses[state])

    @_about_a_run
    def _set_terminated(self, run_id: str, status: str) -> None:
        self._client.set_terminated(run_id, status)

    @_about_a_run
    def _set_tag(self, run_id: str, key: str, value: str) -> None:
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

    def _open_experiment(self) -> str:
        """Find the experiment, or make it, or take it out of the trash."""
        path = sqlite_path(self._uri)
        artifacts = (path.parent / "mlartifacts").absolute().as_uri() if path else None
        found = self._client.get_experiment_by_name(self._experiment)
        if found is None:
            try:
                made = self._client.create_experiment(
                    self._experiment, artifacts, tags=dict([_KIND])
                )
                return str(made)
            except self._mlflow.exceptions.MlflowException:
                found = self._client.get_experiment_by_name(self._experiment)
                if found is None:  # it is not that another process has just made it
                    raise
        self._restore_experiment(found.experiment_id)
        if _KIND[0] not in found.tags:
            self._client.set_experiment_tag(found.experiment_id, *_KIND)
        return str(found.experiment_id)

    def _find_run(self, experiment_id: str, training_id: str) -> Any:
        """The MLflow run of a training, a deleted one only if there is no other; or None."""
        found = self._client.search_runs(
            [experiment_id],
            f"tags.`{_TRAINING_TAG}` = '{training_id}'",
            run_view_type=self._mlflow.entities.ViewType.ALL,
        )
        return min(found, key=lambda run: run.info.lifecycle_stage != _ACTIVE, default=None)

    def _restore_run(self, run_id: str) -> bool:
        """Take a run and its experiment out of the trash; whether one of them was there."""
        run = self._client.get_run(run_id)
        restored = self._restore_experiment(run.info.experiment_id)
        if run.info.lifecycle_stage == _ACTIVE:
            return restored
        self._client.restore_run(run_id)
        _log.warning("MLflow run %s was deleted; its training goes on, so it is restored", run_id)
        return True

    def _restore_experiment(self, experiment_id: str) -> bool:
        """Take an experiment out of the trash, but not its runs, which MLflow restores with it."""
        experiment = self._client.get_experiment(experiment_id)
        if experiment.lifecycle_stage == _ACTIVE:
            return False
        deleted = self._client.search_runs(
            [experiment_id],
            run_view_type=self._mlflow.entities.ViewType.DELETED_ONLY,
            max_results=_MOST_RUNS,
        )
        self._client.restore_experiment(experiment_id)
        for run in deleted:
            self._client.delete_run(run.info.run_id)
        _log.warning(
            "MLflow experiment %r was deleted; it is restored for this training, and what was in "
            "it stays deleted",
            experiment.name,
        )
        return True

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        """Turn what MLflow and what it stands on raise into one message of ours."""
        try:
            yield
        except AutoFreezeError:
            raise
        except Exception as error:
            if is_full(error):
                raise self._full(error) from error
            library = type(error).__module__.partition(".")[0]
            if not isinstance(error, OSError) and library not in _LIBRARIES:
                raise
            raise self._error(error, TrackingError) from error

    def _full(self, error: Exception) -> StorageFullError:
        """Which disk it was, nobody says: of those that it may have been, the fullest."""
        names = [cause.filename for cause in causes(error) if isinstance(cause, OSError)]
        places = [tempfile.gettempdir(), *(name for name in names if isinstance(name, str))]
        if (database := sqlite_path(self._uri)) is not None:
            places.append(str(database))
        return StorageFullError(
            f"no space left for what MLflow keeps at tracking.uri {_without_password(self._uri)!r}"
            f": {disk_space(fullest(*places))}. Free some; {self._committed}, and the same command "
            "goes on from there."
        )

    def _error(self, error: Exception, refused: type[AutoFreezeError]) -> AutoFreezeError:
        """What a user should see, a ``refused`` when MLflow does answer."""
        uri = _without_password(self._uri)
        then = f"{self._committed}, and the same command goes on from there"
        if (outage := _cause_of_outage(error)) is not None:
            return TrackingUnreachableError(
                f"MLflow at tracking.uri {uri!r} does not answer ({outage}). See that it runs; "
                f"{then}."
            )
        text = _without_password(in_one_line(error))[:300]
        problem = f"tracking.uri {uri!r} cannot be used: {text}"
        if refused is UserError:
            return refused(f"{problem}. Mend that, or give another.")
        return refused(f"{problem}. Mend that; {then}.")


def _input_example(task: Task, pairs: bool) -> Any:
    """What MLflow's server may be sent; None where that is not a text, or answers take long."""
    if task.pipeline_tag not in _TEXT_PIPELINES:
        return None
    text = "This is an example."
    return [{"text": text, "text_pair": "This is another one."}] if pairs else [text]


def _cause_of_outage(error: BaseException) -> str | None:
    """Why a server, of MLflow's or of its database, does not answer; None when it does."""
    import requests
    from sqlalchemy.exc import OperationalError

    chain = list(causes(error))
    for cause in chain:
        if isinstance(cause, requests.RequestException):
            out = cause.response is None or cause.response.status_code >= 500
        elif isinstance(cause, OperationalError):
            out = not isinstance(cause.orig, sqlite3.Error)
        else:
            continue
        reasons = [c.strerror for c in chain if isinstance(c, OSError) and c.strerror]
        text = reasons[0] if reasons else _without_password(in_one_line(chain[-1]))[:200]
        return text if out else None
    return None


def _without_password(text: str) -> str:
    return re.sub(r"//[^/@\s]*@", "//", text)


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


@contextlib.contextmanager
def transfer_settings() -> Iterator[None]:
    """MLflow draws bars for artifacts and takes no argument for that; a model takes its time."""
    timeout = "MLFLOW_HTTP_REQUEST_TIMEOUT"
    settings = {
        "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
        timeout: str(max(int(os.environ[timeout]), _UPLOAD_TIMEOUT_SECONDS)),
    }
    before = {name: os.environ.get(name) for name in settings}
    os.environ.update(settings)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
