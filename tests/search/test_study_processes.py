"""A study on which several processes work, and workers that are lost."""

import contextlib
import multiprocessing
import random
import time
from collections import Counter
from pathlib import Path
from typing import Any

import psutil
import pytest

from afcore.activations.sets import list_sets
from afcore.config import Config
from afcore.errors import WorkerLostError
from afcore.search import trial_run
from afcore.search.conduct_study import prepare_study
from afcore.storage.objects import Storage
from tests.search.test_conduct_study import conduct, elsewhere, outcome
from tests.search.test_conduct_study import config as config

_SERVER = multiprocessing.get_context("forkserver")
_SERVER.set_forkserver_preload([__name__])


def _conduct(config: str) -> None:
    conduct(Config.model_validate_json(config))


def begun(config: Config) -> multiprocessing.process.BaseProcess:
    process = _SERVER.Process(target=_conduct, args=(config.model_dump_json(),))
    process.start()
    return process


@pytest.fixture
def listed(config: Config) -> Config:
    """Four trials that are known beforehand, at two boundaries."""
    vary = {"training.learning_rate": [1e-3, 3e-3], "freezing.depth": [1, 2]}
    return config.replace(
        **{"search.sampler": "grid", "search.trials": None, "search.vary": vary},
        **{"training.epochs": 1},
    )


def test_two_processes_run_no_trial_twice_and_build_no_set_twice(
    listed: Config, tmp_path: Path
) -> None:
    processes = [begun(listed), begun(listed)]
    for process in processes:
        process.join(240)
        assert process.exitcode == 0
    prepared = prepare_study(listed)
    report = conduct(listed)  # finds all of it
    assert prepared.study_id == report.study_id
    assert [row.state for row in report.trials] == ["finished"] * 4
    epochs = [epoch for row in report.trials for epoch in row.epochs]
    assert {epoch.source for epoch in epochs} == {"trained"}
    assert Counter(k for epoch in epochs for k in epoch.built) == {1: 1, 2: 1}
    sets = list_sets(Storage(listed.store))
    assert sorted(found.manifest.boundary for found in sets) == [1, 2]
    alone = outcome(conduct(elsewhere(listed, tmp_path / "alone")))
    assert sorted(map(repr, alone)) == sorted(map(repr, outcome(report)))


def workers_of(study: multiprocessing.process.BaseProcess) -> list[psutil.Process]:
    """Processes that compute for it; which rank is which is not known."""
    found = []
    with contextlib.suppress(psutil.NoSuchProcess):
        for child in psutil.Process(study.pid).children(recursive=True):
            with contextlib.suppress(psutil.NoSuchProcess):
                parent = child.parent()
                if parent is not None and "forkserver" in " ".join(parent.cmdline()):
                    found.append(child)
    return found


@pytest.mark.faults
@pytest.mark.parametrize("seed", range(3))
def test_a_worker_that_is_killed_in_a_trial_changes_nothing(
    seed: int, listed: Config, tmp_path: Path
) -> None:
    draw = random.Random(seed)
    several = listed.replace(**{"workers.max": 2, "workers.launcher": "torchrun"})
    study = begun(several)
    killed = False
    try:
        while study.is_alive() and not killed:  # a second time it would go on with one worker
            if len(workers := workers_of(study)) == 2:
                time.sleep(2.0 * draw.random())
                with contextlib.suppress(psutil.NoSuchProcess):
                    draw.choice(workers).kill()
                    killed = True
            time.sleep(0.02)
        study.join()
        assert study.exitcode == 0
    finally:
        study.kill()
    assert killed
    report = conduct(several)  # finds all of it
    undisturbed = begun(elsewhere(several, tmp_path / "undisturbed"))
    undisturbed.join(300)
    assert undisturbed.exitcode == 0
    assert outcome(report) == outcome(conduct(elsewhere(several, tmp_path / "undisturbed")))


@pytest.mark.parametrize("losses", [2, 3])
def test_lost_workers_are_started_again(monkeypatch: pytest.MonkeyPatch, losses: int) -> None:
    tried, report = [], object()

    def launch(run: object, epoch: int, attempt: int, *, tries: int) -> object:
        tried.append((epoch, attempt, tries))
        if len(tried) <= losses:
            raise WorkerLostError("worker 1 of 2 was lost in epoch 4: SIGKILL.")
        return report

    monkeypatch.setattr(trial_run, "launch_epoch", launch)
    run: Any = None
    if losses < 3:
        assert trial_run._trained_epoch(run, 4, 7) is report
    else:
        with pytest.raises(WorkerLostError):
            trial_run._trained_epoch(run, 4, 7)
    assert tried == [(4, 7, 1), (4, 7, 2), (4, 7, 3)]
