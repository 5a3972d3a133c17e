"""A clock that is set by hours and days while a run trains: the same numbers, and true seconds."""

import os
import signal
import time
from typing import Any

import pytest

from afcore.config import Config, parse_config
from afcore.errors import StoppedError
from afcore.runs.whole_run import Onlooker, complete_run
from tests.undisturbed import outcome

DAY = 86400.0


class SetClock(Onlooker):
    """Sets the clock at each step and epoch, by a day to and fro; tells the run to stop, once."""

    def __init__(self, patched: pytest.MonkeyPatch, forwards: bool, stop_at_step: int) -> None:
        self._true, self._wrong = time.time, 0.0
        self._jump, self._left = (DAY if forwards else -DAY), stop_at_step
        patched.setattr(time, "time", lambda: self._true() + self._wrong)

    def begun(self, *_: Any) -> None:
        self._set()

    def stepped(self) -> None:
        self._left -= 1
        if self._left == 0:
            os.kill(os.getpid(), signal.SIGTERM)
        if self._left % 3 == 0:
            self._set()

    def epoch_done(self, *_: Any) -> None:
        self._wrong *= 5

    def trained(self) -> None:
        self._set()

    def _set(self) -> None:
        self._wrong = 0.0 if self._wrong else self._jump


@pytest.fixture
def config(tiny_config: dict[str, Any]) -> Config:
    tiny_config["training"] |= {"epochs": 2}
    tiny_config["freezing"] = {"policy": "frozen_start", "depth": 2}
    return parse_config(tiny_config, source="test")


@pytest.mark.parametrize("forwards", [True, False])
def test_a_run_is_not_changed_and_no_second_is_invented(
    forwards: bool, config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    began = time.monotonic()
    disturbed = config.replace(store=f"{config.store}-disturbed")
    with monkeypatch.context() as patched:
        clock = SetClock(patched, forwards, stop_at_step=5)
        with pytest.raises(StoppedError):
            complete_run(disturbed, onlooker=clock)
        run, report = complete_run(disturbed, onlooker=clock)
    took = time.monotonic() - began
    totals = report.totals
    assert 0 < totals.train_seconds <= totals.wall_seconds <= took
    assert 0 <= totals.lost_seconds <= took
    assert 0 < totals.worker_seconds <= took
    assert sum(epoch.seconds for epoch in report.epochs) <= took
    assert all(0 <= epoch.launch_seconds <= took for epoch in report.epochs)
    assert outcome(run, report) == outcome(*complete_run(config))
