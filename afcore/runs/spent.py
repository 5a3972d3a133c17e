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
from afcore.runs.records import (
    CheckpointRecord,
    LostTries,
    LostTry,
    PartialRecord,
    StateRecord,
    commit_record,
    record_of,
)
from afcore.runs.run import Run, lease_folder
from afcore.storage.lease import EXPIRY_SECONDS, attempts

__all__ = ["cost_outside", "lost_seconds", "note_lost_try", "seconds_kept", "wall_seconds"]


def wall_seconds(run: Run) -> float:
    """Of all attempts, the last one's as of now, while its heart beats; 0 where there was none."""
    rows = list(attempts(run.storage, lease_folder(run.record.run_id)).values())
    if not rows:
        return 0.0
    worked, last = sum(attempt.seconds for attempt in rows), rows[-1]
    since = time.time() - last.beat
    return worked + (since if not last.released and 0 < since < EXPIRY_SECONDS else 0.0)


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
    run: Run, epochs: Sequence[EpochReport], checkpoints: Sequence[CheckpointRecord]
) -> float:
    """What earlier attempts worked beyond what they committed, and what the last one's lost."""
    kept: dict[int, float] = {}
    for done, checkpoint in zip(epochs, checkpoints, strict=False):
        after = done.materialize_seconds - checkpoint.build_seconds
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
    found: StateRecord | None = record_of(run, epoch, CheckpointRecord)
    found = found or record_of(run, epoch, PartialRecord, replaceable=True)
    return found.seconds.get(attempt, 0.0) if found is not None else 0.0


def note_lost_try(run: Run, epoch: int, lost: LostTry) -> None:
    """Record that workers died in an epoch; the caller holds the lease."""
    found = record_of(run, epoch, LostTries, replaceable=True)
    earlier = found.tries if found else []
    commit_record(run, LostTries(epoch=epoch, tries=[*earlier, lost]))


def _lost_tries(run: Run) -> list[LostTry]:
    epochs = range(1, run.config.training.num_epochs + 1)
    found = [record_of(run, epoch, LostTries, replaceable=True) for epoch in epochs]
    return [lost for tries in found if tries is not None for lost in tries.tries]
