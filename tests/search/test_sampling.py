"""Optuna's samplers and pruners through our own study, on an objective that takes no time."""

import contextlib
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.storages import RDBStorage

from afcore.config import Config, parse_config
from afcore.search.sampling import asks_beforehand, make_pruner
from afcore.search.search_report import TrialRow
from afcore.search.space import check_space, search_of
from afcore.search.study import SharedStudy
from afcore.storage.objects import Storage
from tests.search.study_writes import SPOTS

NUM_EPOCHS = 4
NUM_TRIALS = 10
VARY = {
    "training.learning_rate": {"low": 1e-5, "high": 1e-1, "log": True},
    "training.batch_size": [8, 16],
    "training.warmup_ratio": {"low": 0.0, "high": 0.5},
}


WRITES = SPOTS | {RDBStorage: (*SPOTS[RDBStorage], "set_study_user_attr")}
"""What changes a store or a study."""


class KilledError(Exception):
    """As a SIGKILL would end the process."""


@contextlib.contextmanager
def killed_before(count: int) -> Iterator[None]:
    """Of all changes the first ones alone happen."""
    left = [count]

    def dying(method: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            left[0] -= 1
            if left[0] <= 0:
                raise KilledError
            return method(*args, **kwargs)

        return call

    with pytest.MonkeyPatch.context() as patch:
        for owner, names in WRITES.items():
            for name in names:
                patch.setattr(owner, name, dying(getattr(owner, name)))
        yield


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


@pytest.mark.parametrize("sampler", ["tpe", "gp"])
def test_what_was_drawn_together_before_a_kill_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sampler: str
) -> None:
    for name in ("undisturbed", "killed"):
        study = opened(tmp_path / name, sampler=sampler)
        assert None not in [one_trial(study, 11, 1) for _ in range(10)]
    undisturbed = one_trial(opened(tmp_path / "undisturbed", sampler=sampler), 11, 1)
    assert undisturbed is not None

    def dies(*_: Any) -> None:
        raise KilledError

    with monkeypatch.context() as patch:
        patch.setattr(RDBStorage, "_set_trial_param", dies)
        with pytest.raises(KilledError):
            one_trial(opened(tmp_path / "killed", sampler=sampler), 11, 1)
    again = opened(tmp_path / "killed", sampler=sampler)
    assert f"{sampler}:relative_params:0" in again.study.get_trials()[10].system_attrs
    assert one_trial(again, 11, 1) == undisturbed


@pytest.mark.parametrize("pruner", ["successive_halving", "hyperband"])
@pytest.mark.parametrize("recorded", [True, False])
def test_a_trial_that_was_pruned_before_a_kill_is_pruned_after_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pruner: str, recorded: bool
) -> None:
    study, step, values = opened(tmp_path, pruner=pruner), 2, (0.1, 9.0)
    note = optuna.Trial.set_user_attr

    def dies(self: optuna.Trial, key: str, value: Any) -> None:
        if key == "autofreeze.verdict" and value["pruned"]:
            raise KilledError
        note(self, key, value)

    if not recorded:
        monkeypatch.setattr(optuna.Trial, "set_user_attr", dies)
    pruned = False
    while not pruned:
        with study.next_trial(12) as handle:
            assert handle is not None
            value = values[handle.number % 2]
            try:
                pruned = handle.is_pruned(step, value)
            except KilledError:
                pruned = True
            if not pruned:
                study.end(
                    handle, handle.row.model_copy(update={"state": "finished", "score": value})
                )
    monkeypatch.undo()
    again = opened(tmp_path, pruner=pruner)
    with again.next_trial(12) as left:
        assert left is not None
        assert left.number == handle.number
        assert not left.is_pruned(step - 1, value)  # after which it went on
        assert left.is_pruned(step, value)


@pytest.mark.parametrize("pruner", ["median", "successive_halving", "hyperband"])
def test_killed_before_any_change_a_study_prunes_as_an_undisturbed_one(
    tmp_path: Path, pruner: str
) -> None:
    count, draw, deaths = NUM_TRIALS, random.Random(1), 0
    study = opened(tmp_path / "undisturbed", sampler="random", pruner=pruner)
    assert None not in [one_trial(study, count) for _ in range(count)]
    undisturbed = study.study.get_trials()
    assert optuna.trial.TrialState.PRUNED in {trial.state for trial in undisturbed}
    done = False
    while not done:
        with contextlib.suppress(KilledError), killed_before(draw.randrange(1, 30)):
            left = opened(tmp_path / "killed", sampler="random", pruner=pruner)
            while one_trial(left, count) is not None:
                pass
            done = True
        deaths += not done
    assert deaths > 5
    for found, expected in zip(left.study.get_trials(), undisturbed, strict=True):
        assert (found.state, found.params, found.values) == (
            expected.state,
            expected.params,
            expected.values,
        )
        assert found.intermediate_values == expected.intermediate_values
        assert found.system_attrs == expected.system_attrs  # by which pruners know how far it came
    assert left.rows() == study.rows()
