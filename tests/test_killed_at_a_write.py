"""Killed at a write to its store, drawn from a seed, a run goes on as if it had not been."""

import multiprocessing
import os
import random
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from afcore.config import Config, parse_config
from afcore.runs.whole_run import complete_run
from afcore.storage.objects import Storage
from tests.undisturbed import outcome

_SERVER = multiprocessing.get_context("forkserver")
_SERVER.set_forkserver_preload([__name__])


@pytest.fixture
def config(tiny_config: dict[str, Any]) -> Config:
    tiny_config["training"] |= {"epochs": 2}
    tiny_config["freezing"] = {"policy": "static", "depth": 2}
    return parse_config(tiny_config, source="test")


def _train(config: str, kill_at: int) -> None:
    """Killed before a change of the store, counted from 1."""
    torch.set_num_threads(1)
    _count_changes(pytest.MonkeyPatch(), kill_at)
    complete_run(Config.model_validate_json(config))


def _count_changes(patched: pytest.MonkeyPatch, kill_at: int = 0) -> list[str]:
    seen: list[str] = []

    def counting(change: Callable[..., Any]) -> Callable[..., Any]:
        def counted(storage: Storage, key: str, *args: Any, **options: Any) -> Any:
            if "/lease/" not in key:  # hearts beat when they will
                seen.append(key)
            if len(seen) == kill_at:
                os.kill(os.getpid(), signal.SIGKILL)
            return change(storage, key, *args, **options)

        return counted

    for name in ("put", "put_new", "delete"):
        patched.setattr(Storage, name, counting(getattr(Storage, name)))
    return seen


@pytest.mark.parametrize(
    "seed",
    [pytest.param(seed, marks=[] if seed < 2 else [pytest.mark.faults]) for seed in range(30)],
)
def test_killed_at_a_write_and_gone_on_is_undisturbed(
    seed: int,
    config: Config,
    undisturbed: dict[str, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if not undisturbed:
        with monkeypatch.context() as patched:
            seen = _count_changes(patched)
            whole = config.replace(store=str(tmp_path / "whole"))
            undisturbed["outcome"] = outcome(*complete_run(whole))
        undisturbed["num_changes"] = len(seen)
    killed = config.replace(store=str(tmp_path / "killed"))
    kill_at = random.Random(seed).randint(1, undisturbed["num_changes"])
    process = _SERVER.Process(target=_train, args=(killed.model_dump_json(), kill_at))
    process.start()
    process.join(300)
    assert process.exitcode == -signal.SIGKILL
    assert not list(tmp_path.glob("killed/runs/*/*/result.json"))
    assert outcome(*complete_run(killed)) == undisturbed["outcome"]
