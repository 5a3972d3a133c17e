import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from afcore.activations.layout import plan_layout

LENGTHS = st.lists(st.integers(1, 200), min_size=1, max_size=200).map(np.asarray)


@given(LENGTHS, st.integers(1, 5000), st.integers(1, 64))
def test_shards_hold_every_row_once(lengths: np.ndarray, shard_bytes: int, row_bytes: int) -> None:
    layout = plan_layout(lengths, row_bytes=row_bytes, shard_bytes=shard_bytes)
    for shard in range(layout.num_shards):
        ids = layout.examples(shard)
        ends = np.cumsum(lengths[ids])
        assert np.array_equal(layout.start[ids], ends - lengths[ids])
        assert layout.num_rows(shard) == ends[-1]
    seen = np.concatenate([layout.examples(shard) for shard in range(layout.num_shards)])
    assert sorted(seen) == list(range(len(lengths)))


def test_shards_have_about_the_wanted_size_and_mixed_lengths() -> None:
    lengths = np.sort(np.random.default_rng(0).integers(1, 128, 5000))
    layout = plan_layout(lengths, row_bytes=768, shard_bytes=32 * 2**20)
    sizes = [layout.num_rows(shard) * 768 / 2**20 for shard in range(layout.num_shards)]
    assert len(sizes) == 7
    assert min(sizes) > 28
    assert max(sizes) < 36
    means = [lengths[layout.examples(shard)].mean() for shard in range(layout.num_shards)]
    assert max(means) / min(means) < 1.1


def test_any_writer_plans_the_same() -> None:
    lengths = np.arange(1, 100)
    one, two = (plan_layout(lengths, row_bytes=8, shard_bytes=1000) for _ in range(2))
    assert np.array_equal(one.shard, two.shard)
    assert np.array_equal(one.start, two.start)
