"""What the report of an epoch says beside what was measured: predictions, dollars, a line."""

import logging
from typing import Any

from afcore.cost import Usage, cost_usd
from afcore.prices import resolve_prices
from afcore.results.report import EpochReport
from afcore.runs.cache import RunCache
from afcore.runs.records import EpochPlan, NextEpoch
from afcore.runs.run import Run
from afcore.tasks.main_score import MAIN_SCORES
from afcore.training.trained import TrainedEpoch

__all__ = ["epoch_cost", "predictions", "show_epoch"]

_log = logging.getLogger(__name__)


def predictions(
    cache: RunCache,
    plan: EpochPlan,
    decided: NextEpoch | None,
    trained: TrainedEpoch,
    report: EpochReport,
) -> dict[str, Any]:
    """What was predicted of the epoch, and of the set that is built at its end."""
    choice, predicted = plan.choice, dict[str, Any]()
    if choice is None:
        return predicted
    if choice.workers is not None:
        predicted = {
            "resources": choice.workers.text(),
            "predicted_seconds": choice.workers.forecast.seconds,
            "predicted_cost_usd": choice.workers.forecast.cost_usd,
        }
    if choice.source is None:
        return predicted
    following = decided.choice if decided else None
    built_first = choice.forecast.materialize_seconds if report.epoch == 1 else 0.0
    built_last = following.forecast.materialize_seconds if following else 0.0
    return predicted | {
        "decision": choice.source_text(),
        "predicted_train_seconds": choice.forecast.train_seconds,
        "predicted_materialize_seconds": built_first + built_last,
        "prediction_error": cache.planner.error(
            report.epoch, choice, trained, report.train_seconds, report.num_workers
        ),
    }


def epoch_cost(run: Run, report: EpochReport, puts: int, gets: int) -> float:
    """Dollars of an epoch: its seconds, bytes and requests, at the run's prices."""
    worker_seconds = report.num_workers * report.seconds
    usage = Usage(
        worker_seconds,
        bytes_stored=report.activation_bytes_written,
        puts=puts,
        gets=gets,
        egress_bytes=report.store_bytes_read,
    )
    return cost_usd(usage, resolve_prices(run.config.prices))


def show_epoch(run: Run, report: EpochReport) -> None:
    """An epoch that is done, as a line in the log."""
    main = MAIN_SCORES[run.config.training.score]
    _log.info(
        "epoch %d/%d done: read from %s, boundary %d -> %d; trained %.1f s, checkpoint %.1f s, "
        "cache %.1f s, evaluated %.1f s; activations %.1f MB written, %.1f MB read; "
        "validation %s %s",
        *(report.epoch, run.config.training.num_epochs, report.read_from),
        *(report.boundary_start, report.boundary_end, report.train_seconds),
        *(report.checkpoint_seconds, report.materialize_seconds, report.evaluate_seconds),
        *(report.activation_bytes_written / 1e6, report.activation_bytes_read / 1e6),
        *(main.title, main.shown(report.validation[main.name])),
    )
