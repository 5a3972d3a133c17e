"""An epoch that is killed goes on from the last checkpoint that was written while it trained."""

from pathlib import Path
from typing import Any

import pytest

from afcore.config import Config, parse_config
from afcore.runs import checkpoints_within
from afcore.runs.epoch import run_epoch
from afcore.runs.identify import identify_run
from afcore.runs.records import CheckpointRecord, PartialRecord, record_of
from afcore.runs.run import Run, begin_run, run_lease
from afcore.storage.objects import Storage
from afcore.training import loop
from tests.test_stopping import outcome, train


class KilledError(BaseException):
    """In the place of SIGKILL."""


@pytest.fixture
def config(tiny_config: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> Config:
    """Checkpoints are due at every decision."""
    monkeypatch.setattr(checkpoints_within, "LEAST_SECONDS", 0.0)
    monkeypatch.setattr(checkpoints_within, "MOST_SHARE", float("inf"))
    tiny_config["training"] |= {"epochs": 2}
    return parse_config(tiny_config, source="test")


def killed_after(config: Config, epoch: int, step: int, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Train until that step of that epoch, after what is being written was committed."""
    storage = Storage(config.store)
    record = identify_run(config, storage)
    norms, steps = loop.norms_of_gradients, 0
    with monkeypatch.context() as patched, run_lease(storage, record.run_id) as lease:
        run = begin_run(storage, record)
        for number in range(1, epoch):
            run_epoch(run, number, lease.number)

        def killing(parameters: Any) -> Any:
            nonlocal steps
            steps += 1
            if steps > step:
                raise KilledError
            return norms(parameters)

        patched.setattr(loop, "norms_of_gradients", killing)
        with pytest.raises(KilledError):
            run_epoch(run, epoch, lease.number)
    return run


@pytest.mark.parametrize(
    "changes",
    [
        {"freezing": {"policy": "gradient_norm", "intervals_per_epoch": 3}},
        {"freezing": {"policy": "frozen_start", "depth": 2, "intervals_per_epoch": 3}},
        {"mode": "full", "freezing": {"intervals_per_epoch": 3}},
    ],
)
def test_it_ends_with_the_same_numbers_and_repeats_one_interval(
    config: Config, tmp_path: Path, changes: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    config = parse_config(config.model_dump() | changes, source="test")
    monkeypatch.setattr(checkpoints_within, "LEAST_SECONDS", 1e9)
    whole, _ = train(config, tmp_path / "whole", [])
    monkeypatch.setattr(checkpoints_within, "LEAST_SECONDS", 0.0)
    num_steps = len(outcome(whole)[1][1])
    ends = loop.interval_ends(num_steps, 3)
    config = config.replace(store=str(tmp_path / "killed"))
    run = killed_after(config, 2, num_steps - 1, monkeypatch)
    partial = record_of(run, 2, PartialRecord)
    assert partial is not None
    assert len(partial.trained.steps) == ends[-2], "at the last decision before the epoch's end"
    before = record_of(run, 1, CheckpointRecord)
    assert before is not None
    named = {*partial.parts.values(), *before.parts.values()}
    assert named == {Path(key).stem for key in run.storage.list(run.parts_folder)}
    again, _ = train(config, tmp_path / "killed", [])
    assert outcome(again)[:4] == outcome(whole)[:4]
    assert not run.storage.exists(run.epoch_key(2, "partial"))


def test_one_is_due_when_the_last_took_a_small_part_of_the_time_since(
    config: Config, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(checkpoints_within, "MOST_SHARE", 0.03)
    caplog.set_level("INFO")
    run = killed_after(config, 1, 8, monkeypatch)
    assert record_of(run, 1, PartialRecord) is None, "the first is taken to take a second"
    (told,) = [line for line in caplog.messages if "killed, it repeats" in line]
    assert "one is written at a decision (every " in told
    assert "at most 3 % of the time since" in told
