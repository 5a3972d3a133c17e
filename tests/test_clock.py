"""Moments that are measured from in another process."""

import pickle
import time

import pytest

from afcore.clock import Moment


@pytest.mark.parametrize("jump", [3600.0, -3600.0])
def test_on_one_machine_a_clock_that_is_set_changes_nothing(
    jump: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    began, true = pickle.loads(pickle.dumps(Moment())), time.time
    monkeypatch.setattr(time, "time", lambda: true() + jump)
    assert 0 <= began.seconds < 60


def test_between_machines_the_time_of_day_counts_and_is_never_negative() -> None:
    assert 7 <= Moment(machine="elsewhere", monotonic=1e9, time=time.time() - 7).seconds < 60
    assert Moment(machine="elsewhere", time=time.time() + 3600).seconds == 0.0
