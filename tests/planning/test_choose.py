"""What is read, by hand."""

from dataclasses import replace

import pytest

from afcore.planning.choose import EpochChoice, choose_epoch
from afcore.planning.choose_workers import Allowed, Standing
from afcore.planning.forecast import forecast_epoch
from tests.planning.profiles import FREE, RUN, WORK, four_workers, profile, scalable, with_workers

# One worker, from tokens or sets; nothing but seconds counts.
AUTO = Allowed(mode="cached", prices=FREE, sets="auto")


def choose(boundary: int = 3, **changes: object) -> EpochChoice:
    found, allowed = changes.pop("profile", profile()), changes.pop("allowed", AUTO)
    epochs_left = changes.pop("epochs_left", 3)
    at = Standing(epoch=2, num_epochs=1 + epochs_left, boundary=boundary, **changes)
    return choose_epoch(found, WORK, allowed, at)


@pytest.mark.parametrize(
    ("changes", "source", "build"),
    [
        # An epoch at 3: prefix 11.5 s from tokens; reading 1.5 s; building 8.4 s once.
        ({"epochs_left": 1}, "set", 8.4),
        ({"epochs_left": 1, "profile": profile(store_write=500.0)}, "tokens", 0),
        ({"epochs_left": 2, "profile": profile(store_write=500.0)}, "set", 10.4),
        # A set that is there is free, unless reading it is slower than computing.
        ({"epochs_left": 1, "exists": True}, "set", 0),
        ({"epochs_left": 9, "exists": True, "profile": profile(store_read=100.0)}, "tokens", 0),
        # Above the set at 2: one block, 3.7 s, against building 5.4 s.
        ({"set_at_hand": 2, "epochs_left": 1}, "current", 0),
        ({"set_at_hand": 2, "epochs_left": 2}, "set", 5.4),
        # The set at hand is the one wanted; or none is worth reading any more.
        ({"set_at_hand": 3, "epochs_left": 1}, "current", 0),
        ({"set_at_hand": 3, "profile": profile(store_read=100.0)}, "tokens", 0),
        # One byte too large to be built; one that is there may be read.
        ({"allowed": replace(AUTO, max_set_bytes=2000)}, "set", 8.4),
        ({"allowed": replace(AUTO, max_set_bytes=1999)}, "tokens", 0),
        ({"allowed": replace(AUTO, max_set_bytes=1999), "exists": True}, "set", 0),
        # A machine four times as fast makes reading not worth it.
        ({"epochs_left": 1, "scale": 0.25}, "tokens", 0),
    ],
)
def test_the_cheapest_source_wins(changes: dict[str, object], source: str, build: float) -> None:
    found = choose(**changes)
    made = found.source
    assert (made.source, found.forecast.materialize_seconds) == (source, pytest.approx(build))
    assert made.totals[made.source] == min(made.totals.values())
    assert made.totals[made.source] == pytest.approx(
        made.epochs_left * found.forecast.train_seconds + build
    )
    assert "boundary 3" in found.source_text()


def test_totals_weigh_every_source() -> None:
    found = choose(set_at_hand=2, epochs_left=2)
    suffix = 15.2
    assert found.source.totals == pytest.approx(
        {
            "tokens": 2 * (suffix + 11.5),
            "current": 2 * (suffix + 3.7 + 1.5),
            "set": 2 * (suffix + 1.5) + 5.4,
        }
    )


def test_with_nothing_frozen_there_is_nothing_to_read() -> None:
    assert choose(boundary=0).source.totals.keys() == {"tokens"}


@pytest.mark.parametrize(
    ("boundary", "source", "read_boundary"), [(2, "set", 2), (1, "set", 1), (0, "tokens", 0)]
)
def test_a_set_above_a_boundary_that_fell_is_not_read(
    boundary: int, source: str, read_boundary: int
) -> None:
    found = choose(boundary, set_at_hand=3, epochs_left=2)
    assert (found.source.source, found.forecast.setup.read_boundary) == (source, read_boundary)
    assert found == choose(boundary, epochs_left=2), "as if there were none"
    assert found.forecast.prefix_seconds >= 0


@pytest.mark.parametrize(
    ("changes", "read_boundary", "built_from"),
    [
        ({}, 3, 0),
        ({"set_at_hand": 2}, 3, 2),
        ({"set_at_hand": 3}, 3, None),
        ({"exists": True}, 3, None),
        ({"boundary": 0}, 0, None),
    ],
)
def test_told_to_it_has_every_set(
    changes: dict[str, object], read_boundary: int, built_from: int | None
) -> None:
    slow = profile(store_write=1.0, store_read=1.0)
    found = choose(**changes, profile=slow, allowed=replace(AUTO, sets="on"))
    assert found.source is None
    assert found.source_text() is None
    setup = found.forecast.setup
    assert (setup.read_boundary, setup.built_from) == (read_boundary, built_from)
    refused = choose(profile=slow, allowed=replace(AUTO, sets="on", max_set_bytes=1999))
    assert refused.forecast.setup.read_boundary == 0


def test_solving_the_head_is_predicted_and_does_not_weigh() -> None:
    plain, solved = choose(), choose(solves_head=True)
    assert solved.source == plain.source
    assert solved.forecast.train_seconds > plain.forecast.train_seconds


def test_the_next_epoch_is_forecast_on_the_workers_chosen() -> None:
    allowed = four_workers(sets="auto")
    at = Standing(epoch=2, num_epochs=4, boundary=3, builders=4)
    found = choose_epoch(scalable(), RUN, allowed, at)
    assert found.workers.num_workers == found.forecast.setup.num_workers == 4
    assert found.forecast.train_seconds == pytest.approx(
        forecast_epoch(scalable(), RUN, found.forecast.setup).train_seconds
    )


def test_nothing_of_a_policy_is_kept_in_full() -> None:
    at = Standing(epoch=1, num_epochs=1, boundary=0)
    full, freeze = (
        choose_epoch(profile(), RUN, Allowed(mode, FREE), at).forecast.train_seconds
        for mode in ("full", "freeze")
    )
    assert freeze - full == pytest.approx(5.0)  # statistics of 1000 parameters in 10 steps


@pytest.mark.parametrize(("mode", "count"), [("cached", 4), ("performance", 1)])
def test_only_modes_that_choose_say_why(mode: str, count: int) -> None:
    slow = with_workers(link_latency_seconds=0.0, link_bytes_per_second=1.0)
    at = Standing(epoch=2, num_epochs=3, boundary=0)
    found = choose_epoch(slow, RUN, four_workers(mode=mode), at)
    assert found.forecast.setup.num_workers == count
    assert (found.workers is None) is (mode == "cached")
