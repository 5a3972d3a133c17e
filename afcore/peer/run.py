"""A run of one of the modes that stand beside ours for comparison: Hugging Face's ``Trainer``.

It is named, leased, recorded and published as any other run, but in one piece: nothing is committed
before the end, so after a kill it starts over.
"""

import time
from typing import Any

from afcore.cost import Usage, cost_usd
from afcore.model.pretrained import load_tokenizer
from afcore.peer.hf_trainer import Fitted, Recipe, fit
from afcore.peer.lora import LoraSettings
from afcore.prices import resolve_prices
from afcore.results.report import EpochReport, RunReport, TotalsReport
from afcore.results.tracking import Tracker
from afcore.runs.publish import described, publish_report, run_report, scored_test
from afcore.runs.records import best_epoch
from afcore.runs.run import Run, check_lease
from afcore.runs.spent import lost_seconds

__all__ = ["RECIPES", "run_hf_trainer"]

RECIPES = {
    "hf_trainer": Recipe(),
    "hf_trainer_grouped": Recipe(sampling="group_by_length"),
    "hf_trainer_early": Recipe(sampling="group_by_length", early_stopping_patience=1),
    "hf_trainer_lora": Recipe(lora=LoraSettings()),
}
"""The Trainer's settings by mode: its default order, its best, that and a stop, and LoRA."""


def run_hf_trainer(
    run: Run, tracker: Tracker, mlflow_run_id: str, attempt: int, wall_seconds: float
) -> RunReport:
    """Train, evaluate after each epoch, test the best one, publish it, and mark the run as done.

    Args:
        run: of one of the modes in :data:`RECIPES`; the caller holds its lease.
        tracker: where to publish.
        mlflow_run_id: the run's.
        attempt: the number of this attempt at the run, from 1.
        wall_seconds: of all attempts so far, this one's as of now.

    Raises:
        AutoFreezeError: when training diverged.
        ConfigError: for LoRA without PEFT.
    """
    began = time.perf_counter()
    data = run.data()
    tokenizer = load_tokenizer(run.config.model.name, run.config.data.max_length)
    fitted = fit(
        run.pretrained().model,
        tokenizer,
        data,
        training=run.config.training,
        score=run.config.main_score,
        compute=run.compute,
        recipe=RECIPES[run.config.mode],
    )
    epochs = [_completed(run, report, attempt) for report in fitted.epochs]
    tested: dict[str, Any] = {}
    classes = None
    if fitted.test is not None:
        tested, classes = scored_test(run, fitted.test, in_order=fitted.test_in_order)
    tracker.log_model(mlflow_run_id, described(run, fitted.model.cpu()), tokenizer)
    wall_seconds += time.perf_counter() - began
    report = run_report(
        run,
        data,
        mlflow_run_id,
        epochs=epochs,
        decisions=[],
        intervals=[],
        totals=_totals(run, epochs, fitted, wall_seconds, tested),
        notes=[],
        test_classes=classes,
    )
    check_lease(run, attempt)
    for epoch in epochs:
        tracker.log_epoch(mlflow_run_id, epoch)
    publish_report(run, tracker, report)
    return report


def _completed(run: Run, report: EpochReport, attempt: int) -> EpochReport:
    seconds = report.train_seconds + report.checkpoint_seconds + report.evaluate_seconds
    return report.model_copy(update={"cost_usd": _cost(run, seconds), "attempt": attempt})


def _totals(
    run: Run,
    epochs: list[EpochReport],
    fitted: Fitted,
    wall_seconds: float,
    tested: dict[str, Any],
) -> TotalsReport:
    best = best_epoch(epochs, run.config.main_score)
    return TotalsReport(
        train_seconds=sum(epoch.train_seconds for epoch in epochs),
        materialize_seconds=0.0,
        evaluate_seconds=sum(epoch.evaluate_seconds for epoch in epochs) + fitted.test_seconds,
        test_seconds=fitted.test_seconds,
        checkpoint_seconds=sum(epoch.checkpoint_seconds for epoch in epochs),
        wall_seconds=wall_seconds,
        worker_seconds=wall_seconds,
        lost_seconds=lost_seconds(run, [], []),
        activation_bytes_written=0,
        cost_usd=_cost(run, wall_seconds),
        best_epoch=best.epoch,
        validation=best.validation,
        **({"test": None} | tested),
    )


def _cost(run: Run, seconds: float) -> float:
    return cost_usd(Usage(seconds), resolve_prices(run.config.prices))
