"""Runs whose process died: nobody told MLflow, where they stay at work for ever."""

import logging

from afcore.runs.run import Run, TrackedAs, find_run, lease_folder, read_record
from afcore.storage.lease import attempts, is_held
from afcore.storage.objects import Storage
from afcore.tracking.tracker import Tracker

__all__ = ["clear_abandoned_runs"]

_log = logging.getLogger(__name__)


def clear_abandoned_runs(storage: Storage, tracker: Tracker, own: Run) -> list[str]:
    """Mark runs of this store that MLflow has at work, and nobody works on, as killed.

    A run of another store, on which this one knows of no worker, is left alone.

    Args:
        storage: whose leases say who works.
        tracker: of the experiment that is looked at.
        own: the run that begins; the caller holds its lease, so who worked on it before is gone.

    Returns:
        The flow runs that Prefect may still have at work for them, and for ``own``.
    """
    flow_run_ids = _flow_run_ids(own)
    silent = {
        mlflow_run_id: run_id
        for mlflow_run_id, run_id in tracker.runs_at_work().items()
        if attempts(storage, lease_folder(run_id)) and not is_held(storage, lease_folder(run_id))
    }
    for mlflow_run_id, run_id in silent.items():
        if is_held(storage, lease_folder(run_id), watched=True):
            continue
        _log.warning("run %s: its process died; MLflow run %s is killed", run_id, mlflow_run_id)
        tracker.finish(mlflow_run_id, KeyboardInterrupt())
        run = find_run(storage, run_id, replaceable=True)
        flow_run_ids += _flow_run_ids(run) if run is not None else []
    return flow_run_ids


def _flow_run_ids(run: Run) -> list[str]:
    tracked = read_record(run.storage, run.tracked_key, TrackedAs, replaceable=True)
    return tracked.flow_run_ids if tracked is not None else []
