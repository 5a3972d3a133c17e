"""Runs on workers, by the command: one of them is lost, and the run is told to stop."""

import contextlib
import csv
import json
import os
import re
import shutil
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import psutil
import pytest

from afcore.config import Config, load_config
from afcore.launch.launcher import close_launchers
from afcore.results.report import EpochReport
from afcore.runs.identify import identify_run
from afcore.runs.launch_epoch import launch_epoch
from afcore.runs.run import begin_run, run_lease
from afcore.storage.objects import Storage
from tests.conftest import write_config, write_csv
from tests.e2e.command import autofreeze

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("prefect_server")]

COMMAND = [sys.executable, "-c", "from pipelines.cli import main; main()", "run"]
_MARK = "AUTOFREEZE_TEST"
_COPIES = 20  # of the text, so that an epoch takes seconds


@dataclass
class Command:
    """``autofreeze run`` of one configuration, as often as it takes."""

    folder: Path
    config: Path

    @contextlib.contextmanager
    def running(self) -> Iterator["Started"]:
        """Start it; in the end nothing of it may be alive."""
        mark = uuid.uuid4().hex
        with (self.folder / f"{mark}.log").open("w+") as log:
            process = subprocess.Popen(
                [*COMMAND, str(self.config), "--report", str(self.folder / "report.json")],
                env=os.environ | {_MARK: mark},
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
            started = Started(self, process, mark, Path(log.name))
            try:
                yield started
                started.end()
                started.expect_nothing_left()
            finally:
                process.kill()
                process.wait()
                for left in started.family():
                    left.kill()

    def epoch(self, name: str) -> list[Path]:
        """A record of the only epoch, if it is there."""
        return list(self.folder.glob(f"store/runs/*/*/epochs/001/{name}.json"))

    def finish(self) -> dict[str, Any]:
        """The same command in this process, which has imported everything."""
        assert autofreeze("run", self.config, "--report", self.folder / "report.json") == 0
        return self.report()

    def report(self) -> dict[str, Any]:
        tree: dict[str, Any] = json.loads((self.folder / "report.json").read_text())
        return tree

    def losses(self) -> list[float]:
        (path,) = self.epoch("checkpoint")
        return [step["loss"] for step in json.loads(path.read_text())["trained"]["steps"]]

    def tracked_status(self) -> str:
        client = mlflow.MlflowClient(f"sqlite:///{self.folder}/mlflow.db")
        (experiment,) = [e for e in client.search_experiments() if e.name == "test"]
        (run,) = client.search_runs([experiment.experiment_id])
        return str(run.info.status)


@dataclass
class Started:
    """A command that runs."""

    command: Command
    process: "subprocess.Popen[bytes]"
    mark: str
    log: Path

    @property
    def output(self) -> str:
        return self.log.read_text()

    def family(self) -> list[psutil.Process]:
        """Every process with its environment, whoever its parent is now."""
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                if process.environ().get(_MARK) == self.mark:
                    found.append(process)
        return [one for one in found if one.pid != self.process.pid]

    def workers(self) -> list[psutil.Process]:
        """Those that compute; which rank is which is not known."""
        found = []
        for process in self.family():
            with contextlib.suppress(psutil.Error):
                parent = process.parent()
                forked = parent is not None and "forkserver" in " ".join(parent.cmdline())
                if forked or "RayTrainWorker" in " ".join(process.cmdline()):
                    found.append(process)
        return found

    def wait_for(self, condition: Callable[[], bool], seconds: float = 240) -> None:
        until = time.monotonic() + seconds
        while not condition():
            assert self.process.poll() is None, self.output
            assert time.monotonic() < until, self.output
            time.sleep(0.02)

    def end(self) -> int:
        return self.process.wait(timeout=240)

    def expect_nothing_left(self) -> None:
        until = time.monotonic() + 120
        while left := self.family():
            assert time.monotonic() < until, [" ".join(one.cmdline()) for one in left]
            time.sleep(0.1)


def make(folder: Path, tree: dict[str, Any], **workers: Any) -> Command:
    folder.mkdir()
    shutil.copy(tree["tracking"]["uri"].removeprefix("sqlite:///"), folder / "mlflow.db")
    changed = tree | {
        "workers": workers,
        "store": str(folder / "store"),
        "tracking": {"uri": f"sqlite:///{folder}/mlflow.db", "experiment": "test"},
    }
    return Command(folder, write_config(folder / "config.yaml", changed))


@pytest.fixture
def tree(tiny_config: dict[str, Any], tmp_path: Path) -> dict[str, Any]:
    with Path(tiny_config["data"]["train"]).open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    tiny_config["data"]["train"] = str(write_csv(tmp_path / "train.csv", rows * _COPIES))
    tiny_config["training"]["epochs"] = 1
    tiny_config["freezing"] = {"policy": "linear", "depth": 3, "intervals_per_epoch": 3}
    tiny_config["cache"] = {"mode": "on", "share": False}
    return tiny_config


@pytest.fixture(scope="module")
def unbroken() -> Callable[[Command, int], list[float]]:
    """Losses when nothing is killed or stopped, trained once by torchrun or in this process."""
    found: dict[int, list[float]] = {}

    def losses(command: Command, workers: int) -> list[float]:
        if workers not in found:
            folder = command.folder / "unbroken"
            changes = [f"store={folder}/store", "workers.launcher=auto"]
            _train_here(load_config(str(command.config), changes))
            found[workers] = Command(folder, command.config).losses()
        return found[workers]

    return losses


def _train_here(config: Config) -> None:
    storage = Storage(config.store)
    record = identify_run(config, storage)
    with run_lease(storage, record.run_id) as lease:
        run = begin_run(storage, record)
        try:
            launch_epoch(run, 1, lease.number)
        finally:
            close_launchers()


# Workers die and stop in tests/launch too; here with all that surrounds them, for minutes.
@pytest.mark.faults
@pytest.mark.parametrize("launcher", ["torchrun", "ray"])
def test_told_to_stop_then_a_worker_is_killed(
    launcher: str, tree: dict[str, Any], tmp_path: Path, unbroken: Any
) -> None:
    command = make(tmp_path / "run", tree, max=2, launcher=launcher)
    # A worker's machine may be reclaimed alone; Ray's worker processes die of SIGTERM.
    told = (lambda run: run.workers()[0]) if launcher == "torchrun" else _itself
    stop(command, told)
    with command.running() as run:
        run.wait_for(lambda: "decision at step" in run.output)
        workers = run.workers()
        assert len(workers) == 2
        workers[-1].kill()
        assert run.end() == 0, run.output
        assert "was lost in epoch 1" in run.output
        decided = re.findall(r"decision at step (\d+)", run.output)
        assert decided.count(decided[0]) == 2, "nothing was repeated"
        assert "Traceback" not in run.output
    (epoch,), totals = command.report()["epochs"], command.report()["totals"]
    assert (epoch["num_workers"], epoch["attempt"], epoch["resumed"]) == (2, 2, True)
    (lost,) = json.loads(command.epoch("lost")[0].read_text())["tries"]
    assert (lost["num_workers"], lost["attempt"]) == (2, 2)
    assert 0 < lost["seconds"] <= totals["lost_seconds"] < totals["wall_seconds"]
    in_epoch = EpochReport.model_validate(epoch).seconds
    paid = totals["wall_seconds"] + in_epoch + lost["seconds"]  # two workers, in both of them
    assert totals["worker_seconds"] == pytest.approx(paid)
    np.testing.assert_allclose(command.losses(), unbroken(command, 2), atol=1e-5, rtol=0)
    assert command.tracked_status() == "FINISHED"


def test_told_to_stop_where_this_process_is_the_worker(
    tree: dict[str, Any], tmp_path: Path, unbroken: Any
) -> None:
    command = make(tmp_path / "run", tree, max=1, threads=1)
    stop(command, _itself)
    (epoch,) = command.finish()["epochs"]
    assert (epoch["attempt"], epoch["resumed"]) == (2, True)
    np.testing.assert_allclose(command.losses(), unbroken(command, 1), atol=1e-5, rtol=0)
    assert command.tracked_status() == "FINISHED"


def test_told_to_stop_before_and_after_the_training(tree: dict[str, Any], tmp_path: Path) -> None:
    command = make(tmp_path / "run", tree, max=1)
    stop_outside_training(command, lambda run: "starting the flow" in run.output)
    stop_outside_training(command, lambda _: bool(command.epoch("report")))
    assert command.tracked_status() == "KILLED"
    command.finish()
    assert command.tracked_status() == "FINISHED"


def stop_outside_training(command: Command, now: Callable[[Started], bool]) -> None:
    with command.running() as run:
        run.wait_for(lambda: now(run))
        run.process.terminate()
        assert run.end() == 143, run.output
    assert "Traceback" not in run.output
    (message,) = [line for line in run.output.splitlines() if line.startswith("Stopped:")]
    assert "The same command goes on from there" in message


def _itself(run: Started) -> psutil.Process:
    return psutil.Process(run.process.pid)


def stop(command: Command, told: Callable[[Started], psutil.Process]) -> None:
    with command.running() as run:
        run.wait_for(lambda: bool(command.epoch("started")))
        time.sleep(0.5)  # into the steps
        assert not command.epoch("checkpoint"), "the epoch is too short"
        told(run).terminate()
        began = time.time()
        assert run.end() == 143, run.output
    assert "Traceback" not in run.output
    (message,) = [line for line in run.output.splitlines() if line.startswith("Stopped:")]
    (path,) = command.epoch("partial")
    assert path.stat().st_mtime - began < 60
    step = json.loads(path.read_text())["step"]
    assert f"stopped in epoch 1 after step {step}" in message
    assert "The same command goes on from there" in message
    assert command.tracked_status() == "KILLED"
