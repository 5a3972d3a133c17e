"""What a run has taken so far, in seconds and dollars, and how much of it was for nothing.

Its wall time is that of all attempts, each from when it began until its heart last beat. What they
worked beyond what they committed is lost, and so is what workers did that died before their epoch
was done (:class:`afcore.runs.records.LostTry`).
"""

import time
from collections.abc import Sequence

from afcore.cost import Usage, cost_usd
from afcore.prices import resolve_prices
from afcore.results.report import EpochReport
from afcore.runs.records import CheckpointRecord, EpochRecord, LostTries, LostTry, PartialRecord
from afcore.runs.run import Run, lease_folder, read_record
from afcore.storage.lease import attempts

__all__ = ["cost_outside", "lost_seconds", "note_lost_try", "seconds_kept", "wall_seconds"]


def wall_seconds(run: Run) -> float:
    """Of all attempts, the last one's as of now; 0 where there was none."""
    rows = list(attempts(run.storage, lease_folder(run.record.run_id)).values())
    if not rows:
        return 0.0
    return sum(attempt.seconds for attempt in rows[:-1]) + time.time() - rows[-1].acquired


def cost_outside(
    run: Run, epochs: Sequence[EpochReport], wall: float, further_worker_seconds: float = 0.0
) -> tuple[float, float]:
    """Worker-seconds and dollars of a run besides those of the epochs that are done.

    Between epochs, and for what was lost, one worker is paid for: the run's process. Workers that
    died were as many as they were.

    Args:
        run: whose prices count.
        epochs: those that are done, their costs counted elsewhere.
        wall: seconds of all attempts.
        further_worker_seconds: of workers besides the first in an epoch that is not done yet.
    """
    others = sum((lost.num_workers - 1) * lost.seconds for lost in _lost_tries(run))
    seconds = max(0.0, wall - sum(epoch.seconds for epoch in epochs))
    seconds += others + further_worker_seconds
    return seconds, cost_usd(Usage(worker_seconds=seconds), resolve_prices(run.config.prices))


def lost_seconds(
    run: Run, records: Sequence[EpochRecord], checkpoints: Sequence[CheckpointRecord]
) -> float:
    """What earlier attempts worked beyond what they committed, and what the last one's lost."""
    kept: dict[int, float] = {}
    for record, checkpoint in zip(records, checkpoints, strict=True):
        done, trained = record.report, checkpoint.report
        after = done.materialize_seconds - trained.materialize_seconds
        for attempt, seconds in (*checkpoint.seconds.items(), (done.attempt, after)):
            kept[attempt] = kept.get(attempt, 0.0) + seconds
    rows = attempts(run.storage, lease_folder(run.record.run_id))
    last = max(rows, default=0)
    cut_short = sum(
        max(0.0, attempt.seconds - kept.get(number, 0.0))
        for number, attempt in rows.items()
        if number != last
    )
    return cut_short + sum(lost.seconds for lost in _lost_tries(run) if lost.attempt == last)


def seconds_kept(run: Run, epoch: int, attempt: int) -> float:
    """Of an attempt's work on an epoch, as far as it is committed."""
    checkpoint = read_record(run.storage, run.epoch_key(epoch, "checkpoint"), CheckpointRecord)
    if checkpoint is not None:
        return checkpoint.seconds.get(attempt, 0.0)
    key = run.epoch_key(epoch, "partial")
    partial = read_record(run.storage, key, PartialRecord, replaceable=True)
    return partial.seconds.get(attempt, 0.0) if partial is not None else 0.0


def note_lost_try(run: Run, epoch: int, lost: LostTry) -> None:
    """Record that workers died in an epoch; the caller holds the lease."""
    key = run.epoch_key(epoch, "lost")
    found = read_record(run.storage, key, LostTries, replaceable=True)
    tries = LostTries(tries=[*(found.tries if found else []), lost])
    run.storage.put(key, tries.model_dump_json().encode())


def _lost_tries(run: Run) -> list[LostTry]:
    keys = [run.epoch_key(e, "lost") for e in range(1, run.config.training.num_epochs + 1)]
    found = [read_record(run.storage, key, LostTries, replaceable=True) for key in keys]
    return [lost for tries in found if tries is not None for lost in tries.tries]
