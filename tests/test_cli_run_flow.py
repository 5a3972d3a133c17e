"""What Prefect raises while a flow runs is one message; a fault of the training is not."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import httpx
import pytest

from pipelines.cli import run_flow
from pipelines.environment import from_prefect
from tests.conftest import write_config
from tests.e2e.command import autofreeze, expect_one_message
from tests.reports import make_report


def deleted() -> BaseException:
    from prefect.exceptions import ObjectNotFound

    return ObjectNotFound(Exception("404"))


def aborted() -> BaseException:
    from prefect.exceptions import Abort

    return Abort("told to")


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (deleted, "does not know this flow run any more; was it deleted"),
        (aborted, "Prefect ended this flow run: told to."),
        (lambda: httpx.ConnectError("refused"), "server does not answer any more: refused."),
    ],
)
def test_what_prefect_raises_is_one_message(
    error: Callable[[], BaseException],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    assert run(error(), tmp_path, monkeypatch) == 1
    expect_one_message(capfd, message)


def test_a_fault_of_the_training_keeps_its_traceback(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert not from_prefect(ValueError())
    with pytest.raises(ValueError, match="a fault"):
        run(ValueError("a fault"), tmp_path, monkeypatch)


def run(error: BaseException, folder: Path, monkeypatch: pytest.MonkeyPatch) -> int:
    def flow(*_args: Any, **_parameters: Any) -> NoReturn:
        raise error

    monkeypatch.setattr(run_flow, "_import_flow", lambda _: flow)
    tree = {"model": {"name": "some/model"}, "data": {"train": "rows.csv"}}
    return autofreeze("run", write_config(folder / "c.yaml", tree))


def test_the_table_of_a_run_is_headed_by_its_main_score(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    result = make_report().model_dump(mode="json", by_alias=True) | {"score": "loss"}
    for split in ("validation", "test"):
        result["totals"][split]["loss"] = 0.5
    monkeypatch.setattr(
        run_flow, "_import_flow", lambda _: lambda *_args, **_parameters: dict(result)
    )
    tree = {"model": {"name": "some/model"}, "data": {"train": "rows.csv"}}
    assert autofreeze("run", write_config(tmp_path / "c.yaml", tree)) == 0
    assert "Log loss, time and cost" in capfd.readouterr().out
