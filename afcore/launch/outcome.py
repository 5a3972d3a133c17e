"""How each worker ended, and which of that is the cause of the rest.

When one worker dies or raises, the others fail too, as their connections to it close.
"""

import logging
import traceback
from dataclasses import dataclass

import afcore.errors as errors
from afcore.errors import AutoFreezeError, StoppedError, WorkerLostError
from afcore.launch.job import Job

__all__ = ["Outcome", "outcome_of", "raise_cause"]

_TRACE_LINES = 20
# A death is seen within this after the failures that it causes. Less than a worker that failed
# waits before it exits (worker.py), as then the launcher stops the others.
_BEHIND_SECONDS = 0.5

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Outcome:
    """Of one worker's function, which returned unless one of these is there.

    Attributes:
        error: of :mod:`afcore.errors`, that it raised.
        foreign: any other exception that it raised, as text, which every process can read.
        trace: last lines of its traceback.
    """

    error: AutoFreezeError | None = None
    foreign: str = ""
    trace: str = ""


def outcome_of(error: BaseException) -> Outcome:
    """Describe what a worker's function raised."""
    name = type(error).__name__
    if isinstance(error, AutoFreezeError) and getattr(errors, name, None) is type(error):
        return Outcome(error)
    lines = "".join(traceback.format_exception(error)).splitlines()
    return Outcome(foreign=f"{name}: {error}", trace="\n".join(lines[-_TRACE_LINES:]))


def raise_cause(
    job: Job,
    outcomes: dict[int, tuple[float, Outcome]],
    lost: dict[int, tuple[float, str]],
    *,
    stopped: bool,
) -> None:
    """Raise the cause of a failed job; return when all workers returned.

    Errors of ours say most, then the death of a process, then the first other exception.

    Args:
        job: that ended.
        outcomes: by rank, with the second in which it was reported.
        lost: what became of workers without an outcome, by rank, with the second of the loss.
        stopped: whether this process was told to stop, and so told the workers.
    """
    cause = _cause(job, outcomes, lost)
    if stopped and (cause is None or isinstance(cause, WorkerLostError | RuntimeError)):
        cause = StoppedError(job.what)
    if cause is not None:
        raise cause


def _cause(
    job: Job, outcomes: dict[int, tuple[float, Outcome]], lost: dict[int, tuple[float, str]]
) -> Exception | None:
    ended = sorted((when, rank, outcome) for rank, (when, outcome) in outcomes.items())
    errors_of_ours = [outcome.error for *_, outcome in ended if outcome.error is not None]
    for error in errors_of_ours:
        if not isinstance(error, WorkerLostError | StoppedError):  # which follow from others
            return error
    foreign = next((end for end in ended if end[2].foreign), None)
    loss = min(((when, rank, how) for rank, (when, how) in lost.items()), default=None)
    if loss is not None and (foreign is None or loss[0] < foreign[0] + _BEHIND_SECONDS):
        return WorkerLostError(
            f"worker {loss[1]} of {job.num_workers} was lost {job.what}: {loss[2]}. "
            "It can be tried again from the last commit."
        )
    if foreign is not None:
        _, rank, outcome = foreign
        _log.error("worker %d failed:\n%s", rank, outcome.trace)
        return RuntimeError(
            f"worker {rank} of {job.num_workers} failed {job.what}: {outcome.foreign}"
        )
    return errors_of_ours[0] if errors_of_ours else None
