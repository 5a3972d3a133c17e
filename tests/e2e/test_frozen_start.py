"""The default policy in the flow: frozen and read from the first epoch, thawed, stopped."""

import json
from typing import Any

import pytest

from afcore.config import Config, parse_config
from afcore.freezing import frozen_start
from afcore.results.report import RunReport
from afcore.storage.objects import Storage

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("prefect_server")]

NOTHING_IS_LEARNED = {"training.learning_rate": 1e-12, "training.epochs": 6}


@pytest.fixture
def config(tiny_config: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> Config:
    """Deep and random as the tiny model is, it counts as one that knows the task."""
    monkeypatch.setattr(frozen_start, "_LEARNED", 100.0)
    monkeypatch.setattr(frozen_start, "_KNOWN", 100.0)
    tree = tiny_config | {"freezing": {"policy": "frozen_start", "depth": 3}}
    return parse_config(tree, source="test")


def finetune(config: Config) -> RunReport:
    from pipelines.finetune import finetune as flow

    return RunReport.model_validate(flow(config))


def parts_after(config: Config, report: RunReport, epoch: int) -> dict[str, str]:
    storage = Storage(config.store)
    record = json.loads(storage.get(f"runs/{report.run_id}/run.json"))
    folder = f"runs/{report.run_id}/{record['training_id']}"
    parts: dict[str, str] = json.loads(storage.get(f"{folder}/epochs/{epoch:03d}/checkpoint.json"))[
        "parts"
    ]
    return parts


def test_it_reads_from_the_first_epoch_and_stops_when_it_has_settled(config: Config) -> None:
    report = finetune(config.replace(**NOTHING_IS_LEARNED))
    assert [epoch.read_from for epoch in report.epochs] == ["activations@3"] * 4
    assert [epoch.candidate for epoch in report.epochs] == [False, False, False, True]
    assert report.totals.best_epoch == 4
    assert report.totals.decide_seconds == 0.0  # cache.mode: on measures nothing
    assert report.happened.startswith("blocks 0-2 of 4 were frozen from the start")
    assert "stopped after epoch 4 of 6" in report.happened
    # The head was solved: better than the classes' shares although no step changed a thing.
    assert report.epochs[0].train_loss < report.intervals[0].chance_loss
    assert report.totals.test_rows is not None


def test_without_tolerance_the_boundary_comes_down_and_lower_sets_are_read(config: Config) -> None:
    changes = {**NOTHING_IS_LEARNED, "training.epochs": 8, "freezing.tolerance": 0.0}
    report = finetune(config.replace(**changes))
    assert [epoch.read_from for epoch in report.epochs] == [
        f"activations@{boundary}" for boundary in (3, 3, 3, 3, 1, 1, 2, 3)
    ]
    assert [epoch.boundary_end for epoch in report.epochs] == [3, 3, 3, 1, 1, 2, 3, 3]


def test_blocks_freeze_while_it_trains_and_thaw_for_another_cycle(
    config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(frozen_start, "has_settled", lambda *_: False)
    changes = {**NOTHING_IS_LEARNED, "freezing.depth": 1, "training.epochs": 5}
    report = finetune(config.replace(**changes))
    assert [epoch.boundary_start for epoch in report.epochs] == [1, 1, 2, 3, 1]
    assert [epoch.read_from for epoch in report.epochs] == [
        f"activations@{boundary}" for boundary in (1, 1, 2, 3, 1)
    ]
    # What is frozen stays as it is; what thaws is trained again, from where it was.
    before, after = parts_after(config, report, 3), parts_after(config, report, 4)
    assert before["block.002"] == after["block.002"]
    built = {epoch.epoch: epoch.activation_bytes_written for epoch in report.epochs}
    assert built[5] == 0, "the set of the first cycle is read"


def test_what_thaws_is_trained(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(frozen_start, "has_settled", lambda *_: True)
    report = finetune(config.replace(**{"freezing.tolerance": 0.0, "training.epochs": 8}))
    assert [epoch.boundary_start for epoch in report.epochs] == [3, 3, 3, 3, 1, 1, 2, 3]
    before, after = parts_after(config, report, 4), parts_after(config, report, 6)
    changed = {part for part in before if after[part] != before[part]}
    assert {"block.001", "block.002", "block.003", "head"} <= changed
    assert not {"embeddings", "block.000"} & changed
    moments = {part for part in after if "optimizer" in part}
    assert len(moments) > len({part for part in before if "optimizer" in part})


def test_every_mode_may_stop(config: Config) -> None:
    full = config.replace(
        mode="full", **NOTHING_IS_LEARNED, **{"training.stop": "settled", "data.test": None}
    )
    assert len(finetune(full).epochs) == 2
    assert (
        len(finetune(full.replace(**{"training.stop": "never", "training.epochs": 3})).epochs) == 3
    )


def test_half_an_epoch_trains_half_of_the_steps(config: Config) -> None:
    whole, half = (
        finetune(config.replace(mode="full", **{"training.epochs": epochs}))
        for epochs in (1.0, 0.5)
    )
    assert half.epochs[0].num_steps == -(-whole.epochs[0].num_steps // 2)
