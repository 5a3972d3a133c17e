"""A training in another process that SIGKILL ends at a chosen instant; what must not depend on it.

The process is forked from one that has imported everything, so that a kill costs no start.
"""

import multiprocessing
import os
import signal
from pathlib import Path
from typing import Any

import torch

from afcore.config import Config
from afcore.runs.publish import published_model
from afcore.runs.records import CheckpointRecord, record_of
from afcore.runs.run import Run
from afcore.runs.whole_run import Onlooker, complete_run
from afcore.storage.objects import Storage

__all__ = ["check_killed_is_undisturbed"]

_SERVER = multiprocessing.get_context("forkserver")
_SERVER.set_forkserver_preload([__name__])
_SECONDS = 120


def check_killed_is_undisturbed(config: Config, folder: Path) -> None:
    """Killed in the second epoch, and behind its commit, a run of two ends as one that was not.

    Args:
        config: of two epochs; its store is not used.
        folder: for two stores.
    """
    whole = config.replace(store=str(folder / "whole"))
    expected = _outcome(*complete_run(whole))
    assert len(expected["losses"]) == 2
    killed = config.replace(store=str(folder / "killed"))
    in_second = len(expected["losses"][0]) + 3
    _train_until_killed(killed, at_step=in_second)
    assert list(folder.glob("killed/runs/*/*/epochs/002/started.json"))
    assert not list(folder.glob("killed/runs/*/*/epochs/002/checkpoint.json"))
    _train_until_killed(killed, behind="002/checkpoint.json")
    assert list(folder.glob("killed/runs/*/*/epochs/002/checkpoint.json"))
    assert not list(folder.glob("killed/runs/*/*/result.json"))
    run, report = complete_run(killed)
    assert report.epochs[-1].resumed
    found = _outcome(run, report)
    for name, tensor in expected.pop("weights").items():
        assert torch.equal(tensor, found["weights"].pop(name)), name
    assert not found.pop("weights")
    assert found == expected


def _outcome(run: Run, report: Any) -> dict[str, Any]:
    records = [record_of(run, epoch.epoch, CheckpointRecord) for epoch in report.epochs]
    return {
        "run_id": report.run_id,
        "losses": [[step.loss for step in one.trained.steps] for one in records if one],
        "weights": published_model(run, report.totals.best_epoch).model.state_dict(),
        "read_from": [epoch.read_from for epoch in report.epochs],
        "validation": [epoch.validation for epoch in report.epochs],
        "test": report.totals.test,
    }


def _train_until_killed(config: Config, at_step: int = 0, behind: str = "") -> None:
    process = _SERVER.Process(target=_train, args=(config.model_dump_json(), at_step, behind))
    process.start()
    process.join(_SECONDS)
    assert process.exitcode == -signal.SIGKILL


def _train(config: str, at_step: int, behind: str) -> None:
    torch.set_num_threads(1)
    if behind:
        _kill_behind(behind)
    complete_run(Config.model_validate_json(config), onlooker=_KilledAt(at_step))


class _KilledAt(Onlooker):
    """Kills its process at a step, counted from 1 in this process; 0: never."""

    def __init__(self, step: int) -> None:
        self._left = step

    def stepped(self) -> None:
        """One step nearer."""
        self._left -= 1
        if self._left == 0:
            os.kill(os.getpid(), signal.SIGKILL)


def _kill_behind(ending: str) -> None:
    """When an object has been written whose key ends so."""
    put = Storage.put

    def put_and_die(storage: Storage, key: str, *args: Any, **options: Any) -> Any:
        done = put(storage, key, *args, **options)
        if key.endswith(ending):
            os.kill(os.getpid(), signal.SIGKILL)
        return done

    Storage.put = put_and_die  # type: ignore[method-assign]
