"""The exceptions that users see: each message says what, where, and what to do.

``exit_code`` is what the command line returns: 2 for a user's mistake, 143 (128 + SIGTERM) or 130
(128 + SIGINT) for a run that was told to stop, 1 for anything else.
"""

from collections.abc import Iterator, Sequence
from typing import Any

__all__ = [
    "AutoFreezeError",
    "ConfigError",
    "DataError",
    "IntegrityError",
    "LeaseHeldError",
    "LeaseLostError",
    "ModelError",
    "NoWinnerError",
    "OrchestrationError",
    "StoppedError",
    "StorageFullError",
    "StoreError",
    "StoreLostError",
    "StoreRefusedError",
    "StoreUnreachableError",
    "TrackingAbsentError",
    "TrackingError",
    "TrackingUnreachableError",
    "UserError",
    "WorkerLostError",
    "causes",
    "in_one_line",
    "may_pass",
    "some_of",
    "stop_behind",
]


class AutoFreezeError(Exception):
    """Anything this package raises on purpose."""

    exit_code = 1


class UserError(AutoFreezeError):
    """A mistake in what the user gave; trying again without changing it cannot help."""

    exit_code = 2


class ConfigError(UserError):
    """A configuration key or value that is not allowed."""


class DataError(UserError):
    """A data set that is missing, empty, or not as the configuration says."""


class ModelError(UserError):
    """A model that cannot be loaded, or cannot be split into prefix and suffix."""


class NoWinnerError(UserError):
    """A search that ended without a trial that could be published.

    Attributes:
        report: what came of its trials, as a search that found one returns it; None until the
            search has ended.
    """

    report: dict[str, Any] | None = None


class StoreError(UserError):
    """A store that cannot be reached, read or written."""


class StoreUnreachableError(StoreError):
    """A store that does not answer; later it may."""


class StoreLostError(StoreUnreachableError):
    """A store that was waited for in vain, in the middle of a run."""

    exit_code = 1


class StoreRefusedError(StoreError):
    """A store that, in the middle of a run, does not let us do any more what it did before."""

    exit_code = 1


class OrchestrationError(AutoFreezeError):
    """A Prefect server that refused or did not answer; what the run has committed stands."""


class LeaseHeldError(UserError):
    """Another live process works on the same thing."""


class LeaseLostError(AutoFreezeError):
    """Another process took over what this one was working on."""


class StoppedError(AutoFreezeError):
    """Asked to stop (SIGTERM, Ctrl-C), and did, after committing what was done.

    Its argument, if it has one, says where: ``after epoch 3``.

    Attributes:
        by_ctrl_c: it was SIGINT that asked.
    """

    by_ctrl_c = False

    @property
    def exit_code(self) -> int:  # type: ignore[override]
        """128 and the signal's number, as shells have it."""
        return 130 if self.by_ctrl_c else 143

    @property
    def what(self) -> str:
        """Where it stopped, and who asked."""
        stopped = " ".join(["stopped", *self.args])
        return f"{stopped}, as asked by {'Ctrl-C' if self.by_ctrl_c else 'SIGTERM'}"

    def __str__(self) -> str:
        """All that a user should know of a training."""
        return f"{self.what}; what is committed stands. The same command goes on from there."


class TrackingError(AutoFreezeError):
    """MLflow refused what a run logs; what the run has committed to its store stands."""


class TrackingUnreachableError(TrackingError):
    """An MLflow server that does not answer; later it may."""


class TrackingAbsentError(TrackingUnreachableError):
    """An MLflow server that does not answer before anything was done."""

    exit_code = 2


class WorkerLostError(AutoFreezeError):
    """A worker died; the epoch can be tried again from what was committed last."""


class StorageFullError(AutoFreezeError):
    """No space left while writing."""


class IntegrityError(AutoFreezeError):
    """Stored bytes that are not what their manifest says."""


def causes(error: BaseException | None) -> Iterator[BaseException]:
    """An exception, what it was raised from or while handling, and so on."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__


def stop_behind(error: BaseException) -> StoppedError | None:
    """The request to stop that an error comes of; None where it comes of something else.

    A signal is raised in whatever runs. What reads files of others, or loads a model, takes that
    for a fault of the user's file, as any exception.
    """
    return next((cause for cause in causes(error) if isinstance(cause, StoppedError)), None)


def in_one_line(error: BaseException, length: int | None = None) -> str:
    """What an exception says, cut to ``length`` characters; its class where it says nothing."""
    return " ".join(str(error).split())[:length] or type(error).__name__


def may_pass(error: object) -> bool:
    """Whether it was lost on the way; a mistake, or too little memory, is there again."""
    return isinstance(
        error, StoreUnreachableError | WorkerLostError | ConnectionError | TimeoutError
    )


def some_of(names: Sequence[str], count: int = 3) -> str:
    """The first ``count`` of them, and how many more there are."""
    more = f" and {len(names) - count} more" if len(names) > count else ""
    return ", ".join(names[:count]) + more
