"""A study before it is begun: what sharing saves of it."""

from pathlib import Path
from typing import Any

import pytest

from afcore.activations.sets import list_sets
from afcore.config import parse_config
from afcore.errors import ConfigError
from afcore.search import study_forecast
from afcore.search.study_forecast import forecast_study
from afcore.storage.objects import Storage
from tests.conftest import stdlib_rows, write_csv


@pytest.fixture(autouse=True)
def _short_measurement(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(study_forecast, "_BUDGET_SECONDS", 0.5)


def test_a_set_is_paid_once(tiny_config: dict[str, Any]) -> None:
    vary = {"training.learning_rate": [1e-3, 2e-3], "freezing.depth": [1, 2]}
    tree = {**tiny_config, "freezing": {"policy": "static"}}
    tree["search"] = {"vary": vary, "sampler": "grid"}
    config = parse_config(tree, source="test")
    found = forecast_study(config, {3: [1]})
    assert not found.are_stand_ins
    assert found.shortest == found.longest  # nothing may stop
    rows = found.longest
    assert [row.values["freezing.depth"] for row in rows] == [1, 1, 2, 2]
    assert [row.epochs for row in rows] == [3, 3, 3, 1]
    one = rows[0].set_bytes
    assert [row.set_bytes for row in rows] == [one, 0, one, 0]
    assert [row.set_bytes_alone for row in rows] == [one] * 4
    assert all(row.seconds < row.seconds_alone for row in rows)
    assert list_sets(Storage(config.store)) == []  # nothing was built
    (winner,) = found.winners
    assert (winner.epochs, winner.set_bytes) == (0, 0)  # its run is there, and is tested
    assert 0 < winner.seconds < rows[0].seconds_alone

    with pytest.raises(ConfigError, match="over data, model or task cannot be predicted"):
        forecast_study(config.replace(**{"search.vary": {"data.max_length": [16, 32]}}))
    other = {"adapter.rank": [2, 4], "training.precision": ["fp32"], "training.seed": [0]}
    with pytest.raises(ConfigError, match=r"got adapter.rank, training.precision. Plan one for"):
        forecast_study(config.replace(**{"search.vary": other, "freezing.depth": 1}))


def test_a_set_of_folds_is_paid_once_and_a_trial_is_not_tested(
    tiny_config: dict[str, Any],
) -> None:
    tree = {**tiny_config, "freezing": {"policy": "static", "depth": 1}}
    tree["search"] = {"folds": 4}
    config = parse_config(tree, source="test")
    found = forecast_study(config)
    (row,), (winner,) = found.longest, found.winners
    assert row.epochs == 12
    assert 0 < row.set_bytes == row.set_bytes_alone / 4
    # On all rows, from the set that is there, and tested.
    assert (winner.epochs, winner.set_bytes) == (3, 0)
    assert 0 < winner.set_bytes_alone <= row.set_bytes
    assert 0 < winner.seconds < row.seconds_alone
    (pruned,) = forecast_study(config, {0: [2]}).longest  # behind the second epoch of fold 1
    assert (pruned.epochs, pruned.set_bytes) == (2, row.set_bytes)


@pytest.mark.parametrize(
    ("settings", "lengths", "epochs"),
    [
        ({"training.schedule": "wsd", "training.decay_ratio": 0.5}, [2, 4], [2, 3]),
        ({"training.schedule": "wsd", "training.decay_ratio": 0.2}, [5, 10], [5, 6]),
        ({"training.schedule": "linear"}, [2, 4], [2, 4]),
        # Of a part of an epoch nothing is shared.
        ({"training.schedule": "constant"}, [1.5, 2], [2, 1]),
    ],
)
def test_epochs_in_common_are_paid_once(
    tiny_config: dict[str, Any], settings: dict[str, Any], lengths: list[float], epochs: list[int]
) -> None:
    tree = {**tiny_config, "freezing": {"policy": "static", "depth": 1}}
    tree["search"] = {"vary": {"training.epochs": lengths}, "sampler": "grid"}
    found = forecast_study(parse_config(tree, source="test").replace(**settings))
    assert [row.values["training.epochs"] for row in found.longest] == lengths
    assert [row.epochs for row in found.longest] == epochs
    assert [row.epochs_alone for row in found.longest] == [-int(-one // 1) for one in lengths]
    one, other = found.longest
    assert (other.set_bytes, other.set_bytes_alone) == (0, one.set_bytes)


def test_a_set_above_blocks_that_were_trained_is_no_other_trials(
    tiny_config: dict[str, Any],
) -> None:
    """The boundary rises from 1 to 3; a trial that begins at 3 has a set of its own."""
    tree = {**tiny_config, "freezing": {"policy": "frozen_start"}}
    tree["training"] = {**tree["training"], "epochs": 4}
    tree["search"] = {"vary": {"freezing.depth": [1, 3]}, "sampler": "grid"}
    shallow, deep = forecast_study(parse_config(tree, source="test")).longest
    assert deep.set_bytes == deep.set_bytes_alone > 0
    assert shallow.set_bytes == 3 * deep.set_bytes


def test_what_a_process_has_looked_at_takes_a_moment(
    tiny_config: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(study_forecast, "_look_seconds", lambda *_: (1e6, 1e3))
    tree = {**tiny_config, "freezing": {"policy": "static", "depth": 1}}
    vary = {"training.learning_rate": [1e-3, 2e-3]}
    tree["search"] = {"vary": vary, "seeds": 3, "sampler": "grid"}
    first, second = forecast_study(parse_config(tree, source="test")).longest
    # The study itself has looked at the first of three seeds.
    assert [round(one.seconds / 1e3) for one in (first, second)] == [2001, 3]
    assert [round(one.seconds_alone / 1e6) for one in (first, second)] == [3, 3]


def test_label_columns_are_added_up_and_read_one_set(
    tiny_config: dict[str, Any], tmp_path: Path
) -> None:
    rows = [
        {"text": row["text"], "module": row["label"], "long": str(len(row["text"]) > 60)}
        for row in stdlib_rows()
    ]
    tree = {**tiny_config, "freezing": {"policy": "static", "depth": 1}}
    tree["data"] = {"train": str(write_csv(tmp_path / "a.csv", rows)), "max_length": 32}
    vary = {"training.learning_rate": [1e-3, 2e-3]}
    tree["search"] = {"vary": vary, "labels": ["module", "long"], "sampler": "grid"}
    found = forecast_study(parse_config(tree, source="test"), {2: [1]})
    assert [row.epochs for row in found.longest] == [3, 3, 1, 3]
    one = found.longest[0].set_bytes
    assert one > 0
    assert [row.set_bytes for row in found.longest] == [one, 0, 0, 0]
    assert len(found.winners) == 2
