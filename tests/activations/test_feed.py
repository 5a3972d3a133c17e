"""Batches are the same from every tier and in every order, damage and failures included."""

import logging
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch

from afcore.activations import layout as layout_module
from afcore.activations import writer as writer_module
from afcore.activations.feed import HiddenFeed
from afcore.activations.materialize import PrefixRunner, materialize
from afcore.activations.resident_shards import ResidentShards
from afcore.activations.sets import ActivationSet, open_set
from afcore.activations.tiers import Budgets
from afcore.data.order import epoch_batches, windowed_batches
from afcore.model.forwards import Hidden
from afcore.storage.objects import Storage
from tests.training_setup import (
    make_examples,
    make_split,
    make_state,
    make_trainee,
    new_set,
    run_epochs,
)

BOUNDARY = 2
SHARD_BYTES = 4096


@pytest.fixture(autouse=True)
def _small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    """Some ten shards for a few kilobytes."""
    plan = partial(layout_module.plan_layout, shard_bytes=SHARD_BYTES)
    monkeypatch.setattr(writer_module, "plan_layout", plan)


def build(
    storage: Storage,
    runner: PrefixRunner,
    held: ResidentShards | None = None,
    boundary: int = BOUNDARY,
) -> ActivationSet:
    new = new_set(f"activations/{boundary}", [boundary])
    return materialize(storage, new, runner, resident=held)


def make_runner(dtype: Any = "bf16") -> PrefixRunner:
    return PrefixRunner(make_trainee(make_split(), make_examples(80), dtype=dtype))


def same(one: Hidden, other: Hidden) -> bool:
    return torch.equal(one["hidden_states"], other["hidden_states"])


def windowed(found: ActivationSet, window: int, epoch: int = 1) -> list[np.ndarray]:
    layout = found.layout
    return windowed_batches(
        layout.lengths,
        layout.shard,
        window_shards=window,
        batch_size=8,
        seed=0,
        epoch=epoch,
        batching="grouped",
    )


TIERS = {
    "device": (10**9, 0, 0),
    "host": (0, 10**9, 0),
    "device and host": (3 * SHARD_BYTES, 10**9, 0),
    "everything": (2 * SHARD_BYTES, 12 * SHARD_BYTES, 2 * SHARD_BYTES),
    "disk": (0, 0, 10**9),
    "store": (0, 0, 0),
}


@pytest.mark.parametrize("dtype", ["bf16", "fp32"])
@pytest.mark.parametrize("tiers", TIERS)
def test_batches_are_the_same_from_every_tier(
    local_storage: Storage, tiers: str, dtype: Any
) -> None:
    runner = make_runner(dtype)
    found = build(local_storage, runner)
    assert found.layout.num_shards >= (10 if dtype == "bf16" else 20)
    rows = runner.rows(np.arange(80), [BOUNDARY])
    first = np.concatenate([[0], np.cumsum(runner.lengths)])
    held = ResidentShards(Budgets(*TIERS[tiers]), store_is_local=False)
    feed = HiddenFeed(found, runner, held, window=2)
    batches = windowed(found, 2)
    seen = 0
    for ids, named in zip(batches, feed.batches(batches), strict=True):
        hidden = named["hidden_states"]
        assert hidden.dtype == torch.float32
        for example, states in zip(ids, hidden, strict=True):
            expected = rows[first[example] : first[example + 1]]
            if dtype == "bf16":
                expected = (expected.astype(np.uint32) << 16).view(np.float32)
            # Batches of the prefix are composed otherwise here, so the last bits may differ.
            np.testing.assert_allclose(states[: len(expected)], expected, atol=0.02)
            assert not states[len(expected) :].any()
            seen += 1
    assert seen == 80
    assert sum(feed.tier_bytes.values()) == found.manifest.num_bytes


def test_all_tiers_give_the_same_bits(local_storage: Storage) -> None:
    runner = make_runner()
    found = build(local_storage, runner)
    batches = windowed(found, 2)
    given = []
    for budgets in TIERS.values():
        held = ResidentShards(Budgets(*budgets), store_is_local=False)
        feed = HiddenFeed(found, runner, held, window=2)
        given.append([hidden["hidden_states"] for hidden in feed.batches(batches)])
    for other in given[1:]:
        assert all(torch.equal(a, b) for a, b in zip(given[0], other, strict=True))


