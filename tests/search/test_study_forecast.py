"""A study before it is begun: what sharing saves of it."""

from typing import Any

import pytest

from afcore.activations.sets import list_sets
from afcore.config import parse_config
from afcore.errors import ConfigError
from afcore.search import study_forecast
from afcore.search.study_forecast import forecast_study
from afcore.storage.objects import Storage


def test_a_set_is_paid_once(tiny_config: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(study_forecast, "_BUDGET_SECONDS", 0.5)
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

    with pytest.raises(ConfigError, match="over data, model or task cannot be predicted"):
        forecast_study(config.replace(**{"search.vary": {"data.max_length": [16, 32]}}))


def test_a_set_of_folds_is_paid_once_and_a_trial_is_not_tested(
    tiny_config: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(study_forecast, "_BUDGET_SECONDS", 0.5)
    tree = {**tiny_config, "freezing": {"policy": "static", "depth": 1}}
    tree["search"] = {"folds": 4}
    config = parse_config(tree, source="test")
    (row,) = forecast_study(config).longest
    assert row.epochs == 12
    assert 0 < row.set_bytes == row.set_bytes_alone / 4
    (pruned,) = forecast_study(config, {0: [2]}).longest  # behind the second epoch of fold 1
    assert (pruned.epochs, pruned.set_bytes) == (2, row.set_bytes)
