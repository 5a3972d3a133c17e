"""What ends a command: errors of ours as one message and an exit code; signals as errors."""

import contextlib
import signal
from collections.abc import Iterator
from typing import Any

import typer
from rich.markup import escape

from afcore.disk_space import temporary_files_full
from afcore.errors import AutoFreezeError, StoppedError, stop_behind
from pipelines.cli.consoles import errors
from pipelines.environment import set_defaults

__all__ = ["exit_codes"]


@contextlib.contextmanager
def exit_codes(*, commits: bool = False) -> Iterator[None]:
    """Errors of ours as one message and an exit code; SIGTERM as an error.

    Args:
        commits: whether the command, stopped and given again, goes on from what it has committed.
    """
    set_defaults()
    # Training stops by itself, between steps. Prefect's flows mark themselves as crashed first, and
    # then send the signal on.
    signal.signal(signal.SIGTERM, _stop)
    former = signal.signal(signal.SIGINT, _stop)
    try:
        yield
    except Exception as error:
        if (stopped := _stop_behind(error)) is not None:
            what = str(stopped) if commits else stopped.what
            errors.print(f"[bold red]Stopped:[/] {escape(what)}")
            raise typer.Exit(stopped.exit_code) from None
        known = error if isinstance(error, AutoFreezeError) else temporary_files_full(error)
        if known is None:
            raise
        errors.print(f"[bold red]Error:[/] {escape(str(known))}")
        raise typer.Exit(known.exit_code) from None
    finally:
        signal.signal(signal.SIGINT, former)


def _stop_behind(error: Exception) -> StoppedError | None:
    """As :func:`.stop_behind`, but for what went wrong after the request, as with the store."""
    if isinstance(error, AutoFreezeError) and error.exit_code == AutoFreezeError.exit_code:
        return None
    return stop_behind(error)


def _stop(number: int, _frame: Any) -> None:
    stopped = StoppedError()
    stopped.by_ctrl_c = number == signal.SIGINT
    raise stopped
