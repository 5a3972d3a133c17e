"""What is recorded of the last retraining, and what counts as a change."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from afcore.config import Config, parse_config
from afcore.retraining.looking import look, note_move, note_retraining, recorded_move
from afcore.retraining.row_summary import RowSummary
from afcore.storage.objects import Storage

SUMMARY = RowSummary(num_rows=1)


@pytest.fixture
def config(tiny_config: dict[str, Any]) -> Config:
    return parse_config(tiny_config, source="test")


def done(config: Config) -> None:
    """A retraining on these rows has gone to its end."""
    storage = Storage(config.store)
    note_retraining(storage, look(config, storage), "r", "1", SUMMARY)


@pytest.mark.parametrize("damage", ["half a digest", "half of the rows", "other rows", "gone"])
def test_rows_that_were_damaged_count_as_added(
    damage: str, config: Config, caplog: pytest.LogCaptureFixture
) -> None:
    done(config)
    storage = Storage(config.store)
    whole = look(config, storage)
    assert whole.unchanged
    assert (len(whole.added), whole.num_gone) == (0, 0)
    (path,) = Path(config.store).glob("retrain/*/rows-*")
    content = path.read_bytes()
    path.write_bytes(
        {
            "half a digest": content[:-8],
            "half of the rows": content[: len(content) // 32 * 16],
            "other rows": bytes(len(content)),
            "gone": b"",
        }[damage]
    )
    if damage == "gone":
        path.unlink()
    found = look(config, storage)
    assert found.unchanged
    assert (len(found.added), found.num_gone) == (len(whole.splits["train"]), 0)
    assert np.array_equal(found.digests["train"], whole.digests["train"])
    assert "all rows count as added" in caplog.text


def test_a_move_of_the_alias_is_of_one_retraining(config: Config) -> None:
    storage = Storage(config.store)
    tonight = look(config, storage)
    assert recorded_move(storage, tonight) is None
    note_move(storage, tonight, "2", "1")
    moved = recorded_move(storage, look(config, storage))
    assert moved is not None
    assert (moved.version, moved.before) == ("2", "1")
    other = config.replace(**{"training.seed": 9})
    assert recorded_move(storage, look(other, storage)) is None
    done(config)
    assert recorded_move(storage, look(config, storage)) is None


@pytest.mark.parametrize(
    ("changes", "unchanged"),
    [
        ({"retrain.start": "champion"}, False),
        ({"training.learning_rate": 1e-4}, False),
        ({"retrain.margin": 0.5}, True),
        ({"tracking.experiment": "other", "retrain.model": "test"}, True),
    ],
)
def test_what_decides_the_model_counts_as_a_change(
    changes: dict[str, Any], unchanged: bool, config: Config
) -> None:
    assert config.registered_model == "test"
    done(config)
    assert look(config.replace(**changes), Storage(config.store)).unchanged is unchanged
