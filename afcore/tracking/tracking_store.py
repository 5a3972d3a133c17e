"""To reach MLflow: a client that waits where that is right, and errors that say what to do."""

import contextlib
import logging
import os
import re
import sqlite3
import tempfile
from collections.abc import Callable, Iterator
from typing import Any, ParamSpec, TypeVar

from afcore.disk_space import disk_space, fullest, is_full
from afcore.errors import (
    AutoFreezeError,
    StorageFullError,
    TrackingAbsentError,
    TrackingError,
    TrackingUnreachableError,
    UserError,
    causes,
    in_one_line,
)
from afcore.outage import outage_of
from afcore.tracking.database import make_database, sqlite_path

__all__ = ["TrackingStore", "cause_of_outage", "transfer_settings", "without_password"]

_LIBRARIES = ("mlflow", "requests", "urllib3", "sqlalchemy", "botocore", "boto3")
_PATIENCE = {
    # Two seconds for a server that is down; MLflow's own are minutes. Who waits, waits here.
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "15",
}
_UPLOAD_TIMEOUT_SECONDS = 300
_QUIET = {
    "mlflow": logging.WARNING,
    "mlflow.transformers": logging.ERROR,
    "alembic": logging.WARNING,
    # What these say, tracebacks among it, is said by the error that follows.
    "mlflow.store.db.utils": logging.CRITICAL,
    "urllib3.connectionpool": logging.ERROR,
}
P = ParamSpec("P")
R = TypeVar("R")


class TrackingStore:
    """A tracking server of MLflow, or its database, asked about one experiment.

    Args:
        uri: tracking URI.
        experiment: name.
        waits: a server that does not answer is waited for (:mod:`afcore.outage`), as is right
            once something was trained.

    Raises:
        UserError: when the tracking store cannot be used.
        TrackingAbsentError: when the server does not answer, to who does not wait.
        TrackingUnreachableError: when it was waited for in vain.
    """

    def __init__(self, uri: str, experiment: str, *, waits: bool = False) -> None:
        # The import alone takes seconds; nothing but a tracker needs it.
        import mlflow

        for name, level in _QUIET.items():
            logging.getLogger(name).setLevel(level)
        for name, value in _PATIENCE.items():
            os.environ.setdefault(name, value)
        self._mlflow = mlflow
        self._uri = uri
        self._experiment = experiment
        self._committed = "what is committed stands"
        self._waits = waits
        self._client = self._ask(self._connect)

    def _connect(self) -> Any:
        try:
            if (path := sqlite_path(self._uri)) is not None:
                make_database(path)
            client = self._mlflow.MlflowClient(self._uri)
            client.get_experiment_by_name(self._experiment)  # does it answer?
        except Exception as error:
            explained = self._error(error, UserError)
            if isinstance(explained, TrackingUnreachableError) and not self._waits:
                explained = TrackingAbsentError(*explained.args)
            raise explained from error
        return client

    def _ask(self, question: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        if not self._waits:
            return question(*args, **kwargs)
        return outage_of(f"MLflow at {self.shown_uri}").wait_out(
            TrackingUnreachableError, question, *args, **kwargs
        )

    @property
    def shown_uri(self) -> str:
        """The tracking URI, without a password."""
        return without_password(self._uri)

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        """Turn what MLflow and what it stands on raise into one message of ours."""
        try:
            yield
        except AutoFreezeError:
            raise
        except Exception as error:
            if is_full(error):
                raise self._full(error) from error
            library = type(error).__module__.partition(".")[0]
            if not isinstance(error, OSError) and library not in _LIBRARIES:
                raise
            raise self._error(error, TrackingError) from error

    def _full(self, error: Exception) -> StorageFullError:
        """Which disk it was, nobody says: of those that it may have been, the fullest."""
        names = [cause.filename for cause in causes(error) if isinstance(cause, OSError)]
        places = [tempfile.gettempdir(), *(name for name in names if isinstance(name, str))]
        if (database := sqlite_path(self._uri)) is not None:
            places.append(str(database))
        return StorageFullError(
            f"no space left for what MLflow keeps at tracking.uri {without_password(self._uri)!r}"
            f": {disk_space(fullest(*places))}. Free some; {self._committed}, and the same command "
            "goes on from there."
        )

    def _error(self, error: Exception, refused: type[AutoFreezeError]) -> AutoFreezeError:
        """What a user should see, a ``refused`` when MLflow does answer."""
        uri = without_password(self._uri)
        then = f"{self._committed}, and the same command goes on from there"
        if (outage := cause_of_outage(error)) is not None:
            return TrackingUnreachableError(
                f"MLflow at tracking.uri {uri!r} does not answer ({outage}). See that it runs; "
                f"{then}."
            )
        text = without_password(in_one_line(error))[:300]
        problem = f"tracking.uri {uri!r} cannot be used: {text}"
        if refused is UserError:
            return refused(f"{problem}. Mend that, or give another.")
        return refused(f"{problem}. Mend that; {then}.")


def cause_of_outage(error: BaseException) -> str | None:
    """Why a server, of MLflow's or of its database, does not answer; None when it does."""
    import requests
    from sqlalchemy.exc import OperationalError

    chain = list(causes(error))
    for cause in chain:
        if isinstance(cause, requests.RequestException):
            out = cause.response is None or cause.response.status_code >= 500
        elif isinstance(cause, OperationalError):
            out = not isinstance(cause.orig, sqlite3.Error)
        else:
            continue
        reasons = [c.strerror for c in chain if isinstance(c, OSError) and c.strerror]
        text = reasons[0] if reasons else without_password(in_one_line(chain[-1]))[:200]
        return text if out else None
    return None


def without_password(text: str) -> str:
    """What may be shown of an address, or of a text that has one in it."""
    return re.sub(r"//[^/@\s]*@", "//", text)


@contextlib.contextmanager
def transfer_settings() -> Iterator[None]:
    """MLflow draws bars for artifacts and takes no argument for that; a model takes its time."""
    timeout = "MLFLOW_HTTP_REQUEST_TIMEOUT"
    settings = {
        "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
        timeout: str(max(int(os.environ[timeout]), _UPLOAD_TIMEOUT_SECONDS)),
    }
    before = {name: os.environ.get(name) for name in settings}
    os.environ.update(settings)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
