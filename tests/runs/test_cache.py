"""Which sets runs find, build, share, and do not write."""

import csv
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from afcore.activations.sets import list_sets, users_of
from afcore.config import Config, parse_config
from afcore.results.report import EpochReport
from afcore.runs.epoch import run_epoch
from afcore.runs.identify import identify_run
from afcore.runs.records import plan_of
from afcore.runs.run import Run, begin_run, run_lease
from afcore.storage.objects import Storage
from tests.conftest import write_csv


@pytest.fixture
def config(tiny_config: dict[str, Any]) -> Config:
    changes = {"freezing.policy": "static", "freezing.depth": 2, "training.epochs": 2}
    return parse_config(tiny_config, source="test").replace(**changes)


def train(config: Config) -> tuple[Run, list[EpochReport]]:
    """Every epoch, without a flow around them."""
    storage = Storage(config.store)
    record = identify_run(config, storage)
    with run_lease(storage, record.run_id) as lease:
        run = begin_run(storage, record)
        epochs = range(1, config.training.num_epochs + 1)
        return run, [run_epoch(run, epoch, lease.number) for epoch in epochs]


def losses(records: list[EpochReport]) -> list[float]:
    return [record.train_loss for record in records]


def test_runs_with_one_static_prefix_materialize_once(config: Config) -> None:
    first = train(config)[1]
    others = [
        train(config.replace(**changes))[1]
        for changes in (
            {"training.learning_rate": 5e-4},
            {"training.seed": 7},
            {"training.epochs": 3, "training.batch_size": 4, "cache.mode": "auto"},
        )
    ]
    assert first[0].activation_bytes_written > 0
    assert first[0].materialize_seconds > 0
    for records in (first[1:], *others):
        assert [record.activation_bytes_written for record in records] == [0] * len(records)
        assert [record.materialize_seconds for record in records] == [0] * len(records)
    for records in (first, *others):
        assert {record.read_from for record in records} == {"activations@2"}
    (found,) = list_sets(Storage(config.store))
    assert len(users_of(Storage(config.store), found.folder)) == 4


@pytest.mark.parametrize("changes", [{"data.max_length": 24}, {"cache.dtype": "fp32"}])
def test_what_changes_the_numbers_makes_another_set(
    config: Config, changes: dict[str, Any]
) -> None:
    train(config)
    assert train(config.replace(**changes))[1][0].activation_bytes_written > 0


def test_labels_do_not_matter(config: Config, tmp_path: Any) -> None:
    train(config)
    relabelled = tmp_path / "other.csv"
    with open(config.data.train, encoding="utf-8") as file:
        relabelled.write_text(file.read().replace(",random\n", ",argparse\n"), encoding="utf-8")
    other = train(config.replace(**{"data.train": str(relabelled), "data.test": None}))[1]
    assert other[0].activation_bytes_written == 0


def test_rows_that_come_cost_only_themselves(
    config: Config, tmp_path: Path, text_files: dict[str, Path], caplog: pytest.LogCaptureFixture
) -> None:
    with text_files["train"].open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    some = write_csv(tmp_path / "rows.csv", rows[:-3])
    config = config.replace(**{"data.train": str(some), "cache.dtype": "fp32"})
    before = train(config)[1]
    write_csv(some, [*rows[1:][::-1]])
    with caplog.at_level(logging.INFO, logger="afcore"):
        extended = train(config)[1]
    assert "the others are computed" in caplog.text
    written = extended[0].activation_bytes_written
    assert 0 < written < before[0].activation_bytes_written / 10
    # The next night, with room for what comes only.
    write_csv(some, [*rows[1:][::-1], {"text": "One more row.", "label": "random"}])
    there = sum(Storage(config.store).list("activations").values())
    more = train(config.replace(**{"cache.max_bytes": there + 3000}))[1]
    assert more[0].read_from == "activations@2"
    assert 0 < more[0].activation_bytes_written < 3000
    write_csv(some, [*rows[1:][::-1]])
    anew = train(config.replace(store=f"{config.store}-2"))[1]
    assert losses(extended) == pytest.approx(losses(anew), abs=1e-5)
    assert anew[0].activation_bytes_written > 10 * written


