"""The only module that knows MLflow: one run per training, one parent per comparison.

A training is found again by the tag :data:`_TRAINING_TAG`. Metrics carry the time at which they
were measured, as it was recorded with the epoch; MLflow keeps one copy of equal metrics, so logging
an epoch again adds nothing. A resumed training goes on in its run.
"""

import contextlib
import logging
import math
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from afcore.errors import StoppedError, UserError
from afcore.results.report import EpochReport, RunReport
from afcore.runs.records import CheckpointRecord, EpochRecord

__all__ = ["Tracker", "flat_parameters"]

_TRAINING_TAG = "autofreeze.training_id"
_MODEL_TAG = "autofreeze.model_uri"
_METRICS_PER_BATCH = 1000
_PARAMETERS_PER_BATCH = 100
_VALUE_CHARACTERS = 6000
_log = logging.getLogger(__name__)


class Tracker:
    """One experiment of an MLflow tracking server or database.

    Args:
        uri: tracking URI.
        experiment: name; made when there is none. With a SQLite file, artifacts go to a folder
            beside it.

    Raises:
        UserError: when the tracking store cannot be reached.
    """

    def __init__(self, uri: str, experiment: str) -> None:
        # The import alone takes seconds; nothing but a tracker needs it.
        import mlflow

        logging.getLogger("mlflow").setLevel(logging.WARNING)
        logging.getLogger("mlflow.transformers").setLevel(logging.ERROR)
        logging.getLogger("alembic").setLevel(logging.WARNING)
        self._mlflow = mlflow
        artifacts = None
        try:
            if uri.startswith("sqlite:///"):
                folder = Path(uri.removeprefix("sqlite:///")).parent
                folder.mkdir(parents=True, exist_ok=True)
                artifacts = (folder / "mlartifacts").as_uri()
            self._client = mlflow.MlflowClient(uri)
            found = self._client.get_experiment_by_name(experiment)
            self._experiment_id = (
                found.experiment_id
                if found
                else self._client.create_experiment(experiment, artifact_location=artifacts)
            )
        except Exception as error:
            raise UserError(
                f"tracking.uri {uri!r} cannot be used: {' '.join(str(error).split())[:300]}"
            ) from error
        self._uri = uri

    def begin(
        self,
        training_id: str,
        name: str,
        *,
        mode: str | None = None,
        parent: str | None = None,
        parameters: Mapping[str, Any] | None = None,
    ) -> str:
        """Find the MLflow run of a training, or make it.

        Args:
            training_id: names the training.
            name: shown in the UI.
            mode: the tag ``execution_mode``.
            parent: MLflow run id of the comparison this belongs to.
            parameters: the resolved configuration, nested.

        Returns:
            The MLflow run id.
        """
        found = self._client.search_runs(
            [self._experiment_id], f"tags.`{_TRAINING_TAG}` = '{training_id}'"
        )
        tags = {_TRAINING_TAG: training_id}
        if mode is not None:
            tags["execution_mode"] = mode
        if parent is not None:
            tags["mlflow.parentRunId"] = parent
        if found:
            run_id = str(found[0].info.run_id)
            for key, value in tags.items():
                self._client.set_tag(run_id, key, value)
            self._client.update_run(run_id, status="RUNNING")
            return run_id
        run = self._client.create_run(self._experiment_id, tags=tags, run_name=name)
        run_id = str(run.info.run_id)
        flat = [
            self._mlflow.entities.Param(key, value[:_VALUE_CHARACTERS])
            for key, value in flat_parameters(parameters or {}).items()
        ]
        for start in range(0, len(flat), _PARAMETERS_PER_BATCH):
            self._client.log_batch(run_id, params=flat[start : start + _PARAMETERS_PER_BATCH])
        return run_id

    def set_parent(self, run_id: str, parent: str) -> None:
        """Show a run under a comparison; a run recorded elsewhere cannot be, and is warned of."""
        try:
            self._client.set_tag(run_id, "mlflow.parentRunId", parent)
        except self._mlflow.exceptions.MlflowException as error:
            _log.warning("MLflow run %s cannot be shown here: %s", run_id, error)

    def log_epoch(self, run_id: str, checkpoint: CheckpointRecord, record: EpochRecord) -> None:
        """Log an epoch's steps, decisions and report; once or again, with the same effect."""
        metrics = []
        for step in checkpoint.steps:
            metrics += [
                ("train/loss", step.loss, step.time, step.step),
                ("train/learning_rate", step.learning_rate, step.time, step.step),
            ]
        decisions = {decision.step: decision for decision in checkpoint.decisions}
        boundary = checkpoint.report.boundary_start
        for interval, time in zip(checkpoint.intervals, checkpoint.interval_times, strict=True):
            decision = decisions.get(interval.step)
            boundary = decision.boundary_after if decision else boundary
            metrics.append(("freeze/boundary", boundary, time, interval.step))
            for block, eta in enumerate(decision.eta if decision else []):
                if eta is not None:
                    metrics.append((f"freeze/eta_block_{block:02d}", eta, time, interval.step))
        self._log_metrics(run_id, metrics)
        self.log_epoch_report(run_id, record.report, record.finished)

    def log_epoch_report(self, run_id: str, report: EpochReport, finished: float) -> None:
        """Log an epoch's report; ``finished`` in seconds since the epoch (UTC)."""
        values = report.model_dump()
        metrics = [(f"validation/{score}", v) for score, v in values.pop("validation").items()]
        metrics += [
            (f"epoch/{name}", value)
            for name, value in values.items()
            if isinstance(value, int | float) and name not in ("epoch", "candidate")
        ]
        self._log_metrics(run_id, [(name, v, finished, report.epoch) for name, v in metrics])

    def log_summary(self, run_id: str, values: Mapping[str, float], time: float) -> None:
        """Log headline metrics at step 0."""
        self._log_metrics(run_id, [(name, value, time, 0) for name, value in values.items()])

    def log_report(self, run_id: str, report: RunReport, time: float) -> None:
        """Log the totals and ``report.json``."""
        totals = report.totals.model_dump()
        summary = {f"test/{k}": v for k, v in (totals.pop("test") or {}).items()}
        summary |= {f"best/validation_{k}": v for k, v in totals.pop("validation").items()}
        del totals["test_right"], totals["test_rows"]
        summary |= {f"total/{name}": value for name, value in totals.items()}
        self.log_summary(run_id, summary, time)
        self.log_text(run_id, report.model_dump_json(by_alias=True, indent=1), "report.json")

    def log_figure(self, run_id: str, figure: Figure, name: str) -> None:
        """Save a figure as an artifact."""
        self._client.log_figure(run_id, figure, name)

    def log_text(self, run_id: str, text: str, name: str) -> None:
        """Save a text as an artifact."""
        self._client.log_text(run_id, text, name)

    def log_model(self, run_id: str, model: Any, tokenizer: Any) -> str:
        """Save the model so that ``mlflow.transformers.load_model`` gives a pipeline.

        Returns:
            The model's URI; that of an earlier call when there was one.
        """
        known = self._client.get_run(run_id).data.tags.get(_MODEL_TAG)
        if known is not None:
            return str(known)
        import mlflow.transformers
        import torch
        import transformers

        self._mlflow.set_tracking_uri(self._uri)
        with _quiet_progress(), self._mlflow.start_run(run_id=run_id):
            logged = mlflow.transformers.log_model(
                transformers_model={"model": model, "tokenizer": tokenizer},
                name="model",
                task="text-classification",
                # Given, because finding them out would load the model in another process.
                pip_requirements=[
                    f"torch=={torch.__version__.partition('+')[0]}",
                    f"transformers=={transformers.__version__}",
                ],
            )
        self._client.set_tag(run_id, _MODEL_TAG, logged.model_uri)
        return str(logged.model_uri)

    def finish(self, run_id: str, error: BaseException | None = None) -> None:
        """Close the run: finished; or failed, or killed from outside, by this error."""
        status = "FINISHED"
        if error is not None:
            told = isinstance(error, StoppedError) or not isinstance(error, Exception)
            status = "KILLED" if told else "FAILED"
        self._client.set_terminated(run_id, status)

    def _log_metrics(self, run_id: str, metrics: Iterable[tuple[str, float, float, int]]) -> None:
        entities = [
            self._mlflow.entities.Metric(name, float(value), int(time * 1000), step)
            for name, value, time, step in metrics
            if math.isfinite(value)
        ]
        for start in range(0, len(entities), _METRICS_PER_BATCH):
            self._client.log_batch(run_id, metrics=entities[start : start + _METRICS_PER_BATCH])


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
def _quiet_progress() -> Iterator[None]:
    """MLflow draws bars for artifacts and takes no argument that would stop it."""
    name = "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR"
    before = os.environ.get(name)
    os.environ[name] = "false"
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before
