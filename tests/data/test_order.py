import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from afcore.data.order import epoch_batches, inference_batches, windowed_batches

LENGTHS = st.lists(st.integers(1, 500), min_size=1, max_size=300).map(np.asarray)


@given(LENGTHS, st.integers(1, 40), st.sampled_from(["grouped", "random"]), st.integers(0, 5))
def test_every_example_once_in_batches_of_the_size(
    lengths: np.ndarray, batch_size: int, batching: str, epoch: int
) -> None:
    batches = epoch_batches(lengths, batch_size=batch_size, seed=3, epoch=epoch, batching=batching)
    assert sorted(np.concatenate(batches)) == list(range(len(lengths)))
    sizes = sorted((len(batch) for batch in batches), reverse=True)
    assert sizes[:-1] == [batch_size] * (len(sizes) - 1)


def _batches(**changes: object) -> list[list[int]]:
    settings = {"batch_size": 16, "seed": 0, "epoch": 1, "batching": "grouped"} | changes
    lengths = np.random.default_rng(0).integers(1, 128, 2000)
    return [batch.tolist() for batch in epoch_batches(lengths, **settings)]


def test_the_order_comes_from_seed_and_epoch_alone() -> None:
    assert _batches() == _batches()
    assert _batches(seed=1) != _batches()
    assert _batches(epoch=2) != _batches()
    assert {frozenset(b) for b in _batches(epoch=2)} != {frozenset(b) for b in _batches()}


@pytest.mark.parametrize(("batching", "low", "high"), [("grouped", 1.0, 1.1), ("random", 1.7, 2.0)])
def test_grouping_saves_padding(batching: str, low: float, high: float) -> None:
    lengths = np.random.default_rng(0).integers(1, 128, 2000)
    padded = sum(len(b) * lengths[b].max() for b in _batches(batching=batching))
    assert low < padded / lengths.sum() < high


@given(
    LENGTHS,
    st.integers(1, 40),
    st.sampled_from(["grouped", "random"]),
    st.integers(1, 9),
    st.integers(1, 5),
)
def test_windows_hold_every_example_once_and_change_no_size(
    lengths: np.ndarray, batch_size: int, batching: str, num_shards: int, window: int
) -> None:
    shards = np.sort(np.arange(len(lengths)) % num_shards)
    settings = {"batch_size": batch_size, "seed": 3, "epoch": 1, "batching": batching}
    batches = windowed_batches(lengths, shards, window_shards=window, **settings)
    assert sorted(np.concatenate(batches)) == list(range(len(lengths)))
    plain = epoch_batches(lengths, **settings)
    assert sorted(map(len, batches)) == sorted(map(len, plain))


def _windowed(**changes: object) -> list[list[int]]:
    settings = {"window_shards": 2, "batch_size": 16, "seed": 0, "epoch": 1, "batching": "grouped"}
    lengths = np.random.default_rng(0).integers(1, 128, 2000)
    batches = windowed_batches(lengths, np.arange(2000) % 10, **settings | changes)
    return [batch.tolist() for batch in batches]


def test_the_windowed_order_comes_from_seed_epoch_and_window_alone() -> None:
    assert _windowed() == _windowed()
    for change in ({"seed": 1}, {"epoch": 2}, {"window_shards": 3}):
        assert _windowed(**change) != _windowed()


def test_a_window_at_a_time_is_enough() -> None:
    uses: dict[int, list[int]] = {}
    for number, batch in enumerate(_windowed()):
        for shard in {example % 10 for example in batch}:
            uses.setdefault(shard, []).append(number)
    spans = sorted((min(at), max(at)) for at in uses.values())
    # Two shards of 200 examples are 25 batches, and nothing is needed much longer.
    assert all(end - start <= 26 for start, end in spans)
    assert len(spans) == 10
    mixed = [{example % 10 for example in batch} for batch in _windowed()]
    assert sum(len(shards) > 1 for shards in mixed) > 0.9 * len(mixed)


@given(LENGTHS, st.integers(1, 2000))
def test_inference_batches_hold_every_example_and_few_tokens(
    lengths: np.ndarray, max_tokens: int
) -> None:
    batches = inference_batches(lengths, max_tokens=max_tokens)
    assert sorted(np.concatenate(batches)) == list(range(len(lengths)))
    for batch in batches:
        assert len(batch) == 1 or len(batch) * lengths[batch].max() <= max_tokens
