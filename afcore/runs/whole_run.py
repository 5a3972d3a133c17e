"""A run from its name to its report in one call: what the flow does, without Prefect and MLflow.

The records in the store are the same: either goes on where the other was stopped.
"""

import time
from collections.abc import Mapping

from afcore.clock import Moment
from afcore.config import PEER_MODES, Config, check_extras
from afcore.data.held_rows import HeldRows
from afcore.errors import ConfigError, StoppedError
from afcore.interrupt import catch_sigint, stop_requested
from afcore.launch.launcher import check_devices, close_launchers, open_launcher
from afcore.results.report import EpochReport, RunReport
from afcore.runs.batches import run_schedule
from afcore.runs.epoch import run_epoch
from afcore.runs.identify import identify_run
from afcore.runs.launch_epoch import launch_epoch
from afcore.runs.publish import finished_report, publish
from afcore.runs.records import CheckpointRecord, record_of
from afcore.runs.run import Run, begin_run, open_run, run_lease
from afcore.storage.lease import Lease
from afcore.storage.objects import Storage

__all__ = ["Onlooker", "complete_run"]


class Onlooker:
    """Who is told how far a run is; here nobody listens."""

    def begun(self, run: Run, num_steps: int) -> None:
        """It trains ``num_steps`` steps at most."""

    def stepped(self) -> None:
        """A step was made, in this process."""

    def epoch_done(self, run: Run, report: EpochReport) -> None:
        """An epoch was trained, or found."""

    def trained(self) -> None:
        """All epochs are done; the best one is tested."""


def complete_run(
    config: Config,
    held: Mapping[str, HeldRows] | None = None,
    *,
    fresh: bool = False,
    onlooker: Onlooker | None = None,
) -> tuple[Run, RunReport]:
    """Train and test; a run that was begun goes on, a finished one is found.

    Args:
        config: of the run.
        held: rows in memory, by split.
        fresh: train anew, even where a result is recorded.
        onlooker: told how far it is.

    Raises:
        KeyboardInterrupt: when SIGINT asked for it; what was done is committed before, but for a
            second SIGINT.
        AutoFreezeError: for what cannot be trained or did not go well.
    """
    if config.mode in PEER_MODES:
        raise ConfigError(
            f"mode {config.mode!r} is for comparison: `autofreeze compare --modes {config.mode}`. "
            "Here full, freeze, cached, performance and efficiency can be had"
        )
    began, onlooker = time.monotonic(), onlooker or Onlooker()
    check_extras(config)
    check_devices(config.workers, config.store)
    storage = Storage.of_run(config.store)
    record = identify_run(config, storage, held)
    if not fresh and (report := finished_report(storage, record.run_id)) is not None:
        return open_run(config.store, record.run_id), report
    try:
        open_launcher(config.workers)
        with run_lease(storage, record.run_id, since=began) as lease:
            run = begin_run(storage, record, fresh=fresh)
            if fresh:
                lease.forget_earlier()
            _train(run, lease, onlooker)
            onlooker.trained()
            return run, publish(run, None, None, lease.seconds())
    finally:
        close_launchers()


def _train(run: Run, lease: Lease, onlooker: Onlooker) -> None:
    """All epochs; a stop by SIGINT comes out as Python's own exception."""
    onlooker.begun(run, run_schedule(run, run.data().train).total_steps)
    with catch_sigint() as signals:
        try:
            _train_epochs(run, lease, onlooker)
        except StoppedError as stopped:
            if not signals:
                raise
            where = " ".join(map(str, stopped.args))
            raise KeyboardInterrupt(
                f"stopped {where}; what is committed stands. The same call goes on from there."
            ) from None


def _train_epochs(run: Run, lease: Lease, onlooker: Onlooker) -> None:
    def stop() -> bool:
        onlooker.stepped()
        return stop_requested()

    workers = run.config.workers
    epoch, last = 0, False
    while not last:
        epoch += 1
        lease.check()
        if workers.max == 1 and workers.launcher == "auto":
            report = run_epoch(run, epoch, lease.number, stop=stop, launched=Moment())
        else:
            report = launch_epoch(run, epoch, lease.number)
        onlooker.epoch_done(run, report)
        checkpoint = record_of(run, epoch, CheckpointRecord)
        assert checkpoint is not None
        last = checkpoint.next is None
        if stop_requested():
            raise StoppedError(f"after epoch {epoch}")
