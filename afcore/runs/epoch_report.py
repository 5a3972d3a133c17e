"""The report of an epoch, made once, when all of it is done; and a line in the log."""

import logging
from typing import Any

from afcore.cost import Usage, cost_usd
from afcore.prices import resolve_prices
from afcore.results.report import EpochReport
from afcore.runs.cache import RunCache
from afcore.runs.records import CheckpointRecord, EpochPlan, EpochStart
from afcore.runs.run import Run

__all__ = ["epoch_report", "show_epoch"]

_log = logging.getLogger(__name__)


def epoch_report(
    run: Run,
    plan: EpochPlan,
    start: EpochStart,
    checkpoint: CheckpointRecord,
    cache: RunCache,
    requests: tuple[int, int],
    **attempt: Any,
) -> EpochReport:
    """An epoch as reported.

    Args:
        run: it is of.
        plan: how it was to be trained.
        start: when, and in which order.
        checkpoint: its end.
        cache: what was built after that.
        requests: writes and reads of the store, of all workers.
        attempt: the fields ``attempt``, ``resumed`` and ``finished``.
    """
    trained, num_workers = checkpoint.trained, checkpoint.num_workers
    seconds = {
        "launch_seconds": checkpoint.launch_seconds,
        "train_seconds": trained.train_seconds,
        "checkpoint_seconds": checkpoint.checkpoint_seconds,
        "materialize_seconds": checkpoint.build_seconds + cache.seconds,
        "evaluate_seconds": trained.evaluate_seconds,
    }
    built_bytes = checkpoint.built_bytes + cache.bytes_written
    usage = Usage(
        num_workers * sum(seconds.values()),
        bytes_stored=built_bytes,
        puts=requests[0],
        gets=requests[1],
        egress_bytes=trained.store_bytes_read,
    )
    return EpochReport(
        epoch=checkpoint.epoch,
        num_steps=len(trained.steps),
        boundary_start=checkpoint.boundary_start,
        boundary_end=checkpoint.freeze.boundary,
        read_from=plan.source,
        prefix_seconds=trained.prefix_seconds,
        suffix_seconds=trained.suffix_seconds,
        read_seconds=trained.read_seconds,
        train_loss=trained.mean_loss,
        validation=trained.validation,
        candidate=checkpoint.candidate,
        activation_bytes_written=built_bytes,
        activation_bytes_read=trained.activation_bytes_read,
        store_bytes_read=trained.store_bytes_read,
        tier_bytes=trained.tier_bytes,
        order=start.order,
        num_workers=num_workers,
        gradient_bytes_reduced=trained.bytes_reduced,
        cost_usd=cost_usd(usage, resolve_prices(run.config.prices)),
        prediction_error=checkpoint.prediction_error,
        **seconds,
        **_predicted(plan, checkpoint),
        **attempt,
    )


def _predicted(plan: EpochPlan, checkpoint: CheckpointRecord) -> dict[str, Any]:
    """What was predicted of the epoch, and of the set that is built at its end."""
    choice, predicted = plan.choice, dict[str, Any]()
    if choice is not None and choice.workers is not None:
        predicted = {
            "resources": choice.workers.text(),
            "predicted_seconds": choice.workers.forecast.seconds,
            "predicted_cost_usd": choice.workers.forecast.cost_usd,
        }
    if choice is not None and choice.source is not None:
        built_first = choice.forecast.materialize_seconds if checkpoint.epoch == 1 else 0.0
        following = checkpoint.next.choice if checkpoint.next else None
        built_last = following.forecast.materialize_seconds if following else 0.0
        predicted |= {
            "decision": choice.source_text(),
            "predicted_train_seconds": choice.forecast.train_seconds,
            "predicted_materialize_seconds": built_first + built_last,
        }
    return predicted


def show_epoch(run: Run, report: EpochReport) -> None:
    """An epoch that is done, as a line in the log."""
    main = run.config.main_score
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
