"""The end of a run: the best epoch's model is tested once and published, the report written."""

import logging
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from afcore.config import PEER_MODES
from afcore.errors import ModelError
from afcore.model.adapters import adapted_blocks, merge_adapters, save_adapters
from afcore.model.generation import generate_as
from afcore.model.processors import processor_of
from afcore.model.split_model import SplitModel
from afcore.model_settings import MODEL_MARK, ModelSettings
from afcore.results.classes import classes_report
from afcore.results.figures import confusion_figure, epoch_time_figure, freezing_figure
from afcore.results.report import (
    ClassesReport,
    DataReport,
    EpochReport,
    RunReport,
    TotalsReport,
    dated_decisions,
    pack_array,
)
from afcore.results.story import what_happened
from afcore.runs.records import (
    CheckpointRecord,
    best_epoch,
    done_reports,
    plan_of,
    record_of,
)
from afcore.runs.run import Run, find_run, read_record, result_key
from afcore.runs.run_profile import read_profile
from afcore.runs.spent import cost_outside, lost_seconds
from afcore.runs.state import load_checkpoint
from afcore.storage.objects import Storage
from afcore.tasks.answers import Answers
from afcore.tasks.stored_tokens import PreparedData
from afcore.tracking.tracker import Tracker
from afcore.training.evaluate import evaluate

__all__ = [
    "described",
    "finished_report",
    "publish",
    "publish_report",
    "published_model",
    "run_report",
    "scored_test",
    "write_adapters",
]

_log = logging.getLogger(__name__)
_SUMMED = (
    "train_seconds",
    "materialize_seconds",
    "evaluate_seconds",
    "checkpoint_seconds",
    "activation_bytes_written",
    "cost_usd",
)
"""Of the epochs' reports, what the totals are sums of."""


def finished_report(storage: Storage, run_id: str) -> RunReport | None:
    """The report of a run that is done, or None; a damaged one is published anew."""
    run = find_run(storage, run_id, replaceable=True)
    if run is None:
        return None
    return read_record(storage, result_key(run), RunReport, replaceable=True)


def publish(
    run: Run, tracker: Tracker | None, mlflow_run_id: str | None, wall_seconds: float
) -> RunReport:
    """Test the best epoch's model, log model, figures and report, and mark the run as done.

    Args:
        run: every epoch of it is done; the caller holds its lease.
        tracker: where to publish. None: nothing is logged anywhere.
        mlflow_run_id: the run's, if there is a tracker.
        wall_seconds: of all attempts so far, this one's as of now.
    """
    began = time.perf_counter()
    checkpoints = _checkpoints(run)
    epochs, data = done_reports(run, len(checkpoints)), run.data()
    best = best_epoch(epochs, run.config.main_score).epoch
    split = published_model(run, best)
    tested: dict[str, Any] = {}
    classes = None
    if data.test is not None:
        clock = time.perf_counter()
        answers = evaluate(run.trainee(split, data.test))
        seconds = time.perf_counter() - clock
        tested, classes = scored_test(run, answers)
        tested["test_seconds"] = seconds
    if tracker is not None and mlflow_run_id is not None:
        model, pairs = described(run, split.model.cpu()), run.config.data.text_pair is not None
        tracker.log_model(mlflow_run_id, model, processor_of(run.config), run.record.task, pairs)
        with tempfile.TemporaryDirectory(prefix="autofreeze-") as folder:
            if write_adapters(run, best, Path(folder)):
                tracker.log_folder(mlflow_run_id, folder, "adapter")
    wall_seconds += time.perf_counter() - began
    report = run_report(
        run, data, mlflow_run_id, wall_seconds, epochs, checkpoints, tested, classes
    )
    publish_report(run, tracker, report)
    return report


def write_adapters(run: Run, epoch: int, folder: Path) -> bool:
    """Write an epoch's adapters and head as PEFT does, beside the model that they are merged into.

    Args:
        run: open.
        epoch: the best one.
        folder: where.

    Returns:
        Whether there are any, and PEFT can save them.
    """
    if run.lora is None or run.config.mode in PEER_MODES:
        return False
    split = load_checkpoint(run, epoch)
    if not adapted_blocks(split):
        return False
    try:
        save_adapters(split, run.lora, run.config.model.name, folder)
    except ModelError as error:
        _log.warning("the adapters are in the model's weights and nowhere else: %s", error)
        return False
    return True


def published_model(run: Run, epoch: int) -> SplitModel:
    """An epoch's, as it is tested and published: adapters are merged into its weights."""
    return merge_adapters(load_checkpoint(run, epoch))


def described(run: Run, model: Any) -> Any:
    """The model, whose configuration says how it was trained and tested.

    One that writes text does so as the model that it was made from.
    """
    settings = ModelSettings(
        run_id=run.record.run_id,
        data=run.record.data,
        task=run.record.task.model_dump(),
        columns=run.config.data.columns,
        encoding=run.config.data.encoding,
        precision=run.compute.precision,
        pooled_last_block=run.config.mode not in PEER_MODES
        and run.config.training.pooled_last_block,
    )
    setattr(model.config, MODEL_MARK, settings.model_dump())
    if not run.record.task.generates:  # else the task has told it how to
        generate_as(model, run.config.model.name)
    return model


