"""The flow ``finetune``: one training as a task per epoch.

Tasks exchange URIs and small values, and each calls one function of :mod:`afcore`. What is done is
known by the records in the store, not by Prefect's states: a task that runs again finds them.
"""

import importlib
import time
from collections.abc import Callable
from typing import Any

from prefect import flow, task
from prefect.client.schemas.objects import TaskRun
from prefect.context import TaskRunContext
from prefect.runtime import deployment, flow_run, task_run
from prefect.states import State
from prefect.tasks import Task

from afcore.config import PEER_MODES, Config, check_extras
from afcore.digest import recipe_digest
from afcore.errors import StoppedError, StoreLostError, may_pass
from afcore.interrupt import catch_sigint, stop_requested
from afcore.launch.launcher import check_devices, close_launchers, open_launcher
from afcore.results.comparison import compare_report
from afcore.results.figures import course_figure
from afcore.results.report import RunReport
from afcore.runs.abandoned_runs import clear_abandoned_runs
from afcore.runs.identify import identify_run
from afcore.runs.launch_epoch import launch_epoch
from afcore.runs.publish import finished_report
from afcore.runs.publish import publish as publish_run
from afcore.runs.records import CheckpointRecord, done_reports, plan_of, record_of
from afcore.runs.run import Run, RunRecord, begin_run, open_run, run_lease
from afcore.runs.tracked_epochs import log_epochs
from afcore.runs.tracked_rows import log_rows
from afcore.storage.lease import Lease
from afcore.storage.objects import Storage
from afcore.tracking.tracker import Tracker
from afcore.training.progress import Progress
from pipelines.abandoned_flow_runs import clear_abandoned_flow_runs, own_flow_run_ids
from pipelines.comparison_table import comparison_markdown
from pipelines.device_lock import one_run_a_device
from pipelines.environment import configure_logging
from pipelines.given_config import config_of, given_config
from pipelines.prefect_artifacts import (
    flow_run_address,
    link_tracking,
    name_task,
    show_epoch_table,
    show_result,
    showing_progress,
    wait_until_shown,
)
from pipelines.run_titles import epoch_title, finished_epoch_title, mlflow_run_name, run_title

__all__ = ["finetune", "run_source"]

EPOCH_RETRIES = 2


def _epoch_cache_key(_context: TaskRunContext, parameters: dict[str, Any]) -> str:
    named = ("training_id", "checkpoint_uri", "epoch", "mlflow_run_id")
    return recipe_digest({name: parameters[name] for name in named})


def _may_help(_task: Task[..., Any], _run: TaskRun, state: State[Any]) -> bool:
    """What was lost on the way; a mistake, or memory that does not suffice, is there again."""
    error = state.result(raise_on_failure=False)
    return may_pass(error) and not isinstance(error, StoreLostError)


@task(name="prepare", task_run_name="prepare", persist_result=False)
def prepare(config: Config) -> dict[str, Any]:
    """Look for workers, tokenize the data, look at the model, name the run."""
    check_extras(config)
    check_devices(config.workers, config.store)
    if config.mode not in PEER_MODES:
        open_launcher(config.workers)
    return identify_run(config, Storage.of_run(config.store)).model_dump(mode="json")


@task(
    name="epoch",
    task_run_name="{title}",
    retries=EPOCH_RETRIES,
    retry_delay_seconds=5,
    retry_condition_fn=_may_help,
    cache_key_fn=_epoch_cache_key,
    persist_result=True,
    result_serializer="json",
)
def train_epoch(
    store: str,
    run_id: str,
    training_id: str,
    epoch: int,
    checkpoint_uri: str,
    mlflow_run_id: str,
    attempt: int,
    title: str,
) -> dict[str, Any]:
    """Train one epoch from a checkpoint to the next.

    Returns:
        ``checkpoint_uri`` of the new checkpoint, whether it was the ``last`` epoch, and headline
        figures.
    """
    run = open_run(store, run_id)
    with showing_progress(title, _live_logger(run, mlflow_run_id)):
        report = launch_epoch(run, epoch, attempt, tries=task_run.run_count or 1)
    checkpoint = record_of(run, epoch, CheckpointRecord)
    assert checkpoint is not None
    name_task(finished_epoch_title(report, run.config.training.num_epochs))
    show_epoch_table(done_reports(run, epoch), run.config.main_score)
    return {
        "checkpoint_uri": run.storage.uri(run.epoch_key(epoch, "checkpoint")),
        "boundary": report.boundary_end,
        "last": checkpoint.next is None,
        "validation": report.validation,
    }


