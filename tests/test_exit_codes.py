"""A signal ends a command with its own exit code, whatever the command was at."""

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import pytest
import transformers
import typer

from afcore.data import files
from afcore.data.sources import Field, load_rows, read_texts
from afcore.errors import DataError, StoppedError, StoreLostError
from afcore.model.pretrained import read_config
from pipelines.cli.exit_codes import exit_codes
from tests.conftest import write_csv


def read_a_file(folder: Path) -> None:
    path = write_csv(folder / "rows.csv", [{"text": "a"}])
    load_rows(str(path), "train", [Field("text", "text", read_texts)])


def read_a_model(_folder: Path) -> None:
    read_config("some/model", "Give another.")


@pytest.mark.parametrize(
    ("number", "code", "asked"),
    [(signal.SIGINT, 130, "Ctrl-C"), (signal.SIGTERM, 143, "SIGTERM")],
)
@pytest.mark.parametrize("read", [read_a_file, read_a_model])
def test_a_signal_while_something_is_read_is_no_fault_of_what_is_read(
    read: Callable[[Path], None],
    number: signal.Signals,
    code: int,
    asked: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    def signalled(*_args: Any, **_options: Any) -> None:
        os.kill(os.getpid(), number)

    monkeypatch.setattr(files, "read_csv", signalled)
    monkeypatch.setattr(transformers.AutoConfig, "from_pretrained", signalled)
    with pytest.raises(typer.Exit) as ended, exit_codes():
        read(tmp_path)
    assert ended.value.exit_code == code
    assert capfd.readouterr().err == f"Stopped: stopped, as asked by {asked}\n"


def lose(error: Exception) -> NoReturn:
    raise error


def stop_and_lose(error: Exception) -> None:
    try:
        raise StoppedError
    except StoppedError:
        lose(error)


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (StoreLostError("the store is away"), 1, "Error: the store is away"),
        (DataError("of the file"), 143, "Stopped: stopped, as asked by SIGTERM"),
    ],
)
def test_what_goes_wrong_with_the_store_after_a_signal_is_said(
    error: Exception, code: int, said: str, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(typer.Exit) as ended, exit_codes():
        stop_and_lose(error)
    assert ended.value.exit_code == code
    assert capfd.readouterr().err == f"{said}\n"
