"""Settings of the libraries we stand on, made before they are imported."""

import logging
import os
import urllib.request
from urllib.parse import urlsplit

from afcore.errors import AutoFreezeError

__all__ = ["configure_logging", "from_prefect", "proxy_for", "set_defaults"]

_DEFAULTS = {
    # Log lines of the core appear in Prefect's UI.
    "PREFECT_LOGGING_EXTRA_LOGGERS": "afcore",
    # Outside of a flow, as in a plan or a bench, they are for the console alone.
    "PREFECT_LOGGING_TO_API_WHEN_MISSING_FLOW": "ignore",
    # A slow machine needs longer than the default of 20 s to start the temporary server.
    "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "120",
    # Seven waits of 2, 4, ... seconds are four minutes; Prefect's five are one. Without a server a
    # training goes on, but its lines and states wait here, and are dropped in the end.
    "PREFECT_CLIENT_MAX_RETRIES": "7",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "DO_NOT_TRACK": "true",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "TOKENIZERS_PARALLELISM": "false",
    "HF_HUB_DISABLE_TELEMETRY": "1",
}
_LOOPBACK = ("127.0.0.1", "localhost", "::1")


def set_defaults() -> None:
    """Set environment variables that are not set; call before importing Prefect.

    Servers of this machine, our own among them, are reached past any proxy.
    """
    for name, value in _DEFAULTS.items():
        os.environ.setdefault(name, value)
    known = os.environ.get("no_proxy") or os.environ.get("NO_PROXY") or ""
    hosts = [host.strip() for host in known.split(",") if host.strip()]
    if "*" in hosts or not urllib.request.getproxies_environment().keys() - {"no"}:
        return
    past = ",".join([*hosts, *(host for host in _LOOPBACK if host not in hosts)])
    # Some libraries read one of them, some the other.
    os.environ["NO_PROXY"] = os.environ["no_proxy"] = past


def proxy_for(url: str) -> str | None:
    """The proxy that environment variables put before ``url``, without its password."""
    parts = urlsplit(url)
    proxies = urllib.request.getproxies_environment()
    proxy = proxies.get(parts.scheme) or proxies.get("all")
    if not proxy or urllib.request.proxy_bypass_environment(parts.netloc, proxies):
        return None
    return proxy.rpartition("@")[2]


def from_prefect(error: BaseException | None) -> bool:
    """Whether Prefect or its client raised it: about a server, not about the training."""
    return type(error).__module__.partition(".")[0] in ("prefect", "httpx")


class _WithoutTraceback(logging.Filter):
    """What is wrong is said by an error's message; its traceback would bury that."""

    def filter(self, record: logging.LogRecord) -> bool:
        error = record.exc_info[1] if record.exc_info else None
        if isinstance(error, AutoFreezeError) or from_prefect(error):
            record.exc_info = None
            record.msg, record.args = f"{type(error).__name__}: {error}", ()
        return True


class _EventsAreSentLater(logging.Filter):
    """Prefect tells of each event that cannot be sent, with all of it, and sends it later."""

    def __init__(self) -> None:
        super().__init__()
        self._said = False

    def filter(self, record: logging.LogRecord) -> bool:
        if str(record.msg).startswith("Service %r failed to process item"):
            return False
        if not str(record.msg).startswith("Unable to connect to %r."):
            return True
        said, self._said = self._said, True
        record.msg = "Prefect does not answer at %s; the states of tasks are sent there later"
        record.args = record.args[:1] if isinstance(record.args, tuple) else ()
        return not said


def configure_logging() -> None:
    """Show the core's log lines, and errors of ours without their tracebacks.

    Call after importing Prefect, which sets logging up anew; it hands lines of ``afcore`` on to
    its console and its server, but leaves the level at warnings.
    """
    logging.getLogger("afcore").setLevel(logging.INFO)
    # It advises a package with faster kernels wherever it is installed, used or not.
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    for name in ("prefect.task_runs", "prefect.flow_runs", "prefect.engine"):
        _filter_once(name, _WithoutTraceback())
    for name in ("prefect.events.clients", "prefect._internal.concurrency"):
        _filter_once(name, _EventsAreSentLater())


def _filter_once(name: str, added: logging.Filter) -> None:
    logger = logging.getLogger(name)
    if not any(isinstance(known, type(added)) for known in logger.filters):
        logger.addFilter(added)
