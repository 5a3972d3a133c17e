"""Ctrl-C and SIGTERM stop a run cleanly, and the same command goes on."""

import itertools
import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest

from afcore.config import parse_config
from afcore.runs.whole_run import complete_run
from tests.conftest import write_config
from tests.e2e.command import autofreeze

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("prefect_server")]


@pytest.mark.parametrize(
    ("number", "code", "asked"),
    [(signal.SIGINT, 130, "Ctrl-C"), (signal.SIGTERM, 143, "SIGTERM")],
)
def test_one_line_says_how_to_go_on(
    number: signal.Signals,
    code: int,
    asked: str,
    tiny_config: dict[str, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    from afcore.training import loop

    config, report = write_config(tmp_path / "c.yaml", tiny_config), tmp_path / "report.json"
    before = signal.getsignal(signal.SIGINT)
    norms, steps = loop.norms_of_gradients, itertools.count(1)
    with monkeypatch.context() as patched:

        def signalled(parameters: Any) -> Any:
            if next(steps) == 3:
                os.kill(os.getpid(), number)
            return norms(parameters)

        patched.setattr(loop, "norms_of_gradients", signalled)
        assert autofreeze("run", config) == code
    assert signal.getsignal(signal.SIGINT) is before
    output = "".join(capfd.readouterr())
    said = " ".join(output.split())
    assert f"as asked by {asked}; what is committed stands. The same command goes on from" in said
    assert "Stopped: stopped in epoch 1 after step 3" in said
    assert "Crash detected" not in output
    assert "Traceback" not in output
    assert autofreeze("run", config, "--report", report) == 0
    tree = json.loads(report.read_text())
    assert [epoch["attempt"] for epoch in tree["epochs"]] == [2, 2, 2]
    assert tree["epochs"][0]["resumed"]


def test_who_commits_nothing_does_not_say_how_to_go_on(
    tiny_config: dict[str, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    def interrupted(*_: Any, **__: Any) -> None:
        os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr("afcore.preview.identify_run", interrupted)
    assert autofreeze("plan", write_config(tmp_path / "c.yaml", tiny_config)) == 130
    assert "Stopped: stopped, as asked by Ctrl-C\n" in capfd.readouterr().err


def test_stopped_behind_the_last_epoch_it_goes_straight_to_the_test(
    tiny_config: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """First when all epochs are committed, then while it is tested."""
    import pipelines.finetune
    from afcore.runs import publish
    from afcore.training import loop

    tiny_config["training"]["epochs"] = 2
    config, report = write_config(tmp_path / "c.yaml", tiny_config), tmp_path / "report.json"
    log_epochs, evaluate, norms = pipelines.finetune.log_epochs, publish.evaluate, []
    with monkeypatch.context() as patched:

        def logged(run: Any, mlflow_run_id: str, epochs: list[int], **options: Any) -> Any:
            if 2 in epochs:
                os.kill(os.getpid(), signal.SIGTERM)
            return log_epochs(run, mlflow_run_id, epochs, **options)

        patched.setattr(pipelines.finetune, "log_epochs", logged)
        assert autofreeze("run", config) == 143
    with monkeypatch.context() as patched:

        def tested(*arguments: Any, **options: Any) -> Any:
            os.kill(os.getpid(), signal.SIGTERM)
            return evaluate(*arguments, **options)

        patched.setattr(publish, "evaluate", tested)
        assert autofreeze("run", config) == 143
    with monkeypatch.context() as patched:
        of_gradients = loop.norms_of_gradients
        patched.setattr(loop, "norms_of_gradients", lambda p: norms.append(p) or of_gradients(p))
        assert autofreeze("run", config, "--report", report) == 0
    assert norms == []
    stopped = json.loads(report.read_text())
    tiny_config["store"] = str(tmp_path / "undisturbed")
    _, undisturbed = complete_run(parse_config(tiny_config, source="test"))
    whole = json.loads(undisturbed.model_dump_json(by_alias=True))
    assert [epoch["attempt"] for epoch in stopped["epochs"]] == [1, 1]
    for key in ("test", "validation"):
        assert stopped["totals"][key] == whole["totals"][key]
    losses = [[epoch["train_loss"] for epoch in one["epochs"]] for one in (stopped, whole)]
    assert losses[0] == losses[1]
