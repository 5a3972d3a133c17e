"""Optuna's samplers and pruners through our own study, on an objective that takes no time."""

from pathlib import Path
from typing import Any

import pytest

from afcore.config import Config, parse_config
from afcore.search.sampling import asks_beforehand, make_pruner
from afcore.search.search_report import TrialRow
from afcore.search.space import check_space, search_of
from afcore.search.study import SharedStudy
from afcore.storage.objects import Storage

NUM_EPOCHS = 4
NUM_TRIALS = 10
VARY = {
    "training.learning_rate": {"low": 1e-5, "high": 1e-1, "log": True},
    "training.batch_size": [8, 16],
    "training.warmup_ratio": {"low": 0.0, "high": 0.5},
}


def opened(folder: Path, **search: Any) -> SharedStudy:
    config = configured(folder, **search)
    wanted = search_of(config)
    return SharedStudy(
        wanted,
        "test",
        Storage(config.store),
        check_space(config),
        higher_is_better=False,
        pruner=make_pruner(wanted, NUM_EPOCHS),
    )


def configured(folder: Path, **search: Any) -> Config:
    tree = {"model": {"name": "-"}, "data": {"train": "-"}, "store": str(folder / "store")}
    section = {"vary": VARY, "storage": f"sqlite:///{folder}/optuna.db", **search}
    return parse_config({**tree, "search": section}, source="test")


def loss(values: dict[str, Any], epoch: int) -> float:
    """Falls with the epochs, to what the rate is away from 1e-3."""
    away: float = abs(values["training.learning_rate"] - 1e-3) * 1e3
    return away + 1 / epoch


def one_trial(study: SharedStudy, count: int, num_epochs: int = NUM_EPOCHS) -> TrialRow | None:
    if asks_beforehand(study._search):
        study.list_proposals(count, lambda _: (b"", 0, b"", 0.0))
    with study.next_trial(count) as handle:
        if handle is None:
            return None
        epoch = 0
        while epoch < num_epochs:
            epoch += 1
            value = loss(handle.values, epoch)
            if epoch < num_epochs and handle.is_pruned(epoch, value):
                row = handle.row.model_copy(update={"state": "pruned", "score": value})
                study.end(handle, row)
                return row
        row = handle.row.model_copy(update={"state": "finished", "score": value})
        study.end(handle, row)
        return row


@pytest.mark.parametrize("sampler", ["tpe", "gp", "random", "qmc", "grid"])
def test_a_study_that_was_killed_proposes_what_another_one_does(
    tmp_path: Path, sampler: str
) -> None:
    given: dict[str, Any] = {"sampler": sampler}
    if sampler == "grid":
        vary = {"training.learning_rate": [1e-4, 1e-3, 1e-2, 1e-1], "training.batch_size": [8, 16]}
        given["vary"] = vary
    # TPE and GP look at scores from the eleventh on.
    count, last = (12, 10) if sampler in ("tpe", "gp") else (4, 1)
    study = opened(tmp_path / "undisturbed", **given)
    undisturbed = [one_trial(study, count, 1) for _ in range(count)]
    begun = opened(tmp_path / "killed", **given)
    killed = [one_trial(begun, count, 1) for _ in range(last)]
    killed += [one_trial(opened(tmp_path / "killed", **given), count, 1) for _ in range(2)]
    assert None not in undisturbed
    assert killed == undisturbed[: last + 2]
    assert one_trial(study, count) is None
    assert len({str(row.values) for row in undisturbed if row}) > count // 2


@pytest.mark.parametrize("pruner", ["none", "median", "successive_halving", "hyperband"])
def test_a_pruner_ends_what_is_hopeless_and_not_the_best(tmp_path: Path, pruner: str) -> None:
    study = opened(tmp_path, sampler="random", pruner=pruner)
    rows = [one_trial(study, NUM_TRIALS) for _ in range(NUM_TRIALS)]
    found = [row for row in rows if row is not None]
    assert len(found) == NUM_TRIALS
    best = min(found, key=lambda row: loss(row.values, NUM_EPOCHS))
    assert best.state == "finished"
    pruned = [row for row in found if row.state == "pruned"]
    assert bool(pruned) == (pruner != "none")
    assert [row.number for row in study.rows() if row.state == "pruned"] == [
        row.number for row in pruned
    ]
