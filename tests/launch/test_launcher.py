import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from afcore.errors import DataError, StoppedError
from afcore.interrupt import catch_sigterm, request_stop, stop_requested
from afcore.launch.job import Job
from afcore.launch.launcher import LaunchHere


def stop_after_a_step(folder: Path) -> None:
    os.kill(os.getpid(), signal.SIGTERM)
    (folder / "threads").write_text(str(torch.get_num_threads()))
    if stop_requested():
        raise StoppedError("committed")


def bad_data(folder: Path) -> None:
    raise DataError("no rows")


def job_of(function: Callable[[Path], None], folder: Path, threads: int | None = None) -> Job:
    return Job(function, (folder,), 1, "in epoch 1", threads)


def test_sigterm_is_seen_between_steps_and_threads_are_given_back(tmp_path: Path) -> None:
    before = signal.getsignal(signal.SIGTERM), torch.get_num_threads()
    with pytest.raises(StoppedError, match="committed"):
        LaunchHere().run(job_of(stop_after_a_step, tmp_path, threads=1))
    assert (tmp_path / "threads").read_text() == "1"
    assert (signal.getsignal(signal.SIGTERM), torch.get_num_threads()) == before
    assert not stop_requested()


def test_what_the_function_raises_is_raised(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no rows"):
        LaunchHere().run(job_of(bad_data, tmp_path))


def test_a_request_lasts_until_the_outermost_ends() -> None:
    with catch_sigterm():
        with catch_sigterm():
            request_stop()
        assert stop_requested()
    assert not stop_requested()
