"""A run of one of the modes that stand beside ours for comparison: Hugging Face's ``Trainer``.

It is named, leased, recorded and published as any other run, but in one piece: nothing is committed
before the end, so after a kill it starts over.
"""

import time
from dataclasses import replace
from typing import Any

from afcore.cost import Usage, cost_usd
from afcore.model.adapters import LoraSettings
from afcore.model.processors import processor_of
from afcore.peer.hf_trainer import Recipe, fit
from afcore.prices import resolve_prices
from afcore.results.report import EpochReport, RunReport
from afcore.runs.publish import described, publish_report, run_report, scored_test
from afcore.runs.run import Run, check_lease
from afcore.tracking.tracker import Tracker

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
    processor = processor_of(run.config)
    fitted = fit(
        run.pretrained().model,
        processor,
        data,
        training=run.config.training,
        score=run.config.main_score,
        compute=run.compute,
        recipe=_recipe(run),
    )
    epochs = [_completed(run, report, attempt) for report in fitted.epochs]
    tested: dict[str, Any] = {}
    classes = None
    if fitted.test is not None:
        tested, classes = scored_test(run, fitted.test)
        tested["test_seconds"] = fitted.test_seconds
    pairs = run.config.data.text_pair is not None
    model = described(run, fitted.model.cpu())
    tracker.log_model(mlflow_run_id, model, processor, data.task, pairs)
    wall_seconds += time.perf_counter() - began
    report = run_report(run, data, mlflow_run_id, wall_seconds, epochs, [], tested, classes)
    check_lease(run, attempt)
    for epoch in epochs:
        tracker.log_epoch(mlflow_run_id, epoch)
    publish_report(run, tracker, report)
    return report


def _recipe(run: Run) -> Recipe:
    """The mode's; LoRA's settings are those of the configuration, where it has some."""
    recipe = RECIPES[run.config.mode]
    if recipe.lora is None or run.lora is None:
        return recipe
    return replace(recipe, lora=run.lora)


def _completed(run: Run, report: EpochReport, attempt: int) -> EpochReport:
    dollars = cost_usd(Usage(report.seconds), resolve_prices(run.config.prices))
    return report.model_copy(update={"cost_usd": dollars, "attempt": attempt})
