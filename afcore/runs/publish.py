"""The end of a run: the best epoch's model is tested once and published, the report written."""

import time
from typing import Any

import numpy as np

from afcore.config import PEER_MODES
from afcore.data.prepare import PreparedData
from afcore.model.pretrained import load_tokenizer
from afcore.model.split_model import SplitModel
from afcore.model_settings import MODEL_MARK, ModelSettings
from afcore.results.classes import classes_report
from afcore.results.figures import confusion_figure, epoch_time_figure, freezing_figure
from afcore.results.report import (
    ClassesReport,
    DataReport,
    EpochReport,
    RowsReport,
    RunReport,
    TotalsReport,
    pack_array,
    pack_right,
)
from afcore.results.story import what_happened
from afcore.results.tracking import Tracker
from afcore.runs.decide import profile_seconds
from afcore.runs.imbalance import score_warnings
from afcore.runs.records import CheckpointRecord, EpochPlan, EpochRecord, best_epoch
from afcore.runs.run import Run, find_run, read_record
from afcore.runs.spent import cost_outside, lost_seconds
from afcore.runs.state import load_checkpoint
from afcore.storage.objects import Storage
from afcore.tasks.text_classification import Answers
from afcore.training.evaluate import evaluate

__all__ = [
    "described",
    "finished_report",
    "publish",
    "publish_report",
    "run_report",
    "scored_test",
]


def finished_report(storage: Storage, run_id: str) -> RunReport | None:
    """The report of a run that is done, or None; a damaged one is published anew."""
    run = find_run(storage, run_id, replaceable=True)
    if run is None:
        return None
    return read_record(storage, f"{run.folder}/result.json", RunReport, replaceable=True)


def publish(run: Run, tracker: Tracker, mlflow_run_id: str, wall_seconds: float) -> RunReport:
    """Test the best epoch's model, log model, figures and report, and mark the run as done.

    Args:
        run: every epoch of it is done; the caller holds its lease.
        tracker: where to publish.
        mlflow_run_id: the run's.
        wall_seconds: of all attempts so far, this one's as of now.
    """
    began = time.perf_counter()
    records, checkpoints = _epoch_records(run)
    epochs = [record.report for record in records]
    best = best_epoch(epochs, run.config.training.score)
    split, _ = load_checkpoint(run, best.epoch)
    data = run.data()
    tested, classes = _test(run, data, split)
    tokenizer = load_tokenizer(run.config.model.name, run.config.data.max_length)
    tracker.log_model(mlflow_run_id, described(run, split.model.cpu()), tokenizer)
    wall_seconds += time.perf_counter() - began
    report = run_report(
        run,
        data,
        mlflow_run_id,
        epochs=epochs,
        decisions=[d for checkpoint in checkpoints for d in checkpoint.decisions],
        intervals=[i for checkpoint in checkpoints for i in checkpoint.intervals],
        totals=_totals(run, records, checkpoints, best, wall_seconds, tested),
        notes=_notes(run, checkpoints, epochs),
        happened=what_happened(
            epochs,
            run.record.num_blocks,
            run.config.training.num_epochs,
            run.config.training.score,
        ),
        test_classes=classes,
    )
    publish_report(run, tracker, report, records[-1].finished)
    return report


def described(run: Run, model: Any) -> Any:
    """The model, whose configuration says how it was trained and tested."""
    settings = ModelSettings(
        run_id=run.record.run_id,
        data=run.record.data,
        text=run.config.data.text,
        label=run.config.data.label,
        encoding=run.config.data.encoding,
        precision=run.compute.precision,
        pooled_last_block=run.config.mode not in PEER_MODES
        and run.config.training.pooled_last_block,
    )
    setattr(model.config, MODEL_MARK, settings.model_dump())
    return model


def publish_report(run: Run, tracker: Tracker, report: RunReport, finished: float) -> None:
    """Log figures and report, and mark the run as done.

    Args:
        run: the caller holds its lease.
        tracker: where to publish.
        report: of the whole run.
        finished: when its last epoch was, seconds since the epoch (UTC).
    """
    mlflow_run_id = report.mlflow_run_id
    tracker.log_figure(mlflow_run_id, freezing_figure(report), "figures/freezing.png")
    tracker.log_figure(mlflow_run_id, epoch_time_figure(report), "figures/epoch_time.png")
    if report.test_classes is not None:
        figure = confusion_figure(report.test_classes, f"{report.mode}, seed {report.seed}")
        tracker.log_figure(mlflow_run_id, figure, report.test_classes.figure)
    tracker.log_report(mlflow_run_id, report, finished)
    # Before the record, after which nobody comes here again.
    tracker.finish(mlflow_run_id)
    run.storage.put(
        f"{run.folder}/result.json", report.model_dump_json(by_alias=True, indent=1).encode()
    )


