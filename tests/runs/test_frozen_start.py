"""Whole runs of the default policy: frozen and read from the first epoch, thawed, stopped."""

from typing import Any

import pytest

from afcore.config import Config, parse_config
from afcore.freezing import frozen_start
from afcore.runs.records import CheckpointRecord, record_of
from afcore.runs.run import Run
from afcore.runs.whole_run import complete_run

NOTHING_IS_LEARNED = {"training.learning_rate": 1e-12, "training.epochs": 6}


def count_as_known(patched: pytest.MonkeyPatch) -> None:
    """Deep and random as the tiny model is, it counts as one that knows the task."""
    patched.setattr(frozen_start, "_LEARNED", 100.0)
    patched.setattr(frozen_start, "_KNOWN", 100.0)


@pytest.fixture
def config(tiny_config: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> Config:
    count_as_known(monkeypatch)
    tree = tiny_config | {"freezing": {"policy": "frozen_start", "depth": 3}}
    return parse_config(tree, source="test")


def parts_after(run: Run, epoch: int) -> dict[str, str]:
    record = record_of(run, epoch, CheckpointRecord)
    assert record is not None
    return record.parts


def test_without_tolerance_the_boundary_comes_down_and_lower_sets_are_read(config: Config) -> None:
    changes = {**NOTHING_IS_LEARNED, "training.epochs": 8, "freezing.tolerance": 0.0}
    _, report = complete_run(config.replace(**changes))
    assert [epoch.read_from for epoch in report.epochs] == [
        f"activations@{boundary}" for boundary in (3, 3, 3, 3, 1, 1, 2, 3)
    ]
    assert [epoch.boundary_end for epoch in report.epochs] == [3, 3, 3, 1, 1, 2, 3, 3]


def test_blocks_freeze_while_it_trains_and_thaw_for_another_cycle(
    config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(frozen_start, "has_settled", lambda *_: False)
    changes = {**NOTHING_IS_LEARNED, "freezing.depth": 1, "training.epochs": 5}
    run, report = complete_run(config.replace(**changes))
    assert [epoch.boundary_start for epoch in report.epochs] == [1, 1, 2, 3, 1]
    assert [epoch.read_from for epoch in report.epochs] == [
        f"activations@{boundary}" for boundary in (1, 1, 2, 3, 1)
    ]
    # What is frozen stays as it is; what thaws is trained again, from where it was.
    before, after = parts_after(run, 3), parts_after(run, 4)
    assert before["block.002"] == after["block.002"]
    built = {epoch.epoch: epoch.activation_bytes_written for epoch in report.epochs}
    assert built[5] == 0, "the set of the first cycle is read"


def test_what_thaws_is_trained(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(frozen_start, "has_settled", lambda *_: True)
    run, report = complete_run(config.replace(**{"freezing.tolerance": 0.0, "training.epochs": 8}))
    assert [epoch.boundary_start for epoch in report.epochs] == [3, 3, 3, 3, 1, 1, 2, 3]
    before, after = parts_after(run, 4), parts_after(run, 6)
    changed = {part for part in before if after[part] != before[part]}
    assert {"block.001", "block.002", "block.003", "head"} <= changed
    assert not {"embeddings", "block.000"} & changed
    moments = {part for part in after if "optimizer" in part}
    assert len(moments) > len({part for part in before if "optimizer" in part})


def test_every_mode_may_stop(config: Config) -> None:
    full = config.replace(
        mode="full", **NOTHING_IS_LEARNED, **{"training.stop": "settled", "data.test": None}
    )
    never = full.replace(**{"training.stop": "never", "training.epochs": 3})
    assert [len(complete_run(one)[1].epochs) for one in (full, never)] == [2, 3]


def test_half_an_epoch_trains_half_of_the_steps(config: Config) -> None:
    (_, whole), (_, half) = (
        complete_run(config.replace(mode="full", **{"training.epochs": epochs}))
        for epochs in (1.0, 0.5)
    )
    assert half.epochs[0].num_steps == -(-whole.epochs[0].num_steps // 2)
