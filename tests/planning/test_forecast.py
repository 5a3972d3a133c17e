"""Whole trainings, predicted from the figures of tests.planning.test_source.py."""

from dataclasses import replace

import pytest

from afcore.cost import Prices
from afcore.planning.forecast import (
    RunForecast,
    RunWork,
    forecast_boundaries,
    forecast_run,
)
from tests.planning.test_source import READING, WORK, profile

PRICES = Prices(3600.0, 0.0, 0.0, 0.0)  # one dollar a second, nothing else
RUN = RunWork(WORK, READING, validation_tokens=100, test_tokens=50, statistics=True)
# Suffix of an epoch with statistics: 5 s of them at boundary 0, none at 3 of 4 blocks.
EPOCH_AT_0, EPOCH_AT_3, PREFIX_AT_3 = 70.2, 15.2, 11.5


def forecast(trace: list[list[int]], mode: str = "cached", **changes: object) -> RunForecast:
    settings = {"work": RUN, "cache_mode": "auto", "prices": PRICES, "profile": profile()} | changes
    found, work = settings.pop("profile"), settings.pop("work")
    return forecast_run(found, work, trace, mode=mode, case="a test", **settings)


def test_full_never_reads_and_keeps_no_statistics() -> None:
    found = forecast([[0], [0]], "full")
    assert found.train_seconds == pytest.approx(2 * (EPOCH_AT_0 - 5.0))
    assert found.materialize_seconds == found.activation_bytes_written == 0
    # Validation twice and test once: 250 tokens x (0.4 + 4 x 2 ms); checkpoints of 12 kB at 1 kB/s.
    assert found.other_seconds == pytest.approx(250 * 0.0084 + 2 * 12.0)
    assert found.cost_usd == pytest.approx(found.seconds)


def test_freeze_runs_the_prefix_every_time() -> None:
    found = forecast([[0, 3], [3, 3]], "freeze")
    first = (EPOCH_AT_0 + EPOCH_AT_3 + PREFIX_AT_3) / 2
    assert [epoch.train_seconds for epoch in found.epochs] == pytest.approx(
        [first, EPOCH_AT_3 + PREFIX_AT_3]
    )
    assert [epoch.boundary_end for epoch in found.epochs] == [3, 3]


def test_cached_builds_once_and_reads() -> None:
    found = forecast([[0, 3], [3, 3], [3, 3]])
    assert [epoch.read_boundary for epoch in found.epochs] == [0, 3, 3]
    assert [epoch.materialize_seconds for epoch in found.epochs] == pytest.approx([0, 8.4, 0])
    assert found.epochs[2].train_seconds == pytest.approx(EPOCH_AT_3 + 1.5)
    assert found.activation_bytes_written == 2000
    assert found.cost_usd == pytest.approx(found.seconds)


def test_a_set_that_does_not_pay_is_built_only_when_told_to() -> None:
    slow = profile(store_write=500.0)
    trace = [[0, 3], [3, 3]]
    assert forecast(trace, profile=slow).activation_bytes_written == 0
    assert forecast(trace, profile=slow, cache_mode="on").epochs[1].read_boundary == 3
    off = forecast(trace, cache_mode="off")
    assert [epoch.read_boundary for epoch in off.epochs] == [0, 0]
    assert off.train_seconds == pytest.approx(forecast(trace, "freeze").train_seconds)


def test_a_set_in_the_store_serves_only_what_froze_before_the_first_step() -> None:
    work = replace(RUN, existing=[3])
    frozen_first = forecast([[3], [3]], work=work)
    assert frozen_first.materialize_seconds == 0
    assert [epoch.read_boundary for epoch in frozen_first.epochs] == [3, 3]
    assert forecast([[0, 3], [3], [3]], work=work).materialize_seconds > 0


def test_writing_is_paid_in_dollars_too() -> None:
    prices = Prices(0.0, 1e9, 1000.0, 0.0)
    found = forecast([[3], [3]], prices=prices)
    # 2000 bytes at a dollar each; 5 objects of the set, 12 checkpoint parts twice.
    assert found.cost_usd == pytest.approx(2000 + 5 + 2 * 12)


def test_an_epoch_at_each_boundary() -> None:
    rows = forecast_boundaries(profile(), RUN)
    assert [row.boundary for row in rows] == [0, 1, 2, 3]
    assert (rows[0].read_seconds, rows[0].build_seconds, rows[0].set_bytes) == (None, None, 0)
    assert rows[0].compute_seconds == pytest.approx(EPOCH_AT_0)
    assert rows[3].compute_seconds == pytest.approx(EPOCH_AT_3 + PREFIX_AT_3)
    assert rows[3].read_seconds == pytest.approx(EPOCH_AT_3 + 1.5)
    assert rows[3].build_seconds == pytest.approx(8.4)
