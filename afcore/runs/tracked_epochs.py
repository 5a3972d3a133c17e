"""Epochs, in MLflow: logged when it answers, from what the store has of them."""

import logging
from collections.abc import Sequence

from afcore.errors import TrackingUnreachableError
from afcore.results.report import EpochReport
from afcore.runs.records import CheckpointRecord, record_of
from afcore.runs.run import Run
from afcore.tracking.tracker import Tracker

__all__ = ["log_epochs"]

_log = logging.getLogger(__name__)


def log_epochs(
    run: Run, mlflow_run_id: str, epochs: Sequence[int], *, waits: bool = False
) -> list[int]:
    """Log epochs that are done; once or again, with the same effect.

    Args:
        run: open.
        mlflow_run_id: of the run.
        epochs: the last one, after those that MLflow lacks.
        waits: for a server that does not answer; else training goes on without it.

    Returns:
        Those that MLflow lacks now: their records are the queue.

    Raises:
        TrackingUnreachableError: when it was waited for in vain.
        TrackingError: when MLflow refuses.
    """
    lacking = list(epochs)
    if not lacking:
        return []
    tracking = run.config.tracking
    try:
        tracker = Tracker(tracking.uri, tracking.experiment, waits=waits)
        while lacking:
            report = record_of(run, lacking[0], EpochReport)
            checkpoint = record_of(run, lacking[0], CheckpointRecord)
            assert report is not None
            assert checkpoint is not None
            tracker.log_epoch(mlflow_run_id, report, checkpoint.metrics())
            lacking.pop(0)
    except TrackingUnreachableError as error:
        if waits:
            raise
        if len(epochs) == 1:
            silence = str(error).partition(". See that")[0]
            _log.warning("%s. Training goes on; MLflow gets what it lacks later", silence)
        return lacking
    if len(epochs) > 1:
        _log.warning("MLflow answers again: epochs %s are logged", ", ".join(map(str, epochs)))
    return []
