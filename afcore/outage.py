"""A server that does not answer is waited for, by all who need it in this process together.

The wait of an outage begins with the first question that is not answered and ends with the first
that is. So whoever asks late in an outage does not begin to wait anew, and once it was given up
nobody waits again.
"""

import logging
import os
import threading
import time
from collections.abc import Callable
from typing import ParamSpec, TypeVar

from tenacity import RetryCallState, Retrying, retry_if_exception, wait_exponential_jitter

from afcore.interrupt import stop_requested

__all__ = ["OUTAGE_VARIABLE", "Outage", "outage_of", "outage_seconds"]

OUTAGE_VARIABLE = "AUTOFREEZE_OUTAGE_SECONDS"
_DEFAULT_SECONDS = 300.0
_UNREMARKABLE_SECONDS = 3.0
"""Servers that are asked much are silent for a moment now and then."""
_POLL_SECONDS = 0.2
_log = logging.getLogger(__name__)
P = ParamSpec("P")
R = TypeVar("R")


def outage_seconds() -> float:
    """How long a server is waited for: ``AUTOFREEZE_OUTAGE_SECONDS``, by default five minutes."""
    try:
        return max(0.0, float(os.environ[OUTAGE_VARIABLE]))
    except (KeyError, ValueError):
        return _DEFAULT_SECONDS


class Outage:
    """What this process knows of one server's silence.

    Args:
        server: its name in the log.
    """

    def __init__(self, server: str) -> None:
        self._server = server
        self._lock = threading.Lock()
        self._began: float | None = None
        self._said = False

    @property
    def seconds(self) -> float:
        """Since the first question that was not answered; 0 when it answers."""
        return 0.0 if self._began is None else time.monotonic() - self._began

    def wait_out(
        self, silent: type[Exception], call: Callable[P, R], *args: P.args, **kwargs: P.kwargs
    ) -> R:
        """Call until the server answers, or was away for :func:`outage_seconds`.

        Args:
            silent: what ``call`` raises when it does not answer; raised in the end, or when this
                process is asked to stop meanwhile.
            call: may be called several times.
            args: of it.
            kwargs: of it.
        """
        again = Retrying(
            retry=retry_if_exception(lambda error: isinstance(error, silent) and self._begun()),
            wait=wait_exponential_jitter(multiplier=0.05, max=2.0, jitter=0.1),
            before_sleep=self._say,
            sleep=_sleep_unless_stopped,
            reraise=True,
        )
        answer = again(call, *args, **kwargs)
        self._answered()
        return answer

    def _begun(self) -> bool:
        """Whether it is worth to go on waiting."""
        with self._lock:
            if self._began is None:
                self._began = time.monotonic()
        return self.seconds < outage_seconds() and not stop_requested()

    def _say(self, state: RetryCallState) -> None:
        if self._said or self.seconds < min(_UNREMARKABLE_SECONDS, outage_seconds() / 10):
            return
        self._said = True
        error = state.outcome.exception() if state.outcome is not None else None
        _log.warning(
            "%s does not answer; what was done is kept in memory, and it is waited for, up to "
            "%.0f s: %s",
            *(self._server, outage_seconds(), error),
        )

    def _answered(self) -> None:
        if self._began is None:
            return
        with self._lock:
            seconds, said = self.seconds, self._said
            self._began, self._said = None, False
        if said:
            _log.warning("%s answers again, after %.0f s", self._server, seconds)


_outages: dict[str, Outage] = {}


def outage_of(server: str) -> Outage:
    """That of a server by its name, the same one for all who ask in this process."""
    return _outages.setdefault(server, Outage(server))


def _sleep_unless_stopped(seconds: float) -> None:
    until = time.monotonic() + seconds
    while (left := until - time.monotonic()) > 0 and not stop_requested():
        time.sleep(min(left, _POLL_SECONDS))
