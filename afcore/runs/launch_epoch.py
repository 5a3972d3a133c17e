"""An epoch on the workers that its plan asks for, or on as many as are left."""

import logging
import time

from afcore.activations.residency import release_shards
from afcore.clock import Moment
from afcore.config import Config
from afcore.distributed import join_group
from afcore.errors import AutoFreezeError, StoreLostError, may_pass
from afcore.interrupt import stop_requested
from afcore.launch.job import Job
from afcore.launch.launcher import (
    LaunchHere,
    as_worker,
    num_devices,
    open_launcher,
    worker_threads,
)
from afcore.planning.choose_workers import worker_counts
from afcore.results.report import EpochReport
from afcore.runs.epoch import decide_first_epoch, run_epoch
from afcore.runs.records import LostTry, plan_of, record_of
from afcore.runs.run import Run, open_run
from afcore.runs.spent import note_lost_try, seconds_kept

__all__ = ["launch_epoch", "train_on_worker", "workers_left"]

_log = logging.getLogger(__name__)


def launch_epoch(
    run: Run, epoch: int, attempt: int, *, tries: int = 1, num_workers: int | None = None
) -> EpochReport:
    """Train an epoch on workers of its own; its report, made now or found.

    Args:
        run: the caller holds its lease.
        epoch: counted from 1; every epoch before it is done.
        attempt: the number of this attempt at the run, from 1.
        tries: how often this attempt has begun the epoch, this time included. From the third time
            on it has fewer workers: what was lost twice may be lost again.
        num_workers: instead of what was planned.

    Raises:
        WorkerLostError: when a worker died; what that cost is recorded.
        StoppedError: when it was stopped; what was done is committed.
        AutoFreezeError: when fewer workers are left than ``workers.min``; and as
            :func:`afcore.runs.epoch.run_epoch`.
    """
    found = record_of(run, epoch, EpochReport)
    if found is not None:
        return found
    workers = run.config.workers
    planned = _planned(run, epoch)  # also where it is not asked: it measures what is missing
    planned = num_workers or planned
    count = workers_left(run.config, planned, tries)
    if count != planned:
        _log.warning("epoch %d: %d workers instead of the planned %d", epoch, count, planned)
    launcher = open_launcher(workers, count)
    here = isinstance(launcher, LaunchHere)
    which = (run,) if here else (run.storage.root, run.record.run_id)
    job = Job(
        _train_here if here else train_on_worker,
        (*which, epoch, attempt, Moment()),
        num_workers=count,
        what=f"in epoch {epoch}",
        threads=worker_threads(workers),
    )
    if not here:  # the workers need the memory
        release_shards()
        run.compute.release_memory()
    began, kept = time.perf_counter(), seconds_kept(run, epoch, attempt)
    try:
        launcher.run(job)
    except Exception as error:
        # Where the store is lost, nothing can be noted; the last beat of the lease says how long.
        if may_pass(error) and not isinstance(error, StoreLostError):
            kept = seconds_kept(run, epoch, attempt) - kept
            seconds = max(0.0, time.perf_counter() - began - kept)
            note_lost_try(run, epoch, LostTry(attempt=attempt, num_workers=count, seconds=seconds))
        raise
    done = record_of(run, epoch, EpochReport)
    assert done is not None
    return done


def train_on_worker(store: str, run_id: str, epoch: int, attempt: int, launched: Moment) -> None:
    """What each worker does: train the epoch with the others; its record is in the store then.

    Args:
        store: root of the store.
        run_id: of the run.
        epoch: from 1.
        attempt: number of the lease that it is done under.
        launched: when.

    Raises:
        AutoFreezeError: as :func:`afcore.runs.epoch.run_epoch`.
    """
    _train_here(open_run(store, run_id), epoch, attempt, launched)


def _train_here(run: Run, epoch: int, attempt: int, launched: Moment) -> None:
    with join_group(run.compute.device) as group:
        run_epoch(run, epoch, attempt, group, stop_requested, launched)


def _planned(run: Run, epoch: int) -> int:
    """As decided; workers find a profile to decide from, whatever happened to the run's."""
    workers = run.config.workers
    if workers.max == 1:
        return 1
    with as_worker(workers):
        first = decide_first_epoch(run)
    plan = first if epoch == 1 else plan_of(run, epoch)
    assert plan is not None
    return plan.num_workers


def workers_left(config: Config, planned: int, tries: int) -> int:
    """How many of the planned workers an epoch has when it is begun for the ``tries``-th time.

    Raises:
        AutoFreezeError: when that is less than ``workers.min``; trying again does not help.
    """
    workers = config.workers
    most = max(1, planned - max(0, tries - 2))
    if workers.ray_address is None and planned > 1:
        most = min(most, num_devices())
    try:
        return worker_counts(config.training.batch_size, most, min(planned, workers.min))[-1]
    except ValueError:
        raise AutoFreezeError(
            f"{most} workers are left, and workers.min is {workers.min}. Start it again when there "
            "are more, or lower workers.min."
        ) from None