def publish_report(run: Run, tracker: Tracker | None, report: RunReport) -> None:
    """Log figures and report, and mark the run as done.

    Args:
        run: the caller holds its lease.
        tracker: where to publish. None: nothing is logged anywhere.
        report: of the whole run.
    """
    if tracker is not None:
        mlflow_run_id = report.mlflow_run_id
        assert mlflow_run_id is not None
        tracker.log_figure(mlflow_run_id, freezing_figure(report), "figures/freezing.png")
        tracker.log_figure(mlflow_run_id, epoch_time_figure(report), "figures/epoch_time.png")
        if report.test_classes is not None:
            figure = confusion_figure(report.test_classes, f"{report.mode}, seed {report.seed}")
            tracker.log_figure(mlflow_run_id, figure, report.test_classes.figure)
        tracker.log_report(mlflow_run_id, report, report.epochs[-1].finished)
        # Before the record, after which nobody comes here again.
        tracker.finish(mlflow_run_id)
    run.storage.put(result_key(run), report.model_dump_json(by_alias=True, indent=1).encode())


def run_report(
    run: Run,
    data: PreparedData,
    mlflow_run_id: str | None,
    wall_seconds: float,
    epochs: list[EpochReport],
    checkpoints: list[CheckpointRecord],
    tested: dict[str, Any],
    classes: ClassesReport | None,
) -> RunReport:
    """The report of a finished run.

    Args:
        run: every epoch of it is done.
        data: of the run.
        mlflow_run_id: None: nothing was logged.
        wall_seconds: of all attempts.
        epochs: all of them.
        checkpoints: of as many, or none of a mode that leaves none.
        tested: what the test gave, as :func:`scored_test`.
        classes: so too.
    """
    score = run.config.main_score
    intervals = [one for checkpoint in checkpoints for one in checkpoint.trained.intervals]
    notes, happened = list[str](), ""
    if checkpoints:
        notes = _notes(run, epochs)
        happened = what_happened(
            epochs, run.record.num_blocks, run.config.training.num_epochs, score
        )
    return RunReport(
        schema=1,
        run_id=run.record.run_id,
        mode=run.config.mode,
        seed=run.config.training.seed,
        status="finished",
        policy=run.config.freezing.policy if run.config.freezes else None,
        eta_label=run.config.freezing.eta_label if run.config.freezes else "eta",
        model=run.config.model.name,
        num_blocks=run.record.num_blocks,
        data=DataReport(
            train_examples=data.num_train_rows,
            validation_examples=data.validation.num_rows,
            test_examples=data.test.num_rows if data.test is not None else 0,
            revisions=run.record.revisions,
        ),
        mlflow_run_id=mlflow_run_id,
        task=run.config.task,
        score=score.name,
        notes=[*data.task.warnings(data.validation, score), *notes],
        epochs=epochs,
        decisions=dated_decisions(intervals),
        intervals=[interval.statistics for interval in intervals],
        totals=_totals(run, epochs, checkpoints, wall_seconds, tested),
        happened=happened,
        test_classes=classes,
    )


def scored_test(run: Run, answers: Answers) -> tuple[dict[str, Any], ClassesReport | None]:
    """What the answers on the test split give.

    Args:
        run: that was tested.
        answers: of the best epoch's model.

    Returns:
        Of the totals, the scores and what other runs are paired by; and the classes.
    """
    task, score = run.record.task, run.config.main_score
    rows = answers.rows_of(score)
    totals = {
        "test": answers.scores(),
        "test_rows": {name: pack_array(_small(values)) for name, values in rows.items()},
    }
    classes = None
    if task.class_names is not None:
        labels, predicted = answers.values["labels"], answers.values["predicted"]
        classes = classes_report(labels, predicted, task.class_names)
    return totals, classes


def _small(values: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Whole numbers in the smallest type that holds them."""
    if values.dtype.kind not in "iu" or not len(values):
        return values
    return values.astype(np.result_type(*map(np.min_scalar_type, (values.min(), values.max()))))


def _checkpoints(run: Run) -> list[CheckpointRecord]:
    checkpoints: list[CheckpointRecord] = []
    while not checkpoints or checkpoints[-1].next is not None:
        checkpoint = record_of(run, len(checkpoints) + 1, CheckpointRecord)
        assert checkpoint is not None
        checkpoints.append(checkpoint)
    return checkpoints


def _totals(
    run: Run,
    epochs: list[EpochReport],
    checkpoints: list[CheckpointRecord],
    wall_seconds: float,
    tested: dict[str, Any],
) -> TotalsReport:
    best = best_epoch(epochs, run.config.main_score)
    totals: dict[str, Any] = {
        name: sum(getattr(epoch, name) for epoch in epochs) for name in _SUMMED
    }
    # Epochs' costs hold their requests and bytes; the time between and lost is added to them.
    outside_seconds, outside_usd = cost_outside(run, epochs, wall_seconds)
    totals["cost_usd"] += outside_usd
    totals["evaluate_seconds"] += tested.get("test_seconds", 0.0)
    in_epochs = sum(epoch.num_workers * epoch.seconds for epoch in epochs)
    return TotalsReport(
        **totals,
        decide_seconds=profile.seconds if (profile := read_profile(run)) else 0.0,
        wall_seconds=wall_seconds,
        worker_seconds=in_epochs + outside_seconds,
        lost_seconds=lost_seconds(run, epochs, checkpoints),
        best_epoch=best.epoch,
        validation=best.validation,
        **({"test": None} | tested),
    )


def _notes(run: Run, epochs: list[EpochReport]) -> list[str]:
    notes = []
    if run.record.uncacheable is not None:
        notes.append(f"nothing was cached: {run.record.uncacheable}")
    plans = [plan_of(run, epoch.epoch) for epoch in epochs]
    notes += [note for plan in plans if plan is not None for note in plan.notes]
    windowed = [str(epoch.epoch) for epoch in epochs if epoch.order == "windowed"]
    if windowed:
        notes.append(
            f"epochs {', '.join(windowed)} read a set larger than memory: shards were shuffled, "
            "and examples within a window of shards; their batches are not those of other modes"
        )
    return list(dict.fromkeys(notes))
