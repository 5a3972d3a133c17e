"""Predictions and decisions by hand: figures are chosen so that sums can be done in the head."""

import numpy as np
import pytest

from afcore.planning.source import SourceDecision, choose_source
from afcore.planning.timing import (
    Bandwidths,
    ComputeProfile,
    Profile,
    Reading,
    Work,
    build_seconds,
    forecast_epoch,
    read_seconds,
)

# 10 steps of 120 tokens with padding, 100 without; 2 bytes a token.
WORK = Work(num_steps=10, padded_tokens=1200, num_tokens=1000, hidden_bytes=2)
SHARD = 1_000_000
READING = Reading({"host memory": 2000}, store_bytes=2000)


def profile(**changes: float) -> Profile:
    times = {
        "suffix_step": 0.1,
        "suffix_token": 0.011,  # the last block and the head
        "suffix_block_token": 0.01,
        "suffix_embeddings": 0.5,
        "update": 0.001,
        "statistics": 0.0005,
        "prefix_step": 0.01,
        "prefix_token": 0.0005,
        "prefix_block_token": 0.003,
        "inference_token": 0.0004,
        "inference_block_token": 0.002,
    }
    speeds = {"store_latency_seconds": 0.0, "store_write": 1000.0, "store_read": 2000.0}
    for name, value in changes.items():
        (speeds if name in speeds else times)[name] = value
    return Profile(
        compute=ComputeProfile(num_parameters=[1000, 300, 200, 100], **times),
        bandwidths=Bandwidths(
            **speeds, shard_bytes=SHARD, tiers={"host memory": 4000.0, "local disk": 500.0}
        ),
        seconds=1.0,
    )


def forecast(
    boundaries: list[int], read_boundary: int = 0, statistics: bool = False
) -> list[float]:
    found = forecast_epoch(
        profile(),
        WORK,
        boundaries,
        read_boundary=read_boundary,
        reading=READING,
        statistics=statistics,
    )
    assert found.train_seconds == pytest.approx(
        found.prefix_seconds + found.suffix_seconds + found.read_seconds
    )
    return [found.prefix_seconds, found.suffix_seconds, found.read_seconds]


@pytest.mark.parametrize(
    ("boundary", "read_boundary", "prefix", "suffix", "read"),
    [
        # 10 steps x (0.1 + 1000 parameters x 1 ms + 0.5), 1200 tokens x (1 + 4 blocks x 10 ms).
        (0, 0, 0.0, 16.0 + 49.2, 0.0),
        # 10 x (0.1 + 0.3), 1200 x (1 + 3 x 10 ms); the prefix 10 x 10 ms, 1200 x (0.5 + 3 ms).
        (1, 0, 0.1 + 4.2, 4.0 + 37.2, 0.0),
        (3, 0, 0.1 + 1200 * 0.0095, 2.0 + 13.2, 0.0),
        # Above a set no embeddings; 2000 bytes at 2000 and at 4000 bytes a second.
        (3, 1, 0.1 + 1200 * 0.006, 2.0 + 13.2, 1.5),
        (3, 3, 0.0, 2.0 + 13.2, 1.5),
    ],
)
def test_an_epoch_by_hand(
    boundary: int, read_boundary: int, prefix: float, suffix: float, read: float
) -> None:
    assert forecast([boundary], read_boundary) == pytest.approx([prefix, suffix, read])


def test_statistics_cost_by_parameter() -> None:
    # 10 steps x 1000 parameters x 0.5 ms.
    assert forecast([0], statistics=True)[1] - forecast([0])[1] == pytest.approx(5.0)


def test_a_boundary_that_moves_is_the_mean_of_its_parts() -> None:
    parts = [forecast([k])[1] for k in (0, 0, 1, 3)]
    assert forecast([0, 0, 1, 3])[1] == pytest.approx(np.mean(parts))


def test_building_from_tokens_and_from_the_set_below() -> None:
    # 1000 tokens x (0.4 + 3 x 2 ms) and 2000 bytes at 1000 a second.
    assert build_seconds(profile(), WORK, 3, 0) == pytest.approx(6.4 + 2)
    # One block fewer for each below, and one more reading of 2000 bytes at 2000 a second.
    assert build_seconds(profile(), WORK, 3, 2) == pytest.approx(2.4 + 2 + 1)


def test_every_shard_waits_for_the_store_once() -> None:
    slow = profile(store_latency_seconds=0.25, store_read=SHARD).bandwidths
    assert slow.fetch_seconds(2 * SHARD + 1) == pytest.approx(3 * 0.25 + 2)
    assert slow.fetch_seconds(0) == 0


def test_a_set_over_several_tiers_is_read_from_each_at_its_own_speed() -> None:
    reading = Reading({"host memory": 4000, "local disk": 1000, "tape": 500}, store_bytes=1000)
    # 1 s + 2 s + 1 s (unknown: as slow as the slowest), and 1000 bytes from the store.
    assert read_seconds(profile().bandwidths, reading) == pytest.approx(1 + 2 + 1 + 0.5)


def choose(boundary: int = 3, **changes: object) -> SourceDecision:
    settings = {
        "read_boundary": 0,
        "exists": False,
        "epochs_left": 3,
        "reading": READING,
        "statistics": False,
        "scale": 1.0,
        "profile": profile(),
    } | changes
    return choose_source(settings.pop("profile"), WORK, boundary=boundary, **settings)


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
        ({"read_boundary": 2, "epochs_left": 1}, "current", 0),
        ({"read_boundary": 2, "epochs_left": 2}, "set", 5.4),
        # The set at hand is the one wanted; or none is worth reading any more.
        ({"read_boundary": 3, "epochs_left": 1}, "current", 0),
        ({"read_boundary": 3, "profile": profile(store_read=100.0)}, "tokens", 0),
        # One byte too large to be built; one that is there may be read.
        ({"max_set_bytes": 2000}, "set", 8.4),
        ({"max_set_bytes": 1999}, "tokens", 0),
        ({"max_set_bytes": 1999, "exists": True}, "set", 0),
        # A machine four times as fast makes reading not worth it.
        ({"epochs_left": 1, "scale": 0.25}, "tokens", 0),
    ],
)
def test_the_cheapest_source_wins(changes: dict[str, object], source: str, build: float) -> None:
    found = choose(**changes)
    assert (found.source, found.build_seconds) == (source, pytest.approx(build))
    assert found.totals[found.source] == min(found.totals.values())
    assert found.totals[found.source] == pytest.approx(
        found.epochs_left * found.forecast.train_seconds + build
    )
    assert f"boundary {found.boundary}" in found.text()


def test_totals_weigh_every_source() -> None:
    found = choose(read_boundary=2, epochs_left=2)
    suffix = 15.2
    assert found.totals == pytest.approx(
        {
            "tokens": 2 * (suffix + 11.5),
            "current": 2 * (suffix + 3.7 + 1.5),
            "set": 2 * (suffix + 1.5) + 5.4,
        }
    )


def test_with_nothing_frozen_there_is_nothing_to_read() -> None:
    assert choose(boundary=0).totals.keys() == {"tokens"}


def test_work_counts_padding() -> None:
    lengths = np.array([1, 4, 2, 3])
    work = Work.of(lengths, [np.array([0, 1]), np.array([2, 3])], hidden_bytes=8)
    assert work == Work(num_steps=2, padded_tokens=2 * 4 + 2 * 3, num_tokens=10, hidden_bytes=8)
    assert work.set_bytes == 80