@task(name="publish", task_run_name="publish", persist_result=False)
def publish(store: str, run_id: str, mlflow_run_id: str, wall_seconds: float) -> dict[str, Any]:
    """Test the best model and publish model, figures and report."""
    run = open_run(store, run_id)
    tracker = Tracker(run.config.tracking.uri, run.config.tracking.experiment, waits=True)
    report = publish_run(run, tracker, mlflow_run_id, wall_seconds)
    _show(report)
    return report.model_dump(mode="json", by_alias=True)


@task(name="hf-trainer", task_run_name="hf-trainer", persist_result=False)
def train_with_hf_trainer(
    store: str, run_id: str, mlflow_run_id: str, attempt: int, wall_seconds: float
) -> dict[str, Any]:
    """Train, test and publish with Hugging Face's Trainer, in one piece."""
    from afcore.peer.trainer_run import run_hf_trainer

    run = open_run(store, run_id)
    tracker = Tracker(run.config.tracking.uri, run.config.tracking.experiment, waits=True)
    report = run_hf_trainer(run, tracker, mlflow_run_id, attempt, wall_seconds)
    _show(report)
    return report.model_dump(mode="json", by_alias=True)


def _show(report: RunReport) -> None:
    show_result(report, comparison_markdown(compare_report([report])), course_figure(report))


def _live_logger(run: Run, mlflow_run_id: str) -> Callable[[Progress], None]:
    """Opened when it is first called: MLflow may be away, and an epoch does not wait for it."""
    opened: list[Tracker] = []

    def log(progress: Progress) -> None:
        if not opened:
            opened.append(Tracker(run.config.tracking.uri, run.config.tracking.experiment))
        values = {
            "loss": progress.loss,
            "boundary": float(progress.boundary),
            "epochs": progress.epoch - 1 + progress.step / progress.num_steps,
        }
        opened[0].log_live(mlflow_run_id, values, progress.time, progress.total_step)

    return log


def _flow_run_name() -> str:
    return run_title(config_of(flow_run.parameters))


def run_source() -> dict[str, str]:
    """Tags of an MLflow run: what started it, and where Prefect shows that."""
    deployed = deployment.id is not None
    name = f"Prefect: {flow_run.flow_name}" if deployed else f"autofreeze {flow_run.flow_name}"
    tags = {"mlflow.source.name": name, "mlflow.source.type": "JOB" if deployed else "LOCAL"}
    address = flow_run_address()
    return tags | ({"prefect.flow_run": address} if address else {})


@flow(name="finetune", flow_run_name=_flow_run_name, validate_parameters=True)
def finetune(
    config: Config,
    fresh: bool = False,
    config_path: str | None = None,
    overrides: list[str] | None = None,
    parent_mlflow_run_id: str | None = None,
) -> dict[str, Any]:
    """Fine-tune a pre-trained transformer, freezing what has converged.

    Started again after any interruption, it goes on from the last committed epoch; a finished run
    returns its recorded report. One that was trained without MLflow is logged there first: its
    epochs are found, only the test is made again.

    Args:
        config: The training, completely described.
        fresh: Train anew, even where a result is recorded.
        config_path: YAML file to read instead, as seen from the folder in which the worker was
            started; where it names no store and no tracking server, those of config stay.
        overrides: Values that differ, key.path=value each, e.g. training.learning_rate=5e-4.
        parent_mlflow_run_id: MLflow run of the comparison that this belongs to.
    """
    configure_logging()
    config = given_config(config, config_path, overrides)
    if config.mode in PEER_MODES:
        # Takes seconds, so only when needed; and before the clock starts, as all other imports are.
        importlib.import_module("afcore.peer.trainer_run")
    try:
        report = _finetune(config, fresh, parent_mlflow_run_id)
        wait_until_shown()
        return report
    finally:
        if parent_mlflow_run_id is None:
            close_launchers()