def run_report(
    run: Run, data: PreparedData, mlflow_run_id: str, notes: list[str], **measured: Any
) -> RunReport:
    """The report of a finished run: what the run is, and ``measured``, the other fields."""
    score = run.config.training.score
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
            train_examples=len(data.train),
            validation_examples=len(data.validation),
            test_examples=len(data.test) if data.test is not None else 0,
        ),
        mlflow_run_id=mlflow_run_id,
        score=score,
        notes=[*score_warnings(data.validation.labels, data.label_names, score), *notes],
        **measured,
    )


def scored_test(
    run: Run, answers: Answers, *, in_order: bool = True
) -> tuple[dict[str, Any], ClassesReport]:
    """What the answers on the test split give.

    Args:
        run: that was tested.
        answers: of the best epoch's model.
        in_order: whether they are in the order of the rows; else they are paired with no others.

    Returns:
        Of the totals, the scores and what other runs are paired by; and the classes.
    """
    names = run.record.label_names
    kinds = {
        "loss": ("losses",),
        "f1_macro": ("labels", "predicted"),
        "matthews": ("labels", "predicted"),
    }.get(run.config.training.score, ())
    small = np.min_scalar_type(len(names) - 1)
    arrays = {kind: getattr(answers, kind) for kind in kinds}
    packed = {
        kind: pack_array(values if kind == "losses" else values.astype(small))
        for kind, values in arrays.items()
    }
    totals = {
        "test": answers.scores(len(names)),
        "test_right": pack_right(answers.right) if in_order else None,
        "test_rows": RowsReport(**packed) if packed and in_order else None,
    }
    return totals, classes_report(answers.labels, answers.predicted, names)


def _test(
    run: Run, data: PreparedData, split: SplitModel
) -> tuple[dict[str, Any], ClassesReport | None]:
    """What the one test gives: of the totals, and the classes."""
    if data.test is None:
        return {}, None
    clock = time.perf_counter()
    answers = evaluate(run.trainee(split, data.test))
    seconds = time.perf_counter() - clock
    totals, classes = scored_test(run, answers)
    return {**totals, "test_seconds": seconds}, classes


def _epoch_records(run: Run) -> tuple[list[EpochRecord], list[CheckpointRecord]]:
    records, checkpoints = [], []
    epoch, going_on = 0, True
    while going_on:
        epoch += 1
        record = read_record(run.storage, run.epoch_key(epoch, "report"), EpochRecord)
        checkpoint = read_record(run.storage, run.epoch_key(epoch, "checkpoint"), CheckpointRecord)
        assert record is not None
        assert checkpoint is not None
        going_on = record.next is not None
        records.append(record)
        checkpoints.append(checkpoint)
    return records, checkpoints


def _totals(
    run: Run,
    records: list[EpochRecord],
    checkpoints: list[CheckpointRecord],
    best: EpochReport,
    wall_seconds: float,
    tested: dict[str, Any],
) -> TotalsReport:
    epochs = [record.report for record in records]
    bytes_written = sum(epoch.activation_bytes_written for epoch in epochs)
    # Epochs' costs hold their requests and bytes; the time between and lost is added to them.
    outside_seconds, outside_usd = cost_outside(run, epochs, wall_seconds)
    in_epochs = sum(epoch.num_workers * epoch.seconds for epoch in epochs)
    return TotalsReport(
        train_seconds=sum(epoch.train_seconds for epoch in epochs),
        materialize_seconds=sum(epoch.materialize_seconds for epoch in epochs),
        evaluate_seconds=sum(epoch.evaluate_seconds for epoch in epochs)
        + tested.get("test_seconds", 0.0),
        decide_seconds=profile_seconds(run),
        checkpoint_seconds=sum(epoch.checkpoint_seconds for epoch in epochs),
        wall_seconds=wall_seconds,
        worker_seconds=in_epochs + outside_seconds,
        lost_seconds=lost_seconds(run, records, checkpoints),
        activation_bytes_written=bytes_written,
        cost_usd=sum(epoch.cost_usd for epoch in epochs) + outside_usd,
        best_epoch=best.epoch,
        validation=best.validation,
        **({"test": None} | tested),
    )


def _notes(run: Run, checkpoints: list[CheckpointRecord], epochs: list[EpochReport]) -> list[str]:
    notes = []
    if run.record.uncacheable is not None:
        notes.append(f"nothing was cached: {run.record.uncacheable}")
    plan = read_record(run.storage, run.epoch_key(1, "plan"), EpochPlan)
    notes += plan.notes if plan else []
    notes += [note for checkpoint in checkpoints for note in checkpoint.notes]
    windowed = [str(epoch.epoch) for epoch in epochs if epoch.order == "windowed"]
    if windowed:
        notes.append(
            f"epochs {', '.join(windowed)} read a set larger than memory: shards were shuffled, "
            "and examples within a window of shards; their batches are not those of other modes"
        )
    return list(dict.fromkeys(notes))
