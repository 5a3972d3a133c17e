"""The same for every launcher: real processes, real signals."""

import contextlib
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from afcore.errors import AutoFreezeError, DataError, StoppedError, WorkerLostError
from afcore.interrupt import catch_sigterm, request_stop
from afcore.launch.job import Launcher
from tests.launch.parent import job_of, open_launcher

ROOT = Path(__file__).parents[2]
RAY_AGENTS = ("ray::DashboardAgent", "ray::RuntimeEnvAgent")
NAMES = ["local", pytest.param("ray", marks=pytest.mark.slow)]
# What Ray shares with the other launcher by construction is tried with both in the long round only.
MOSTLY_LOCAL = ["local", pytest.param("ray", marks=[pytest.mark.slow, pytest.mark.faults])]
mostly_local = pytest.mark.parametrize("launcher", MOSTLY_LOCAL, indirect=True)


@pytest.fixture(scope="module", params=NAMES)
def launcher(request: pytest.FixtureRequest) -> Iterator[Launcher]:
    launcher = open_launcher(request.param)
    yield launcher
    launcher.close()


@pytest.fixture
def caught(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    caplog.set_level(logging.INFO, "afcore")
    return caplog


def run(launcher: Launcher, function: str, folder: Path) -> None:
    launcher.run(job_of(function, str(folder)))


def wait_for(condition: Callable[[], bool], seconds: float) -> None:
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, "it did not happen"
        time.sleep(0.05)


def worker_pids(folder: Path) -> list[int]:
    def written() -> list[str]:
        return [path.read_text() for path in folder.glob("pid-*")]

    wait_for(lambda: len(written()) == 2 and all(written()), 180)
    return [int(text) for text in written()]


def are_gone(pids: list[int]) -> bool:
    def is_gone(pid: int) -> bool:
        try:
            return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            return True

    return all(map(is_gone, pids))


@contextlib.contextmanager
def parent(name: str, function: str, folder: Path) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-m", "tests.launch.parent", name, function, str(folder)]
    process = subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    descendants: list[psutil.Process] = []
    try:
        worker_pids(folder)
        descendants = psutil.Process(process.pid).children(recursive=True)
        names = {child.pid: "".join(child.cmdline()).strip() for child in descendants}
        yield process
        process.communicate(timeout=120)
        # After a kill Ray's two agents look for the rest of the cluster for a minute.
        watched = [pid for pid, name in names.items() if name not in RAY_AGENTS]
        wait_for(lambda: are_gone(worker_pids(folder)), 120)
        wait_for(lambda: are_gone(watched), 180)
    finally:
        for child in [process, *descendants]:
            with contextlib.suppress(psutil.NoSuchProcess):
                child.kill()
        process.communicate()


def test_workers_join_with_this_environment_and_threads_and_log_to_this_process(
    launcher: Launcher,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caught: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setenv("AUTOFREEZE_TEST", "set after the start")
    run(launcher, "all_reduce", tmp_path)
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {
        "sum-0": "3.0 1 0 set after the start",
        "sum-1": "3.0 1 1 set after the start",
    }
    # Of the first worker all lines, of the others warnings.
    lines = sorted((r.levelname, r.getMessage()) for r in caught.records if r.name == "afcore.test")
    assert lines == [("INFO", "[0] info"), ("WARNING", "[0] warning"), ("WARNING", "[1] warning")]


def test_a_killed_worker_is_named_within_seconds(launcher: Launcher, tmp_path: Path) -> None:
    with pytest.raises(WorkerLostError, match=r"^worker 1 of 2 was lost in epoch 3: its process"):
        run(launcher, "kill_last", tmp_path)
    assert time.time() - (tmp_path / "killed").stat().st_mtime < 15
    wait_for(lambda: are_gone(worker_pids(tmp_path)), 60)


@mostly_local
def test_an_error_of_ours_comes_out_as_it_went_in(launcher: Launcher, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"^shard 7 is empty$"):
        run(launcher, "bad_data", tmp_path)


@mostly_local
def test_a_worker_starts_no_workers(launcher: Launcher, tmp_path: Path) -> None:
    with pytest.raises(AutoFreezeError, match=r"^a worker cannot start workers"):
        run(launcher, "launch_others", tmp_path)


@mostly_local
def test_another_exception_names_the_worker_and_its_traceback_is_logged(
    launcher: Launcher, tmp_path: Path, caught: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(
        RuntimeError, match=r"^worker 1 of 2 failed in epoch 3: ZeroDivisionError: a bug$"
    ):
        run(launcher, "bug", tmp_path)
    logged = [record.getMessage() for record in caught.records if record.levelname == "ERROR"]
    assert len(logged) == 1
    assert 'raise ZeroDivisionError("a bug")' in logged[0]


@mostly_local
def test_a_stop_asked_for_in_this_process_reaches_the_workers(
    launcher: Launcher, tmp_path: Path
) -> None:
    before = signal.getsignal(signal.SIGTERM)
    with catch_sigterm():
        request_stop_when_working(tmp_path)
        with pytest.raises(StoppedError, match="epoch 3"):
            run(launcher, "work_for_ever", tmp_path)
    assert {path.name for path in tmp_path.glob("c*")} == {"committed-0", "committed-1"}
    assert signal.getsignal(signal.SIGTERM) == before
    run(launcher, "all_reduce", tmp_path)


@mostly_local
def test_a_commit_that_takes_longer_than_the_grace_period_is_waited_for(
    launcher: Launcher, tmp_path: Path
) -> None:
    with catch_sigterm():
        request_stop_when_working(tmp_path)
        with pytest.raises(StoppedError, match="epoch 3"):
            run(launcher, "commit_slowly", tmp_path)
    assert (tmp_path / "committed-0").exists()


@mostly_local
def test_a_worker_that_does_not_stop_is_ended_after_the_grace_period(
    launcher: Launcher, tmp_path: Path
) -> None:
    began = time.monotonic()
    with catch_sigterm():
        request_stop_when_working(tmp_path)
        with pytest.raises(StoppedError, match="epoch 3"):
            run(launcher, "never_stop", tmp_path)
    assert time.monotonic() - began < 300  # it would sleep for 600
    wait_for(lambda: are_gone(worker_pids(tmp_path)), 60)


def request_stop_when_working(folder: Path) -> None:
    def wait_and_ask() -> None:
        worker_pids(folder)
        request_stop()

    threading.Thread(target=wait_and_ask, daemon=True).start()


@pytest.mark.faults
@pytest.mark.parametrize("launcher", ["ray"], indirect=True)
def test_a_cluster_is_joined_by_its_address_and_left_running(
    launcher: Launcher, tmp_path: Path
) -> None:
    import ray

    address = ray.get_runtime_context().gcs_address
    command = [sys.executable, "-m", "tests.launch.parent", f"ray@{address}", "all_reduce"]
    subprocess.run([*command, str(tmp_path)], cwd=ROOT, check=True, timeout=180)
    assert len(list(tmp_path.glob("sum-*"))) == 2
    assert ray.get(ray.remote(lambda: 7).remote(), timeout=60) == 7


@pytest.mark.slow
@pytest.mark.parametrize("launcher", ["ray"], indirect=True)
def test_a_cluster_without_room_is_refused_unless_it_grows(
    launcher: Launcher, tmp_path: Path
) -> None:
    import ray

    join = """
import sys
from afcore.launch.ray_train import LaunchWithRay
LaunchWithRay(sys.argv[1], max_workers=3, autoscaling=True).close()
LaunchWithRay(sys.argv[1], max_workers=3)
"""
    address = ray.get_runtime_context().gcs_address
    done = subprocess.run(
        [sys.executable, "-c", join, address],
        cwd=ROOT,
        env=os.environ | {"TMPDIR": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    message = f"workers.max is 3, but the Ray cluster at {address} has CPUs for 2 workers."
    assert message in done.stderr.splitlines()[-1]


@pytest.mark.parametrize("name", MOSTLY_LOCAL)
def test_sigterm_to_the_parent_stops_after_the_workers_committed(name: str, tmp_path: Path) -> None:
    with parent(name, "work_for_ever", tmp_path) as process:
        process.send_signal(signal.SIGTERM)
        output, _ = process.communicate(timeout=120)
    assert process.returncode == 143
    assert output.splitlines()[-1].startswith("StoppedError stopped in epoch 3, as asked")
    assert {path.name for path in tmp_path.glob("c*")} == {"committed-0", "committed-1"}


@pytest.mark.parametrize("name", MOSTLY_LOCAL)
def test_no_worker_outlives_a_killed_parent(name: str, tmp_path: Path) -> None:
    with parent(name, "work_for_ever", tmp_path) as process:
        process.kill()
        assert process.wait(timeout=10) == -signal.SIGKILL
    assert not list(tmp_path.glob("committed-*"))


def test_sigterm_to_the_whole_process_group_lets_the_workers_commit(tmp_path: Path) -> None:
    with parent("local", "work_for_ever", tmp_path) as process:
        os.killpg(process.pid, signal.SIGTERM)
        process.communicate(timeout=120)
    assert process.returncode == 143
    assert {path.name for path in tmp_path.glob("c*")} == {"committed-0", "committed-1"}


@pytest.mark.parametrize("name", MOSTLY_LOCAL)
def test_sigterm_to_one_worker_stops_all(name: str, tmp_path: Path) -> None:
    with parent(name, "work_for_ever", tmp_path) as process:
        os.kill(worker_pids(tmp_path)[0], signal.SIGTERM)
        output, _ = process.communicate(timeout=120)
    assert process.returncode == 143, output
    assert {path.name for path in tmp_path.glob("c*")} == {"committed-0", "committed-1"}
