"""How each worker ended, and which of the endings is the cause of the others.

When one worker dies or raises, the others fail too, as their connections to it close.
"""

import logging
import traceback
from dataclasses import dataclass

from afcore import errors
from afcore.errors import AutoFreezeError, StoppedError, WorkerLostError
from afcore.launch.job import Job

__all__ = ["Ending", "conclude", "ending_of"]

_TRACE_LINES = 20
# A death is seen within this after the failures that it causes. Less than a worker that failed
# waits before it exits (process.py), as then the launcher ends the others.
_BEHIND_SECONDS = 0.5

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Ending:
    """Of one worker's function.

    Attributes:
        error: class name of what it raised; None when it returned.
        message: of the exception; of ours, its argument.
        ours: whether the class is one of :mod:`afcore.errors`.
        trace: last lines of the traceback, of exceptions that are not ours.
    """

    error: str | None = None
    message: str = ""
    ours: bool = False
    trace: str = ""


def ending_of(error: BaseException | None) -> Ending:
    """Describe how a worker's function ended."""
    if error is None:
        return Ending()
    name = type(error).__name__
    if isinstance(error, AutoFreezeError) and hasattr(errors, name):
        return Ending(name, " ".join(error.args), ours=True)
    lines = "".join(traceback.format_exception(error)).splitlines()
    return Ending(name, str(error), trace="\n".join(lines[-_TRACE_LINES:]))


def conclude(
    job: Job,
    endings: dict[int, tuple[float, Ending]],
    lost: dict[int, tuple[float, str]],
    *,
    stopped: bool,
) -> None:
    """Raise the cause of a failed job; return when all workers returned.

    Errors of ours say most, then the death of a process, then the first other exception.

    Args:
        job: that ended.
        endings: by rank, with the second in which it was reported.
        lost: what became of workers without an ending, by rank, with the second of the loss.
        stopped: whether this process was told to stop, and so told the workers.
    """
    cause = _cause(job, endings, lost)
    if stopped and (cause is None or isinstance(cause, WorkerLostError | RuntimeError)):
        cause = StoppedError(job.what)
    if cause is not None:
        raise cause


def _cause(
    job: Job,
    endings: dict[int, tuple[float, Ending]],
    lost: dict[int, tuple[float, str]],
) -> Exception | None:
    failed = sorted((when, rank) for rank, (when, ending) in endings.items() if ending.error)
    ours = [rank for _, rank in failed if endings[rank][1].ours]
    telling = [rank for rank in ours if endings[rank][1].error not in _CONSEQUENCES]
    foreign = [(when, rank) for when, rank in failed if rank not in ours]
    losses = sorted((when, rank) for rank, (when, _) in lost.items())
    if telling:
        return _revived(endings[telling[0]][1])
    if losses and (not foreign or losses[0][0] < foreign[0][0] + _BEHIND_SECONDS):
        rank = losses[0][1]
        return WorkerLostError(
            f"worker {rank} of {job.num_workers} was lost {job.what}: {lost[rank][1]}. "
            "It can be tried again from the last commit."
        )
    if foreign:
        rank = foreign[0][1]
        ending = endings[rank][1]
        _log.error("worker %d failed:\n%s", rank, ending.trace)
        return RuntimeError(
            f"worker {rank} of {job.num_workers} failed {job.what}: "
            f"{ending.error}: {ending.message}"
        )
    return _revived(endings[ours[0]][1]) if ours else None


_CONSEQUENCES = (WorkerLostError.__name__, StoppedError.__name__)


def _revived(ending: Ending) -> AutoFreezeError:
    kind: type[AutoFreezeError] = getattr(errors, ending.error or "")
    return kind(ending.message)