@pytest.mark.parametrize("windows", [True, False])
def test_an_epoch_that_reads_trains_like_one_that_recomputes(
    local_storage: Storage, windows: bool
) -> None:
    examples = make_examples(80)

    def losses(reads: bool) -> list[float]:
        state = make_state(make_split(), BOUNDARY)
        runner = PrefixRunner(make_trainee(state.split, examples, dtype="fp32"))
        found = build(local_storage, runner)
        held = ResidentShards(Budgets(0, 8 * SHARD_BYTES if windows else 10**9, 10**9))
        feed = HiddenFeed(found, runner, held, window=2 if windows else None)
        assert ("local disk" in feed.tier_bytes) is windows
        done = run_epochs(
            state,
            examples,
            2,
            feed=(lambda *_: feed) if reads else None,
            batches=partial(windowed, found, 2) if windows else None,
        )
        return [step.loss for epoch in done for step in epoch.steps]

    np.testing.assert_allclose(losses(True), losses(False), atol=1e-5, rtol=0)


def test_a_set_just_built_is_not_read_back(storage: Storage) -> None:
    runner = make_runner()
    held = ResidentShards(Budgets(0, 10**9, 0), store_is_local=False)
    found = build(storage, runner, held)
    _ = found.layout
    before = storage.usage.bytes_read
    feed = HiddenFeed(found, runner, held)
    list(feed.batches([np.arange(80)]))
    assert storage.usage.bytes_read == before
    upper = build(storage, runner, held, boundary=3)
    assert torch.equal(
        HiddenFeed(upper, runner, held).batch(np.arange(80))["hidden_states"],
        HiddenFeed(upper, runner).batch(np.arange(80))["hidden_states"],
    )


def test_a_damaged_shard_is_mended_amid_an_epoch(
    local_storage: Storage, caplog: pytest.LogCaptureFixture
) -> None:
    runner = make_runner()
    found = build(local_storage, runner)
    batches = windowed(found, 1)
    held = ResidentShards(Budgets(0, 0, 0))
    expected = list(HiddenFeed(found, runner, held, window=1).batches(batches))
    # Not among the shards that are loaded at the start.
    last = int(found.layout.shard[batches[-1][-1]])
    states = HiddenFeed(found, runner, held, window=1).batches(batches)
    given = [next(states)]
    name = found.manifest.shards[last].name
    local_storage.put(f"{found.folder}/{name}/c/0/0", b"torn")
    runner.split.set_training(BOUNDARY)
    training = [module.training for module in runner.split.model.modules()]
    with caplog.at_level(logging.WARNING):
        given += list(states)
    assert name in caplog.text
    assert all(same(a, b) for a, b in zip(given, expected, strict=True))
    assert any(training)
    assert [module.training for module in runner.split.model.modules()] == training
    again = open_set(local_storage, found.folder)
    assert again is not None
    assert again.verify() == []


def test_what_a_thread_raises_reaches_the_training(
    local_storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    runner = make_runner()
    found = build(local_storage, runner)
    batches = windowed(found, 1)
    feed = HiddenFeed(found, runner, ResidentShards(Budgets(0, 0, 0)), window=1)
    states = feed.batches(batches)
    next(states)

    def away(*_: Any) -> None:
        raise ConnectionError("the store is away")

    monkeypatch.setattr(local_storage, "get_into", away)
    with pytest.raises(Exception, match="the store is away"):
        list(states)


def test_an_order_that_was_planned_for_memory_is_kept_without_it(
    local_storage: Storage, caplog: pytest.LogCaptureFixture
) -> None:
    runner = make_runner()
    found = build(local_storage, runner)
    batches = epoch_batches(found.layout.lengths, batch_size=8, seed=0, epoch=1, batching="grouped")
    expected = list(HiddenFeed(found, runner).batches(batches))
    assert "slow" not in caplog.text
    held = ResidentShards(Budgets(0, 3 * SHARD_BYTES, 0))
    feed = HiddenFeed(found, runner, held)
    assert "slow" in caplog.text
    assert set(feed.tier_bytes) == {"host memory", "local disk"}
    assert all(
        torch.equal(a["hidden_states"], b["hidden_states"])
        for a, b in zip(feed.batches(batches), expected, strict=True)
    )