def test_any_lower_set_is_built_upon_and_changes_nothing(
    config: Config, caplog: pytest.LogCaptureFixture
) -> None:
    deeper = config.replace(**{"freezing.depth": 3})
    alone = train(deeper.replace(store=f"{config.store}-2"))[1]
    train(config.replace(**{"training.seed": 5}))
    with caplog.at_level(logging.INFO, logger="afcore"):
        built_upon = train(deeper)[1]
    assert "activations@3: writing" in caplog.text
    assert "from activations@2" in caplog.text
    assert losses(built_upon) == losses(alone)
    one, other = (
        next(s for s in list_sets(Storage(store)) if s.manifest.boundary == 3)
        for store in (config.store, f"{config.store}-2")
    )
    assert one.manifest.key == other.manifest.key
    assert np.array_equal(one.read_shard(0), other.read_shard(0))


def test_int8_builds_upon_its_own_lineage_only(
    config: Config, caplog: pytest.LogCaptureFixture
) -> None:
    config = config.replace(**{"cache.dtype": "int8"})
    train(config)
    with caplog.at_level(logging.INFO, logger="afcore"):
        train(config.replace(**{"freezing.depth": 3}))
    assert "from tokens" in caplog.text
    caplog.clear()
    growing = {"freezing.policy": "linear", "freezing.depth": 3, "training.epochs": 4}
    with caplog.at_level(logging.INFO, logger="afcore"):
        train(config.replace(**growing))
    lineages = {tuple(s.manifest.lineage) for s in list_sets(Storage(config.store))}
    assert (2,) in lineages
    assert any(len(lineage) > 1 for lineage in lineages)
    assert "MB in 1 shards, from activations@" in caplog.text


def test_the_size_is_said_before_it_is_written(
    config: Config, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, logger="afcore"):
        train(config)
    (found,) = list_sets(Storage(config.store))
    said = f"activations@2: writing {found.manifest.num_bytes / 1e6:.1f} MB"
    assert said in caplog.text


@pytest.mark.parametrize("dtype", ["bf16", "int8"])
def test_over_the_limit_nothing_is_written_and_the_run_goes_on(
    config: Config, caplog: pytest.LogCaptureFixture, dtype: str
) -> None:
    config = config.replace(**{"cache.dtype": dtype})
    reading = train(config)[1]
    (found,) = list_sets(Storage(config.store))
    size = sum(Storage(config.store).list(found.folder).values())
    enough = config.replace(**{"cache.max_bytes": size, "store": f"{config.store}-enough"})
    assert train(enough)[1][0].activation_bytes_written == found.manifest.num_bytes
    limited = config.replace(
        **{"cache.max_bytes": found.manifest.num_bytes - 1, "store": f"{config.store}-limited"}
    )
    caplog.clear()
    with caplog.at_level(logging.INFO, logger="afcore"):
        run, recomputing = train(limited)
    assert list_sets(Storage(limited.store)) == []
    assert {record.read_from for record in recomputing} == {"tokens"}
    np.testing.assert_allclose(losses(recomputing), losses(reading), atol=1e-5)
    plan = plan_of(run, 1)
    assert plan is not None
    (note,) = plan.notes
    assert "activations@2 not written" in note
    assert "cache.max_bytes" in note
    assert note in caplog.text


def test_other_sets_count_and_those_that_are_there_are_used(config: Config) -> None:
    train(config)
    storage = Storage(config.store)
    taken = sum(storage.list("activations").values())
    limited = config.replace(**{"cache.max_bytes": taken + 100})
    assert train(limited)[1][0].read_from == "activations@2"
    (found,) = list_sets(storage)
    reader = next(iter(users_of(storage, found.folder))).removeprefix("runs/")
    with run_lease(storage, reader):
        assert train(limited.replace(**{"freezing.depth": 3}))[1][0].read_from == "tokens"
    private = {"freezing.depth": 3, "cache.share": False, "cache.max_bytes": taken + 1000}
    assert train(config.replace(**private))[1][0].read_from == "activations@3"


def test_for_a_new_set_the_least_recently_used_goes(config: Config) -> None:
    unlimited = config.replace(**{"training.epochs": 1, "store": f"{config.store}-unlimited"})
    config = config.replace(**{"training.epochs": 1})
    train(config)
    storage = Storage(config.store)
    limit = int(1.5 * sum(storage.list("activations").values()))
    for number, depth in enumerate((3, 2)):
        changes = {"freezing.depth": depth, "training.learning_rate": 1e-4 * (2 + number)}
        record = train(config.replace(**changes, **{"cache.max_bytes": limit}))[1][0]
        assert record.read_from == f"activations@{depth}"
        assert record.activation_bytes_written > 0  # the second one anew: it had gone
        assert [found.manifest.boundary for found in list_sets(storage)] == [depth]
        assert sum(storage.list("activations").values()) <= limit
    alone = train(unlimited.replace(**changes))[1]
    assert losses([record]) == losses(alone)