def _finetune(config: Config, fresh: bool, parent_mlflow_run_id: str | None) -> dict[str, Any]:
    began = time.monotonic()
    record = RunRecord.model_validate(prepare(config))
    storage = Storage(config.store, waits=True)
    report = None if fresh else finished_report(storage, record.run_id)
    tracking = config.tracking
    # One of several runs, the others of which may have been trained for hours, waits for MLflow.
    waits = parent_mlflow_run_id is not None
    if report is not None and report.mlflow_run_id is not None:
        if parent_mlflow_run_id is not None:
            tracker = Tracker(tracking.uri, tracking.experiment, waits=waits)
            tracker.set_parent(report.mlflow_run_id, parent_mlflow_run_id)
        return {**report.model_dump(mode="json", by_alias=True), "recorded": True}
    tracker = Tracker(tracking.uri, tracking.experiment, waits=waits)
    with (
        one_run_a_device(config.workers) as waited,
        run_lease(storage, record.run_id, since=began + waited) as lease,
    ):
        run = begin_run(storage, record, fresh=fresh)
        if fresh:
            lease.forget_earlier()
        dead = clear_abandoned_runs(storage, tracker, run)
        mlflow_run_id = tracker.begin(
            run.record.training_id,
            mlflow_run_name(config, record.run_id),
            mode=config.mode,
            parent=parent_mlflow_run_id,
            parameters=config.model_dump(mode="json")
            | {"run_id": record.run_id, "revisions": record.revisions},
            source=run_source(),
        )
        run.note_tracking(mlflow_run_id, own_flow_run_ids())
        clear_abandoned_flow_runs(dead)
        link_tracking(tracker.run_address, mlflow_run_id, tracking.uri)
        try:
            log_rows(run, tracker, mlflow_run_id)
            if config.mode in PEER_MODES:
                published = train_with_hf_trainer(
                    config.store, record.run_id, mlflow_run_id, lease.number, lease.seconds()
                )
            else:
                _train_epochs(run, lease, mlflow_run_id)
                published = publish(config.store, record.run_id, mlflow_run_id, lease.seconds())
        except BaseException as error:
            tracker.finish(mlflow_run_id, error)
            raise
    return published


def _train_epochs(run: Run, lease: Lease, mlflow_run_id: str) -> None:
    with catch_sigint():  # and SIGTERM; between epochs too
        unlogged = _train_each(run, lease, mlflow_run_id)
    log_epochs(run, mlflow_run_id, unlogged, waits=True)


def _train_each(run: Run, lease: Lease, mlflow_run_id: str) -> list[int]:
    """All epochs; those that MLflow, which was away, lacks."""
    config, record = run.config, run.record
    checkpoint_uri = f"pretrained:{config.model.name}"
    epoch, last, unlogged = 0, False, list[int]()
    while not last:
        epoch += 1
        lease.check()
        done = train_epoch(
            config.store,
            record.run_id,
            record.training_id,
            epoch,
            checkpoint_uri,
            mlflow_run_id,
            lease.number,
            epoch_title(epoch, config.training.num_epochs, plan_of(run, epoch)),
        )
        unlogged = log_epochs(run, mlflow_run_id, [*unlogged, epoch])
        checkpoint_uri, last = done["checkpoint_uri"], done["last"]
        if stop_requested():
            raise StoppedError(f"after epoch {epoch}")
    return unlogged
